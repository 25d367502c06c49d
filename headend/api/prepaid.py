"""What the HTTP routes and pages of prepaid supply stand on; `headend.assembly.prepaid_supply.PrepaidSupply` is one."""

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar
from zoneinfo import ZoneInfo

from headend.prepayment.office.office import Office

__all__ = ["Prepaid"]

P = ParamSpec("P")
T = TypeVar("T")


class Prepaid(Protocol):
    """office: never called on the event loop; `ask` and `pay` do it on threads of prepaid supply's own. zone: whose days are meant."""

    @property
    def office(self) -> Office: ...

    @property
    def zone(self) -> ZoneInfo: ...

    async def ask(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(*args, **kwargs)` on a thread; raises what it raises."""
        ...

    async def pay(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `ask`, for whatever may wait for the switch before it books: on threads of its own, so that whoever only looks does not
        wait with it. Raises SwitchboardUnavailable where too many wait already; nothing is done then."""
        ...
