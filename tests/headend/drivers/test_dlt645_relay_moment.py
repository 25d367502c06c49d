"""The moment in which an order leaves: durable, looked at, in time; and what silence and loss around it mean. In virtual time."""

import asyncio
from datetime import timedelta

import pytest

from headend.commands.model import Kind, State
from headend.drivers.dlt645_relay import FRAME_LIFE_S
from headend.drivers.errors import (
    HoldOver,
    LineDown,
    LineQueueFull,
    NoAnswer,
    SendingTooOld,
    StopOrder,
)
from headend.drivers.line import QUEUE_MAX, Priority
from headend.drivers.relay import SwitchUnconfirmed
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadRequest, decode
from protocols.exchange import Request
from simulators.faults import FaultKind as K
from simulators.virtual_time import START
from tests.headend.drivers.dlt645_relay_support import CHINA, a_meter, on_site, order_in, shown_by
from tests.headend.drivers.relay_support import (
    ADDRESS,
    Site,
)

# ------------------------------------------------------------------------------------------------ durable, looked at, in time


def test_the_last_look_comes_after_the_record_and_in_the_step_in_which_the_bytes_leave() -> None:
    async def story(site: Site) -> None:
        steps: list[tuple[str, float]] = []

        def look() -> None:
            steps.append(("look", site.clock.monotonic()))
            assert site.wire.orders == []

        site.look_says = look
        site.commit_s = 0.3
        sent = await site.order(Kind.OPEN)
        [(at, _)] = site.wire.orders
        assert (at - START).total_seconds() == pytest.approx(steps[0][1], abs=1e-6)
        assert len(site.ready) == 1
        assert 0.3 <= sent.sending_to_wire_s < 0.31 or sent.sending_to_wire_s < 0.01
        assert sent.look_to_wire_s < 1e-6
        assert sent.at == at
        assert len(steps) == 1

    on_site(story)


@pytest.mark.parametrize("at", ["on_sending", "look"])
def test_what_says_no_before_the_bytes_leaves_nothing_behind(at: str) -> None:
    async def story(site: Site) -> None:
        def no(*_: object) -> None:
            raise StopOrder("a payment came")

        if at == "look":
            site.look_says = no
        else:
            site.on_sending = no  # type: ignore[method-assign,assignment]
        with pytest.raises(StopOrder, match="a payment came"):
            await site.order(Kind.OPEN)
        assert site.wire.orders == []
        assert site.line.is_up
        await site.line.exchange(Request(ADDRESS, ReadRequest(di=Di("00010000"))), Priority.LIVE)  # free again

    on_site(story)


def test_a_look_that_takes_too_long_makes_the_record_too_old() -> None:
    async def story(site: Site) -> None:
        loop = asyncio.get_running_loop()

        def stall() -> None:
            loop._virtual_s += 1.2  # type: ignore[attr-defined]

        site.look_says = stall
        with pytest.raises(SendingTooOld, match=r"1\.2. s went by"):
            await site.order(Kind.OPEN)
        assert site.wire.orders == []

    on_site(story)


@pytest.mark.parametrize("how", ["wall", "monotonic"])
def test_an_order_that_runs_out_meanwhile_does_not_leave_by_either_clock(how: str) -> None:
    async def story(site: Site) -> None:
        async def on_sending(_: object) -> None:
            if how == "wall":
                site.clock.step(+3600)
            else:
                site.clock.step(-3600)
                await asyncio.sleep(0)
                asyncio.get_running_loop()._virtual_s += 70  # type: ignore[attr-defined]

        site.on_sending = on_sending  # type: ignore[method-assign,assignment]
        with pytest.raises(StopOrder, match="not sent any more"):
            await site.order(Kind.OPEN, lasts_s=60)
        assert site.wire.orders == []

    on_site(story)


def test_a_commit_that_never_ends_gives_the_line_back_and_then_nothing_is_sent() -> None:
    async def story(site: Site) -> None:
        site.commit_s = 100.0
        ordering = asyncio.create_task(site.order(Kind.OPEN, lasts_s=600))
        await asyncio.sleep(5)
        await site.line.exchange(Request(ADDRESS, ReadRequest(di=Di("00010000"))), Priority.LIVE)
        assert site.clock.monotonic() < 40
        with pytest.raises((HoldOver, SendingTooOld)):
            await ordering
        assert site.wire.orders == []

    on_site(story)


def test_the_end_in_the_frame_is_near_and_by_the_meters_own_clock() -> None:
    """Ours is UTC, the meter stands in China, and its clock is 40 minutes fast."""
    for lasts_s, left_s in ((30.0, 30.0), (86_400.0, FRAME_LIFE_S)):

        async def story(site: Site, lasts_s: float = lasts_s, left_s: float = left_s) -> None:
            sent, found = await site.whole(Kind.OPEN, lasts_s=lasts_s)
            assert found.state is State.VERIFIED
            digits = order_in(site).expires
            assert digits is not None
            shown = shown_by(digits)
            meter_now = site.bus.meters[0].model.clock(sent.at)
            assert left_s - 10 < (shown - meter_now).total_seconds() <= left_s + 1

        on_site(story, meter=a_meter(clock_offset_s=2400))


def test_the_end_in_the_frame_is_made_when_the_line_is_there_however_long_that_took() -> None:
    async def story(site: Site) -> None:
        async with site.line.hold(Priority.RECONNECT, at_most_s=2000):
            ordered = asyncio.create_task(site.order(Kind.OPEN, lasts_s=3600))
            await asyncio.sleep(900)
            assert site.wire.orders == []
        sent = await ordered
        assert sent.acknowledged
        digits = order_in(site).expires
        assert digits is not None
        left = sent.at.astimezone(CHINA).replace(tzinfo=None)
        assert abs((shown_by(digits) - left).total_seconds() - FRAME_LIFE_S) <= 5

    on_site(story)


def test_a_meter_whose_clock_cannot_be_read_is_given_what_is_known_of_it() -> None:
    async def story(site: Site) -> None:
        await site.order(Kind.CLOSE)
        digits = order_in(site).expires
        assert digits is not None
        local = (site.clock.now().astimezone(CHINA).replace(tzinfo=None)) + timedelta(seconds=7200)
        assert 50 < (shown_by(digits) - local).total_seconds() < 61

    on_site(
        story,
        contract="dlt645/generic_submeter",
        meter=a_meter("dlt645/generic_submeter", clock_offset_s=7200),
        clock_offset_s=lambda meter: 7200.0 if meter == "M000017" else None,
    )


def test_a_recorded_order_is_refused_by_the_meter_ten_minutes_later() -> None:
    async def story(site: Site) -> None:
        await site.order(Kind.OPEN, lasts_s=3600)
        [(_, frame)] = site.wire.orders
        meter = site.bus.meters[0]
        await site.order(Kind.CLOSE)
        again = meter.receive(frame, site.clock.world() + timedelta(minutes=10))
        assert again is not None
        assert again.control == 0xDC
        assert not meter.model.relay_open(site.clock.world())

    on_site(story)


# ------------------------------------------------------------------------------------------------ silence, loss


def test_a_silent_meter_is_not_ordered_about() -> None:
    async def story(site: Site) -> None:
        with pytest.raises(NoAnswer):
            await site.order(Kind.OPEN)
        assert site.wire.orders == []
        assert site.ready == []

    on_site(story, K.SILENCE)


def test_a_line_that_is_lost_behind_the_frame_leaves_an_unknown_and_nothing_is_sent_again() -> None:
    async def story(site: Site) -> None:
        asyncio.get_running_loop().call_later(3600, lambda: None)

        def look() -> None:
            asyncio.get_running_loop().call_later(0.05, site.wire.drop)

        site.look_says = look
        with pytest.raises(SwitchUnconfirmed) as unknown:
            await site.order(Kind.OPEN)
        assert unknown.value.sent.silence == "line-down"
        assert unknown.value.sent.before is not None
        await asyncio.sleep(60)
        assert len(site.wire.orders) == 1
        assert "**" in unknown.value.sent.wire_sent

    on_site(story)


def test_a_line_that_is_lost_before_the_frame_leaves_nothing() -> None:
    async def story(site: Site) -> None:
        async def on_sending(_: object) -> None:
            site.wire.drop()
            await asyncio.sleep(0.1)

        site.on_sending = on_sending  # type: ignore[method-assign,assignment]
        with pytest.raises(LineDown, match="lost while it was held"):
            await site.order(Kind.OPEN)
        assert site.wire.orders == []

    on_site(story)


def test_an_order_behind_bytes_that_the_far_end_does_not_take_is_not_added_to_them() -> None:
    async def story(site: Site) -> None:
        transport = site.line._transport
        assert transport is not None

        async def on_sending(_: object) -> None:
            transport.get_write_buffer_size = lambda: 40  # type: ignore[method-assign]

        site.on_sending = on_sending  # type: ignore[method-assign,assignment]
        with pytest.raises(LineDown, match="does not take"):
            await site.order(Kind.OPEN)
        assert site.wire.orders == []

    on_site(story)


def test_a_close_has_a_place_on_a_line_whose_queue_is_full_of_reads() -> None:
    """An open has none: it is asked for again when there is room."""

    async def story(site: Site) -> None:
        asking = Request(ADDRESS, ReadRequest(di=Di("00010000")))
        reads = [asyncio.ensure_future(site.line.exchange(asking, Priority.LIVE)) for _ in range(QUEUE_MAX + 1)]
        await asyncio.sleep(0)
        with pytest.raises(LineQueueFull):
            await site.order(Kind.OPEN)
        sent = await site.order(Kind.CLOSE)
        assert sent.acknowledged
        assert sum(one.done() for one in reads) <= 1, "it waited behind more than the read that was under way"
        for one in reads:
            one.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    on_site(story)


@pytest.mark.parametrize("polls", [0, 200])
def test_a_close_waits_for_one_order_at_most_however_long_the_queue_of_reads(polls: int) -> None:
    async def story(site: Site) -> None:
        reads = [
            asyncio.ensure_future(site.line.exchange(Request(ADDRESS, ReadRequest(di=Di("00010000"))), Priority.LIVE))
            for _ in range(polls)
        ]
        opens = [asyncio.ensure_future(site.order(Kind.OPEN)) for _ in range(5)]
        await asyncio.sleep(0.5)
        await site.order(Kind.CLOSE)
        assert site.clock.monotonic() < 12  # two orders at 2400 baud
        assert sum(one.done() for one in reads) <= 3
        codes = [decode(frame).order for _, frame in site.wire.orders]  # type: ignore[union-attr]
        assert codes == [0x1A, 0x1C]
        await asyncio.gather(*opens, *reads)

    on_site(story)
