"""Meter clocks over days: measured daily, told when beyond the limit, set only as the policy allows and never near a boundary."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from headend.app import HeadEnd
from headend.store.store import open_store
from headend.store.writer import inline
from simulators.virtual_time import VirtualClock, run
from tests.scenarios.street import Street, run_street, transport_to

MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)  # 00:00 of 2 March in Shanghai
TOTAL = "1-0:1.8.0"
OFFSETS_S = {"M000002": 95, "M000004": -150}


def a_street(folder: Path, *, hours: float, clock_keys: str = "", more: str = "", **options: Any) -> Street:
    def edit(text: str) -> str:
        return f"{text}\n[clock]\n{clock_keys}\n{more}"

    chosen: dict[str, Any] = {"meters_per_line": 5, "quantities": [TOTAL], "seed": 11, **options}
    return run(lambda clock, _: run_street(folder, clock, hours=hours, edit=edit, **chosen), start=MIDNIGHT)


def step(offsets_s: dict[str, int]) -> Callable[[Street, VirtualClock], Any]:
    async def meanwhile(street: Street, clock: VirtualClock) -> None:
        for meter, offset_s in offsets_s.items():
            street.meters[meter].model.step_clock(timedelta(seconds=offset_s), clock.world())

    return meanwhile


def statuses(street: Street) -> dict[str, list[dict[str, Any]]]:
    """Data of clock events by meter, each with the event's time."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in street.events():
        if event["type"] == "headend.meter-status.v1":
            assert event["data"]["kind"] == "clock"
            found[event["subject"]].append(event["data"] | {"time": datetime.fromisoformat(event["time"])})
    return found


def offset_of(street: Street, meter: str, at: datetime) -> float:
    model = street.meters[meter].model
    return (model.clock(at) - at.astimezone(model.timezone).replace(tzinfo=None)).total_seconds()


def assert_all_intervals_measured(street: Street, hours: int) -> None:
    reads = street.reads()
    assert all(data["quality"] == ["measured"] for data in reads)
    keys = {(data["meter"], data["interval_end"]) for data in reads}
    assert len(keys) == len(reads) == len(street.meters) * 4 * hours


def test_a_broadcast_sets_clocks_within_five_minutes_once_a_day_and_away_from_every_boundary(tmp_path: Path) -> None:
    async def meanwhile(street: Street, clock: VirtualClock) -> None:
        await step(OFFSETS_S)(street, clock)
        await asyncio.sleep(6 * 3600)
        # Wrong again on the same day: nothing more may be done before the next one.
        await step({"M000003": 100})(street, clock)

    street = a_street(tmp_path, hours=36 - 1 / 3600, clock_keys='correct = "broadcast"', meanwhile=meanwhile)
    found = statuses(street)
    for meter in OFFSETS_S:
        states = [data["state"] for data in found[meter]]
        assert states == ["beyond-limit", "corrected", "within-limit"]
        beyond, corrected, within = found[meter]
        assert abs(beyond["offset_s"] - offset_of_start(street, meter)) < 1.5
        assert corrected["method"] == "broadcast"
        assert abs(within["offset_s"]) < 1.5
        local = corrected["time"].astimezone(street.config.zone)
        assert local.minute % 15 in range(5, 10)
        assert timedelta(minutes=5) < corrected["time"] - MIDNIGHT < timedelta(hours=1)
    # Found at the next day's check, set by the next day's broadcast.
    states = [(data["state"], data["time"] > MIDNIGHT + timedelta(days=1)) for data in found["M000003"]]
    assert states == [("beyond-limit", True), ("corrected", True), ("within-limit", True)]
    end = MIDNIGHT + timedelta(hours=36)
    assert all(abs(offset_of(street, meter, end)) < 5 for meter in street.meters)
    assert_all_intervals_measured(street, 36)


def offset_of_start(street: Street, meter: str) -> float:
    return offset_of(street, meter, MIDNIGHT + timedelta(seconds=30))


def test_without_a_policy_nothing_is_set_and_upstream_is_told_daily(tmp_path: Path) -> None:
    street = a_street(tmp_path, hours=25, meanwhile=step(OFFSETS_S))
    for meter in OFFSETS_S:
        assert [data["state"] for data in statuses(street)[meter]] == ["beyond-limit", "beyond-limit"]
        assert abs(offset_of(street, meter, MIDNIGHT + timedelta(hours=25)) - offset_of_start(street, meter)) < 5
    assert set(statuses(street)) == set(OFFSETS_S)
    clocks = street.store.clocks()
    assert set(clocks) == set(street.meters)
    for meter, clock in clocks.items():
        assert abs(clock.offset_s - offset_of(street, meter, clock.measured_at)) < clock.uncertainty_s


def test_beyond_five_minutes_only_a_write_helps_with_the_password_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "password.txt").write_text("04 000000\n", encoding="utf-8")
    street = a_street(
        tmp_path,
        hours=3,
        clock_keys='correct = "write"',
        more='[secrets]\npassword = "file:password.txt"\n',
        meanwhile=step({"M000001": 1500}),
    )
    found = statuses(street)
    assert [data["state"] for data in found["M000001"]] == ["beyond-limit", "corrected", "within-limit"]
    assert found["M000001"][1]["method"] == "write"
    assert abs(offset_of(street, "M000001", MIDNIGHT + timedelta(hours=3))) < 3
    assert list(found) == ["M000001"]
    assert_all_intervals_measured(street, 3)


def test_a_write_without_a_password_is_tried_once_a_day_and_told(tmp_path: Path) -> None:
    street = a_street(tmp_path, hours=3, clock_keys='correct = "write"', meanwhile=step({"M000001": 1500}))
    states = [data["state"] for data in statuses(street)["M000001"]]
    assert states == ["beyond-limit", "correction-failed", "beyond-limit"]
    assert offset_of(street, "M000001", MIDNIGHT + timedelta(hours=3)) > 1400


def test_drift_is_told_from_two_days_of_measuring(tmp_path: Path) -> None:
    async def hurry(street: Street, clock: VirtualClock) -> None:
        street.meters["M000001"].model.drift_clock(90, clock.world())

    street = a_street(tmp_path, hours=25, meters_per_line=2, period="1h", meanwhile=hurry)
    clock = street.store.clocks()["M000001"]
    assert clock.drift_ppm is not None
    assert abs(clock.drift_ppm - 90) < 12  # a second of reading error in a day


def count_statuses(street: Street) -> int:
    return sum(event["type"] == "headend.meter-status.v1" for event in street.events())


def test_a_restart_neither_repeats_the_days_check_nor_the_days_broadcast(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> tuple[Street, int]:
        street = await run_street(
            tmp_path, clock, hours=1, seed=11, meters_per_line=5, quantities=[TOTAL], meanwhile=step(OFFSETS_S),
            edit=lambda text: f'{text}\n[clock]\ncorrect = "broadcast"\n',
        )  # fmt: skip
        street.store.close()
        street.store = open_store(street.config.store, street.config.name)
        before = count_statuses(street)
        await step({"M000001": 80})(street, clock)
        bus: Any = street.lines["line-0"].bus
        replies = bus.replies
        head_end = HeadEnd(
            street.config, street.store, clock=clock, connect=transport_to(street.lines), execute=inline, linger_s=2.0
        )
        stop = asyncio.Event()
        running = asyncio.create_task(head_end.run(stop))
        await asyncio.sleep(2 * 3600 - 60)
        stop.set()
        await running
        assert count_statuses(street) == before
        return street, bus.replies - replies

    _, replies = run(lambda clock, _: main(clock), start=MIDNIGHT)
    assert replies == 5 * 8  # live reads and nothing else


def test_the_running_head_end_shows_clocks_spare_work_and_the_budget_with_learnt_delays(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> tuple[HeadEnd, Street]:
        street = await run_street(tmp_path, clock, hours=0.1, seed=11, meters_per_line=5, quantities=[TOTAL])
        head_end = HeadEnd(
            street.config, street.store, clock=clock, connect=transport_to(street.lines), execute=inline, linger_s=2.0
        )
        (line,) = head_end.lines()
        assert line.budget is not None
        assert not line.budget.learnt
        stop = asyncio.Event()
        running = asyncio.create_task(head_end.run(stop))
        await asyncio.sleep(3600)
        stop.set()
        await running
        return head_end, street

    head_end, street = run(lambda clock, _: main(clock), start=MIDNIGHT)
    (line,) = head_end.lines()
    assert line.budget is not None
    assert line.budget.learnt
    delay_s = sum(meter.reply_delay_s for meter in street.meters.values()) / 5
    assert abs(line.budget.reply_delay_s - delay_s) < 0.02
    assert line.counters["clock_checks"] == 0  # done today already, before this head-end was started
    known = {meter: status.clock for meter, status in head_end.meters().items()}
    assert all(clock is not None and abs(clock.offset_s) < 25 for clock in known.values())
    assert set(known) == set(street.meters)
