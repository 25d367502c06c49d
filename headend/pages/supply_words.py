"""How an account's supply stands, in the words of its customer; and what a payment just taken does to it. Pure."""

import enum
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from headend.pages.words import Words
from headend.prepayment.model import AccountState
from headend.prepayment.notices.notices import Letter
from headend.prepayment.supply.engine import State
from headend.prepayment.views.account_card import AccountCard
from headend.prepayment.views.account_rows import AccountRow

__all__ = ["Mood", "SupplyWords", "effect_of_payment", "supply_words"]


class Mood(enum.Enum):
    """How it is painted, always beside its words and a sign of its own."""

    GOOD = "good"
    CARE = "care"
    BAD = "bad"
    COMING = "coming"
    QUIET = "quiet"


class SupplyWords(Struct, frozen=True, kw_only=True):
    mood: Mood
    title: str
    text: str


def supply_words(card: AccountCard | AccountRow, letters: Sequence[Letter], t: Words) -> SupplyWords:
    """letters: the account's, the newest first; they know which moment the customer was told."""
    account, standing = card.account, card.standing
    if account.state is AccountState.CLOSED:
        assert account.closed_on is not None
        return _said(t, Mood.QUIET, "closed", day=t.day(account.closed_on))
    if account.state is AccountState.ENROLLED:
        return _said(t, Mood.QUIET, "enrolled")
    state = State(card.supply.state)
    owed = t.money(standing.owed_minor, account.currency)
    if state is State.PAID or (state in (State.DISCONNECTED, State.ORDERED) and not standing.owed_minor):
        return _said(t, Mood.COMING, "back")
    if state is State.DISCONNECTED or card.supply.is_off:
        since = card.supply.off_since
        if since is None:
            return _said(t, Mood.BAD, "off", "off_open", owed=owed)
        return _said(t, Mood.BAD, "off", since=t.moment(since), owed=owed)
    if state is State.ORDERED:
        return _said(t, Mood.BAD, "ordered", owed=owed)
    if standing.owed_minor and state in (State.WARNED, State.USED_UP):
        kind, name, mood = (
            ("last-warning", "last", Mood.BAD) if state is State.WARNED else ("used-up", "warned", Mood.CARE)
        )
        deadline = _deadline(letters, kind)
        if deadline is None or deadline.astimezone(t.zone).date() < standing.today:
            return _said(t, mood, name, f"{name}_open", owed=owed)  # a moment that has passed is nothing to wait for
        return _said(t, mood, name, by=t.moment(deadline), owed=owed)
    if standing.owed_minor:
        return _said(t, Mood.CARE, "warned", "warned_open", owed=owed)
    if state is State.LOW or standing.available_minor < account.reminder_minor:
        return _said(t, Mood.CARE, "low")
    return _said(t, Mood.GOOD, "on")


def effect_of_payment(card: AccountCard, t: Words) -> SupplyWords:
    """What becomes of the supply now that a payment is booked; the desk looks at the account a moment later."""
    standing, state = card.standing, State(card.supply.state)
    owed = t.money(standing.owed_minor, card.account.currency)
    if card.account.state is AccountState.ENROLLED:
        return SupplyWords(mood=Mood.QUIET, title=t("supply.enrolled"), text=t("effect.enrolled"))
    if card.supply.is_off or state in (State.DISCONNECTED, State.PAID, State.ORDERED):
        if standing.owed_minor:
            return SupplyWords(mood=Mood.BAD, title=t("supply.off"), text=t("effect.off_owes", owed=owed))
        return SupplyWords(mood=Mood.COMING, title=t("supply.back"), text=t("effect.back"))
    if standing.owed_minor:
        return SupplyWords(mood=Mood.CARE, title=t("supply.warned"), text=t("effect.kept_owes", owed=owed))
    told = "effect.kept" if state in (State.USED_UP, State.WARNED) else "effect.on"
    return SupplyWords(mood=Mood.GOOD, title=t("supply.on"), text=t(told))


def _said(t: Words, mood: Mood, name: str, text: str = "", /, **figures: str) -> SupplyWords:
    return SupplyWords(mood=mood, title=t(f"supply.{name}"), text=t(f"supply.{text or name + '_text'}", **figures))


def _deadline(letters: Sequence[Letter], kind: str) -> datetime | None:
    return next((one.deadline for one in letters if one.kind == kind), None)
