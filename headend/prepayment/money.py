"""Money: integer minor units. The only place where anything is rounded.

A charge is reckoned exactly, with as many digits as prices and energies bring, and what is booked of it is rounded to whole minor units
once a day. What rounding left over is carried to the next day, so that a month's bookings are the month's charge, rounded once:
nobody pays a fen more because he is settled daily.
"""

import enum
from decimal import ROUND_FLOOR, ROUND_HALF_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext

from msgspec import Struct

__all__ = ["EXACT", "MINOR_DIGITS", "Rounded", "Rounding", "exact_minor", "rounded", "shown"]

MINOR_DIGITS = {"CNY": 2, "EUR": 2, "GBP": 2, "USD": 2, "INR": 2, "JPY": 0, "KWD": 3}  # ISO 4217
EXACT = 60  # digits: no product of an energy, a price and a tax is ever cut off


class Rounding(enum.Enum):
    """How a fraction of a minor unit is booked. HALF_UP: a half towards more to pay.

    DOWN: towards less to pay; also of what is paid back.
    """

    HALF_UP = "half-up"
    HALF_EVEN = "half-even"
    DOWN = "down"


_MODES = {Rounding.HALF_UP: ROUND_HALF_UP, Rounding.HALF_EVEN: ROUND_HALF_EVEN, Rounding.DOWN: ROUND_FLOOR}


class Rounded(Struct, frozen=True):
    """minor: what is booked. carried: what is left over of the exact amount, in minor units, for the next time."""

    minor: int
    carried: Decimal


def exact_minor(amount: Decimal, currency: str) -> Decimal:
    """An amount of the currency's main unit (yuan) in minor units (fen), not rounded. Raises KeyError for an unknown currency."""
    return amount.scaleb(MINOR_DIGITS[currency])


def rounded(exact: Decimal, carried: Decimal, rounding: Rounding) -> Rounded:
    """exact, carried: minor units."""
    with localcontext() as context:
        context.prec = EXACT
        total = exact + carried
        mode = _MODES[rounding]
        if mode is ROUND_HALF_UP and total < 0:
            # Decimal's rounds away from zero: half a fen carried would come and go with every day on which nothing is used.
            mode = ROUND_HALF_DOWN
        minor = int(total.to_integral_value(rounding=mode))
        return Rounded(minor, total - minor)


def shown(minor: int, currency: str) -> str:
    """For people: 12.05 of 1205 CNY."""
    digits = MINOR_DIGITS[currency]
    return format(Decimal(minor).scaleb(-digits), f".{digits}f")
