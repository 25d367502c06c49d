"""The collection rate: per line, concentrator and day against the target, the worst first, and why the rest is missing."""

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from headend.ledger.account import MeterAccount, Window
from headend.ledger.collection import METERS_MAX, report_of
from headend.ledger.duty import CONCENTRATOR, LINE
from headend.ledger.metrics import LedgerCollector
from headend.ledger.states import State
from headend.ledger.view import LedgerView
from tests.headend.ledger.support import CLOSING, DAY, MIDNIGHT, ZONE, Site, duty, read, slots

FIRST = date(2026, 2, 1)
WINDOW = Window(FIRST, ZONE, MIDNIGHT + 3 * DAY)


def account(
    meter: str, line: str, measured: int, *, silent: int = 0, suspect: int = 0, route: str = LINE
) -> MeterAccount:
    made = MeterAccount(meter, line, route)
    ended = [(0, State.MEASURED, "")] * measured
    ended += [(0, State.METER_UNREACHABLE, "silent")] * silent + [(0, State.SUSPECT, "suspect")] * suspect
    made.add("1-0:1.8.0", ended)
    return made


def test_lines_and_concentrators_are_held_against_the_target_the_worst_first() -> None:
    report = report_of(
        WINDOW,
        [
            account("M1", "line-1", 98, silent=2),
            account("M2", "line-1", 99, silent=1),
            account("M3", "TX-12", 979, silent=20, suspect=1, route=CONCENTRATOR),
            account("M4", "line-2", 100),
        ],
    )
    assert [(one.kind, one.name, str(one.intervals.rate), one.meets, one.complete_meters) for one in report.lines] == [
        ("concentrator", "TX-12", "0.9790", False, 0),
        ("line", "line-1", "0.9850", True, 0),
        ("line", "line-2", "1.0000", True, 1),
    ]
    assert report.lines[0].intervals.reasons == {"silent": 20, "suspect": 1}
    assert (report.intervals.expected, report.intervals.collected, report.meets) == (1300, 1276, True)
    assert [one.meter for one in report.meters] == ["M3", "M1", "M2"]


def test_a_rate_is_never_rounded_up_to_the_target() -> None:
    report = report_of(WINDOW, [account("M1", "line-1", 97_999, silent=2_001)])
    assert (str(report.intervals.rate), report.meets) == ("0.9799", False)
    assert report_of(WINDOW, [account("M1", "line-1", 98, silent=2)]).meets
    assert not report_of(WINDOW, [account("M1", "line-1", 98, silent=2)], target=Decimal("0.981")).meets


def test_a_day_of_which_nothing_was_expected_has_no_rate() -> None:
    report = report_of(WINDOW, [])
    assert (report.intervals.rate, report.meets, report.lines) == (None, True, [])


def test_a_report_names_only_the_meters_that_miss_most() -> None:
    report = report_of(WINDOW, [account(f"M{n:03}", "line-1", 100 - n, silent=n) for n in range(101)] * 3)
    assert len(report.meters) == METERS_MAX
    assert report.meters[0].meter == "M100"


async def test_a_day_that_is_not_over_is_reported_as_far_as_it_goes(tmp_path: Path) -> None:
    async with Site(tmp_path, [duty("M1"), duty("M2", line="line-2")]).running() as site:
        view = LedgerView(site.book, zone=ZONE, clock=site.clock)
        await site.put(read("M1", end) for end in slots()[:4])
        await site.put(read("M2", end, None, reason="silent") for end in slots()[:3])
        site.clock.set(slots()[3] + timedelta(minutes=5))
        report = view.collection(FIRST)
        assert (report.is_over, report.is_final) == (False, False)
        assert [(one.name, str(one.intervals.rate)) for one in report.lines] == [
            ("line-2", "0.0000"),
            ("line-1", "1.0000"),
        ]
        assert report.intervals.expected == 6
        site.clock.set(MIDNIGHT + DAY + CLOSING)
        late = view.collection(FIRST)
        assert (late.is_over, late.intervals.states) == (True, {"measured": 4, "open": 20})
        assert view.collection(FIRST) is late
        await site.put([read("M2", slots()[0], "1.00", revision=1)])
        assert view.collection(FIRST).intervals.states == {"measured": 5, "open": 19}


async def test_metrics_have_lines_and_states_and_never_a_meter(tmp_path: Path) -> None:
    async with Site(tmp_path, [duty("M0000001"), duty("M0000002", line="TX-12", route=CONCENTRATOR)]).running() as site:
        registry = CollectorRegistry()
        registry.register(LedgerCollector(site.keeper))
        before = generate_latest(registry).decode()
        assert "headend_ledger_manifests_total 0.0" in before
        await site.put(read("M0000001", end) for end in slots()[:9])
        await site.close_at(MIDNIGHT + DAY + CLOSING)
        text = generate_latest(registry).decode()
        assert 'headend_collection_expected{kind="line",line="line-1"} 12.0' in text
        assert 'headend_collection_collected{kind="line",line="line-1"} 9.0' in text
        assert 'headend_collection_collected{kind="concentrator",line="TX-12"} 0.0' in text
        assert 'headend_ledger_intervals{state="open"} 15.0' in text
        assert f"headend_ledger_closed_until_seconds {(MIDNIGHT + DAY).timestamp():.9g}"[:50] in text
        assert "headend_collection_target 0.98" in text
        assert "M000" not in text
