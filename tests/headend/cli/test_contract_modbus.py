"""`headend contract list | show | lint | run` with Modbus contracts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headend.cli.main import app

BROKEN = (
    '[contract]\nprotocol = "modbus"\nprovenance = "made up"\n[sources]\nmap = ["made up"]\n[[rows]]\nfunction = 4\n'
    'word_order = "big"\nscale = "1"\naccess = "r"\nsource = "map"\n[rows.points]\n'
    'a = { address = 0, type = "uint32", unit = "V" }\nb = { address = 1, type = "uint16" }\n'
    'c = { address = 1, type = "uint16", unit = "V" }\n'
)


def contract(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["contract", *arguments])


@pytest.fixture
def broken(tmp_path: Path) -> str:
    path = tmp_path / "broken.toml"
    path.write_text(BROKEN)
    return str(path)


def test_list_has_the_contracts_of_all_protocols() -> None:
    listed = {about["contract"]: about for about in json.loads(contract("list", "--json").stdout)}
    assert {"dlt645/base_2007", "modbus/eastron_sdm630"} <= set(listed)
    assert listed["modbus/eastron_sdm630"]["limits"]["registers_max"] == 80
    assert "points" not in listed["modbus/eastron_sdm630"]
    assert "modbus/eastron_sdm630" in contract("list").stdout


def test_show_gives_limits_relay_and_points() -> None:
    shown = json.loads(contract("show", "modbus/generic_relay_meter", "--json").stdout)
    assert (shown["relay"]["kind"], shown["relay"]["status"]["kind"]) == ("coil", "discrete")
    assert {point["name"] for point in shown["points"]} >= {"voltage", "import_active_energy"}
    said = contract("show", "modbus/abb_b23").stdout
    assert "125 registers at most, holes allowed, 1000H to 8EFFH only" in said
    assert "3 requests for 23 points" in said


def test_show_explains_one_point_by_name_code_and_register() -> None:
    for item in ("active_power", "1-0:16.7.0", "reg:3:0x5B14:int32"):
        point = json.loads(contract("show", "modbus/abb_b23", item, "--json").stdout)
        assert (point["name"], point["scale"], point["unit"]) == ("active_power", "0.00001", "kW")
        assert point["invalid"] == ["7FFFFFFF"]
    assert "5B14H (23316), 2 registers" in contract("show", "modbus/abb_b23", "active_power").stdout


def test_what_cannot_be_shown_ends_with_two() -> None:
    for item, problem in (
        ("voltage_l9", "voltage_l1"),
        ("1-0:99.9.9", "has no"),
        ("reg:9:0:int16", "names no register"),
    ):
        done = contract("show", "modbus/abb_b23", item)
        assert done.exit_code == 2
        assert problem in done.stderr


def test_lint_is_silent_on_standard_output_and_ends_with_zero_when_all_is_well() -> None:
    done = contract("lint", "modbus/abb_b23", "dlt645/base_2007")
    assert (done.exit_code, done.stdout) == (0, "")
    assert json.loads(contract("lint", "modbus/abb_b23", "--json").stdout) == []


def test_lint_names_every_finding_on_its_own_line_and_ends_with_two(broken: str) -> None:
    done = contract("lint", "modbus/abb_b23", broken)
    assert done.exit_code == 2
    assert done.stdout.splitlines() == [
        f"{broken}: point b: unit missing",
        f"{broken}: point a: 0000H to 0001H overlaps point c at 0001H",
    ]
    found = json.loads(contract("lint", broken, "--json").stdout)
    assert found[0] == {"contract": broken, "where": "point b", "problem": "unit missing"}


def test_lint_of_a_contract_that_is_not_there_says_which_there_are() -> None:
    done = contract("lint", "modbus/nothing")
    assert done.exit_code == 2
    assert "modbus/abb_b23" in done.stderr


def test_a_conformance_run_against_a_modbus_contract_is_refused_with_a_way_out() -> None:
    done = contract("run", "modbus/abb_b23", "tcp://127.0.0.1:1", "000000000001")
    assert done.exit_code == 2
    assert "headend contract lint modbus/abb_b23" in done.stderr
