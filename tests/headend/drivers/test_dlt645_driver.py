"""Reading through the driver: replies in parts, damaged 1997 replies, load records and curves page by page, addresses, dialects."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from firmware_contracts.contract import load
from headend.drivers.dialect import base_contract, detect_dialect
from headend.drivers.dlt645 import RESTARTS_MAX
from headend.drivers.errors import BadReply, NoAnswer, RefusedByMeter
from headend.drivers.line import Priority
from protocols.dlt645.control import Dialect
from protocols.dlt645.frame import WILDCARD, Frame
from protocols.dlt645.items import Di, ItemValue
from protocols.dlt645.load_record import LoadBlock, encode_blocks
from protocols.dlt645.messages import (
    FollowUpReply,
    FollowUpRequest,
    Message,
    ReadReply,
    ReadRequest,
    Refused,
    decode,
    encode,
)
from protocols.dlt645.session import DOUBLE_S_MAX
from protocols.values import Unit
from tests.headend.drivers.operations_support import ADDRESS, Site, a_meter, on_site

BASE = load("dlt645/base_2007")
OLD = load("dlt645/base_1997")
LONG = BASE.find(Di("000100FF"))  # 13 values, in one frame; cut into several by a small read_data_max
NOW = datetime(2025, 6, 17, 3, 30, tzinfo=UTC)
SMALL_PARTS = 25
PART_SIZE = 190


def in_small_parts() -> object:
    meter = a_meter()
    meter._data_max = SMALL_PARTS  # a meter with a small buffer
    return meter


class Scripted:
    """A meter that answers as a function says; None: not at all. Long replies are cut into parts."""

    baud = None
    reply_delay_s = 0.05
    model = None

    def __init__(self, answer: Callable[[Message], Message | None]) -> None:
        self.asked: list[Message] = []
        self._answer = answer
        self._rest = b""

    def hears(self, _: str) -> bool:
        return True

    def receive(self, frame: Frame, _: datetime) -> Frame | None:
        self.asked.append(decode(frame))
        return None if (reply := self._reply_to(self.asked[-1])) is None else encode(reply, ADDRESS)

    def _reply_to(self, asked: Message) -> Message | None:
        if isinstance(asked, FollowUpRequest) and self._rest:
            data, self._rest = self._rest[:PART_SIZE], self._rest[PART_SIZE:]
            return FollowUpReply(di=asked.di, data=data, sequence=asked.sequence, follow=bool(self._rest))
        reply = self._answer(asked)
        if isinstance(reply, ReadReply) and len(reply.data) > PART_SIZE:
            self._rest = reply.data[PART_SIZE:]
            return ReadReply(di=reply.di, data=reply.data[:PART_SIZE], follow=True)
        return reply

    def to_wire(self, reply: Frame) -> bytes:
        return reply.to_bytes()


# ------------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("lost", [2, 3])
def test_a_lost_part_makes_the_whole_be_asked_again(lost: int) -> None:
    def lose_one(number: int, wire: bytes) -> bytes | None:
        return None if number == lost else wire

    async def story(site: Site) -> None:
        reading = await site.driver.read(ADDRESS, LONG, Priority.LIVE)
        assert len(reading.values) == 13
        assert site.wire.functions.count(0x11) == 2
        sequences = [decode(frame).sequence for frame in site.wire.sent if frame.control == 0x12]  # type: ignore[union-attr]
        assert sequences == [*range(1, lost), *range(1, len(reading.wire_received))]

    on_site(story, in_small_parts(), tamper=lose_one, retries=0)


def test_restarts_are_bounded() -> None:
    def lose_follow_ups(_: int, wire: bytes) -> bytes | None:
        return None if wire[-4:-3] and Frame.from_bytes(wire).control & 0x1F == 0x12 else wire

    async def story(site: Site) -> None:
        with pytest.raises(NoAnswer):
            await site.driver.read(ADDRESS, LONG, Priority.LIVE)
        assert site.wire.functions.count(0x11) == 1 + RESTARTS_MAX

    on_site(story, in_small_parts(), tamper=lose_follow_ups, retries=0)


def test_a_part_with_a_wrong_sequence_number_is_never_joined() -> None:
    """The meter answers every second asking for a part with the SEQ of the part before."""
    wrong = [True]

    def answer(message: Message) -> Message | None:
        if isinstance(message, ReadRequest):
            return ReadReply(di=message.di, data=bytes.fromhex("0001000000000000"), follow=True)
        assert isinstance(message, FollowUpRequest)
        assert message.sequence == 1
        sequence = 7 if wrong.pop() else 1
        wrong.append(False)
        return FollowUpReply(di=message.di, data=bytes.fromhex("00020000"), sequence=sequence)

    async def story(site: Site) -> None:
        reading = await site.driver.read(ADDRESS, BASE.find(Di("0001FF00")), Priority.LIVE)
        assert [str(value.content) for value in reading.values] == ["1.00", "0.00", "2.00"]
        assert site.wire.functions == [0x11, 0x12, 0x11, 0x12]
        assert site.line.counters.unmatched_frames == 1

    on_site(story, Scripted(answer))


def test_a_refused_part_makes_the_whole_be_asked_again_and_a_refused_read_is_final() -> None:
    async def refused(site: Site) -> None:
        with pytest.raises(RefusedByMeter):
            await site.driver.read(ADDRESS, BASE.find(Di("04000C05")), Priority.LIVE)
        assert len(site.wire.sent) == 1

    async def refused_once(site: Site) -> None:
        reading = await site.driver.read(ADDRESS, BASE.find(Di("0001FF00")), Priority.LIVE)
        assert len(reading.values) == 3
        assert site.wire.functions == [0x11, 0x12, 0x11, 0x12]

    refusals = [1]

    def answer(message: Message) -> Message | None:
        if isinstance(message, ReadRequest):
            return ReadReply(di=message.di, data=bytes.fromhex("0001000000000000"), follow=True)
        if refusals:
            refusals.pop()
            return Refused(dialect=Dialect.V2007, function=0x12, word=0x02)
        assert isinstance(message, FollowUpRequest)
        return FollowUpReply(di=message.di, data=bytes(4), sequence=1)

    on_site(refused, a_meter())
    on_site(refused_once, Scripted(answer))


# ------------------------------------------------------------------------------------------------ 1997 repeats


def damage(*numbers: int) -> Callable[[int, bytes], bytes]:
    def spoil(number: int, wire: bytes) -> bytes:
        return wire[:-3] + bytes([wire[-3] ^ 0x04]) + wire[-2:] if number in numbers else wire

    return spoil


def test_a_damaged_1997_reply_is_repeated_for_03h() -> None:
    async def story(site: Site) -> None:
        await site.driver.read(ADDRESS, OLD.find(Di("9010")), Priority.LIVE)
        reading = await site.driver.read(ADDRESS, OLD.find(Di("9020")), Priority.LIVE)
        assert site.wire.functions == [0x01, 0x01, 0x03]
        assert reading.values[0].obis == OLD.find(Di("9020")).obis

    on_site(story, a_meter("1997"), tamper=damage(2))


def test_a_repeat_that_could_be_an_older_value_of_the_same_item_is_not_asked_for() -> None:
    async def story(site: Site) -> None:
        await site.driver.read(ADDRESS, OLD.find(Di("9010")), Priority.LIVE)
        await asyncio.sleep(DOUBLE_S_MAX)
        await site.driver.read(ADDRESS, OLD.find(Di("9010")), Priority.LIVE)
        assert site.wire.functions == [0x01, 0x01, 0x01]

    on_site(story, a_meter("1997"), tamper=damage(2))


def test_a_repeat_after_a_failed_read_or_a_wildcard_is_not_asked_for() -> None:
    """Then nobody knows which reply the meter gave last."""

    async def story(site: Site) -> None:
        await site.driver.read(ADDRESS, OLD.find(Di("9020")), Priority.LIVE)
        await site.driver.read("AAAAAAAAAA17", OLD.find(Di("9010")), Priority.LIVE)
        await site.driver.read(ADDRESS, OLD.find(Di("9010")), Priority.LIVE)
        assert 0x03 not in site.wire.functions

    on_site(story, a_meter("1997"), tamper=damage(3))


def test_a_meter_that_never_heard_the_question_repeats_another_item_and_is_asked_again() -> None:
    """Noise instead of a reply: the meter's last reply is the one before."""

    def answer(message: Message) -> Message | None:
        if isinstance(message, ReadRequest) and message.di == Di("9010"):
            return ReadReply(di=message.di, data=bytes(4))
        if isinstance(message, ReadRequest):
            return None if len(meter.asked) == 2 else ReadReply(di=message.di, data=bytes.fromhex("01000000"))
        return ReadReply(di=Di("9010"), data=bytes(4), repeated=True)

    meter = Scripted(answer)

    async def story(site: Site) -> None:
        await site.driver.read(ADDRESS, OLD.find(Di("9010")), Priority.LIVE)
        site.clock._loop.call_later(0.2, site.wire.protocol.data_received, b"\x68\x01\x02")
        reading = await site.driver.read(ADDRESS, OLD.find(Di("9020")), Priority.LIVE)
        assert reading.values[0].content == Decimal("0.01")
        assert site.wire.functions == [0x01, 0x01, 0x03, 0x01]

    on_site(story, meter)


# ------------------------------------------------------------------------------------------------ series


def block_at(moment: datetime) -> LoadBlock:
    amount = Decimal(moment.hour * 60 + moment.minute).scaleb(-2)
    values = [ItemValue(name="", content=amount, unit=Unit.KWH, at=moment) for _ in range(4)]
    return LoadBlock(at=moment, classes={4: values})


def recorder(blocks: list[LoadBlock]) -> Callable[[Message], Message]:
    """A meter's first-generation memory, N in BCD."""

    def answer(message: Message) -> Message:
        assert isinstance(message, ReadRequest)
        assert message.count is not None
        count = int(f"{message.count:02X}")
        if message.start is not None:
            start = datetime.fromisoformat(f"20{message.start[:6]}T{message.start[6:]}")
            wanted = [block for block in blocks if block.at is not None and block.at >= start][:count]
        else:
            wanted = blocks[:count] if message.di.text.endswith("00") else blocks[-1:]
        return ReadReply(di=message.di, data=encode_blocks(wanted))

    return answer


FIRST = datetime(2025, 6, 1, 0, 15)
BLOCKS = [block_at(FIRST + timedelta(minutes=15 * number)) for number in range(40)]


def times(blocks: list[LoadBlock]) -> list[datetime | None]:
    return [block.at for block in blocks]


@pytest.mark.parametrize(("block_count", "exchanges"), [(None, 3), ("bcd", 1)])
def test_blocks_from_a_time_come_page_by_page_in_order(block_count: str | None, exchanges: int) -> None:
    async def story(site: Site) -> None:
        reading = await site.driver.read_load_record(
            ADDRESS,
            BASE.find(Di("06040001")),
            Priority.BACK_FILL,
            count=20,
            start=FIRST + timedelta(minutes=61),
            block_count=block_count,  # type: ignore[arg-type]
        )
        assert times(reading.blocks) == times(BLOCKS[5:25])
        assert reading.blocks[0].classes[4][0].content == Decimal("0.90")
        assert sum(frame.control == 0x11 for frame in site.wire.sent) == exchanges

    on_site(story, Scripted(recorder(BLOCKS)))


def test_blocks_end_with_the_span_or_with_the_memory() -> None:
    async def story(site: Site) -> None:
        spec = BASE.find(Di("06040001"))
        until = FIRST + timedelta(minutes=15 * 11)
        found = await site.driver.read_load_record(ADDRESS, spec, Priority.BACK_FILL, count=99, start=FIRST, end=until)
        assert times(found.blocks) == times(BLOCKS[:12])
        found = await site.driver.read_load_record(
            ADDRESS, spec, Priority.BACK_FILL, count=99, start=FIRST + timedelta(minutes=15 * 35)
        )
        assert times(found.blocks) == times(BLOCKS[35:])
        found = await site.driver.read_load_record(
            ADDRESS, spec, Priority.BACK_FILL, count=99, start=FIRST + timedelta(days=9)
        )
        assert found.blocks == []

    on_site(story, Scripted(recorder(BLOCKS)))


def test_earliest_and_latest_blocks_have_their_own_request_forms() -> None:
    async def story(site: Site) -> None:
        earliest = await site.driver.read_load_record(ADDRESS, BASE.find(Di("06040000")), Priority.BACK_FILL, count=3)
        latest = await site.driver.read_load_record(ADDRESS, BASE.find(Di("06040002")), Priority.BACK_FILL, count=3)
        assert times(earliest.blocks) == times(BLOCKS[:3])
        assert times(latest.blocks) == times(BLOCKS[-1:])
        assert [frame.payload.hex(" ") for frame in site.wire.sent] == ["00 00 04 06 03", "02 00 04 06 01"]
        with pytest.raises(ValueError, match="start time"):
            await site.driver.read_load_record(ADDRESS, BASE.find(Di("06040001")), Priority.BACK_FILL)

    on_site(story, Scripted(recorder(BLOCKS)))


def test_a_page_from_before_the_asked_time_is_asked_for_again() -> None:
    """All pages have one DI: the doubled reply to one page must not pass for the next."""
    second_page = f"{FIRST + timedelta(minutes=15 * 8 + 1):%y%m%d%H%M}"
    late = [True]

    def answer(message: Message) -> Message:
        assert isinstance(message, ReadRequest)
        if message.start == second_page and late:
            late.pop()
            return ReadReply(di=message.di, data=encode_blocks(BLOCKS[:9]))
        return recorder(BLOCKS)(message)

    async def story(site: Site) -> None:
        spec = BASE.find(Di("06040001"))
        found = await site.driver.read_load_record(ADDRESS, spec, Priority.BACK_FILL, count=18, start=FIRST)
        assert times(found.blocks) == times(BLOCKS[:18])
        assert site.wire.functions.count(0x11) == 3

    on_site(story, Scripted(answer))


@pytest.mark.parametrize("block_count", [None, "bcd"])
def test_a_load_curve_is_read_whole_with_the_time_of_every_point(block_count: str | None) -> None:
    async def story(site: Site) -> None:
        start = datetime(2025, 6, 17, 0, 0)
        reading = await site.driver.read_curve(
            ADDRESS,
            BASE.find(Di("06100601")),
            Priority.BACK_FILL,
            start=start,
            count=40,
            period_s=900,
            block_count=block_count,  # type: ignore[arg-type]
        )
        expected = [start + timedelta(minutes=15 * number) for number in range(40)]
        assert [value.at for value in reading.values] == expected
        contents = [value.content for value in reading.values]
        assert contents == sorted(contents)  # type: ignore[type-var]
        assert contents[0] != contents[-1]
        assert len(reading.wire_sent) == (5 if block_count is None else 1)

    on_site(story, a_meter(), start=NOW)


def test_a_curve_that_has_not_been_recorded_yet_ends_with_what_there_is() -> None:
    async def story(site: Site) -> None:
        start = datetime(2025, 6, 17, 10, 7)  # the meter rounds up to 10:15; now is 11:30
        reading = await site.driver.read_curve(
            ADDRESS, BASE.find(Di("061006FF")), Priority.BACK_FILL, start=start, count=12, period_s=900
        )
        moments = sorted({value.at for value in reading.values if value.at})
        assert moments == [datetime(2025, 6, 17, 10, 15) + timedelta(minutes=15 * number) for number in range(6)]
        assert len(reading.values) == 4 * len(moments)

    on_site(story, a_meter(), start=NOW)


# ------------------------------------------------------------------------------------------------ addresses and dialects


@pytest.mark.parametrize("edition", ["2007", "1997"])
def test_the_only_meter_on_a_line_tells_its_address(edition: str) -> None:
    async def story(site: Site) -> None:
        assert await site.driver.read_address(Priority.ON_DEMAND, dialect=Dialect(edition)) == ADDRESS

    on_site(story, a_meter(edition))


@pytest.mark.parametrize("address", [ADDRESS, WILDCARD, "AAAAAAAAAA17"])
@pytest.mark.parametrize("edition", ["2007", "1997"])
def test_the_dialect_of_a_meter_is_found_with_evidence(edition: str, address: str) -> None:
    async def story(site: Site) -> None:
        found = await detect_dialect(site.line, address)
        assert found.dialect is Dialect(edition)
        assert found.address == ADDRESS
        assert base_contract(found.dialect) == f"dlt645/base_{edition}"
        proof = found.evidence[-1]
        assert proof.outcome == "answered"
        assert proof.wire_received.endswith("16")
        assert all(not other.proves for other in found.evidence[:-1])

    on_site(story, a_meter(edition))


def test_a_silent_address_has_no_dialect_and_every_question_is_in_evidence() -> None:
    async def story(site: Site) -> None:
        found = await detect_dialect(site.line, "000000000099")
        assert (found.dialect, found.dialects) == (None, ())
        assert [str(one) for one in found.evidence] == [
            "11H 00010000 to 000000000099: silent",
            "01H 9010 to 000000000099: silent",
        ]

    on_site(story, a_meter())


def test_a_meter_that_speaks_both_is_found_to_when_asked_thoroughly() -> None:
    def answer(message: Message) -> Message | None:
        return ReadReply(di=message.di, data=bytes(4)) if isinstance(message, ReadRequest) else None

    async def story(site: Site) -> None:
        found = await detect_dialect(site.line, ADDRESS, thorough=True)
        assert found.dialects == (Dialect.V2007, Dialect.V1997)

    on_site(story, Scripted(answer))


def test_a_reply_that_does_not_fit_the_item_is_asked_for_again_and_then_said_to_be_bad() -> None:
    def answer(message: Message) -> Message:
        assert isinstance(message, ReadRequest)
        return ReadReply(di=message.di, data=b"\x01")

    async def story(site: Site) -> None:
        with pytest.raises(BadReply):
            await site.driver.read(ADDRESS, BASE.find(Di("00010000")), Priority.LIVE)
        assert len(site.wire.sent) == 3

    on_site(story, Scripted(answer))
