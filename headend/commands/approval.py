"""Approvals: one person asks, another agrees to exactly what was asked. Pure; the rows are in `headend.store.governor_approvals`.

What is approved is named by a SHA-256 of its one spelling. Whoever uses an approval computes the digest of what is about to be done:
a list that was edited has another one, and the approval is worth nothing for it.
"""

import enum
import hashlib
import unicodedata
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from headend.commands.model import Order

__all__ = ["LIFE", "Approval", "Purpose", "digest_of_list", "digest_of_words", "same_person"]

LIFE = timedelta(hours=24)  # an approval that was asked for longer ago is not given any more


class Purpose(enum.Enum):
    """BATCH: a list of orders goes ahead. RELEASE, DELETE: of commands in quarantine. LIMITS: are raised.

    UNPROTECT: a protection is removed. ORDER: one order that needs two people.
    """

    BATCH = "batch"
    RELEASE = "release"
    DELETE = "delete"
    LIMITS = "limits"
    UNPROTECT = "unprotect"
    ORDER = "order"


class Approval(Struct, frozen=True, kw_only=True):
    """subject: name of the batch, id of the protection, …; one approval of a purpose and subject counts, the newest.

    asked_by, approved_by: people, not tokens; approved_by "" until somebody has. others: people who may not approve either, such
    as the requesters of what is in quarantine. commands: what it is about, where it is about commands.
    voided: why it is worth nothing any more; "" while it is not.
    """

    id: str
    purpose: Purpose
    subject: str
    digest: str
    asked_by: str
    asked_at: datetime
    others: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    approved_by: str = ""
    approved_at: datetime | None = None
    voided: str = ""

    def is_given(self, digest: str) -> bool:
        """Whether it allows what has this digest."""
        return bool(self.approved_by) and not self.voided and self.digest == digest

    def why_not_by(self, person: str, digest: str, now: datetime) -> str:
        """Why this person cannot approve what has this digest; "" when they can."""
        if not person:
            return "nobody has said which person holds the token: two tokens of one person are one person"
        if self.voided:
            return f"it is void: {self.voided}"
        if self.approved_by:
            return f"{self.approved_by} has approved it already"
        if any(same_person(person, other) for other in (self.asked_by, *self.others)):
            return f"{person} has asked for it; it needs another person"
        if self.digest != digest:
            return "it is about something else: what was asked for has been edited since"
        if now - self.asked_at > LIFE:
            return f"it was asked for more than {LIFE.total_seconds() / 3600:.0f} hours ago; ask again"
        return ""


def same_person(one: str, other: str) -> bool:
    """Spelling does not make two people of one."""
    return _folded(one) == _folded(other)


def digest_of_list(orders: Sequence[Order]) -> str:
    """Of the exact orders, whichever way they are sorted; an order that is there twice counts twice."""
    return _digest(sorted(msgspec.json.encode(order, order="sorted") for order in orders))


def digest_of_words(*words: str) -> str:
    """Of what is no order: ids of commands, limits, a protection."""
    return _digest([word.encode() for word in words])


def _digest(parts: Sequence[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
