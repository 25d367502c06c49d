"""What is ordered, what is paid and what is read do not go together: detectors, pure, over what is known and what was just seen."""

from datetime import datetime, timedelta
from decimal import Decimal

from msgspec import Struct

from headend.commands.verification import flows
from headend.drivers.relay import Witness
from headend.store.commands import Supply

__all__ = ["ALARMS", "Sight", "alarms_of", "changes"]

PAID_GRACE = timedelta(minutes=15)  # a reconnection under way is no contradiction yet
POWER_W_MIN = Decimal(10)  # what the least current that is no noise carries at 230 V
ENERGY_KWH_MIN = Decimal(
    "0.05"
)  # meters round their registers to 0.01 kWh; what a cut supply counts is the meter itself at most

PAID_BUT_DARK = "paid-but-dark"
CUT_BUT_CONSUMING = "cut-but-consuming"
CLOSED_BUT_SHOULD_BE_OPEN = "closed-but-should-be-open"
ALARMS = (PAID_BUT_DARK, CUT_BUT_CONSUMING, CLOSED_BUT_SHOULD_BE_OPEN)


class Sight(Struct, frozen=True, kw_only=True):
    """What was seen of one meter at one moment.

    witness: None when only its register was read. energy_kwh_since_cut: by how much its register has gone up since the supply was
    opened; power_w: what it measures now, without sign; None when that is not known. is_reconnecting: a close is under way. is_owed:
    a payment's debt is open. is_in_doubt: nobody knows what a close has done since, so power is no surprise. is_our_open: a command
    opened it; False: it was only seen open, and nobody here wants it to stay so.
    """

    at: datetime
    witness: Witness | None = None
    energy_kwh_since_cut: Decimal | None = None
    power_w: Decimal | None = None
    is_reconnecting: bool = False
    is_owed: bool = False
    is_in_doubt: bool = False
    is_our_open: bool = True


def alarms_of(supply: Supply, sight: Sight) -> dict[str, str]:
    """Alarms that stand, each with why; those of ALARMS that are not in it do not stand, where they can be judged at all."""
    found: dict[str, str] = {}
    witness = sight.witness
    contact = "unknown" if witness is None else witness.contact
    is_flowing = witness is not None and flows(witness)
    paid_at = supply.paid_at if sight.is_owed or _is_paid(supply) else None
    if contact in ("open", "permitted") and not is_flowing and paid_at is not None and sight.at - paid_at > PAID_GRACE:
        running = ", and a close is under way" if sight.is_reconnecting else ""
        found[PAID_BUT_DARK] = f"paid {paid_at:%Y-%m-%d %H:%M}Z, and the contact is open{running}"
    if supply.contact == "open" and not sight.is_in_doubt:
        cut = f"{'opened' if sight.is_our_open else 'seen open'} by command {supply.by}"
        used, power_w = sight.energy_kwh_since_cut, sight.power_w
        if is_flowing and contact != "closed":
            assert witness is not None
            found[CUT_BUT_CONSUMING] = f"{cut}, and {witness.current_a} A flow"
        elif power_w is not None and power_w >= POWER_W_MIN and contact != "closed":
            found[CUT_BUT_CONSUMING] = f"{cut}, and {power_w.normalize():f} W are measured"
        elif used is not None and used >= ENERGY_KWH_MIN:
            found[CUT_BUT_CONSUMING] = f"{cut}, and {used} kWh were counted since"
        if contact == "closed" and not sight.is_reconnecting and sight.is_our_open:
            found[CLOSED_BUT_SHOULD_BE_OPEN] = f"{cut}, and the contact is closed"
    return found


def _is_paid(supply: Supply) -> bool:
    """Whether the newest thing that happened is a payment: it came after the supply was last proven to be open."""
    if supply.paid_at is None:
        return False
    return supply.at is None or supply.contact != "open" or supply.paid_at >= supply.at


def changes(before: set[str], now: set[str]) -> list[tuple[str, bool]]:
    """Alarms to tell of: (alarm, whether it was raised)."""
    return [(one, True) for one in sorted(now - before)] + [(one, False) for one in sorted(before - now)]
