"""The demo's parts that need no processes: its rules are ones the head-end takes, its narrator speaks plainly, its table counts."""

import io
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from headend.commands.policy import Policy
from headend.commands.policy_file import load_policy
from headend.config import load_config
from headend.keys import make_key_files
from headend.ledger.signing import make_keys
from headend.prepayment.notices.plan import load_plan
from simulators.demo_home import ADDRESS, CONTRACT, METER, Home, Pace, config_of, write_rules
from simulators.demo_parts import DemoFailed, Part, config_text
from simulators.demo_story import Narrator, Story
from simulators.demo_street import Street

HOME = Home(url="tcp://127.0.0.1:9001", pace=Pace())
STREET = [
    Part(
        kind="serial",
        line="serial",
        meters=["000000000001", "000000000002"],
        tables='[[lines]]\nname = "serial"\nurl = "tcp://127.0.0.1:9002"\n',
    )
]


def written(folder: Path, today: date = date(2026, 11, 22)) -> Path:
    make_keys(folder)
    make_key_files(folder, "audit-key")
    write_rules(folder, HOME, today=today)
    config = folder / "headend.toml"
    config.write_text(config_text(STREET, config_of(HOME)), encoding="utf-8")
    return config


def test_the_configuration_of_street_and_home_has_no_problem(tmp_path: Path) -> None:
    loaded = load_config(written(tmp_path))
    assert loaded.problems == ()
    assert [meter.id for meter in loaded.meters] == [METER, "S000001", "S000002"]
    assert loaded.control.enabled
    assert loaded.prepayment.enabled


@pytest.mark.parametrize("today", [date(2026, 11, 22), date(2027, 12, 31), date(2031, 1, 1)])
def test_the_supply_may_be_switched_at_any_hour_of_any_day_on_which_the_demo_is_run(
    tmp_path: Path, today: date
) -> None:
    written(tmp_path, today)
    policy: Policy = load_policy(tmp_path / "policy.toml")
    assert {year.year for year in policy.data.years} == {today.year - 1, today.year, today.year + 1}
    rules = policy.data.rules
    assert {window.weekday for window in rules.times.windows} == set(range(7))
    assert all((window.first, window.last) == (0, 1440) for window in rules.times.windows)
    assert (rules.times.quiet, rules.times.rest_days, rules.times.on_holidays) == ((), (), True)
    assert rules.weather is None
    assert policy.data.reconnect.close_directly


def test_the_notices_of_the_plan_are_those_that_the_policy_wants(tmp_path: Path) -> None:
    written(tmp_path)
    plan, policy = load_plan("notices.toml", base=tmp_path), load_policy(tmp_path / "policy.toml")
    steps = policy.data.rules.notices
    assert [step.name for step in plan.steps] == [step.step for step in steps] == ["first", "second", "final"]
    for ours, theirs in zip(plan.steps, steps, strict=True):
        assert ours.before >= timedelta(seconds=theirs.before_s)
        assert ours.after_previous >= timedelta(seconds=theirs.after_previous_s)
    assert plan.trial
    assert plan.order_valid < timedelta(seconds=policy.data.rules.debt.proof_age_s_max)
    night = datetime(2026, 11, 22, 19, 0, tzinfo=UTC)
    assert plan.may_send("last-warning", night)
    assert plan.order_hours.has(night)


def test_a_pipe_gets_one_line_a_sentence_and_a_terminal_gets_it_beside_the_time() -> None:
    sentence = "word " * 40 + "[end]"
    pipe, terminal = io.StringIO(), io.StringIO()
    Narrator(Console(file=pipe, width=60)).tell(sentence, style="bold")
    [line] = pipe.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  (.*)", line)
    assert line[10:] == sentence
    Narrator(Console(file=terminal, width=60, force_terminal=True, no_color=True, highlight=False)).quote(sentence)
    lines = terminal.getvalue().splitlines()
    assert len(lines) > 3
    assert all(line.startswith(" " * 10) for line in lines)
    assert "[end]" in lines[-1]


def a_read(meter: str, value: str | None, *quality: str, minute: int = 0) -> dict[str, object]:
    data = {"meter": meter, "obis": "1-0:1.8.0", "value": value, "quality": list(quality)}
    return {"type": "headend.read.v1", "data": data | {"interval_end": f"2026-11-22T06:{minute:02}:00Z"}}


def test_what_is_told_late_of_an_earlier_interval_is_counted_and_not_shown() -> None:
    part = Part(kind="a", line="line", meters=["000000000001"], tables="")
    street = Street([part])
    street.take([a_read("A000001", "2.00", "measured", minute=5), a_read("A000001", None, "missing", minute=4)])
    assert (street.reads, street.missing) == (2, 1)
    assert street.rows["A000001"]["1-0:1.8.0"] == "2.00"
    assert street.rows["A000001"]["quality"] == "measured"


def test_the_table_counts_what_came_and_shows_meters_of_every_line() -> None:
    parts = [
        Part(kind=kind, line=f"line-{kind}", meters=[f"{number:012}" for number in range(40)], tables="")
        for kind in ("a", "b", "c")
    ]
    street = Street(parts)
    reads = [a_read(meter, "1.00", "measured") for part in parts for meter in part.ids]
    street.take([*reads, a_read("A000001", None, "missing"), a_read("A000002", "9.00", "suspect")])
    used = {"meter": "A000001", "amount": "0.25"}
    street.take([{"type": "headend.interval.v1", "data": used}, {"type": "headend.other.v1", "data": {}}])
    assert (street.reads, street.missing, street.suspect, street.intervals) == (122, 1, 1, 1)
    page = io.StringIO()
    Console(file=page, width=160).print(street.table())
    told = page.getvalue()
    assert "122 reads, 1 missing, 1 suspect, 1 intervals" in told
    assert {line.split()[1] for line in told.splitlines() if line.startswith("│")} == {"line-a", "line-b", "line-c"}
    assert "and 96 more meters" in told
    assert "0.25" in told


async def test_a_story_without_a_head_end_ends_with_the_reason(tmp_path: Path) -> None:
    tokens = dict.fromkeys(("reader", "cashier", "ann", "bob"), "hdt_none")
    story = Story(Narrator(Console(file=io.StringIO())), "http://127.0.0.1:9", tmp_path, tokens, Pace())
    with pytest.raises(DemoFailed, match="the head-end's interface: "):
        await story.tell()
    assert story.status == ""


def test_the_tenants_meter_is_named_as_the_table_names_it() -> None:
    part = Part(kind="tenant", line="home", meters=[ADDRESS], tables="", contract=CONTRACT)
    assert part.ids == [METER]
