"""What people tell for lack of a read: an amount for a meter's day. It is marked as told, and a later read goes before it.

Of a meter that was taken away in the middle of a day it is what it counted on that day: nobody else can know. Nothing is estimated by
this program; who tells an estimate says so in the note, which stands beside the amount.
"""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import Connection, select

from headend.prepayment.days import LocalDays, day_number, epoch_ms
from headend.prepayment.errors import BadTelling
from headend.prepayment.storage.tables import account_meters
from headend.prepayment.usage.heard import told_by
from headend.prepayment.usage.intake import note_told
from headend.prepayment.usage.usage import BAND_REGISTERS, TOTAL_REGISTER

__all__ = ["tell_use"]

KWH_MAX = Decimal(100_000)  # of one meter on one day: 4 MW all day long is no household, and a slip of the keyboard


def tell_use(
    connection: Connection,
    meter: str,
    day: date,
    used: Mapping[str, Decimal],
    now: datetime,
    days: LocalDays,
    *,
    by: str,
    note: str = "",
) -> None:
    """used: kWh by OBIS code. What is told later replaces what was told before. Raises BadTelling."""
    if not by.strip():
        raise BadTelling("nobody tells it; expected the name of who does")
    if day >= days.today(now):
        raise BadTelling(f"{day} is not over; expected a local day that is")
    known = (TOTAL_REGISTER, *BAND_REGISTERS)
    if not used:
        raise BadTelling(f"no amount; expected one for each register that the tariff charges by, of {', '.join(known)}")
    for obis, kwh in used.items():
        if obis not in known:
            raise BadTelling(f"{obis}: no tariff charges by it; expected of {', '.join(known)}")
        if not kwh.is_finite() or not 0 <= kwh <= KWH_MAX:
            raise BadTelling(f"{obis}: {kwh} kWh; expected 0 to {KWH_MAX}")
    if connection.execute(select(account_meters.c.meter).where(account_meters.c.meter == meter)).first() is None:
        raise BadTelling(f"meter {meter!r} measures no account; expected one that does or did")
    who = f"{by.strip()}: {note.strip()}" if note.strip() else by.strip()
    number = day_number(day)
    told = [told_by(obis, number, days, kwh, epoch_ms(now), who) for obis, kwh in sorted(used.items())]
    note_told(connection, meter, number, told, days)
