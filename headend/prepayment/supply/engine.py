"""What happens to an account whose balance runs out, step by step. Pure: facts in, the next thing to do out.

An episode begins when an account that was well runs low, and ends when it is put right. Within it the customer is warned three times,
each proven before the next, then the supply may be disconnected, and a payment brings it back:

    well → low (first warning) → used up (second: how much, pay before when) → warned (last: disconnected from when)
         → ordered → disconnected (told) → paid (told) → supply is back (told), well

Whoever owes nothing is put right wherever the episode stands; nothing of it is sent any more. Every step needs a look of its own,
so there are never two at once. The switch has the last word on an order, and may say no to it (`docs/policy.md`).
"""

import enum
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal

from msgspec import Struct

from headend.prepayment.money import shown
from headend.prepayment.notices.notice import Notice, NoticeState
from headend.prepayment.notices.plan import NoticePlan, Step
from headend.prepayment.trouble.kinds import DISCONNECTION_REFUSED, NOT_BACK, WARNED_IN_VAIN

__all__ = [
    "MAY_BE_OFF",
    "TRANSITIONS",
    "Decision",
    "Do",
    "Episode",
    "Event",
    "Facts",
    "Ordered",
    "State",
    "advance",
    "decide",
    "obstacles",
]

SETTLE = timedelta(minutes=10)  # what is known of a supply may be this old
AHEAD_MAX = timedelta(minutes=10)  # a proof from further ahead was made by a clock that was wrong
POLL = timedelta(minutes=1)
IDLE = timedelta(hours=6)  # until an account is looked at again of which nobody told anything


class State(enum.Enum):
    """WELL: nothing is told. ORDERED: the switch was asked, and may have done it. PAID: the supply is on its way back."""

    WELL = "well"
    LOW = "low"
    USED_UP = "used-up"
    WARNED = "warned"
    ORDERED = "ordered"
    DISCONNECTED = "disconnected"
    PAID = "paid"


class Event(enum.Enum):
    """LAPSED: the last warning came to nothing and counts no more. STALE: the same of an earlier one; all begins anew.

    REVERSED: a payment that ended the last episode was taken back, and its notices still count.
    """

    RAN_LOW = "ran-low"
    RAN_OUT = "ran-out"
    WARNED = "warned"
    ORDERED = "ordered"
    ORDER_ENDED = "order-ended"
    WENT_OFF = "went-off"
    PUT_RIGHT = "put-right"
    CAME_BACK = "came-back"
    LAPSED = "lapsed"
    STALE = "stale"
    REVERSED = "reversed"


S, E = State, Event

TRANSITIONS: dict[State, dict[Event, State]] = {
    S.WELL: {E.RAN_LOW: S.LOW, E.REVERSED: S.USED_UP},
    S.LOW: {E.RAN_OUT: S.USED_UP, E.PUT_RIGHT: S.WELL, E.STALE: S.WELL},
    S.USED_UP: {E.WARNED: S.WARNED, E.PUT_RIGHT: S.WELL, E.STALE: S.WELL},
    S.WARNED: {E.ORDERED: S.ORDERED, E.LAPSED: S.USED_UP, E.PUT_RIGHT: S.WELL},
    # A payment while an order is under way: what the order has done is not known, so the supply is brought back first.
    S.ORDERED: {E.WENT_OFF: S.DISCONNECTED, E.ORDER_ENDED: S.WARNED, E.PUT_RIGHT: S.PAID},
    # Somebody else may give the supply back.
    S.DISCONNECTED: {E.PUT_RIGHT: S.PAID, E.CAME_BACK: S.WELL},
    S.PAID: {E.CAME_BACK: S.WELL},
}
MAY_BE_OFF = (S.ORDERED, S.DISCONNECTED, S.PAID)  # states in which the supply may be off by our order


class Ordered(Struct, frozen=True, kw_only=True):
    """state: the command interface's own word; "" while it is not known to have the order. problem: "RULE: words" of a refusal."""

    state: str
    is_final: bool
    problem: str = ""


class Episode(Struct, frozen=True, kw_only=True):
    """retry_at: no last warning and no order before. carries: the episode whose notices count here, too. off_at: went off."""

    account: str
    number: int = 1
    state: State = State.WELL
    since: datetime
    retry_at: datetime | None = None
    carries: int = 0
    off_at: datetime | None = None


class Facts(Struct, frozen=True, kw_only=True):
    """What is known at one moment, in one transaction.

    days_left: that the balance covers at the account's own average; None when nobody can say. settled_until: the last settled local
    day. is_paying: a payment is told and not booked yet, or the bank was asked and has not answered. is_held: a person
    said not to disconnect, or is to look first.
    contact_since: of the phone number, None when it is not reachable. notices: by kind. last_warnings: of this episode that were tried
    since a person looked last. orders: of this try, one a meter.
    is_told: the command interface knows of the credit. credit_since: since when it is to be told of one, None where nobody tried yet.
    is_measured: a meter is in service. supply: of all meters, as last asked.
    """

    now: datetime
    balance_minor: int
    currency: str
    reminder_minor: int
    days_left: Decimal | None = None
    settled_until: date | None = None
    is_open: bool = True
    is_paying: bool = False
    is_held: bool = False
    contact_since: datetime | None = None
    notices: Mapping[str, Notice] = {}
    last_warnings: int = 0
    orders: tuple[Ordered, ...] = ()
    is_told: bool = False
    credit_since: datetime | None = None
    is_measured: bool = True
    supply: str = "unknown"

    @property
    def owes(self) -> bool:
        return self.is_open and self.balance_minor < 0


class Do(enum.Enum):
    """SEND: the step of the state again, because the attempt before reached nobody. TELL: the command interface, of the credit.
    FLAG: for a person."""

    NOTHING = "nothing"
    ADVANCE = "advance"
    SEND = "send"
    TELL = "tell"


class Decision(Struct, frozen=True, kw_only=True):
    """kind: of the message that goes with it. look_at: when to look again if nothing happens. flag: for a person, with the reason.
    retry_at: no last warning and no order before."""

    do: Do = Do.NOTHING
    event: Event | None = None
    kind: str = ""
    look_at: datetime | None = None
    retry_at: datetime | None = None
    flag: str = ""
    reason: str = ""


def advance(episode: Episode, event: Event, now: datetime) -> Episode:
    """Raises ValueError where the state knows no such event."""
    state = TRANSITIONS[episode.state].get(event)
    if state is None:
        raise ValueError(
            f"account {episode.account}: {event.value} cannot happen to an episode that is {episode.state.value}"
        )
    return Episode(
        account=episode.account,
        # A new number as soon as it is well: the next warning is of the next episode.
        number=episode.number + (state is S.WELL),
        state=state,
        since=now,
        retry_at=None if state is S.WELL else episode.retry_at,
        carries=0 if state is S.WELL else episode.carries,
        off_at=now if event is E.WENT_OFF else None if state is S.WELL else episode.off_at,
    )


def decide(plan: NoticePlan, episode: Episode, facts: Facts) -> Decision:
    """The next thing to do; at most one."""
    return _RULES[episode.state](plan, episode, facts)


def obstacles(plan: NoticePlan, episode: Episode, facts: Facts, *, ahead: timedelta = timedelta(0)) -> list[str]:
    """Why the supply is not to be disconnected `ahead` of now, in words; the last warning left aside. The switch has its own list."""
    then = facts.now + ahead
    found = []
    if not facts.is_open:
        found.append("the account is not open")
    if not facts.is_measured:
        found.append("no meter of the account is in service")
    if -facts.balance_minor <= plan.owed_more_than_minor:
        owed, most = (shown(one, facts.currency) for one in (max(0, -facts.balance_minor), plan.owed_more_than_minor))
        found.append(f"{owed} {facts.currency} is owed; nobody is disconnected for {most}")
    if facts.is_paying:
        found.append("a payment is on its way")
    if facts.is_held:
        found.append("a person has to look first")
    if facts.contact_since is None:
        found.append("the customer cannot be reached")
    today = facts.now.astimezone(plan.zone).date()
    if facts.settled_until is None or today - facts.settled_until > timedelta(days=plan.settled_within_days):
        found.append(f"settled until {facts.settled_until}: the balance is not fresh enough")
    if episode.retry_at is not None and facts.now < episode.retry_at:
        found.append(f"not again before {episode.retry_at:%Y-%m-%d %H:%M}Z")
    for kind, step in (("low", plan.low), ("used-up", plan.used_up)):
        notice = facts.notices.get(kind)
        proven_at = None if notice is None else notice.proven_at
        if proven_at is None:
            found.append(f"step {step.name} is not proven")
        elif proven_at + step.before > then:
            found.append(f"step {step.name} was delivered less than {step.before} before")
        if notice is not None and notice.deadline is not None and notice.deadline > then:
            found.append(f"the customer was given until {notice.deadline:%Y-%m-%d %H:%M}Z")
    return found


# ------------------------------------------------------------------------------------------------ states


def _well(plan: NoticePlan, episode: Episode, facts: Facts) -> Decision:
    if not facts.is_open or not _is_low(plan, facts):
        return Decision()
    rested_at = episode.since + plan.rest
    if facts.now < rested_at:
        return Decision(look_at=rested_at)
    return Decision(do=Do.ADVANCE, event=E.RAN_LOW, kind="low")


def _low(plan: NoticePlan, episode: Episode, facts: Facts) -> Decision:
    if not facts.is_open or _is_well(plan, facts):
        return Decision(do=Do.ADVANCE, event=E.PUT_RIGHT)
    notice = facts.notices.get("low")
    if again := _again("low", notice, facts):
        return again
    if _is_stale(plan.low, notice, facts):
        return Decision(do=Do.ADVANCE, event=E.STALE)
    if not facts.owes or notice is None or notice.proven_at is None or facts.is_paying or facts.contact_since is None:
        return Decision(look_at=facts.now + IDLE)
    due_at = notice.proven_at + plan.used_up.after_previous
    if facts.now < due_at:
        return Decision(look_at=due_at)
    return Decision(do=Do.ADVANCE, event=E.RAN_OUT, kind="used-up")


def _used_up(plan: NoticePlan, episode: Episode, facts: Facts) -> Decision:
    if not facts.owes:
        return Decision(do=Do.ADVANCE, event=E.PUT_RIGHT)
    first, second = facts.notices.get("low"), facts.notices.get("used-up")
    if again := _again("used-up", second, facts):
        return again
    if _is_stale(plan.low, first, facts) or _is_stale(plan.used_up, second, facts):
        return Decision(do=Do.ADVANCE, event=E.STALE)
    if facts.last_warnings >= plan.last_warnings_max and not facts.is_held:
        text = f"the last of {facts.last_warnings} last warnings came to nothing"
        return Decision(flag=WARNED_IN_VAIN, reason=text)
    step = plan.last_warning
    if first is None or first.proven_at is None or second is None or second.proven_at is None:
        return Decision(look_at=facts.now + IDLE)
    earliest = max(
        first.proven_at + plan.low.before - step.before,
        second.proven_at + plan.used_up.before - step.before,
        second.proven_at + step.after_previous,
        (second.deadline or second.proven_at) - step.before,
        episode.retry_at or second.proven_at,
    )
    if facts.now < earliest:
        return Decision(look_at=min(earliest, facts.now + timedelta(days=1)))
    if obstacles(plan, episode, facts, ahead=step.before):
        return Decision(look_at=facts.now + IDLE)
    if step.hours is not None and not step.hours.has(facts.now.astimezone(plan.zone)):
        return Decision(look_at=facts.now + plan.order_pause)
    return Decision(do=Do.ADVANCE, event=E.WARNED, kind="last-warning")


def _warned(plan: NoticePlan, episode: Episode, facts: Facts) -> Decision:
    if not facts.owes:
        return Decision(do=Do.ADVANCE, event=E.PUT_RIGHT)
    notice, step, now = facts.notices.get("last-warning"), plan.last_warning, facts.now
    if notice is None or notice.state in _DEAD or _is_stale(step, notice, facts):
        return Decision(do=Do.ADVANCE, event=E.LAPSED, retry_at=now + plan.again)
    if notice.proven_at is None:
        return Decision(look_at=now + IDLE)
    earliest = max(notice.proven_at + step.before, notice.deadline or notice.proven_at)
    if now < earliest:
        return Decision(look_at=earliest)
    if not plan.order_hours.has(now.astimezone(plan.zone)) or obstacles(plan, episode, facts):
        return Decision(look_at=now + plan.order_pause)
    return Decision(do=Do.ADVANCE, event=E.ORDERED)


def _ordered(plan: NoticePlan, episode: Episode, facts: Facts) -> Decision:
    if not facts.owes:
        return _bring_back(plan, facts)
    if any(one.state == "verified" for one in facts.orders) or facts.supply == "off":
        return Decision(do=Do.ADVANCE, event=E.WENT_OFF, kind="disconnected")
    if all(one.is_final for one in facts.orders):
        problems = [one.problem for one in facts.orders if one.state == "refused"]
        needs_person = [text for text in problems if text.partition(":")[0] not in plan.wait_for]
        return Decision(
            do=Do.ADVANCE,
            event=E.ORDER_ENDED,
            retry_at=facts.now + plan.order_pause,
            flag=DISCONNECTION_REFUSED if needs_person else "",
            reason="; ".join(needs_person),
        )
    return Decision(look_at=facts.now + POLL)


def _disconnected(plan: NoticePlan, episode: Episode, facts: Facts) -> Decision:
    if facts.is_open and not facts.owes:
        return _bring_back(plan, facts, "paid")
    if facts.supply == "on" and facts.now - episode.since >= SETTLE:
        return Decision(do=Do.ADVANCE, event=E.CAME_BACK)
    return Decision(look_at=facts.now + IDLE if facts.is_open else None)


def _paid(plan: NoticePlan, episode: Episode, facts: Facts) -> Decision:
    is_over = all(one.is_final or one.state == "unconfirmed" for one in facts.orders)
    if facts.supply == "on" and is_over:
        return Decision(do=Do.ADVANCE, event=E.CAME_BACK, kind="restored" if episode.off_at is not None else "")
    late = facts.now - episode.since >= plan.back_within
    text = f"paid, and the supply is {facts.supply} after {plan.back_within}"
    return Decision(look_at=facts.now + POLL, flag=NOT_BACK if late else "", reason=text if late else "")


_RULES = {
    S.WELL: _well,
    S.LOW: _low,
    S.USED_UP: _used_up,
    S.WARNED: _warned,
    S.ORDERED: _ordered,
    S.DISCONNECTED: _disconnected,
    S.PAID: _paid,
}
_DEAD = (NoticeState.UNDELIVERABLE, NoticeState.WITHDRAWN)

# ------------------------------------------------------------------------------------------------ inside


def _bring_back(plan: NoticePlan, facts: Facts, kind: str = "") -> Decision:
    """Told first: what is on its way back must be owed by the switch before anybody is promised it."""
    if facts.is_told:
        return Decision(do=Do.ADVANCE, event=E.PUT_RIGHT, kind=kind)
    late = facts.credit_since is not None and facts.now - facts.credit_since >= plan.back_within
    text = f"paid, and the command interface could not be told of it for {plan.back_within}"
    return Decision(do=Do.TELL, flag=NOT_BACK if late else "", reason=text if late else "")


def _is_low(plan: NoticePlan, facts: Facts) -> bool:
    runs_out = facts.days_left is not None and facts.days_left < plan.low_days
    return facts.balance_minor < max(0, facts.reminder_minor) or runs_out


def _is_well(plan: NoticePlan, facts: Facts) -> bool:
    lasts = facts.days_left is None or facts.days_left >= plan.good_days
    return facts.balance_minor >= max(0, facts.reminder_minor) and lasts


def _again(kind: str, notice: Notice | None, facts: Facts) -> Decision | None:
    """The same step to somebody who can be reached, if nobody was."""
    if notice is None or notice.state is NoticeState.WITHDRAWN:
        return Decision(do=Do.SEND, kind=kind) if facts.contact_since is not None else None
    if notice.state is not NoticeState.UNDELIVERABLE or facts.contact_since is None:
        return None
    return Decision(do=Do.SEND, kind=kind) if facts.contact_since > notice.created_at else None


def _is_stale(step: Step, notice: Notice | None, facts: Facts) -> bool:
    """Too old to count, or proven at a time that has not come: then a clock was wrong, and nobody knows by how much."""
    if notice is None or notice.proven_at is None:
        return False
    return facts.now > notice.proven_at + step.valid or notice.proven_at > facts.now + AHEAD_MAX
