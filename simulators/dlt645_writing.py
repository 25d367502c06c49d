"""What changes a simulated meter: writing, address, clock, freezes, rate, passwords, clearing.

Every change leaves its trace in the meter's journal, as the standard wants it: who, when, and what was touched.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from protocols.bcd import decode_digits
from protocols.dlt645 import messages as m
from protocols.dlt645.control import RATES, Dialect, Function1997, Function2007
from protocols.dlt645.frame import BROADCAST, WILDCARD
from protocols.dlt645.items import Di, decode
from protocols.errors import BadAddress, ItemError
from protocols.values import MeterAddress
from simulators import event_journal as journal
from simulators.dlt645_freezes import SWITCH_KINDS
from simulators.dlt645_values import Err, Refusal, moment
from simulators.event_journal import Event
from simulators.meter import MeterModel

if TYPE_CHECKING:
    from simulators.dlt645_meter import Dlt645Meter

__all__ = ["change_password", "change_rate", "clear", "freeze", "sync_time", "write", "write_address"]

F07 = Function2007
F97 = Function1997
NOBODY = bytes(4)
SYNC_WINDOW = timedelta(minutes=5)
JUST_BEFORE = timedelta(microseconds=1)


def write(meter: "Dlt645Meter", request: m.WriteRequest, _: str, now: datetime) -> m.Message:
    di, data, password = request.di, request.data, request.password
    if password is None:  # 1997: the text has no password, meters want four bytes before the data
        password, data = m.Password.from_wire(data[:4].ljust(4, b"\0")), data[4:]
    spec = meter.spec(di)
    meter.authorise(password, meter.contract.passwords.write)
    if "w" not in spec.access:
        raise Refusal(Err.PASSWORD)
    try:
        content = decode(data, spec)
    except ItemError as error:
        raise Refusal(Err.OTHER) from error
    if len(data) > meter.contract.limits.write_data_max:
        raise Refusal(Err.OTHER)
    operator = request.operator or NOBODY
    if di.text in _CLOCK_WRITES:
        _set_clock(meter, _CLOCK_WRITES[di.text](meter, str(content[0].content), now), operator, now)
    elif di.text == "04000401":
        _set_address(meter, str(content[0].content))
    elif di.text.startswith("04000C") or di.text == "C212":
        meter.passwords[data[0]] = data[1:4]
    else:
        meter.items.written[di.text] = data
        _take_effect(meter.model, meter.items.written, di.text, str(content[0].content), now)
    _note(meter, journal.PROGRAMMING, operator, now, di.text if len(di.text) == 8 else "")
    return m.Accepted(F97.WRITE if meter.dialect is Dialect.V1997 else F07.WRITE)


def _take_effect(model: MeterModel, written: dict[str, bytes], di: str, content: str, now: datetime) -> None:
    """Parameters that change what the meter does from now on."""
    if di in SWITCH_KINDS:
        at = None if content.strip("0") == "" else moment(content + "00")
        model.plan_switch(SWITCH_KINDS[di], at, now)
    elif di == "04001204" and _is_freeze_pattern(content):
        model.set_freeze_pattern(content, now)
    elif di.startswith("04000B"):
        days = [written.get(f"04000B{number:02}", b"\x00\x01" if number == 1 else b"\x99\x99") for number in (1, 2, 3)]
        parts = [decode_digits(day) for day in days]
        model.settlement_days = [
            (int(part[:2]), int(part[2:])) for part in parts if 1 <= int(part[:2]) <= 28 and int(part[2:]) < 24
        ]


def _date(meter: "Dlt645Meter", digits: str, now: datetime) -> str:
    return digits[:6] + f"{meter.model.clock(now):%H%M%S}"


def _time(meter: "Dlt645Meter", digits: str, now: datetime) -> str:
    return f"{meter.model.clock(now):%y%m%d}" + digits


def _date_and_time(_: "Dlt645Meter", digits: str, __: datetime) -> str:
    return digits[:6] + digits[8:]  # the weekday between them is the calendar's affair


_CLOCK_WRITES: dict[str, Callable[["Dlt645Meter", str, datetime], str]] = {
    "04000101": _date,
    "04000102": _time,
    "0400010C": _date_and_time,
    "C010": _date,
    "C011": _time,
}


def _set_clock(meter: "Dlt645Meter", digits: str, operator: bytes, now: datetime) -> None:
    model, local = meter.model, moment(digits)
    event = Event(start=now, end=now, shown=model.clock(now), shown_end=local, operator=operator)
    model.set_clock(local, now)
    model.events.add(journal.CLOCK_SET, event)


def _set_address(meter: "Dlt645Meter", digits: str) -> None:
    try:
        meter.model.address = MeterAddress(digits)
    except BadAddress as error:
        raise Refusal(Err.OTHER) from error


def write_address(meter: "Dlt645Meter", request: m.WriteAddressRequest, address: str, _: datetime) -> m.Message | None:
    """Silent unless sent to all (2007: AA, 1997: 99) with the programming key pressed."""
    if not meter.programming or address != (WILDCARD if meter.dialect is Dialect.V2007 else BROADCAST):
        return None
    try:
        _set_address(meter, request.address)
    except Refusal:
        return None
    return m.Accepted(F07.WRITE_ADDRESS if meter.dialect is Dialect.V2007 else F97.WRITE_ADDRESS)


def sync_time(meter: "Dlt645Meter", request: m.TimeSync, address: str, now: datetime) -> m.Message | None:
    """At most five minutes, once a day by the meter's calendar, and not within five minutes of midnight."""
    if address.startswith("AA") or (meter.dialect is Dialect.V1997 and address != BROADCAST):
        return None
    clock, asked = meter.model.clock(now), moment(request.at)
    midnight = clock.replace(hour=0, minute=0, second=0, microsecond=0)
    near_midnight = min(clock - midnight, midnight + timedelta(days=1) - clock) < SYNC_WINDOW
    silent = address == BROADCAST or meter.quirks.contract.unicast_time_sync == "silent"
    if abs(asked - clock) > SYNC_WINDOW or near_midnight or meter.synced_on == clock.date():
        if silent:
            return None
        raise Refusal(Err.OTHER)
    meter.synced_on = clock.date()
    meter.model.set_clock(asked, now)
    return None if silent else m.Accepted(F07.TIME_SYNC)


def freeze(meter: "Dlt645Meter", request: m.FreezeRequest, _: str, now: datetime) -> m.Message:
    pattern = request.moment
    if pattern == "99999999":
        meter.model.freeze_now(now)
    elif _is_freeze_pattern(pattern):
        meter.model.set_freeze_pattern(pattern, now)
    else:
        raise Refusal(Err.OTHER)
    return m.Accepted(F07.FREEZE)


def change_rate(meter: "Dlt645Meter", request: m.RateRequest, _: str, __: datetime) -> m.Message:
    """The reply still goes out at the old rate: nothing is heard between, so switching at once is the same."""
    rates = RATES[meter.dialect]
    if request.word not in rates:
        if meter.dialect is Dialect.V1997:
            return m.RateReply(word=0xFF, dialect=meter.dialect)
        raise Refusal(Err.RATE)
    meter.items.parameters.rate_word = request.word
    if meter.baud is not None:
        meter.baud = rates[request.word]
    return m.RateReply(word=request.word, dialect=meter.dialect)


def change_password(meter: "Dlt645Meter", request: m.PasswordRequest, _: str, __: datetime) -> m.Message | None:
    """The old password may be the slot's own or that of a higher level. 1997 meters refuse by silence."""
    slot = request.new.level
    is_slot = request.di is None or request.di.text == f"04000C{slot + 1:02X}"
    try:
        if slot not in meter.passwords or not is_slot:
            raise Refusal(Err.PASSWORD)
        meter.authorise(request.old, slot)
    except Refusal:
        if meter.dialect is Dialect.V1997:
            return None
        raise
    meter.passwords[slot] = request.new.secret
    return m.PasswordReply(new=request.new, dialect=meter.dialect)


def clear(meter: "Dlt645Meter", request: m.ClearRequest, _: str, now: datetime) -> m.Message:
    levels = meter.contract.passwords
    if request.password is not None:
        meter.authorise(request.password, levels.write if request.function == F07.CLEAR_DEMAND else levels.clear)
    operator = request.operator or NOBODY
    if request.function in (F07.CLEAR_DEMAND, F97.CLEAR_DEMAND):
        _note(meter, journal.DEMAND_CLEAR, operator, now)
        meter.model.clear_demand(now)
    elif request.function == F07.CLEAR_METER:
        meter.model.events.clear()
        _clear_relay_records(meter.model, "1D", "1E")
        _note(meter, journal.METER_CLEAR, operator, now)
        meter.model.clear_energies(now)
    else:
        _clear_events(meter, request.events, operator, now)
    return m.Accepted(request.function)


def _clear_events(meter: "Dlt645Meter", events: Di | None, operator: bytes, now: datetime) -> None:
    """The records of meter and event clearing survive; that is what they are for."""
    if events is None or not events.text.endswith("FF"):
        raise Refusal(Err.OTHER)
    kept = events.text
    while kept.endswith("FF"):
        kept = kept[:-2]
    families = [family for family in ("1D", "1E") if family.startswith(kept[:2])]
    _clear_relay_records(meter.model, *families)
    meter.model.events.clear(kept)
    _note(meter, journal.EVENT_CLEAR, operator, now, events.text)


def _clear_relay_records(model: MeterModel, *families: str) -> None:
    if "1D" in families:
        model.trips, model.trip_count = [], 0
    if "1E" in families:
        model.closes, model.close_count = [], 0


def _note(meter: "Dlt645Meter", kind: str, operator: bytes, now: datetime, *items: str) -> None:
    """The record has the registers of just before, which a clear is about to wipe out."""
    clock = meter.model.clock(now)
    touched = tuple(item for item in items if item)
    event = Event(start=now - JUST_BEFORE, end=now, shown=clock, shown_end=clock, operator=operator, items=touched)
    meter.model.events.add(kind, event)


def _is_freeze_pattern(pattern: str) -> bool:
    """99 fills from the month side; DD above 28 would skip months and is refused, as some firmware does."""
    parts = [int(pattern[at : at + 2]) for at in range(0, 8, 2)] if pattern.isdecimal() else []
    every = [part == 99 for part in parts]
    bounds = ((1, 12), (1, 28), (0, 23), (0, 59))
    return (
        bool(parts)
        and every == sorted(every, reverse=True)
        and all(part == 99 or low <= part <= high for part, (low, high) in zip(parts, bounds, strict=True))
    )
