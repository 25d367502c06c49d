"""Every order through the driver against the simulated meter, in virtual time, both editions; what is done when the reply is lost."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from firmware_contracts.contract import load
from headend.drivers.dlt645_operations import Outcome, TerminalOutput
from headend.drivers.errors import (
    Contradicted,
    LineDown,
    NotOffered,
    RateFixed,
    RefusedByMeter,
    Unconfirmed,
    WrongMeter,
)
from headend.drivers.line import Priority
from headend.secrets import Authority
from protocols.dlt645.control import Dialect
from protocols.dlt645.fields import Password
from protocols.dlt645.frame import BROADCAST, Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import FreezeRequest, TimeSync, decode
from protocols.dlt645.security import INVALIDATE, SET_VALIDITY, SecurityModule, Validity
from protocols.dlt645.session import DOUBLE_S_MAX
from protocols.errors import EncodeError
from simulators.security_stub import SecureMeter, StubSecurityModule
from tests.headend.drivers.operations_support import ADDRESS, AUTHORITY, Site, a_meter, on_site

BASE = load("dlt645/base_2007")
OLD = load("dlt645/base_1997")
V97 = Dialect.V1997
NOW = datetime(2025, 6, 17, 3, 30, tzinfo=UTC)
ON_DEMAND = Priority.ON_DEMAND
LEVEL_4 = Authority(Password(0x04, bytes(3)), bytes(4))


def lose(*functions: int) -> Callable[[int, bytes], bytes | None]:
    """Replies to these functions never arrive."""
    return lambda _, wire: None if Frame.from_bytes(wire).control & 0x1F in functions else wire


# ------------------------------------------------------------------------------------------------ data


@pytest.mark.parametrize(
    ("edition", "di", "value"), [("2007", "04000302", Decimal(7)), ("2007", "04000901", "3F"), ("1997", "C117", "0100")]
)
def test_a_written_item_is_read_back(edition: str, di: str, value: object) -> None:
    spec = load(f"dlt645/base_{edition}").find(Di(di))

    async def story(site: Site) -> None:
        outcome = await site.operations.write(ADDRESS, spec, value, AUTHORITY, ON_DEMAND)  # type: ignore[arg-type]
        assert outcome is Outcome.VERIFIED
        await asyncio.sleep(DOUBLE_S_MAX)
        reading = await site.driver.read(ADDRESS, spec, ON_DEMAND)
        assert reading.values[0].content == value
        assert site.wire.functions == ([0x14, 0x11, 0x11] if edition == "2007" else [0x04, 0x01, 0x01])

    on_site(story, a_meter(edition))


def test_a_write_whose_reply_is_lost_is_repeated_and_proven_by_reading_back() -> None:
    async def story(site: Site) -> None:
        spec = BASE.find(Di("04000302"))
        assert await site.operations.write(ADDRESS, spec, Decimal(7), AUTHORITY, ON_DEMAND) is Outcome.VERIFIED
        assert site.wire.functions == [0x14, 0x14, 0x14, 0x11]
        with pytest.raises(Unconfirmed, match="effect is unknown"):
            await site.operations.write(ADDRESS, spec, Decimal(7), AUTHORITY, ON_DEMAND, verify=False)

    on_site(story, a_meter(), tamper=lose(0x14))


def test_a_meter_that_accepts_and_does_not_keep_is_contradicted() -> None:
    meter = a_meter()

    def forget(_: int, wire: bytes) -> bytes:
        meter.items.written.clear()
        return wire

    async def story(site: Site) -> None:
        with pytest.raises(Contradicted, match="expected 07, it tells 0"):
            await site.operations.write(ADDRESS, BASE.find(Di("04000302")), Decimal(7), AUTHORITY, ON_DEMAND)

    on_site(story, meter, tamper=forget)


def test_a_wrong_password_is_refused_once_and_not_tried_again() -> None:
    """Meters count wrong passwords and lock."""

    async def story(site: Site) -> None:
        wrong = Authority(Password(0x04, b"\x09\x09\x09"), bytes(4))
        with pytest.raises(RefusedByMeter, match=r"04H \(password wrong / not authorised\)"):
            await site.operations.write(ADDRESS, BASE.find(Di("04000302")), Decimal(7), wrong, ON_DEMAND)
        assert site.wire.functions == [0x14]

    on_site(story, a_meter())


@pytest.mark.parametrize(
    ("di", "why"),
    [
        ("00010000", "not written"),
        ("04000C05", "change_password"),
        ("04000401", "write_address"),
        ("04000407", "04000407"),
    ],
)
def test_what_must_not_be_written_this_way_is_not_sent(di: str, why: str) -> None:
    async def story(site: Site) -> None:
        with pytest.raises((NotOffered, EncodeError), match=why):
            await site.operations.write(ADDRESS, BASE.find(Di(di)), "no value", AUTHORITY, ON_DEMAND)
        assert site.wire.sent == []

    on_site(story, a_meter())


# ------------------------------------------------------------------------------------------------ address


@pytest.mark.parametrize("edition", ["2007", "1997"])
@pytest.mark.parametrize("lost", [(), (0x15, 0x0A)])
def test_a_new_address_is_proven_by_asking_who_is_there(edition: str, lost: tuple[int, ...]) -> None:
    async def story(site: Site) -> None:
        outcome = await site.operations.write_address(ADDRESS, "000000000018", ON_DEMAND, dialect=Dialect(edition))
        assert outcome is Outcome.VERIFIED
        assert site.wire.meters[0].address == "000000000018"

    on_site(story, a_meter(edition), tamper=lose(*lost))


def test_no_address_is_written_when_another_meter_answers_or_the_key_is_not_pressed() -> None:
    async def other(site: Site) -> None:
        with pytest.raises(WrongMeter, match="expected 000000000099 alone on this line, but 000000000017 answers"):
            await site.operations.write_address("000000000099", "000000000018", ON_DEMAND)
        assert site.wire.functions == [0x13]

    async def without_key(site: Site) -> None:
        with pytest.raises(NotOffered, match="programming key"):
            await site.operations.write_address(ADDRESS, "000000000018", ON_DEMAND)

    on_site(other, a_meter())
    on_site(without_key, a_meter(programming=False))


# ------------------------------------------------------------------------------------------------ time


@pytest.mark.parametrize("broadcast", [True, False])
def test_time_sync_sets_the_clock_by_the_moment_of_sending(broadcast: bool) -> None:
    """A dozen reads wait before it; the time is that of its own turn."""
    meter = a_meter()
    meter.model.set_clock(datetime(2025, 6, 17, 11, 28), NOW)

    async def story(site: Site) -> None:
        reads = [
            asyncio.ensure_future(site.driver.read(ADDRESS, BASE.find(Di(f"0001000{settlement:X}")), ON_DEMAND))
            for settlement in range(12)
        ]
        await asyncio.sleep(0)

        def right_now() -> datetime:
            return (site.clock.world() + timedelta(hours=8)).replace(tzinfo=None)

        if broadcast:
            assert await site.operations.broadcast_time(right_now, ON_DEMAND) is Outcome.SENT
        else:
            assert await site.operations.time_sync(ADDRESS, right_now, ON_DEMAND) is Outcome.ACCEPTED
        await asyncio.gather(*reads)
        off = meter.model.clock(site.clock.world()) - right_now()
        assert abs(off) < timedelta(seconds=0.7)
        assert [frame.address for frame in site.wire.sent][-1] == (BROADCAST if broadcast else ADDRESS)

    on_site(story, meter, start=NOW)


def test_a_second_time_sync_on_one_day_is_refused_and_a_silent_one_is_sent() -> None:
    async def story(site: Site) -> None:
        await site.operations.time_sync(ADDRESS, site.local_now, ON_DEMAND)
        with pytest.raises(RefusedByMeter):
            await site.operations.time_sync(ADDRESS, site.local_now, ON_DEMAND)

    async def silent(site: Site) -> None:
        assert await site.operations.time_sync(ADDRESS, site.local_now, ON_DEMAND) is Outcome.SENT
        assert site.wire.functions == [0x08]

    on_site(story, a_meter(), start=NOW)
    on_site(silent, a_meter(), start=NOW, tamper=lose(0x08))


def test_a_1997_meter_is_set_by_broadcast() -> None:
    meter = a_meter("1997")
    meter.model.set_clock(datetime(2025, 6, 17, 11, 28), NOW)

    async def story(site: Site) -> None:
        await site.operations.broadcast_time(lambda: datetime(2025, 6, 17, 11, 30), ON_DEMAND)
        assert meter.model.clock(site.clock.world()) == datetime(2025, 6, 17, 11, 30)
        message = decode(site.wire.sent[0])
        assert message == TimeSync(at="250617113000")

    on_site(story, meter, start=NOW)


def test_a_time_with_a_zone_is_a_mistake_of_the_caller_and_costs_the_line_nothing() -> None:
    async def story(site: Site) -> None:
        with pytest.raises(ValueError, match="meter time has no zone"):
            await site.operations.broadcast_time(site.clock.now, ON_DEMAND)
        await site.driver.read(ADDRESS, BASE.find(Di("00010000")), ON_DEMAND)

    on_site(story, a_meter())


def test_the_clock_is_written_without_reading_it_back() -> None:
    async def story(site: Site) -> None:
        spec = BASE.find(Di("0400010C"))
        outcome = await site.operations.write(ADDRESS, spec, "25061702120000", AUTHORITY, ON_DEMAND, verify=False)
        assert outcome is Outcome.ACCEPTED
        assert site.wire.meters[0].model.clock(site.clock.world()).hour == 12

    on_site(story, a_meter(), start=NOW)


# ------------------------------------------------------------------------------------------------ freezes


@pytest.mark.parametrize(
    ("moment", "data"),
    [
        (FreezeRequest.now(), "99 99 99 99"),
        (FreezeRequest.hourly(30), "30 99 99 99"),
        (FreezeRequest.daily(0, 30), "30 00 99 99"),
        (FreezeRequest.monthly(28, 23, 59), "59 23 28 99"),
    ],
)
@pytest.mark.parametrize("broadcast", [True, False])
def test_freezes_of_every_kind_are_taken(moment: FreezeRequest, data: str, broadcast: bool) -> None:
    async def story(site: Site) -> None:
        operations = site.operations
        if broadcast:
            assert await operations.broadcast_freeze(moment, ON_DEMAND) is Outcome.SENT
        else:
            assert await operations.freeze(ADDRESS, moment, ON_DEMAND) is Outcome.ACCEPTED
        assert site.wire.sent[0].payload.hex(" ") == data
        assert site.wire.sent[0].address == (BROADCAST if broadcast else ADDRESS)
        if moment == FreezeRequest.now():
            now = (await site.driver.read(ADDRESS, BASE.find(Di("00010000")), ON_DEMAND)).values[0].content
            kept = (await site.driver.read(ADDRESS, BASE.find(Di("05010101")), ON_DEMAND)).values[0].content
            assert kept == now

    on_site(story, a_meter(), start=NOW)


def test_an_instant_freeze_without_a_reply_is_unconfirmed_and_a_pattern_is_repeated() -> None:
    async def story(site: Site) -> None:
        with pytest.raises(Unconfirmed, match="freeze was sent to 000000000017"):
            await site.operations.freeze(ADDRESS, FreezeRequest.now(), ON_DEMAND)
        assert site.wire.functions == [0x16]
        with pytest.raises(Unconfirmed):
            await site.operations.freeze(ADDRESS, FreezeRequest.daily(), ON_DEMAND)
        assert site.wire.functions == [0x16] * 4

    on_site(story, a_meter(), tamper=lose(0x16))


# ------------------------------------------------------------------------------------------------ rate and password


@pytest.mark.parametrize(("edition", "baud", "start"), [("2007", 9600, 2400), ("1997", 4800, 2400)])
def test_the_line_follows_a_meter_that_has_changed_its_rate(edition: str, baud: int, start: int) -> None:
    async def story(site: Site) -> None:
        outcome = await site.operations.change_rate(ADDRESS, baud, ON_DEMAND, dialect=Dialect(edition))
        assert outcome is Outcome.VERIFIED
        assert (site.wire.baud, site.line.timing.baud, site.line.url.baud) == (baud, baud, baud)
        assert site.wire.meters[0].baud == baud

    on_site(story, a_meter(edition, baud=start))


def test_the_line_goes_back_when_the_meter_is_not_heard_at_the_new_rate() -> None:
    meter = a_meter(baud=2400)

    def stays(_: int, wire: bytes) -> bytes:
        meter.baud = 2400
        return wire

    async def story(site: Site) -> None:
        with pytest.raises(Unconfirmed, match="not heard at 9600 baud, and the line is back at 2400"):
            await site.operations.change_rate(ADDRESS, 9600, ON_DEMAND)
        assert site.line.timing.baud == 2400
        await site.driver.read(ADDRESS, BASE.find(Di("00010000")), ON_DEMAND)

    on_site(story, meter, tamper=stays)


def test_rates_that_cannot_be_are_not_asked_for() -> None:
    async def story(site: Site) -> None:
        with pytest.raises(NotOffered, match="300 baud is no rate of DL/T 645-2007: there are 600, 1200"):
            await site.operations.change_rate(ADDRESS, 300, ON_DEMAND)
        site.line._transport = _NoRate()  # type: ignore[assignment]
        with pytest.raises(RateFixed, match="its rate is set in the serial server"):
            await site.operations.change_rate(ADDRESS, 9600, ON_DEMAND)
        site.line._transport = site.wire
        assert site.wire.sent == []

    on_site(story, a_meter())


class _NoRate:
    """A tunnel's end."""

    def get_extra_info(self, _: str) -> None:
        return None


@pytest.mark.parametrize("edition", ["2007", "1997"])
def test_a_changed_password_is_the_one_that_works(edition: str) -> None:
    old, new = Password(4, bytes(3)), Password(4, b"\x11\x22\x33")
    spec = BASE.find(Di("04000302")) if edition == "2007" else OLD.find(Di("C117"))
    value = Decimal(7) if edition == "2007" else "0100"

    async def story(site: Site) -> None:
        outcome = await site.operations.change_password(ADDRESS, old, new, ON_DEMAND, dialect=Dialect(edition))
        assert outcome is Outcome.ACCEPTED
        with pytest.raises(RefusedByMeter):
            await site.operations.write(ADDRESS, spec, value, Authority(old), ON_DEMAND)
        await site.operations.write(ADDRESS, spec, value, Authority(new), ON_DEMAND)

    on_site(story, a_meter(edition))


def test_a_1997_meter_refuses_a_password_by_silence() -> None:
    async def story(site: Site) -> None:
        wrong = Password(4, b"\x09\x09\x09")
        with pytest.raises(Unconfirmed, match="effect is unknown"):
            await site.operations.change_password(ADDRESS, wrong, wrong, ON_DEMAND, dialect=V97)
        assert site.wire.functions == [0x0F]

    on_site(story, a_meter("1997"))


# ------------------------------------------------------------------------------------------------ clearing


def test_clearing_needs_its_level_and_is_counted_by_the_meter() -> None:
    meter = a_meter()

    async def story(site: Site) -> None:
        operations = site.operations
        assert await operations.clear_demand(ADDRESS, LEVEL_4, ON_DEMAND) is Outcome.ACCEPTED
        for clear in (operations.clear_meter, operations.clear_events):
            with pytest.raises(RefusedByMeter):
                await clear(ADDRESS, LEVEL_4, ON_DEMAND)
            assert await clear(ADDRESS, AUTHORITY, ON_DEMAND) is Outcome.ACCEPTED
        assert await operations.clear_events(ADDRESS, AUTHORITY, ON_DEMAND, events=Di("03300DFF")) is Outcome.ACCEPTED
        energy = (await site.driver.read(ADDRESS, BASE.find(Di("00010000")), ON_DEMAND)).values[0].content
        assert energy < 1  # type: ignore[operator]
        with pytest.raises(NotOffered, match="ends in FF"):
            await operations.clear_events(ADDRESS, AUTHORITY, ON_DEMAND, events=Di("03300D01"))
        with pytest.raises(NotOffered, match="needs a password"):
            await operations.clear_demand(ADDRESS, None, ON_DEMAND)

    on_site(story, meter, start=NOW)


def test_a_1997_demand_is_cleared_with_and_without_a_reply() -> None:
    async def story(site: Site) -> None:
        assert await site.operations.clear_demand(ADDRESS, None, ON_DEMAND, dialect=V97) is Outcome.ACCEPTED

    async def silent(site: Site) -> None:
        assert await site.operations.clear_demand(ADDRESS, None, ON_DEMAND, dialect=V97) is Outcome.SENT
        assert site.wire.functions == [0x10]

    on_site(story, a_meter("1997"))
    on_site(silent, a_meter("1997"), tamper=lose(0x10))


@pytest.mark.parametrize("function", [0x19, 0x1A, 0x1B])
def test_a_clearing_whose_reply_is_lost_is_never_sent_again(function: int) -> None:
    async def story(site: Site) -> None:
        clear = {
            0x19: site.operations.clear_demand,
            0x1A: site.operations.clear_meter,
            0x1B: site.operations.clear_events,
        }[function]
        with pytest.raises(Unconfirmed, match="read back what it should have changed"):
            await clear(ADDRESS, AUTHORITY, ON_DEMAND)
        assert site.wire.functions == [function]

    on_site(story, a_meter(), tamper=lose(function))


def test_a_connection_that_breaks_under_an_order_leaves_it_unconfirmed_and_before_it_line_down() -> None:
    def hang_up(_: int, __: bytes) -> None:
        sites[0].line.close("the cable was cut")

    sites: list[Site] = []

    async def story(site: Site) -> None:
        sites.append(site)
        with pytest.raises(Unconfirmed, match="the cable was cut"):
            await site.operations.clear_demand(ADDRESS, AUTHORITY, ON_DEMAND)
        with pytest.raises(LineDown):
            await site.operations.clear_demand(ADDRESS, AUTHORITY, ON_DEMAND)
        assert site.wire.functions == [0x19]

    on_site(story, a_meter(), tamper=hang_up)


# ------------------------------------------------------------------------------------------------ terminal and security


@pytest.mark.parametrize("output", list(TerminalOutput))
def test_the_terminal_gives_what_was_chosen(output: TerminalOutput) -> None:
    async def story(site: Site) -> None:
        assert await site.operations.set_terminal(ADDRESS, output, ON_DEMAND) is Outcome.ACCEPTED

    on_site(story, a_meter())


def test_identity_authentication_goes_there_and_back_through_a_security_module() -> None:
    module = StubSecurityModule(seed=5)
    meter = SecureMeter(a_meter(), seed=9)
    assert isinstance(module, SecurityModule)

    async def story(site: Site) -> None:
        operations, operator = site.operations, AUTHORITY.operator
        with pytest.raises(RefusedByMeter, match="identity authentication failed or timed out"):
            await operations.secure(ADDRESS, INVALIDATE, b"", operator, ON_DEMAND)
        given = await operations.authenticate(ADDRESS, module.challenge(ADDRESS), operator, ON_DEMAND)
        assert given.chip_number == meter.chip_number
        minutes = (90).to_bytes(2, "little")
        validity = Validity(minutes=90, mac=module.mac(ADDRESS, given.random, minutes))
        assert await operations.secure(ADDRESS, SET_VALIDITY, validity.to_data(), operator, ON_DEMAND) == b""
        assert meter.authenticated_until is not None
        assert meter.authenticated_until - site.clock.world() > timedelta(minutes=89)
        await operations.secure(ADDRESS, INVALIDATE, b"", operator, ON_DEMAND)
        assert meter.authenticated_until is None
        await site.driver.read(ADDRESS, BASE.find(Di("00010000")), ON_DEMAND)

    on_site(story, meter)


def test_a_module_with_another_key_is_refused() -> None:
    async def story(site: Site) -> None:
        challenge = StubSecurityModule(seed=5, key=b"other").challenge(ADDRESS)
        with pytest.raises(RefusedByMeter, match=r"0008H \(identity authentication failed"):
            await site.operations.authenticate(ADDRESS, challenge, bytes(4), ON_DEMAND)

    on_site(story, SecureMeter(a_meter(), seed=9))
