"""A checkpoint: who signs it vouches for every record up to its number. Pure.

Signed are the bytes `headend.audit-checkpoint.v1`, newline, and the canonical JSON of all but `signature`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from headend.audit.tree import root_of
from headend.keys import PublicKey, SigningKey
from headend.ledger.digest import canonical

__all__ = ["CHECKPOINT_TYPE", "Checkpoint", "made", "parsed", "signature_problem"]

CHECKPOINT_TYPE = "headend.audit-checkpoint.v1"


class Checkpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`data` of its event.

    first, number: the records it covers, `number` the last. hash: of record `number`. root: of the tree over first to number.
    previous: digest of the checkpoint before it; None in the first. signed_by: id of the key. signature: Ed25519, base64. Both are
    None when the head-end has no key.
    """

    source: str
    first: int
    number: int
    hash: str
    root: str
    at: str
    previous: str | None
    signed_by: str | None
    signature: str | None = None

    def to_data(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]

    @property
    def body(self) -> str:
        """As it is kept and handed on."""
        return canonical(self.to_data()).decode()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self._signed()).hexdigest()

    def _signed(self) -> bytes:
        data = self.to_data()
        del data["signature"]
        return f"{CHECKPOINT_TYPE}\n".encode() + canonical(data)

    def signed(self, key: SigningKey) -> "Checkpoint":
        named = msgspec.structs.replace(self, signed_by=key.public.id, signature=None)
        return msgspec.structs.replace(named, signature=key.sign(named._signed()))

    def is_signed_by(self, key: PublicKey) -> bool:
        return self.signed_by == key.id and self.signature is not None and key.is_right(self.signature, self._signed())


def made(
    hashes: Sequence[str],
    *,
    source: str,
    first: int,
    number: int,
    now: datetime,
    previous: Checkpoint | None,
    key: SigningKey | None,
) -> Checkpoint:
    """hashes: of the records first to number, as they follow each other."""
    checkpoint = Checkpoint(
        source=source,
        first=first,
        number=number,
        hash=hashes[-1],
        root=root_of(hashes),
        at=now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        previous=None if previous is None else previous.digest,
        signed_by=None,
    )
    return checkpoint if key is None else checkpoint.signed(key)


def parsed(body: str | bytes) -> Checkpoint:
    """Raises ValueError."""
    try:
        return msgspec.json.decode(body, type=Checkpoint)
    except (msgspec.MsgspecError, UnicodeError, TypeError, RecursionError) as error:
        raise ValueError(f"no checkpoint: {error}") from error


def signature_problem(checkpoint: Checkpoint, keys: Iterable[PublicKey]) -> str:
    """keys: one of which must have signed it; "" when one has, or none is given."""
    known = list(keys)
    if not known or any(checkpoint.is_signed_by(key) for key in known):
        return ""
    if checkpoint.signature is None:
        return "is not signed"
    if checkpoint.signed_by not in [key.id for key in known]:
        return f"is signed by another key ({checkpoint.signed_by})"
    return "has a wrong signature"
