"""What became of an order, from three witnesses: the reply, the status word with its event counters, and the load.

Pure. No witness is believed alone when another one says the contrary:

    order         shown by the contact   current    verdict
    open          open                   none       verified; by the event counter, too, where the meter has one
    open          open                   flows      contradicted: cut, but consuming
    open          closed                 any        contradicted, once it had its time
    close         closed                 any        verified; current makes it certain, none may be an empty house
    close         open or permitted      any        contradicted, once it had its time
    permit-close  permitted              none       verified, waiting for the customer's button
    permit-close  closed, or current     any        verified, and the power is on
    permit-close  open                   none       contradicted
    (un)protect   by the protection bit             verified or contradicted
    any           unknown                           unconfirmed, unless current flows: then a close is verified, an open contradicted

The reply decides nothing here: a meter that acknowledged and did not switch is contradicted, one that was silent and did is verified.
A contact may be slow: until `settled`, a contrary one is unconfirmed. An announced trip (a delay set in the meter) is, too.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal

from msgspec import Struct

from headend.commands.model import Kind, State
from headend.drivers.relay import Sent, Witness

__all__ = ["LOOKS_S", "SETTLE_S", "Verdict", "flows", "verdict"]

# Meters start to count at 0.4 % of their basic current, 0.02 A of 5 A; what they show below twice that is noise.
CURRENT_A_MIN = Decimal("0.04")
VOLTAGE_V_MIN = Decimal(40)  # far below anything that lights a lamp; what an open neutral leaves stays below it
SETTLE_S = (
    10.0  # latching relays need 0.1 s, meters show it within 1 s; some wait for the zero crossing of a motor's load
)
LOOKS_S = (0.5, 2.0, 5.0, SETTLE_S)  # after the reply, when to look back as long as nothing is final


class Verdict(Struct, frozen=True, kw_only=True):
    """state: VERIFIED, UNCONFIRMED or CONTRADICTED. evidence: what each witness said, and `because`, in words for people.

    waiting_for_customer: closing is permitted, and no power is seen yet.
    """

    state: State
    evidence: dict[str, str]
    waiting_for_customer: bool = False


class _Found(Struct, frozen=True):
    state: State
    because: str
    waits: bool = False


def verdict(
    kind: Kind,
    sent: Sent | None,
    witnesses: Sequence[Witness],
    *,
    before: Witness | None = None,
    settled: bool = True,
) -> Verdict:
    """Judge by the newest witness; the earlier ones tell whether it stayed so.

    sent: None where the reply is not known here, or nothing was ordered. before: what was shown before it left.
    settled: False while the contact may still move, `SETTLE_S` after the order; then nothing is contradicted yet.
    """
    evidence = _reply_evidence(sent)
    if not witnesses:
        because = "nobody could look back at the relay"
        return Verdict(state=State.UNCONFIRMED, evidence=evidence | {"because": because})
    last = witnesses[-1]
    evidence |= _witness_evidence(last, before)
    found = _JUDGES[kind](last, before)
    if found.state is State.CONTRADICTED:
        found = _tempered(kind, found, witnesses, before, settled)
    if sent is not None and sent.refused and found.state is State.VERIFIED:
        found = _Found(found.state, f"{found.because}, although the meter refused", found.waits)
    return Verdict(state=found.state, evidence=evidence | {"because": found.because}, waiting_for_customer=found.waits)


def _tempered(kind: Kind, found: _Found, witnesses: Sequence[Witness], before: Witness | None, settled: bool) -> _Found:
    last = witnesses[-1]
    if kind is Kind.OPEN and last.alarm and last.contact == "closed":
        return _Found(State.UNCONFIRMED, "the meter has announced the trip and waits with it, as its delay is set")
    if not settled:
        return _Found(State.UNCONFIRMED, f"not yet: {found.because}")
    if any(_JUDGES[kind](one, before).state is State.VERIFIED for one in witnesses[:-1]):
        return _Found(found.state, f"{found.because}; it was as ordered for a while")
    if last.faulty:
        return _Found(found.state, f"{found.because}; the meter itself reports that its relay does not follow")
    return found


# -------------------------------------------------------------------------------------------- by kind


def _open(last: Witness, before: Witness | None) -> _Found:
    is_flowing = flows(last)
    match last.contact:
        case "closed":
            return _Found(State.CONTRADICTED, "the contact is closed")
        case "unknown" if is_flowing:
            return _Found(State.CONTRADICTED, "current flows, and the contact cannot be read")
        case "unknown":
            return _Found(State.UNCONFIRMED, "the contact cannot be read")
    if is_flowing:
        return _Found(State.CONTRADICTED, "cut, but consuming: the contact is shown open, and current flows")
    was_open = before is not None and before.contact in ("open", "permitted")
    counted = _counted(before, last, lambda one: one.trips)
    if was_open:
        return _Found(State.VERIFIED, "the contact is open, as it was before the order")
    if counted == 0:
        return _Found(State.UNCONFIRMED, "the contact is shown open, and the meter's record knows of no trip")
    if last.contact == "permitted":
        return _Found(State.VERIFIED, "the contact is open; closing is permitted")
    return _Found(State.VERIFIED, "the contact is open" + (" and the trip is on record" if counted else ""))


def _close(last: Witness, before: Witness | None) -> _Found:
    if last.contact == "closed":
        return _Found(State.VERIFIED, _closed_words(last))
    if last.contact == "unknown":
        return _power_or_unknown(last)
    if flows(last):
        return _Found(State.CONTRADICTED, "the contact is shown open, and current flows")
    if last.contact == "permitted":
        return _Found(State.CONTRADICTED, "the contact is open; the customer's button may be needed")
    return _Found(State.CONTRADICTED, "the contact is open")


def _permit_close(last: Witness, before: Witness | None) -> _Found:
    if last.contact == "closed":
        return _Found(State.VERIFIED, _closed_words(last))
    if last.contact == "unknown":
        return _power_or_unknown(last)
    if last.contact == "permitted" and flows(last):
        return _Found(State.VERIFIED, "closing is permitted, and current flows already")
    if last.contact == "permitted":
        return _Found(State.VERIFIED, "closing is permitted; the customer's button closes", waits=True)
    return _Found(State.CONTRADICTED, "the contact is open and closing is not permitted")


def _power_or_unknown(last: Witness) -> _Found:
    if flows(last):
        return _Found(State.VERIFIED, "current flows; the contact cannot be read")
    return _Found(State.UNCONFIRMED, "the contact cannot be read, and no current flows")


def _closed_words(last: Witness) -> str:
    if last.voltage_v is not None and last.voltage_v < VOLTAGE_V_MIN:
        return f"the contact is closed, but there is no voltage ({last.voltage_v} V)"
    return "the contact is closed" + (" and current flows" if flows(last) else "")


def _protected(wanted: bool) -> Callable[[Witness, Witness | None], _Found]:
    def judge(last: Witness, before: Witness | None) -> _Found:
        if last.protected is None:
            return _Found(State.UNCONFIRMED, "the protection cannot be read")
        state = State.VERIFIED if last.protected is wanted else State.CONTRADICTED
        return _Found(state, "the supply is protected" if last.protected else "the supply is not protected")

    return judge


def _status(last: Witness, before: Witness | None) -> _Found:
    if last.contact == "unknown":
        return _Found(State.UNCONFIRMED, "the contact cannot be read")
    return _Found(State.VERIFIED, f"the contact is {last.contact}", last.contact == "permitted" and not flows(last))


_JUDGES: dict[Kind, Callable[[Witness, Witness | None], _Found]] = {
    Kind.OPEN: _open,
    Kind.CLOSE: _close,
    Kind.PERMIT_CLOSE: _permit_close,
    Kind.PROTECT: _protected(True),
    Kind.UNPROTECT: _protected(False),
    Kind.STATUS: _status,
}


# -------------------------------------------------------------------------------------------- witnesses


def flows(witness: Witness) -> bool:
    """Whether the meter shows a current that is no noise; False also where it shows none at all."""
    return witness.current_a is not None and abs(witness.current_a) >= CURRENT_A_MIN


def _counted(before: Witness | None, last: Witness, count: Callable[[Witness], int | None]) -> int | None:
    """How many events came since `before`; None where one of the two is not known. A counter that was cleared tells nothing."""
    first = None if before is None else count(before)
    now = count(last)
    if first is None or now is None or now < first:
        return None
    return now - first


def _reply_evidence(sent: Sent | None) -> dict[str, str]:
    if sent is None:
        return {}
    found = {"wire_sent": sent.wire_sent, "wire_received": sent.wire_received}
    if sent.acknowledged:
        found["reply"] = f"acknowledged: {sent.said}" if sent.said else "acknowledged"
    else:
        found["reply"] = f"refused: {sent.refused}" if sent.refused else f"none: {sent.silence or 'silent'}"
    if sent.identity is not None:
        found |= sent.identity.evidence
    return {name: text for name, text in found.items() if text}


def _witness_evidence(last: Witness, before: Witness | None) -> dict[str, str]:
    found = {"contact": last.contact, "looked_at": last.at.isoformat(timespec="milliseconds")}
    if before is not None:
        found["contact_before"] = before.contact
    for name, counted, now in (
        ("trips", _counted(before, last, lambda one: one.trips), last.trips),
        ("closes", _counted(before, last, lambda one: one.closes), last.closes),
    ):
        if now is not None:
            found[name] = str(now) if counted is None else f"{now}, {counted} since the order"
    for name, amount, unit in (("current", last.current_a, "A"), ("voltage", last.voltage_v, "V")):
        if amount is not None:
            found[name] = f"{amount} {unit}"
    if last.status:
        found["status"] = last.status
    if last.faulty:
        found["relay_fault"] = "reported by the meter"
    if last.protected:
        found["protected"] = "yes"
    return found | {f"no_{name}": why for name, why in last.problems.items()}
