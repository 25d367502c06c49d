"""What a prepaid customer has left: plausible, and a pure function of what was used.

The customer buys for the same amount whenever little is left, so that balance and number of purchases follow from the
register alone, and the time of a purchase is found where the register passed its mark. Enough for reading such items;
accounts that somebody pays into are another matter.
"""

from datetime import datetime, timedelta
from decimal import ROUND_UP, Decimal

from msgspec import Struct

from simulators.load_curve import Quantity, total
from simulators.meter import DISPLAY_WS, MeterModel

__all__ = ["ALARM_1", "ALARM_2", "PRICES", "Prepayment", "Purchase"]

PRICE = Decimal("0.5600")  # CNY per kWh
PRICES = (PRICE, Decimal("0.9800"), Decimal("0.8100"), PRICE, Decimal("0.3100"))  # and of the tariffs 1 to 4
AMOUNT = Decimal("200.00")
ALARM_1 = Decimal("20.00")
ALARM_2 = Decimal("10.00")
CENT = Decimal("0.01")
FOUND_WITHIN = timedelta(days=1500)


class Purchase(Struct, frozen=True, kw_only=True):
    """at: true time; money in CNY. number: how many there were with this one."""

    at: datetime
    number: int
    amount: Decimal
    before: Decimal
    after: Decimal
    total: Decimal


class Prepayment:
    """price: CNY per kWh."""

    price = PRICE

    def __init__(self, model: MeterModel) -> None:
        self._model = model

    def money(self, at: datetime) -> Decimal:
        return AMOUNT * self.count(at) - self._cost(at)

    def energy(self, at: datetime) -> Decimal:
        """The same in kWh at the present price."""
        return (self.money(at) / PRICE).quantize(CENT)

    def count(self, at: datetime) -> int:
        """Purchases by then."""
        return int(((self._cost(at) + ALARM_2) / AMOUNT).to_integral_value(ROUND_UP))

    def purchase(self, back: int, now: datetime) -> Purchase | None:
        """The `back`-th last; None where there were not so many."""
        number = self.count(now) - back + 1
        if number < 2:
            return None  # the first came with the meter
        at = self._reached(AMOUNT * (number - 1) - ALARM_2, now)
        return Purchase(
            at=at,
            number=number,
            amount=AMOUNT,
            before=ALARM_2,
            after=ALARM_2 + AMOUNT,
            total=AMOUNT * number,
        )

    def _cost(self, at: datetime) -> Decimal:
        used = total(self._model.energies(at), Quantity.FORWARD) // DISPLAY_WS
        return (used * CENT * PRICE).quantize(CENT)

    def _reached(self, cost: Decimal, now: datetime) -> datetime:
        """When the cost first was this; by halving, to the second."""
        low, high = now - FOUND_WITHIN, now
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) / 2
            low, high = (low, middle) if self._cost(middle) > cost else (middle, high)
        return high.replace(microsecond=0)
