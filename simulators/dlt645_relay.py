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

__all__ = ["switch"]

NEVER_EXPIRES = "999999999999"


def switch(meter: "Dlt645Meter", request: m.RelayRequest, _: str, now: datetime) -> m.Message:
    """Refusals are one word, 04H: password, expiry and protection look the same from outside."""
    meter.check_password(request.password, meter.relay_level)
    if request.delay is None or request.expires is None or request.secure:
        raise Refusal(Err.OTHER)
    if request.expires != NEVER_EXPIRES:
        try:
            expires = moment(request.expires)
        except Refusal as error:
            raise Refusal(Err.PASSWORD) from error
        if meter.model.clock(now) > expires:
            raise Refusal(Err.PASSWORD)
    order = _ORDERS.get(request.order)
    if order is None or (request.order in _TIMED and request.delay == 0):
        raise Refusal(Err.OTHER)
    if meter.pretends:
        return m.RelayReply()
    try:
        if request.order in _TIMED:
            permits = request.order == RelayOrder.TRIP_THEN_PERMIT
            if meter.quirks.contract.timed_trip == "permits":  # the two orders swapped
                permits = not permits
            _timed_trip(meter.model, request, now, permits=permits)
        else:
            order(meter.model, request, now)
    except RelayRefused as error:
        raise Refusal(Err.PASSWORD) from error
    return m.RelayReply()


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
