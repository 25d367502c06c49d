"""Which open of a batch goes first, alone, and is verified before any other: the one that would do the least harm. Pure."""

from collections.abc import Callable, Sequence
from decimal import Decimal

from headend.commands.approval import digest_of_list
from headend.commands.model import Kind, Order

__all__ = ["canary_of"]


def canary_of(orders: Sequence[Order], kw: Callable[[str], Decimal | None]) -> Order | None:
    """The open whose meter draws least; of unknown ones, and of equals, the digest decides, so that nobody chooses. None: no open.

    kw: by asset number, None when nobody knows.
    """

    def harm(order: Order) -> tuple[bool, Decimal, str]:
        drawn = kw(order.meter)
        return drawn is None, drawn or Decimal(0), digest_of_list([order])

    return min((order for order in orders if order.kind is Kind.OPEN), key=harm, default=None)
