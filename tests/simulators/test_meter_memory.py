"""What the simulated meter keeps: load records, event records, settlements, freezes of tables, prepayment."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from protocols.dlt645 import messages as m
from protocols.dlt645.control import Function2007
from protocols.dlt645.items import Di, encode
from protocols.dlt645.load_record import LoadBlock, decode_blocks
from simulators.dlt645_meter import Dlt645Meter
from simulators.event_journal import COVER, Event
from simulators.load_curve import Kind, Quantity
from tests.simulators.bench import HOUR, NOW, OPERATOR, PASSWORD, WRITER, ask, contents, meter, read, refusal


def blocks(device: Dlt645Meter, di: str, now: datetime = NOW, **form: Any) -> list[LoadBlock]:
    reply = ask(device, m.ReadRequest(di=Di(di), **form), now)
    assert isinstance(reply, m.ReadReply), reply
    data, sequence = reply.data, 0
    follow = reply.follow
    while follow:
        sequence += 1
        more = ask(device, m.FollowUpRequest(di=Di(di), sequence=sequence), now)
        assert isinstance(more, m.FollowUpReply), more
        data, follow = data + more.data, more.follow
    return decode_blocks(data)


def write(device: Dlt645Meter, di: str, content: Any, now: datetime = NOW) -> None:
    data = encode(content, device.contract.find(Di(di)))
    request = m.WriteRequest(di=Di(di), data=data, password=WRITER, operator=OPERATOR)
    assert ask(device, request, now) == m.Accepted(Function2007.WRITE)


# ------------------------------------------------------------------------------------------------ load records


def test_blocks_from_a_time_hold_the_registers_of_their_moments() -> None:
    device = meter(Kind.FACTORY)
    found = blocks(device, "06040001", count=3, start="2506170940")
    assert [block.at for block in found] == [datetime(2025, 6, 17, 9, minute) for minute in (45,)] + [
        datetime(2025, 6, 17, 10, minute) for minute in (0, 15)
    ]
    for block in found:
        assert block.at is not None
        at = block.at.replace(tzinfo=UTC) - 8 * HOUR
        assert block.classes[4][0].content == device.model.energy(Quantity.FORWARD, 0, at)
        assert set(block.classes) == {4}


def test_the_earliest_and_the_latest_block_and_all_classes() -> None:
    device = meter(Kind.FACTORY)
    (latest,) = blocks(device, "06000002", count=1)
    assert latest.at == datetime(2025, 6, 17, 11, 30)
    assert [len(latest.classes[number]) for number in range(1, 7)] == [7, 8, 4, 4, 4, 2]
    (earliest,) = blocks(device, "06000000", count=1)
    assert earliest.at is not None
    assert timedelta(days=7) < latest.at - earliest.at <= timedelta(days=62)


def test_a_day_of_blocks_is_paged_without_loss() -> None:
    found = blocks(meter(), "06040001", count=0x96, start="2506160000")
    times = [block.at for block in found]
    assert times == [datetime(2025, 6, 16) + index * timedelta(minutes=15) for index in range(96)]


def test_classes_follow_the_mode_word_and_their_own_intervals() -> None:
    device = meter()
    write(device, "04000901", "09")  # class 1 and class 4
    write(device, "04000A05", Decimal(60))  # class 4 every hour
    found = blocks(device, "06000001", count=5, start="2506170900")
    assert [sorted(block.classes) for block in found] == [[1, 4], [1], [1], [1], [1, 4]]
    assert blocks(device, "06020001", count=5, start="2506170900") == []
    assert len(blocks(device, "06040001", count=2, start="2506170900")) == 2


def test_records_that_are_not_there_are_the_identifier_alone_and_a_time_is_needed() -> None:
    device = meter()
    assert blocks(device, "06010001", count=2, start="2506171200") == []
    assert refusal(ask(device, m.ReadRequest(di=Di("06010001"), count=2))) == 0x02
    assert refusal(ask(device, m.ReadRequest(di=Di("06010001"), count=2, start="2513010000"))) == 0x02
    assert refusal(ask(device, m.ReadRequest(di=Di("06010001"), count=0x0A, start="2506170900"))) == 0x02


def test_six_hours_can_be_filled_from_either_generation_for_a_week() -> None:
    device = meter(Kind.SHOP)
    for days in (0, 7):
        start = f"{datetime(2025, 6, 17, 5) - timedelta(days=days):%y%m%d%H%M}"
        of_blocks = [block.classes[4][0].content for block in blocks(device, "06040001", count=0x24, start=start)]
        reply = ask(device, m.ReadRequest(di=Di("06100601"), count=0x24, start=start))
        assert isinstance(reply, m.ReadReply)
        at = datetime(2025, 6, 16, 21, tzinfo=UTC) - timedelta(days=days)
        expected = [device.model.energy(Quantity.FORWARD, 0, at + index * HOUR / 4) for index in range(24)]
        assert of_blocks == expected


# ------------------------------------------------------------------------------------------------ events


def test_programming_clearing_and_clock_setting_leave_their_records() -> None:
    device = meter(Kind.FACTORY)
    write(device, "04000801", "7E")
    write(device, "0400010C", "25061702120000")
    assert contents(device, "03300000") == [2]
    time, operator, item, *rest = contents(device, "03300002")
    assert (time, operator, item) == ("250617113000", "01020304", "04000801")
    assert rest == ["F" * 8] * 9
    assert contents(device, "03300401") == ["01020304", "250617113000", "250617120000"]
    before = device.model.energy(Quantity.FORWARD, 0, NOW)
    clear = m.ClearRequest(function=Function2007.CLEAR_METER, password=PASSWORD, operator=OPERATOR)
    ask(device, clear)
    assert contents(device, "03300000") == [0]
    record = {value.name: value.content for value in read(device, "03300101")}
    kept = next(content for name, content in record.items() if "total forward active energy" in name)
    assert isinstance(kept, Decimal)
    assert abs(kept - before) <= Decimal("0.01")
    assert contents(device, "00010000") == [0]


def test_clearing_events_takes_one_family_and_is_recorded_itself() -> None:
    device = meter()
    write(device, "04000801", "7E")
    device.model.events.add(COVER, Event(start=NOW - HOUR, end=NOW, shown=datetime(2025, 6, 17), shown_end=None))
    clear = m.ClearRequest(
        function=Function2007.CLEAR_EVENTS, password=PASSWORD, operator=OPERATOR, events=Di("03300DFF")
    )
    assert contents(device, "03300D00") == [1]
    ask(device, clear)
    assert contents(device, "03300D00") == [0]
    assert contents(device, "03300000") == [1]
    assert contents(device, "03300301")[1:] == ["01020304", "03300DFF"]


def test_what_lasted_is_counted_in_both_families_with_the_registers_of_then() -> None:
    device = meter(Kind.FACTORY)
    shown = device.model.clock(NOW - HOUR)
    event = Event(start=NOW - HOUR, end=NOW - HOUR / 2, shown=shown, shown_end=shown + HOUR / 2)
    device.model.events.add("030102", event)  # voltage loss of phase B
    assert contents(device, "03010000") == [0, 0, 1, 30, 0, 0]
    assert contents(device, "10020001") == [1]
    assert contents(device, "10020002") == [30]
    record = contents(device, "03010201")
    assert record[:2] == ["250617103000", "250617110000"]
    assert record[2] == device.model.energy(Quantity.FORWARD, 0, NOW - HOUR)
    assert contents(device, "10020101") == ["250617103000"]
    assert contents(device, "10022501") == ["250617110000"]
    assert contents(device, "10020201") == [record[2]]


def test_what_never_happened_is_zero() -> None:
    device = meter(Kind.FACTORY)
    assert contents(device, "03110000") == [0]
    assert set(contents(device, "03110005")) == {"0" * 12}
    assert contents(device, "03320101") != contents(device, "03320102")
    assert contents(device, "1E00FF01")[0] == "0" * 12


def test_covers_show_in_status_word_seven() -> None:
    device = meter()
    device.model.cover_open = True
    assert contents(device, "04000507") == ["0200"]
    device.model.cover_open, device.model.terminal_cover_open = False, True
    assert contents(device, "04000507") == ["0400"]


# ------------------------------------------------------------------------------------------------ registers


def test_combination_words_decide_what_combined_registers_add() -> None:
    device = meter(Kind.FACTORY)
    q1, q4 = contents(device, "00050000")[0], contents(device, "00080000")[0]
    assert isinstance(q1, Decimal)
    assert isinstance(q4, Decimal)
    write(device, "04000602", "81")  # quadrant I less quadrant IV
    (combined,) = contents(device, "00030000")
    assert isinstance(combined, Decimal)
    assert abs(combined - (q1 - q4)) <= Decimal("0.01")
    write(device, "04000602", "02")
    assert contents(device, "00030000") == [-q1]
    assert isinstance(contents(device, "01030000")[0], Decimal)


def test_phases_make_the_whole() -> None:
    device = meter(Kind.FACTORY)
    parts = [contents(device, di)[0] for di in ("00150000", "00290000", "003D0000")]
    total = contents(device, "00010000")[0]
    assert isinstance(total, Decimal)
    assert abs(sum(part for part in parts if isinstance(part, Decimal)) - total) <= Decimal("0.03")
    assert contents(device, "00090000")[0] >= total  # type: ignore[operator]
    assert len(contents(device, "020A01FF")) == 21
    assert refusal(ask(meter(), m.ReadRequest(di=Di("00290000")))) == 0x02


def test_settlements_keep_their_days() -> None:
    device = meter()
    write(device, "04000B01", "1506")
    write(device, "04000B02", "2000")
    assert contents(device, "00FE0001") == ["25061506"]
    assert contents(device, "00FE0002") == ["25052000"]
    settled = datetime(2025, 6, 14, 22, tzinfo=UTC)
    assert contents(device, "00010001") == [device.model.energy(Quantity.FORWARD, 0, settled)]
    assert len(contents(device, "000100FF")) == 13


def test_switching_tables_freezes_the_registers_of_that_moment() -> None:
    device = meter()
    assert refusal(ask(device, m.ReadRequest(di=Di("05020001")))) == 0x02
    write(device, "04000106", "2506171200")
    assert refusal(ask(device, m.ReadRequest(di=Di("05020001")))) == 0x02
    later = NOW + 2 * HOUR
    assert contents(device, "05020001", later) == ["2506171200"]
    assert contents(device, "05020101", later)[0] == device.model.energy(Quantity.FORWARD, 0, NOW + HOUR / 2)


def test_the_prepaid_balance_falls_with_use_and_rises_with_purchases() -> None:
    device = meter(Kind.SHOP)
    balances = [contents(device, "00900200", NOW + hours * HOUR)[0] for hours in range(0, 24 * 60, 12)]
    assert all(isinstance(balance, Decimal) and 10 <= balance <= 211 for balance in balances)
    assert any(later > earlier for earlier, later in pairwise(balances))  # type: ignore[operator]
    assert any(later < earlier for earlier, later in pairwise(balances))  # type: ignore[operator]
    bought = contents(device, "03330301"), contents(device, "03330501")
    assert bought == ([Decimal("200.00")], [Decimal("210.00")])
    assert contents(device, "03330201") != contents(device, "03330202")


@pytest.mark.parametrize("kind", [Kind.HOUSEHOLD, Kind.FACTORY])
def test_every_readable_row_of_the_contract_is_answered_or_refused_as_no_data(kind: Kind) -> None:
    device = meter(kind)
    refused, answered = set(), 0
    for family in device.contract.items():
        if "r" not in family.access or family.di.startswith("06") or not family.di.isalnum():
            continue
        di = "".join(digit if digit in "0123456789ABCDEF" else "01"[place % 2] for place, digit in enumerate(family.di))
        reply = ask(device, m.ReadRequest(di=Di(di)))
        if isinstance(reply, m.Refused):
            assert reply.word == 0x02, di
            refused.add(di[:4])
        elif isinstance(reply, m.ReadReply):
            answered += 1
            assert reply.follow or read(device, di), di
    assert answered > 400
    assert {di[:2] for di in refused} <= {"00", "01", "02", "03", "04", "05"}
    if kind is Kind.FACTORY:
        assert {di[:2] for di in refused} <= {"04", "05"}  # the word of the keys, freezes that did not happen
