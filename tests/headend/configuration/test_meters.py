"""Meters in a table, what entries refer to, and everything wrong told in one run."""

import time
from decimal import Decimal
from pathlib import Path

import pytest

from headend.config import load_config
from headend.errors import ConfigError
from headend.intervals.registers import Connection
from tests.headend.test_config import GOOD, headend, loaded, problems

HEADER = "id,line,address,contract,plan\n"
ROW = "M1,transformer-12,000000000001,dlt645/base_2007,residential\n"
WITH_TABLE = 'meters = "meters.csv"\n' + GOOD[: GOOD.index("[[meters]]")]


def with_table(folder: Path, table: bytes | str | None) -> Path:
    if table is not None:
        (folder / "meters.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    path = folder / "headend.toml"
    path.write_text(WITH_TABLE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (None, "cannot be read: No such file"),
        ((HEADER + ROW).encode("utf-16"), "is no UTF-8 text"),
        ("", "missing column id, line, address, plan"),
        (HEADER, "has no usable row"),
        (HEADER + ROW.replace("000000000001", "1"), "has no usable row"),
        (HEADER + ROW.replace("transformer-12", "t13"), "has no usable row"),
        (
            HEADER.replace("contract", "contarct") + ROW,
            "unknown column contarct; expected id,line,address,contract,plan",
        ),
        (HEADER.replace("contract", "plan") + ROW, "column twice plan"),
        (HEADER + ROW + 'M2,"' + "x" * 200_000 + '",,,\n', "meters.csv:3: cannot be read from here on: field larger"),
        (HEADER + ROW + 'M2,"transformer-12,000000000002,,residential\n', "cannot be read from here on"),
        (HEADER + ROW + "M2,transformer-12\0,000000000002,,residential\n", None),
    ],
)
def test_a_table_of_meters_that_cannot_be_used_stops_the_start(
    tmp_path: Path, table: bytes | str | None, says: str | None
) -> None:
    path = with_table(tmp_path, table)
    if says is None:  # one bad row costs that row
        assert [meter.id for meter in load_config(path).meters] == ["M1"]
        return
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert says in str(caught.value)
    done = headend("run", "headend.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


def test_surplus_cells_blank_rows_and_blanks_around_cells(tmp_path: Path) -> None:
    table = "\ufeff" + HEADER + ROW.replace(",", " , ") + ",,,,\n\n" + ROW.replace("1,", "2,").strip() + ",more,,\n"
    config = load_config(with_table(tmp_path, table))
    assert [meter.id for meter in config.meters] == ["M1"]
    (problem,) = config.problems
    assert problem.place.startswith("meters.csv:")
    assert "3 cells more than columns" in problem.text


def test_what_a_connection_carries_is_read_from_tables_and_is_one_object_for_all_that_are_alike(tmp_path: Path) -> None:
    header = HEADER.strip() + ",current_max_a,voltage_v,phases\n"
    rows = [
        f"M{number},transformer-12,{number:012},,residential,{connection}\n"
        for number, connection in enumerate(("60,,", "60,,", "100.5,230,3", ",,", "60,,2"), start=1)
    ]
    config = load_config(with_table(tmp_path, header + "".join(rows)))
    assert [(problem.text) for problem in config.problems] == ["expected 1 or 3, got 2"]
    assert set(config.connections) == {"M1", "M2", "M3"}
    assert config.connections["M1"] is config.connections["M2"]
    assert config.connections["M1"] == Connection(current_max_a=Decimal(60))
    assert config.connections["M3"] == Connection(current_max_a=Decimal("100.5"), voltage_v=Decimal(230), phases=3)


def test_references_are_checked_in_entries_that_have_other_mistakes(tmp_path: Path) -> None:
    text = (
        GOOD.replace('address = "000000000001"', 'address = "1"')
        .replace('line = "transformer-12"', 'line = "t13"')
        .replace('plan = "residential"', 'plan = "resident"')
        .replace('contract = "dlt645/base_2007"', 'contract = "dlt645/none"')
        .replace('"1-0:32.7.0"]', '"voltage"]')
    )
    found = problems(tmp_path, text)
    for key in ("meters[0].address", "meters[0].line", "meters[0].plan", "meters[0].contract", "plans[0].quantities"):
        assert sum(key in problem for problem in found) == 1, (key, found)


def test_quantities_of_a_plan_without_meters_are_checked(tmp_path: Path) -> None:
    plan = '[[plans]]\nname = "spare"\nperiod = "17m"\nquantities = ["volts", "di:0BADC0DE", "reg:4:0:float32"]\n\n'
    found = problems(tmp_path, GOOD.replace("[[meters]]", plan + "[[meters]]", 1))
    assert all("plans[1]" in problem for problem in found)
    for quantity in ("17m", "volts", "0BADC0DE", "reg:"):
        assert any(quantity in problem for problem in found), found


def test_one_register_under_two_names_is_told(tmp_path: Path) -> None:
    text = GOOD.replace('["1-0:1.8.0", "1-0:32.7.0"]', '["1-0:1.8.0", "di:00010000", "1-0:1.8.0*255"]')
    found = problems(tmp_path, text)
    assert len(found) == 2
    assert all("the same register as '1-0:1.8.0' (DI 00010000 of dlt645/base_2007)" in problem for problem in found)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tcp://192.168.1.20:9001", "tcp://192.168.1.20:9001?baud=2400"),
        ("tcp://Gateway:9001", "tcp://gateway:9001"),
        ("serial:///dev/ttyUSB0?baud=2400", "serial:///dev/ttyUSB0?baud=9600&parity=N"),
        ("serial:///dev/ttyUSB0", "serial:///dev/../dev/ttyUSB0"),
    ],
)
def test_one_far_end_under_two_names_is_told(tmp_path: Path, first: str, second: str) -> None:
    other = f'[[lines]]\nname = "other"\nurl = "{second}"\n\n'
    text = GOOD.replace("serial:///dev/ttyUSB0?baud=2400", first).replace("[[plans]]", other + "[[plans]]")
    found = problems(tmp_path, text)
    assert sum("goes where 2 lines go" in problem for problem in found) == 2, found
    assert sum("'transformer-12' is left out, and 1 meter(s) with it" in problem for problem in found) == 1, found


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ("nonsense", "'nonsense' is no store; expected sqlite:///headend.db or postgresql+psycopg://"),
        ("mysql://root:hunter2@db/reads", "'mysql://***@db/reads' is no store"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://db/reads", "names no driver"),
        ("postgresql+psycopg://db", "names no database"),
        ("postgresql+psycopg://db:x/reads", "names no database"),
        ("postgresql+psycopg://user:hunter2@db/reads", 'store = "env:HEADEND_STORE"'),
        ("postgresql+psycopg://user@db/reads?password=hunter2", 'store = "env:HEADEND_STORE"'),
        ("env:HEADEND_STORE_ABSENT", "has no variable HEADEND_STORE_ABSENT"),
        ("file:absent.txt", "cannot be read"),
    ],
)
def test_a_store_that_is_none_is_told_and_no_password_with_it(tmp_path: Path, store: str, says: str) -> None:
    found = problems(tmp_path, GOOD.replace("sqlite:///headend.db", store))
    assert any(problem.startswith("headend.toml:4 headend.store: ") and says in problem for problem in found), found
    assert "hunter2" not in str(found)


def test_a_store_url_with_its_password_comes_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADEND_STORE_TEST", "sqlite:///elsewhere.db")
    config = loaded(tmp_path, GOOD.replace("sqlite:///headend.db", "env:HEADEND_STORE_TEST"))
    assert config.store == f"sqlite:///{tmp_path / 'elsewhere.db'}"
    (tmp_path / "store.txt").write_text("mysql://root:hunter2@db/reads\n")
    (problem,) = problems(tmp_path, GOOD.replace("sqlite:///headend.db", "file:store.txt"))
    assert "the URL behind 'file:store.txt' is no store" in problem
    assert "hunter2" not in problem


def test_contract_files_are_sought_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "own.toml").write_text('[contract]\nextends = "dlt645/base_2007"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = loaded(tmp_path / "site", GOOD.replace("dlt645/base_2007", "own.toml"))
    assert config.problems == ()
    assert config.meters[0].contract == str(tmp_path / "site" / "own.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"tables = 1\n", b"[contract]\nextends = 5\n", b"contract = 3\n"])
def test_a_contract_file_that_is_none_costs_its_meters(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.toml").write_bytes(content)
    (problem,) = problems(tmp_path, GOOD.replace("dlt645/base_2007", "own.toml"))
    assert "meters[0].contract" in problem
    assert "own.toml" in problem


def test_a_fleet_of_mistakes_is_told_in_reasonable_time(tmp_path: Path) -> None:
    meter = '[[meters]]\nid = "M{0}"\nline = "nowhere"\naddress = "{0}"\nplan = "residential"\n'
    text = GOOD.replace("[control]", "\n".join(meter.format(number) for number in range(5000)) + "\n[control]")
    began = time.monotonic()
    assert len(problems(tmp_path, text)) == 10_000
    assert time.monotonic() - began < 10  # 5000 passes over 20,000 lines would be minutes
