"""After a cut or a stop, every interval comes back from the meters' own memory, with true values, and at nobody's cost."""

import asyncio
import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headend.app import HeadEnd
from headend.store.store import open_store
from headend.store.writer import inline
from simulators.load_curve import Quantity
from simulators.virtual_time import VirtualClock, run
from tests.scenarios.street import Street, run_street, transport_to

MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)  # 00:00 of 2 March in Shanghai
TOTAL, VOLTAGE = "1-0:1.8.0", "1-0:32.7.0"
QUARTER = timedelta(minutes=15)
CUT_FROM, CUT_UNTIL = timedelta(minutes=65), timedelta(minutes=65, hours=6)
HOURS = 9


def reads_by_slot(street: Street) -> dict[tuple[str, str, datetime], list[dict[str, Any]]]:
    """Data of all reads by meter, quantity and interval end, in the order of the feed."""
    found: dict[tuple[str, str, datetime], list[dict[str, Any]]] = defaultdict(list)
    for data in street.reads():
        found[data["meter"], data["obis"], datetime.fromisoformat(data["interval_end"])].append(data)
    return found


def true_value(street: Street, meter: str, obis: str, slot: datetime) -> Decimal:
    """What the simulated meter had when its own clock showed the interval's end."""
    model = street.meters[meter].model
    at = model.true_time(slot.astimezone(model.timezone).replace(tzinfo=None))
    if obis == TOTAL:
        return model.energy(Quantity.FORWARD, 0, at)
    voltage_v = model.instant(at).voltage_v[0]
    assert voltage_v is not None
    return voltage_v


def a_street(folder: Path, *, hours: float = HOURS, **options: Any) -> Street:
    chosen: dict[str, Any] = {"meters_per_line": 8, "quantities": [TOTAL, VOLTAGE], "seed": 5, **options}
    return run(lambda clock, _: run_street(folder, clock, hours=hours, **chosen), start=MIDNIGHT)


async def cut(street: Street, _: VirtualClock) -> None:
    line = street.lines["line-0"]
    await asyncio.sleep(CUT_FROM.total_seconds())
    line.reachable = False
    line.drop()
    await asyncio.sleep((CUT_UNTIL - CUT_FROM).total_seconds())
    line.reachable = True


@pytest.fixture(scope="module")
def after_a_cut(tmp_path_factory: pytest.TempPathFactory) -> Street:
    return a_street(tmp_path_factory.mktemp("cut"), hours=HOURS - 1 / 3600, meanwhile=cut)


def test_all_intervals_of_a_six_hour_cut_come_back_with_true_values(after_a_cut: Street) -> None:
    found = reads_by_slot(after_a_cut)
    cut_slots = [MIDNIGHT + number * QUARTER for number in range(5, 28)]  # 01:15 to 06:45; 07:00 is read late at 07:05
    checked = 0
    for meter in after_a_cut.meters:
        for obis in (TOTAL, VOLTAGE):
            for slot in cut_slots:
                missing, filled = found[meter, obis, slot]
                assert (missing["revision"], missing["reason"]) == (0, "line-down")
                assert (filled["revision"], filled["quality"]) == (1, ["measured", "back-filled"])
                assert Decimal(filled["value"]) == true_value(after_a_cut, meter, obis, slot)
                assert datetime.fromisoformat(filled["read_at"]) == slot
                checked += 1
    assert checked == 8 * 2 * 23


def test_no_live_interval_is_missed_late_or_read_twice_because_of_it(after_a_cut: Street) -> None:
    found = reads_by_slot(after_a_cut)
    live_slots = [MIDNIGHT + number * QUARTER for number in (*range(5), *range(29, 4 * HOURS))]
    for meter in after_a_cut.meters:
        for obis in (TOTAL, VOLTAGE):
            for slot in live_slots:
                (read,) = found[meter, obis, slot]
                assert read["quality"] == ["measured"]
    assert all(
        count == 1
        for count in Counter((key, read["revision"]) for key, reads in found.items() for read in reads).values()
    )


def test_live_rounds_begin_at_their_boundary_while_gaps_are_being_filled(after_a_cut: Street) -> None:
    """The first reply of each round is there within the time of one exchange."""
    first: dict[datetime, datetime] = {}
    for (_, _, slot), reads in reads_by_slot(after_a_cut).items():
        received_at = datetime.fromisoformat(reads[0]["received_at"])
        if reads[0]["value"] is not None:
            first[slot] = min(first.get(slot, received_at), received_at)
    after = [moment - slot for slot, moment in first.items() if slot >= MIDNIGHT + timedelta(hours=7, minutes=15)]
    assert len(after) == 7
    assert max(after) < timedelta(seconds=1.2)


def test_a_head_end_that_was_down_fills_what_it_missed(tmp_path: Path) -> None:
    """Two hours down: the intervals were nobody's, and come back all the same."""

    async def main(clock: VirtualClock) -> Street:
        street = await run_street(tmp_path, clock, hours=1, seed=5, meters_per_line=8, quantities=[TOTAL, VOLTAGE])
        street.store.close()
        await asyncio.sleep(2 * 3600 + 300)
        street.store = open_store(street.config.store, street.config.name)
        head_end = HeadEnd(
            street.config,
            street.store,
            clock=clock,
            connect=transport_to(street.lines),
            execute=inline,
            linger_s=2.0,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(head_end.run(stop))
        await asyncio.sleep(2 * 3600)
        stop.set()
        await running
        return street

    street = run(lambda clock, _: main(clock), start=MIDNIGHT)
    found = reads_by_slot(street)
    for meter in street.meters:
        for obis in (TOTAL, VOLTAGE):
            for number in range(4 * 5):
                slot = MIDNIGHT + number * QUARTER
                last = found[meter, obis, slot][-1]
                assert "measured" in last["quality"], (meter, obis, slot, last)
                if "back-filled" in last["quality"]:
                    assert Decimal(last["value"]) == true_value(street, meter, obis, slot)
    filled = Counter(read["obis"] for reads in found.values() for read in reads if "back-filled" in read["quality"])
    assert filled == {TOTAL: 8 * 8, VOLTAGE: 8 * 8}


# ------------------------------------------------------------------------------------------------ meters that keep less


def outcomes(street: Street) -> Counter[str]:
    """How often each last word on an interval, "measured", "measured/back-filled" or the reason why not."""
    return Counter(
        reads[-1].get("reason") or "/".join(reads[-1]["quality"]) for reads in reads_by_slot(street).values()
    )


def a_contract(folder: Path, left_out: list[str]) -> str:
    """What the meters really have; the head-end's contract promises more."""
    path = folder / "narrow.toml"
    path.write_text(
        '[contract]\nextends = "dlt645/base_2007"\nprotocol = "dlt645-2007"\n'
        f'[offers]\nitems = ["0", "1"]\nleft_out = {json.dumps(left_out)}\n',
        encoding="utf-8",
    )
    return str(path)


def test_meters_without_curves_are_asked_for_first_generation_records(tmp_path: Path) -> None:
    street = a_street(
        tmp_path, hours=8, meters_per_line=3, meanwhile=cut, meter_contract=a_contract(tmp_path, ["0610"])
    )
    found = outcomes(street)
    assert found["measured/back-filled"] == 3 * 2 * 23
    assert found["meter-has-no-data"] == found["line-down"] == 0
    for data in street.reads():
        if "back-filled" in data["quality"]:
            assert data["source"] in ("dlt645/base_2007:06040001", "dlt645/base_2007:06010001")
            slot = datetime.fromisoformat(data["interval_end"])
            assert Decimal(data["value"]) == true_value(street, data["meter"], data["obis"], slot)


def test_meters_with_freezes_only_give_the_hours_and_say_once_that_there_is_no_more(tmp_path: Path) -> None:
    street = a_street(tmp_path, hours=9, meters_per_line=2, meanwhile=cut, meter_contract=a_contract(tmp_path, ["06"]))
    found = reads_by_slot(street)
    for meter in street.meters:
        for number in range(5, 28):
            slot = MIDNIGHT + number * QUARTER
            energy, voltage = found[meter, TOTAL, slot], found[meter, VOLTAGE, slot]
            assert [read.get("reason") for read in voltage] == ["line-down", "meter-has-no-data"]
            assert [read["revision"] for read in (*energy, *voltage)] == [0, 1, 0, 1]
            if number % 4 == 0:
                assert energy[1]["source"].startswith("dlt645/base_2007:0504")
                assert Decimal(energy[1]["value"]) == true_value(street, meter, TOTAL, slot)
            else:
                assert energy[1]["reason"] == "meter-has-no-data"


def test_a_daily_plan_is_filled_from_daily_freezes_with_its_tariffs(tmp_path: Path) -> None:
    """The line is away over two midnights."""

    async def cut_two_nights(street: Street, _: VirtualClock) -> None:
        line = street.lines["line-0"]
        await asyncio.sleep(12 * 3600)
        line.reachable = False
        line.drop()
        await asyncio.sleep(45 * 3600)
        line.reachable = True

    tariffs = ["1-0:1.8.1", "1-0:1.8.3"]
    street = a_street(
        tmp_path, hours=97, meters_per_line=3, quantities=[TOTAL, *tariffs], period="1d", meanwhile=cut_two_nights
    )
    filled = [data for data in street.reads() if "back-filled" in data["quality"]]
    assert len(filled) == 3 * 3 * 2
    for data in filled:
        assert data["source"].startswith("dlt645/base_2007:0506")
        slot = datetime.fromisoformat(data["interval_end"])
        model = street.meters[data["meter"]].model
        at = model.true_time(slot.astimezone(model.timezone).replace(tzinfo=None))
        tariff = int(data["obis"].rpartition(".")[2])
        assert Decimal(data["value"]) == model.energy(Quantity.FORWARD, tariff, at)


def test_records_of_a_clock_that_is_off_are_not_filed(tmp_path: Path) -> None:
    """Nothing is filed under a wrong interval: a meter ten minutes off keeps its gaps, with the reason."""

    async def set_one_wrong(street: Street, clock: VirtualClock) -> None:
        model = street.meters["M000002"].model
        model.set_clock(model.clock(clock.world()) + timedelta(minutes=10), clock.world())
        await cut(street, clock)

    street = a_street(tmp_path, hours=8, meters_per_line=3, meanwhile=set_one_wrong)
    last = {key: reads[-1] for key, reads in reads_by_slot(street).items()}
    wrong = Counter(read.get("reason") for (meter, *_), read in last.items() if meter == "M000002")
    assert wrong["meter-clock-off"] == 2 * 23
    assert not any("back-filled" in read["quality"] for (meter, *_), read in last.items() if meter == "M000002")
    assert outcomes(street)["measured/back-filled"] == 2 * 2 * 23


def test_a_dead_meter_is_filled_when_it_is_back_and_costs_nothing_before(tmp_path: Path) -> None:
    async def away(street: Street, _: VirtualClock) -> None:
        bus: Any = street.lines["line-0"].bus
        await asyncio.sleep(65 * 60)
        gone = [meter for meter in bus.meters if meter.address.endswith("3")]
        bus.meters = [meter for meter in bus.meters if meter not in gone]
        await asyncio.sleep(5 * 3600)
        bus.meters = [*bus.meters, *gone]

    street = a_street(tmp_path, hours=8, meters_per_line=4, meanwhile=away)
    for key, reads in reads_by_slot(street).items():
        assert "measured" in reads[-1]["quality"], (key, reads)


def test_filling_can_be_switched_off(tmp_path: Path) -> None:
    street = a_street(
        tmp_path,
        hours=8,
        meters_per_line=2,
        meanwhile=cut,
        edit=lambda text: text.replace('period = "15m"', 'period = "15m"\nback_fill = "off"'),
    )
    assert outcomes(street)["line-down"] == 2 * 2 * 23


def test_a_meter_that_is_silent_to_curves_is_asked_elsewhere_in_the_end(tmp_path: Path) -> None:
    """Cheap meters say nothing to what they do not know, although they answer all else."""

    async def mute_curves(street: Street, clock: VirtualClock) -> None:
        for meter in street.meters.values():
            answer = meter.receive

            def receive(frame: Any, now: datetime, answer: Any = answer) -> Any:
                di = bytes((byte - 0x33) & 0xFF for byte in frame.to_bytes(0)[10:14])
                return None if di[::-1].hex().startswith("0610") else answer(frame, now)

            meter.receive = receive  # type: ignore[method-assign]
        await cut(street, clock)

    street = a_street(tmp_path, hours=11, meters_per_line=2, quantities=[TOTAL], meanwhile=mute_curves)
    found = outcomes(street)
    assert found["measured/back-filled"] == 2 * 23
    assert all("back-filled" not in data["quality"] or "06040001" in data["source"] for data in street.reads())
    assert all(
        data["quality"] == ["measured"]
        for data in street.reads()
        if data["revision"] == 0
        and datetime.fromisoformat(data["interval_end"]) > MIDNIGHT + timedelta(hours=7, minutes=1)
    )
