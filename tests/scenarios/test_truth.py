"""Truth checks in the running head-end: a glitch is asked again, a swapped meter is told once, a restart forgets nothing."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from headend.app import HeadEnd
from headend.store.writer import inline
from protocols.dlt645 import messages as m
from protocols.dlt645.items import encode
from simulators.dlt645_meter import Dlt645Meter
from simulators.virtual_time import VirtualClock, run
from tests.scenarios.street import Street, build, run_street, transport_to

MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)  # 00:00 of 2 March in Shanghai
TOTAL, VOLTAGE = "1-0:1.8.0", "1-0:32.7.0"
TOTAL_DI = "00010000"


def lying(meter: Dlt645Meter, amount: Callable[[int], Decimal | None]) -> None:
    """Let the meter say something else of its total. amount: by how often it was asked since; None: what is true."""
    true, asked = meter._data_of, Counter[str]()

    def data_of(request: m.ReadRequest, now: datetime) -> list[bytes]:
        if request.di.text == TOTAL_DI:
            asked["times"] += 1
            if (told := amount(asked["times"])) is not None:
                return [encode(told, meter.spec(request.di))]
        return true(request, now)

    meter._data_of = data_of  # type: ignore[method-assign]


def suspicions(street: Street) -> list[tuple[str, str, str, str]]:
    found = [event["data"] for event in street.events() if event["data"].get("kind") == "suspicion"]
    return [(data["meter"], data["state"], data["rule"], data["by"]) for data in found]


def a_street(folder: Path, *, hours: float, meanwhile: Any) -> Street:
    return run(
        lambda clock, _: run_street(
            folder, clock, hours=hours, seed=5, quantities=[TOTAL, VOLTAGE], meanwhile=meanwhile
        ),
        start=MIDNIGHT,
        seed=5,
    )


def test_a_glitch_is_asked_again_at_once_and_both_answers_are_published(tmp_path: Path) -> None:
    async def meanwhile(street: Street, clock: VirtualClock) -> None:
        await asyncio.sleep(1000)
        lying(street.meters["M000002"], lambda times: Decimal(0) if times == 1 else None)

    street = a_street(tmp_path, hours=1.5, meanwhile=meanwhile)
    doubted = [data for data in street.reads() if "suspect" in data["quality"]]
    assert [(data["meter"], data["value"], data["revision"]) for data in doubted] == [("M000002", "0.00", 0)]
    (second,) = [data for data in street.reads(revision=1)]
    assert (second["interval_end"], second["quality"]) == (doubted[0]["interval_end"], ["measured"])
    assert Decimal(second["value"]) > 0
    apart = datetime.fromisoformat(second["received_at"]) - datetime.fromisoformat(doubted[0]["received_at"])
    assert timedelta(0) < apart < timedelta(seconds=30)
    assert suspicions(street) == [
        ("M000002", "opened", "zero-glitch", "read"),
        ("M000002", "lifted", "zero-glitch", "second-read"),
    ]


def test_a_meter_that_stays_wrong_is_asked_once_more_and_told_once(tmp_path: Path) -> None:
    async def meanwhile(street: Street, clock: VirtualClock) -> None:
        await asyncio.sleep(1000)
        lying(street.meters["M000002"], lambda times: Decimal("3.10") + Decimal(times) / 100)

    street = a_street(tmp_path, hours=2, meanwhile=meanwhile)
    doubted = [data for data in street.reads() if "suspect" in data["quality"]]
    assert {(data["meter"], data["obis"], data["revision"]) for data in doubted} == {("M000002", TOTAL, 0)}
    assert len(doubted) == 6
    rules = [data["findings"][0]["rule"] for data in doubted]
    assert rules[0] == "backward-step"
    assert rules[1:] == ["meter-swapped"] * 5  # it steps back, and goes on from there
    told = [(state, rule) for _, state, rule, _ in suspicions(street)]
    assert told == [("opened", rules[0]), ("confirmed", rules[0]), ("opened", "meter-swapped")]
    asked = [data["findings"][0]["evidence"].get("second") for data in doubted]
    assert asked == ["3.12", None, None, None, None, None]


def test_a_suspicion_outlives_a_restart_of_the_head_end(tmp_path: Path) -> None:
    """The second head-end has nothing but the store of the first, which was cancelled in the midst of its work."""

    async def story(clock: VirtualClock) -> Street:
        street = build(
            tmp_path,
            clock,
            seed=5,
            lines=1,
            meters_per_line=4,
            quantities=[TOTAL, VOLTAGE],
            period="15m",
            baud=2400,
            edit=str,
        )
        wires = transport_to(street.lines)
        first = HeadEnd(street.config, street.store, clock=clock, connect=wires, execute=inline, linger_s=0.2)
        running = asyncio.create_task(first.run(asyncio.Event()))
        await asyncio.sleep(1000)
        lying(street.meters["M000002"], lambda times: Decimal("3.10") + Decimal(times) / 100)
        await asyncio.sleep(1000)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        stop = asyncio.Event()
        second = HeadEnd(street.config, street.store, clock=clock, connect=wires, execute=inline, linger_s=0.2)
        running = asyncio.create_task(second.run(stop))
        await asyncio.sleep(1800)
        stop.set()
        await running
        return street

    street = run(lambda clock, _: story(clock), start=MIDNIGHT, seed=5)
    doubted = [data for data in street.reads() if "suspect" in data["quality"]]
    assert [data["findings"][0]["evidence"].get("reads") for data in doubted] == [None, "3", "4"]
    assert len({data["findings"][0]["evidence"].get("since") for data in doubted[1:]}) == 1
    assert [state for _, state, _, _ in suspicions(street)] == ["opened", "confirmed", "opened"]
    others = [data for data in street.reads() if data["meter"] != "M000002" and data.get("findings")]
    assert others == []
    ids = [json.loads(event)["id"] for event in street.store.events_after(0, 10_000)]
    assert len(set(ids)) == len(ids)
