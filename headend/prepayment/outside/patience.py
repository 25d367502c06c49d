"""A switchboard that is not waited for twice in a row: after a call that took long and came to nothing, the others of the same round
are not tried. A fast refusal concerns one meter only, and changes nothing for the others."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import ParamSpec, TypeVar

from headend.clock import Clock
from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.ports import OpenProof, OrderState, ProvenNotice, Supply, Switchboard

__all__ = ["PatientSwitchboard"]

SLOW_S = 5.0
P = ParamSpec("P")
T = TypeVar("T")


class PatientSwitchboard:
    """For one thread, which calls `begin` before each round."""

    def __init__(self, switch: Switchboard, clock: Clock) -> None:
        self._switch = switch
        self._clock = clock
        self._is_away = False

    def begin(self) -> None:
        self._is_away = False

    def order_open(
        self,
        meter: str,
        *,
        key: str,
        reason: str,
        proof: OpenProof,
        notices: Sequence[ProvenNotice],
        expires_at: datetime,
    ) -> OrderState:
        return self._ask(
            self._switch.order_open,
            meter,
            key=key,
            reason=reason,
            proof=proof,
            notices=notices,
            expires_at=expires_at,
        )

    def state(self, command: str) -> OrderState:
        return self._ask(self._switch.state, command)

    def payment(
        self, meter: str, *, reference: str, paid_at: datetime, amount_minor: int, currency: str, fence: int
    ) -> None:
        self._ask(
            self._switch.payment,
            meter,
            reference=reference,
            paid_at=paid_at,
            amount_minor=amount_minor,
            currency=currency,
            fence=fence,
        )

    def supply(self, meter: str) -> Supply:
        return self._ask(self._switch.supply, meter)

    def _ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._is_away:
            raise SwitchboardUnavailable("it kept us waiting a moment ago, and is asked again in the next round")
        began = self._clock.monotonic()
        try:
            return call(*args, **kwargs)
        except SwitchboardUnavailable:
            self._is_away = self._clock.monotonic() - began >= SLOW_S
            raise
