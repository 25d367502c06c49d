"""Checks of the meter as a whole: address, refusals, clock, follow-up frames, and items that must agree with each other.

The last two write, harmlessly: they give the meter its own time, and have it freeze its registers now.
"""

from collections.abc import Generator, Iterable
from datetime import datetime, timedelta
from decimal import Decimal

from firmware_contracts.errors import UnknownItem
from firmware_contracts.fetching import (
    NO_DATA,
    Fetched,
    Judged,
    Kit,
    fetch,
    read_values,
    said,
    values_said,
)
from firmware_contracts.findings import Answer, Ask, Verdict
from protocols.dlt645.control import Dialect
from protocols.dlt645.frame import WILDCARD
from protocols.dlt645.items import Di
from protocols.dlt645.load_record import decode_curve
from protocols.dlt645.messages import (
    Accepted,
    AddressReply,
    FollowUpReply,
    FollowUpRequest,
    FreezeRequest,
    ReadAddressRequest,
    ReadReply,
    ReadRequest,
    Refused,
    RepeatRequest,
    TimeSync,
)
from protocols.errors import ItemError

__all__ = [
    "block_count",
    "clock",
    "energy_and_freeze",
    "follow_up",
    "freeze_now",
    "passwords",
    "power",
    "read_address",
    "repeat",
    "repeated_follow_up",
    "sum_of_tariffs",
    "time_sync",
    "unknown_item",
    "wildcard",
]

Steps = Generator[Ask, Answer, Judged]

PASS, FAIL, NOT_OFFERED, NOT_JUDGED = Verdict.PASS, Verdict.FAIL, Verdict.NOT_OFFERED, Verdict.NOT_JUDGED
NOBODYS_ITEM = {Dialect.V2007: "0E0E0E0E", Dialect.V1997: "EEEE"}
PASSWORD_ITEM = {Dialect.V2007: "04000C01", Dialect.V1997: "C212"}
TOTAL = {Dialect.V2007: "00010000", Dialect.V1997: "9010"}
TARIFF_BLOCK = {Dialect.V2007: "0001FF00", Dialect.V1997: "901F"}
# Items longer than a frame: what a daily freeze holds, all energies of 1997, a day's curve of voltages (50 points or,
# where N is binary, 80).
LONG_ITEMS = {Dialect.V2007: ("0506FF01", "0501FF01"), Dialect.V1997: ("9FFF",)}
LONG_CURVE, LONG_COUNT = "061001FF", 0x50
# N as sent, BCD ten or binary sixteen; so long ago that sixteen points of half an hour fit.
BLOCK_COUNT, BLOCK_COUNT_BACK = 0x10, timedelta(hours=9)
ITEMS_1997 = {"0201": "B61", "0202": "B62", "0203": "B63", "0206": "B65"}
TARIFF_ROUNDING = Decimal("0.01")
POWER_FACTOR_MAX = 3  # a scale is wrong by ten, a load changes between two reads
LOAD_MIN_KVA = Decimal("0.05")
PHASE_KW_MAX = 25  # 100 A at 250 V
NEAR_MIDNIGHT = timedelta(minutes=6)  # meters refuse to be set within five
FREEZE_AGE_MAX = timedelta(minutes=2)


def _judged(verdict: Verdict, expected: str, came: str) -> Judged:
    return Judged(verdict=verdict, expected=expected, came=came)


# Addressing and refusals


def read_address(kit: Kit) -> Steps:
    expected = f"address {kit.device.address}"
    answer = yield Ask(address=WILDCARD, message=ReadAddressRequest())
    message = answer.message
    if isinstance(message, AddressReply):
        if message.address == kit.device.address == answer.address:
            return _judged(PASS, expected, f"address {message.address}")
        if message.address == answer.address:
            return _judged(NOT_JUDGED, expected, f"{message.address} answers, too: the meter is not alone on its line")
        return _judged(FAIL, expected, f"address {message.address} in a frame from {answer.address}")
    return _no_address(expected, answer, kit)


def wildcard(kit: Kit) -> Steps:
    pattern = "AA" * 4 + kit.device.address[-4:]
    expected = f"a reply from {kit.device.address} to {pattern}"
    answer = yield kit.ask(ReadRequest(di=Di(TOTAL[kit.dialect])), pattern)
    if answer.message is None:
        return _no_address(expected, answer, kit)
    if not answer.address.isdecimal():
        return _judged(FAIL, expected, f"a reply from {answer.address}, which is no address of a meter")
    if answer.address != kit.device.address:
        return _judged(NOT_JUDGED, expected, f"{answer.address} answers, too: it has the same last digits")
    return _judged(PASS, expected, f"a reply from {answer.address}")


def _no_address(expected: str, answer: Answer, kit: Kit) -> Judged:
    if answer.silence in ("corrupt", "unmatched"):
        return _judged(NOT_JUDGED, expected, f"{said(answer, kit.dialect)}: perhaps several meters answered at once")
    return _judged(FAIL, expected, said(answer, kit.dialect))


def unknown_item(kit: Kit) -> Steps:
    di = NOBODYS_ITEM[kit.dialect]
    expected = f"{di} refused with bit 1 set, the data do not exist"
    answer = yield kit.ask(ReadRequest(di=Di(di)))
    right = isinstance(answer.message, Refused) and bool(answer.message.word & NO_DATA)
    return _judged(PASS if right else FAIL, expected, said(answer, kit.dialect))


def passwords(kit: Kit) -> Steps:
    """What comes is not shown if it is a password."""
    di = PASSWORD_ITEM[kit.dialect]
    answer = yield kit.ask(ReadRequest(di=Di(di)))
    expected = f"no data for {di}"
    if isinstance(answer.message, ReadReply) and answer.message.data:
        return Judged(verdict=FAIL, expected=expected, came="the password, in clear (not shown here)", secret=True)
    came = "a reply without data" if isinstance(answer.message, ReadReply) else said(answer, kit.dialect)
    return _judged(PASS, expected, came)


# Clock


def clock(kit: Kit) -> Steps:
    limit_s = kit.device.clock_limit_s
    expected = f"within {limit_s:g} s of our clock, which is at {kit.local:%Y-%m-%d %H:%M:%S} there"
    shown = yield from _clock(kit)
    if shown is None:
        return _judged(FAIL if kit.promised else NOT_OFFERED, expected, "no date and time that can be read")
    at, weekday = shown
    offset_s = (at - kit.local).total_seconds()
    came = f"{at:%Y-%m-%d %H:%M:%S}, {abs(offset_s):.0f} s {'behind' if offset_s < 0 else 'ahead'}"
    if weekday % 7 != at.isoweekday() % 7:
        return _judged(FAIL, expected, f"{came}, weekday {weekday} instead of {at.isoweekday() % 7}")
    return _judged(PASS if abs(offset_s) <= limit_s else FAIL, expected, came)


def _clock(kit: Kit) -> Generator[Ask, Answer, tuple[datetime, int] | None]:
    """What the meter's clock shows, and its weekday (0: Sunday)."""
    texts: list[str] = []
    sets = [["0400010C"], ["04000101", "04000102"]] if kit.dialect is Dialect.V2007 else [["C010", "C011"]]
    for dis in sets:
        texts = []
        for di in dis:
            values = yield from read_values(kit, di)
            texts += [value.content for value in values if isinstance(value.content, str)]
        if len(texts) == len(dis):
            break
    digits = "".join(texts)
    try:
        year, month, day, weekday, hour, minute, second = (int(digits[at : at + 2]) for at in range(0, 14, 2))
        at = datetime(2000 + year, month, day, hour, minute, second)  # noqa: DTZ001 - meter time has no zone
    except ValueError:
        return None
    return at, weekday


# Frames


def repeat(kit: Kit) -> Steps:
    """03H of 1997."""
    expected = "the last reply again"
    first = yield kit.ask(ReadRequest(di=Di(TOTAL[kit.dialect])))
    again = yield Ask(address=kit.device.address, message=RepeatRequest())
    if isinstance(again.message, Refused):
        return _judged(NOT_OFFERED, expected, said(again, kit.dialect))
    if not isinstance(first.message, ReadReply) or not isinstance(again.message, ReadReply):
        return _judged(FAIL, expected, said(again if isinstance(first.message, ReadReply) else first, kit.dialect))
    same = (first.message.di, first.message.data) == (again.message.di, again.message.data)
    return _judged(PASS if same else FAIL, expected, "the same data" if same else said(again, kit.dialect))


def _long_item(kit: Kit) -> Generator[Ask, Answer, tuple[str, Fetched]]:
    """The first item that comes in several frames, read to its end; the last that was tried when none does."""
    tried, fetched = "", Fetched(problem="the contract has no item longer than a frame")
    for di in LONG_ITEMS[kit.dialect]:
        if _knows(kit, di):
            tried, fetched = di, (yield from fetch(kit, Di(di)))
            if fetched.parts > 1:
                return tried, fetched
    if kit.dialect is Dialect.V2007 and _knows(kit, LONG_CURVE):
        start = f"{kit.local - timedelta(days=1):%y%m%d%H%M}"
        tried, fetched = LONG_CURVE, (yield from fetch(kit, Di(LONG_CURVE), count=LONG_COUNT, start=start))
    return tried, fetched


def _knows(kit: Kit, di: str) -> bool:
    try:
        kit.contract.find(Di(di))
    except UnknownItem:
        return False
    return True


def follow_up(kit: Kit) -> Steps:
    limits = kit.contract.limits
    if not limits.follow_up:
        came = "a reply in several frames" if kit.parts_seen else "every reply in one frame"
        return _judged(FAIL if kit.parts_seen else PASS, "no reply in several frames", came)
    expected = f"replies above {limits.read_data_max} bytes in several frames"
    di, fetched = yield from _long_item(kit)
    if fetched.parts > 1:
        came = f"{di} in {fetched.parts} frames" + (f": {fetched.problem}" if fetched.problem else "")
        return _judged(FAIL if fetched.problem else PASS, expected, came)
    if fetched.data is None:
        return _judged(NOT_OFFERED, expected, f"{di}: {fetched.problem or 'refused'}".lstrip(": "))
    came = f"{di} in one frame with {fetched.longest} bytes of DATA"
    return _judged(FAIL if fetched.longest > limits.read_data_max else NOT_JUDGED, expected, came)


def repeated_follow_up(kit: Kit) -> Steps:
    wanted = kit.contract.quirks.repeated_follow_up
    expected = f"the second time: {wanted}"
    di, fetched = yield from _long_item(kit)
    if fetched.parts <= 1 or fetched.problem or di == LONG_CURVE:
        return _judged(NOT_OFFERED, expected, "no item that comes in several frames")
    yield kit.ask(ReadRequest(di=Di(di)))
    first = yield kit.ask(FollowUpRequest(di=Di(di), sequence=1))
    second = yield kit.ask(FollowUpRequest(di=Di(di), sequence=1))
    if not isinstance(first.message, FollowUpReply):
        return _judged(FAIL, expected, f"follow-up 1 of {di}: {said(first, kit.dialect)}")
    came = said(second, kit.dialect)
    if isinstance(second.message, Refused):
        behaves = "refused"
    elif isinstance(second.message, FollowUpReply):
        same = second.message.data == first.message.data
        behaves = "same" if same else "other data" if second.message.data else "empty"
        came = f"{behaves}: {len(second.message.data)} bytes"
    else:
        behaves = "nothing"
    return _judged(PASS if behaves == wanted else FAIL, expected, came)


def block_count(kit: Kit) -> Steps:
    wanted = kit.contract.quirks.block_count
    expected = f"N = {BLOCK_COUNT:02X}H read as {wanted}"
    try:
        spec = kit.contract.find(Di("06100601"))
    except UnknownItem:
        return _judged(NOT_OFFERED, expected, "the contract has no load curve of energy")
    start = f"{kit.local - BLOCK_COUNT_BACK:%y%m%d%H%M}"
    fetched = yield from fetch(kit, spec.di, count=BLOCK_COUNT, start=start)
    if fetched.data is None:
        if fetched.problem:
            return _judged(FAIL, expected, fetched.problem)
        return _judged(NOT_OFFERED, expected, "the load curve is refused")
    try:
        points = len(decode_curve(fetched.data, spec))
    except ItemError as error:
        return _judged(FAIL, expected, str(error))
    read_as = {10: "bcd", 16: "binary"}.get(points)
    if read_as is None:
        return _judged(NOT_JUDGED, expected, f"{points} points: no complete record of that time")
    return _judged(PASS if read_as == wanted else FAIL, expected, f"{points} points")


# What must agree


def sum_of_tariffs(kit: Kit) -> Steps:
    expected = "total = sum of tariffs"
    values = yield from read_values(kit, TARIFF_BLOCK[kit.dialect])
    amounts = [value.content for value in values if isinstance(value.content, Decimal)]
    if len(amounts) < 2:
        return _judged(NOT_OFFERED, expected, "no block of total and tariffs")
    total, tariffs = amounts[0], sum(amounts[1:], Decimal(0))
    came = f"{total} and {' + '.join(str(amount) for amount in amounts[1:])}"
    right = abs(total - tariffs) <= TARIFF_ROUNDING * len(amounts)
    return _judged(PASS if right else FAIL, expected, came)


def power(kit: Kit) -> Steps:
    """Active power is the sum of voltage times current times power factor; a wrong scale in one of them shows."""
    expected = f"active power = sum of U · I · power factor, within a factor of {POWER_FACTOR_MAX}"
    phases = range(1, kit.contract.limits.phases + 1)
    volts = yield from _by_phase(kit, "0201", phases)
    amps = yield from _by_phase(kit, "0202", phases)
    active = yield from _by_phase(kit, "0203", (0,))
    factors = yield from _by_phase(kit, "0206", (0,))
    if not (volts and amps and active):
        return _judged(NOT_OFFERED, expected, "no voltage, current and power")
    apparent = sum((volts[phase] * abs(amps[phase]) for phase in volts.keys() & amps.keys()), Decimal(0)) / 1000
    real, factor = abs(active[0]), abs(factors[0]) if factors else None
    came = f"{apparent:.3f} kVA from voltage and current, power factor {factor or 'unknown'}, {real} kW"
    if max(apparent, real) < LOAD_MIN_KVA or factor == 0:
        return _judged(NOT_JUDGED, expected, f"no load: {came}")
    by_factor = apparent * (factor if factor is not None else 1)
    too_much = real > by_factor * POWER_FACTOR_MAX
    too_little = factor is not None and by_factor > real * POWER_FACTOR_MAX
    return _judged(FAIL if too_much or too_little else PASS, expected, came)


def _by_phase(kit: Kit, item: str, phases: Iterable[int]) -> Generator[Ask, Answer, dict[int, Decimal]]:
    """Amounts of the phases that measure something, 0 being the total; item: as 2007 has it."""
    amounts = {}
    for phase in phases:
        values = yield from read_values(kit, f"{item}{phase:02X}00" if _is_2007(kit) else f"{ITEMS_1997[item]}{phase}")
        if values and isinstance(amount := values[0].content, Decimal):
            amounts[phase] = amount
    return amounts


def _is_2007(kit: Kit) -> bool:
    return kit.dialect is Dialect.V2007


def energy_and_freeze(kit: Kit) -> Steps:
    """Since the freeze, no more can have been used than the meter can carry."""
    expected = "present energy at or a little above the last daily freeze"
    frozen = yield from read_values(kit, "05060101")
    times = yield from read_values(kit, "05060001")
    present = yield from read_values(kit, TOTAL[kit.dialect])
    if not frozen or not present:
        return _judged(NOT_OFFERED, expected, "no daily freeze, or no present energy")
    then, now = frozen[0].content, present[0].content
    if not isinstance(then, Decimal) or not isinstance(now, Decimal):
        return _judged(NOT_JUDGED, expected, f"{values_said(frozen[:1])}, now {values_said(present)}")
    at = times[0].at if times else None
    age = max(kit.local - at, timedelta(0)) if at is not None else timedelta(days=2)
    most = Decimal((age.total_seconds() / 3600 + 1) * PHASE_KW_MAX * kit.contract.limits.phases)
    came = f"{then} frozen {at or 'at an unknown time'}, {now} now; at most {most:.0f} kWh more is possible"
    return _judged(PASS if 0 <= now - then <= most else FAIL, expected, came)


# What writes


def time_sync(kit: Kit) -> Steps:
    """08H to the meter's own address, with the time its own clock shows."""
    wanted = kit.contract.quirks.unicast_time_sync
    expected = "acceptance" if wanted == "answered" else "no reply"
    shown = yield from _clock(kit)
    if shown is None:
        return _judged(NOT_JUDGED, expected, "its clock cannot be read, so nothing was sent")
    at, asked = shown[0], kit.now
    midnight = at.replace(hour=0, minute=0, second=0)
    if min(at - midnight, midnight + timedelta(days=1) - at) < NEAR_MIDNIGHT:
        return _judged(NOT_JUDGED, expected, "too near to midnight, so nothing was sent")
    at += kit.now - asked
    answer = yield Ask(address=kit.device.address, message=TimeSync(at=f"{at:%y%m%d%H%M%S}"))
    came = "acceptance" if isinstance(answer.message, Accepted) else said(answer, kit.dialect)
    if isinstance(answer.message, Refused):
        return _judged(NOT_JUDGED, expected, f"{came}: meters take one synchronisation a day")
    answered = "answered" if isinstance(answer.message, Accepted) else "silent"
    return _judged(PASS if answered == wanted else FAIL, expected, came)


def freeze_now(kit: Kit) -> Steps:
    """16H with 99 in every place, then the time of the newest instant freeze."""
    expected = "acceptance, and an instant freeze of now"
    if not _knows(kit, "05010001"):
        return _judged(NOT_OFFERED, expected, "the contract has no instant freezes, so nothing was sent")
    answer = yield Ask(address=kit.device.address, message=FreezeRequest("99999999"))
    if isinstance(answer.message, Refused):
        return _judged(FAIL if kit.promised else NOT_OFFERED, expected, said(answer, kit.dialect))
    if not isinstance(answer.message, Accepted):
        return _judged(FAIL, expected, said(answer, kit.dialect))
    values = yield from read_values(kit, "05010001")
    at = values[0].at if values else None
    if at is None:
        return _judged(FAIL, expected, "acceptance, but no time of an instant freeze")
    limit = FREEZE_AGE_MAX + timedelta(seconds=kit.device.clock_limit_s)
    return _judged(PASS if abs(at - kit.local) <= limit else FAIL, expected, f"acceptance, newest freeze of {at}")
