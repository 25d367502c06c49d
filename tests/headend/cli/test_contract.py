"""`headend contract` as people and programs run it, against `meter-sim` over TCP."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from typer.testing import CliRunner, Result

from headend.cli.main import app
from tests.system.processes import BIN, simulated_lines

CONTRACT = "dlt645/generic_submeter"


def headend(*arguments: "str | Path") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [BIN / "headend", "contract", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def here(*arguments: str) -> Result:
    """The same without a process of its own, for what needs no line."""
    return CliRunner().invoke(app, ["contract", *arguments])


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[str, str]]:
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--contract", CONTRACT) as (described,):
        yield described["url"], described["meters"][0]


def test_a_good_meter_ends_with_zero_and_leaves_three_reports(line: tuple[str, str], tmp_path: Path) -> None:
    html, junit = tmp_path / "report.html", tmp_path / "report.xml"
    done = headend("run", CONTRACT, *line, "--json", "--html", html, "--junit", junit)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["fail"] == 0
    assert report["summary"]["pass"] > 15
    assert "Keeps its contract" in html.read_text(encoding="utf-8")
    assert Xml.parse(junit).getroot().attrib["failures"] == "0"
    assert done.stderr == ""


def test_people_get_a_table_and_a_last_line_that_says_it(line: tuple[str, str]) -> None:
    done = headend("run", CONTRACT, *line, "--only", "variables")
    assert done.returncode == 0
    last = done.stdout.rstrip().splitlines()[-1]
    assert last.startswith(f"{line[1]} against {CONTRACT}: ")
    assert last.endswith("the contract is kept")


def test_a_contract_that_lies_ends_with_six_and_shows_the_frames(line: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "lying.toml"
    path.write_text(
        f'[contract]\nprotocol = "dlt645-2007"\nextends = "{CONTRACT}"\n[[rows]]\ndi = "02010100"\nname = "Voltage"\n'
        'layout = "XX.XX"\nunit = "V"\naccess = "r"\nsource = "nowhere"\n'
    )
    done = headend("run", path, *line, "--only", "02010100")
    assert done.returncode == 6
    assert "expected 40 to 500" in done.stdout
    assert "> FE FE FE FE 68" in done.stdout
    assert "1 contradict the contract" in done.stdout


def test_what_cannot_be_run_ends_with_two(line: tuple[str, str]) -> None:
    url, meter = line
    for arguments, problem in (
        (("dlt645/nothing", url, meter), "there are dlt645/base_1997"),
        ((CONTRACT, "ftp://x", meter), "expected serial://"),
        ((CONTRACT, url, "AAAAAAAAAAAA"), "tells its address"),
        ((CONTRACT, url, meter, "--only", "xyz"), "no check fits xyz"),
        ((CONTRACT, url, meter, "--timezone", "Mars/Olympus"), "is no time zone"),
        ((CONTRACT, url, meter, "--timeout", "0"), "expected seconds"),
        ((CONTRACT, "tcp://127.0.0.1:1", meter), "is down"),
    ):
        done = here("run", *arguments)
        assert done.exit_code == 2, arguments
        assert problem in done.stderr, arguments
        assert done.stdout == ""


def test_a_meter_that_is_not_there_ends_with_three_soon(line: tuple[str, str]) -> None:
    done = headend("run", "dlt645/base_2007", line[0], "000099999999", "--timeout", "0.2", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["kind"] == "silent"
    assert "no byte came" in done.stderr


def test_list_and_show() -> None:
    names = [contract["contract"] for contract in json.loads(here("list", "--json").stdout)]
    assert "dlt645/base_2007" in names
    assert CONTRACT in here("list").stdout
    shown = json.loads(here("show", CONTRACT, "--json").stdout)
    assert (shown["serial"]["parity"], shown["limits"]["follow_up"], shown["promises"]) == ("N", False, True)
    assert "9600 8N1" in here("show", CONTRACT).stdout


def test_show_explains_one_item() -> None:
    item = json.loads(here("show", "dlt645/base_2007", "0001FF00", "--json").stdout)
    assert item["members"][:2] == ["00010000", "00010100"]
    assert "XXXXXX.XX" in here("show", "dlt645/base_2007", "00010000").stdout
    refused = here("show", CONTRACT, "05060001")
    assert refused.exit_code == 2
    assert "leaves it out" in refused.stderr
