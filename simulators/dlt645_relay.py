"""Relay orders 1CH, as a simulated meter takes them: password, expiry and protection first, then the relay."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from protocols.dlt645 import messages as m
from protocols.dlt645.control import RelayOrder
from simulators.dlt645_values import Err, Refusal, moment
from simulators.meter import MeterModel
from simulators.relay import RelayRefused

if TYPE_CHECKING:
    from simulators.dlt645_meter import Dlt645Meter

__all__ = ["is_expired", "obey", "switch"]

NEVER_EXPIRES = "999999999999"


def switch(meter: "Dlt645Meter", request: m.RelayRequest, _: str, now: datetime) -> m.Message:
    """The plain class. Refusals are one word, 04H: password, operator, expiry and protection look the same from outside."""
    meter.check_password(request.password, meter.relay_level)
    if request.delay is None or request.expires is None or request.secure:
        raise Refusal(Err.OTHER)
    if is_expired(meter.model, request.expires, now):
        raise Refusal(Err.PASSWORD)
    try:
        obey(meter, request, now)
    except RelayRefused as error:
        raise Refusal(Err.PASSWORD) from error
    return m.RelayReply()


def is_expired(model: MeterModel, expires: str, now: datetime) -> bool:
    """By the meter's clock; what is no date has expired. expires: YYMMDDhhmmss digits."""
    try:
        return expires != NEVER_EXPIRES and model.clock(now) > moment(expires)
    except Refusal:
        return True


def obey(meter: "Dlt645Meter", request: m.RelayRequest, now: datetime) -> None:
    """What is left when password and expiry, or the chip, are content. Raises RelayRefused; Refusal for an order that is none."""
    order = _ORDERS.get(request.order)
    if order is None or (request.order in _TIMED and not request.delay):
        raise Refusal(Err.OTHER)
    operators = meter.model.relay.operators
    if operators is not None and request.operator not in operators:
        raise RelayRefused("this operator may not order")
    if meter.pretends:
        return
    if request.order in _TIMED:
        permits = request.order == RelayOrder.TRIP_THEN_PERMIT
        if meter.quirks.contract.timed_trip == "permits":  # the two orders swapped
            permits = not permits
        _timed_trip(meter.model, request, now, permits=permits)
    else:
        order(meter.model, request, now)


def _trip(model: MeterModel, request: m.RelayRequest, now: datetime) -> None:
    model.open_relay(now, request.operator)


def _timed_trip(model: MeterModel, request: m.RelayRequest, now: datetime, *, permits: bool = False) -> None:
    model.open_relay(
        now,
        request.operator,
        restore_after=timedelta(minutes=5 * (request.delay or 0)),
        restore_permits=permits,
    )


def _permit(model: MeterModel, _: m.RelayRequest, now: datetime) -> None:
    model.permit_close(now)


def _close(model: MeterModel, request: m.RelayRequest, now: datetime) -> None:
    model.close_relay(now, request.operator)


def _alarm(model: MeterModel, request: m.RelayRequest, _: datetime) -> None:
    model.relay.alarm = request.order == RelayOrder.ALARM_ON


def _protect(model: MeterModel, request: m.RelayRequest, now: datetime) -> None:
    model.protect(now, request.operator)


def _unprotect(model: MeterModel, _: m.RelayRequest, now: datetime) -> None:
    model.unprotect(now)


# N1 of 1CH. 1DH closes by itself, 1EH permits: so in three of four sources.
_ORDERS: dict[int, Callable[[MeterModel, m.RelayRequest, datetime], None]] = {
    RelayOrder.TRIP: _trip,
    RelayOrder.PERMIT_CLOSE: _permit,
    RelayOrder.CLOSE: _close,
    RelayOrder.TRIP_THEN_CLOSE: _timed_trip,
    RelayOrder.TRIP_THEN_PERMIT: _timed_trip,
    RelayOrder.ALARM_ON: _alarm,
    RelayOrder.ALARM_OFF: _alarm,
    RelayOrder.PROTECT: _protect,
    RelayOrder.PROTECT_OFF: _unprotect,
}
_TIMED = (RelayOrder.TRIP_THEN_CLOSE, RelayOrder.TRIP_THEN_PERMIT)
