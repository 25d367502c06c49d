"""`[[ratios]]` and a table of them, through `load_config`: what is written, since when, and every mistake with its place."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from headend.config import Config
from headend.errors import ConfigError
from tests.headend.test_config import GOOD, loaded, problems

RATIO = '[[ratios]]\nmeter = "M000001"\nsince = 2026-03-01\n'


def with_ratio(folder: Path, text: str) -> Config:
    return loaded(folder, GOOD + text)


@pytest.mark.parametrize(
    ("since", "start"),
    [
        ("2026-03-01", datetime(2026, 2, 28, 16, tzinfo=UTC)),
        ('"2026-03-01"', datetime(2026, 2, 28, 16, tzinfo=UTC)),
        ("2026-03-01T10:15:00", datetime(2026, 3, 1, 2, 15, tzinfo=UTC)),
        ('"2026-03-01T10:15"', datetime(2026, 3, 1, 2, 15, tzinfo=UTC)),
        ("2026-03-01T10:15:00Z", datetime(2026, 3, 1, 10, 15, tzinfo=UTC)),
        ('"2026-03-01T10:15:00-05:00"', datetime(2026, 3, 1, 15, 15, tzinfo=UTC)),
    ],
)
def test_a_time_without_an_offset_is_the_site_s_own(tmp_path: Path, since: str, start: datetime) -> None:
    config = with_ratio(tmp_path, f'[[ratios]]\nmeter = "M000001"\nsince = {since}\nct = "400/5"\npt = 100\n')
    assert config.problems == ()
    [fact] = config.ratios
    assert (fact.meter, fact.start, fact.ct, fact.pt) == ("M000001", start, Decimal(80), Decimal(100))


@pytest.mark.parametrize(
    ("since", "shown"),
    [
        ('"yesterday"', "'yesterday'"),
        ('"20260301T10"', None),
        ("10:15:00", "10:15:00"),
        ("5", "5"),
        ("true", "True"),
        ('"0001-01-01"', "'0001-01-01'"),
        ('"9999-12-31T23:59-12:00"', "'9999-12-31T23:59-12:00'"),
        ('""', "''"),
        ("[2026-03-01]", "2026"),
    ],
)
def test_what_is_no_moment_is_told_once(tmp_path: Path, since: str, shown: str | None) -> None:
    config = with_ratio(tmp_path, f'[[ratios]]\nmeter = "M000001"\nsince = {since}\n')
    if shown is None:  # another way of ISO 8601 to write one
        assert config.problems == ()
        return
    [problem] = map(str, config.problems)
    assert "ratios[0].since: " in problem
    assert shown in problem
    assert "expected a date such as 2026-01-01, or a time such as 2026-01-01T10:15" in problem
    assert config.ratios == ()


@pytest.mark.parametrize(
    ("key", "written", "says"),
    [
        ("ct", '"four"', "expected a ratio such as 80 or 400/5"),
        ("ct", "0", "above 0"),
        ("pt", "-5", "above 0"),
        ("pt", '"400/0"', "above 0"),
        ("ct", "1000001", "at most 1000000"),
        ("ct", '"5/3"', "as a decimal it never ends"),
        ("ct", "1.25", 'expected 80, or text such as "400/5" or "1.25"'),
        ("ct", "true", "expected 80"),
        ("ct", "nan", "expected 80"),
        ("ct", '"1e999999999"', "expected a ratio"),
        ("ct", '"1e-400/1e-400"', "expected a ratio"),
        ("ct", '"٣"', "expected a ratio"),
        ("ct", '"400/5/1"', "expected a ratio"),
        ("ratio", "80", "unknown key; expected one of meter, since, ct, pt"),
    ],
)
def test_what_is_no_ratio_is_told_with_its_place(tmp_path: Path, key: str, written: str, says: str) -> None:
    config = with_ratio(tmp_path, f"{RATIO}{key} = {written}\n")
    [problem] = map(str, config.problems)
    assert f"ratios[0].{key}: " in problem
    assert says in problem
    assert (config.ratios, len(config.meters)) == ((), 1)


def test_facts_are_of_meters_that_are_read_and_have_a_moment_each(tmp_path: Path) -> None:
    config = with_ratio(
        tmp_path,
        RATIO
        + 'ct = 80\n[[ratios]]\nmeter = "M9"\nsince = 2026-03-01\n'
        + '[[ratios]]\nmeter = "M000001"\nsince = 2026-03-01T00:00:00+08:00\nct = 120\n'
        + '[[ratios]]\nmeter = "M000001"\nsince = 2026-04-01\nct = 120\n[[ratios]]\nmeter = "M000001"\n',
    )
    assert [str(problem).partition("ratios")[2] for problem in config.problems] == [
        "[4].since: missing",
        "[1].meter: no meter that is read is named 'M9'; expected one of M000001",
        "[2].since: meter 'M000001' has two ratios from 2026-03-01T00:00+08:00 on; the first is used",
    ]
    assert [int(fact.ct) for fact in config.ratios] == [80, 120]


# ------------------------------------------------------------------------------------------------ a table of them


def with_table(folder: Path, table: bytes | str | None) -> Config:
    if table is not None:
        (folder / "ratios.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    return loaded(folder, 'ratios = "ratios.csv"\n' + GOOD)


def test_a_table_of_ratios_with_row_errors(tmp_path: Path) -> None:
    config = with_table(
        tmp_path,
        "\ufeffmeter,since,ct,pt\nM000001,2026-01-01,80,\n M000001 , 2026-02-01T10:15 , 400/5 ,100\nM9,2026-02-01,1,1\n"
        "M000001,soon,1,1\nM000001,2026-03-01,5/3,\n\nM000001,2026-01-01,3,\nM000001,2026-05-01,1,1,1\n",
    )
    assert [(int(fact.ct), int(fact.pt)) for fact in config.ratios] == [(80, 1), (80, 100)]
    told = [str(problem) for problem in config.problems]
    assert {one.partition(": ")[0] for one in told} == {
        "ratios.csv:4 meter",
        "ratios.csv:5 since",
        "ratios.csv:6 ct",
        "ratios.csv:8 since",
        "ratios.csv:9",
    }


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (None, "ratios: "),
        (b"\xff\xfe\x00m", "is no UTF-8 text"),
        ("meter,ct,pt\n", "ratios.csv:1: missing column since; expected meter,since,ct,pt"),
        ("meter,since,ct,pt,vt\n", "unknown column vt"),
        ('meter,since\nM000001,"2026-01-01\n', "cannot be read from here on"),
    ],
)
def test_a_table_of_ratios_that_cannot_be_read_stops_the_start(
    tmp_path: Path, table: bytes | str | None, says: str
) -> None:
    """A read keeps the ratio that was known when it came; without the table it would keep none for ever."""
    with pytest.raises(ConfigError) as caught:
        with_table(tmp_path, table)
    assert says in str(caught.value)
    assert "meters" not in str(caught.value).replace("meter,since", "")


def test_an_empty_table_and_something_that_is_none(tmp_path: Path) -> None:
    assert with_table(tmp_path, "meter,since,ct,pt\n").ratios == ()
    assert "expected entries [[ratios]], got int" in problems(tmp_path, "ratios = 5\n" + GOOD)[0]
