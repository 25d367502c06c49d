"""The configuration: the example of the docs is good, and every mistake is told with its place, all at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from headend.config import Config, load_config
from headend.configuration.toml_places import Places
from headend.errors import ConfigError

GOOD = """\
[headend]
name = "luoyang-west"
timezone = "Asia/Shanghai"
store = "sqlite:///headend.db"

[api]
listen = "127.0.0.1:8645"

[[lines]]
name = "transformer-12"
url = "serial:///dev/ttyUSB0?baud=2400"
protocol = "dlt645"

[[plans]]
name = "residential"
period = "15m"
quantities = ["1-0:1.8.0", "1-0:32.7.0"]

[[meters]]
id = "M000001"
line = "transformer-12"
address = "000000000001"
contract = "dlt645/base_2007"
plan = "residential"

[[sinks]]
name = "billing"
kind = "webhook"
url = "https://billing.example/reads"

[control]
enabled = false
"""


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "headend.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def problems(tmp_path: Path, text: str) -> list[str]:
    """What is wrong, whether or not the service could start."""
    try:
        return [str(problem) for problem in loaded(tmp_path, text).problems]
    except ConfigError as error:
        return str(error).splitlines()


def test_the_documented_example_is_good(tmp_path: Path) -> None:
    config = loaded(tmp_path, GOOD)
    assert config.problems == ()
    assert (config.name, str(config.zone), config.host, config.port) == (
        "luoyang-west",
        "Asia/Shanghai",
        "127.0.0.1",
        8645,
    )
    assert config.store == f"sqlite:///{tmp_path / 'headend.db'}"  # relative to the file, not to where one stands
    assert config.lines[0].timing.baud == 2400
    assert config.plans[0].period_s == 900
    assert config.meters[0].address == "000000000001"
    assert config.control.enabled is False


@pytest.mark.parametrize(
    ("old", "new", "place", "says"),
    [
        (
            'address = "000000000001"',
            'address = "12"',
            "headend.toml:22 meters[0].address",
            "'12' is not a meter address: expected the 12 digits",
        ),
        (
            'address = "000000000001"',
            'address = "00000000000X"',
            "headend.toml:22 meters[0].address",
            "is not a meter address",
        ),
        (
            'address = "000000000001"',
            "address = 1",
            "headend.toml:22 meters[0].address",
            "expected a valid string, got 1",
        ),
        ('id = "M000001"\n', "", "headend.toml:19 meters[0].id", "missing"),
        (
            'plan = "residential"',
            'plan = "resident"',
            "headend.toml:24 meters[0].plan",
            "no plan is named 'resident'; expected one of residential",
        ),
        (
            'line = "transformer-12"',
            'line = "t12"',
            "headend.toml:21 meters[0].line",
            "no line is named 't12'; expected one of transformer-12",
        ),
        (
            'contract = "dlt645/base_2007"',
            'contract = "dlt645/none"',
            "headend.toml:23 meters[0].contract",
            "dlt645/none",
        ),
        (
            'contract = "dlt645/base_2007"',
            'contarct = "x"',
            "headend.toml:23 meters[0].contarct",
            "unknown key; expected one of id, line",
        ),
        (
            'period = "15m"',
            'period = "17m"',
            "headend.toml:16 plans[0].period",
            "'17m'; expected a period that divides the day",
        ),
        ('"1-0:32.7.0"]', '"di:0001000G"]', "plans", "not a data identifier"),
        ('"1-0:32.7.0"]', '"di:0BADC0DE"]', "plans", "0BADC0DE"),
        ('"1-0:32.7.0"]', '"voltage"]', "plans", "'voltage' is not an OBIS code"),
        ('"1-0:32.7.0"]', '"di:04000403"]', "plans", "is no amount"),
        ('"1-0:32.7.0"]', '"di:0001FF00"]', "plans", "is a block of several registers"),
        (
            'url = "serial:///dev/ttyUSB0?baud=2400"',
            'url = "serial:///dev/ttyUSB0?baud=2401"',
            "headend.toml:11 lines[0].url",
            "baud=2401, expected one of 300",
        ),
        (
            'url = "serial:///dev/ttyUSB0?baud=2400"',
            'url = "tcp://host"',
            "headend.toml:11 lines[0].url",
            "expected tcp://host:port",
        ),
        (
            'url = "serial:///dev/ttyUSB0?baud=2400"',
            'url = "http://host"',
            "headend.toml:11 lines[0].url",
            "expected serial:///dev",
        ),
        (
            'protocol = "dlt645"',
            'protocol = "dlms"',
            "headend.toml:12 lines[0].protocol",
            "expected 'dlt645', 'modbus-rtu' or 'modbus-tcp', got 'dlms'",
        ),
    ],
)
def test_a_mistake_in_an_entry_is_told_with_its_place(
    tmp_path: Path, old: str, new: str, place: str, says: str
) -> None:
    found = problems(tmp_path, GOOD.replace(old, new, 1))
    assert any(place in problem and says in problem for problem in found), found


@pytest.mark.parametrize(
    ("old", "new", "place", "says"),
    [
        (
            'timezone = "Asia/Shanghai"',
            'timezone = "Asia/Peking"',
            "headend.toml:3 headend.timezone",
            "expected an IANA name",
        ),
        (
            "timezone = ",
            "time_zone = ",
            "headend.toml:3 headend.time_zone",
            "unknown key; expected one of name, timezone, store",
        ),
        ('listen = "127.0.0.1:8645"', 'listen = "8645"', "headend.toml:7 api.listen", "expected host:port"),
        (
            "[control]",
            "[controls]",
            "headend.toml:31 controls",
            "unknown key; expected one of headend, api, control,",
        ),
        ("enabled = false", 'enabled = "no"', "headend.toml:32 control.enabled", "expected a valid boolean, got 'no'"),
    ],
)
def test_a_mistake_in_the_head_stops_the_start(tmp_path: Path, old: str, new: str, place: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, GOOD.replace(old, new, 1))
    assert any(line.startswith(place) and says in line for line in str(caught.value).splitlines()), str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = (
        GOOD.replace('"15m"', '"17m"')
        .replace("000000000001", "12")
        .replace("baud=2400", "baud=1")
        .replace('"webhook"', '"post"')
    )
    assert len(problems(tmp_path, text)) >= 4


def test_what_is_good_is_kept(tmp_path: Path) -> None:
    second = (
        GOOD[GOOD.index("[[meters]]") : GOOD.index("[[sinks]]")]
        .replace("M000001", "M000002")
        .replace("000000000001", "2")
    )
    config = loaded(tmp_path, GOOD.replace("[[sinks]]", second + "[[sinks]]"))
    assert [meter.id for meter in config.meters] == ["M000001"]
    assert [problem.place for problem in config.problems] == ["headend.toml:29 meters[1].address"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"000000000001": "000000000002"}, "'M000001' is the id of 2 meters; ids are unique, so none of them is read"),
        ({"M000001": "M000002"}, "000000000001 stands 2 times on line 'transformer-12'"),
    ],
)
def test_meters_that_cannot_be_told_apart_are_all_left_out(tmp_path: Path, other: dict[str, str], says: str) -> None:
    second = GOOD[GOOD.index("[[meters]]") : GOOD.index("[[sinks]]")]
    for old, new in other.items():
        second = second.replace(old, new)
    config = loaded(tmp_path, GOOD.replace("[[sinks]]", second + "[[sinks]]"))
    assert config.meters == ()
    assert len([problem for problem in config.problems if says in problem.text]) == 2


def test_meters_from_a_table_with_row_errors(tmp_path: Path) -> None:
    (tmp_path / "meters.csv").write_text(
        "id,line,address,contract,plan\n"
        "M1,transformer-12,000000000001,dlt645/base_2007,residential\n"
        "M2,transformer-12,2,dlt645/base_2007,residential\n"
        "M3,nowhere,000000000003,,residential\n",
        encoding="utf-8",
    )
    text = 'meters = "meters.csv"\n' + GOOD[: GOOD.index("[[meters]]")]
    config = loaded(tmp_path, text)
    assert [meter.id for meter in config.meters] == ["M1"]
    assert [problem.place for problem in config.problems] == ["meters.csv:3 address", "meters.csv:4 line"]


@pytest.mark.parametrize(("text", "says"), [("[headend\n", "not TOML"), ("", None)])
def test_files_that_are_no_configuration(tmp_path: Path, text: str, says: str | None) -> None:
    if says is None:
        assert loaded(tmp_path, text).meters == ()
        return
    with pytest.raises(ConfigError, match=says):
        loaded(tmp_path, text)
    with pytest.raises(ConfigError, match="headend init"):
        load_config(tmp_path / "absent.toml")


def test_places_are_found_in_any_table() -> None:
    text = "a = 1\n[x]\nb = 2\n[[y]]\nc = 3\n[[y]]\nc = 4\n"
    places = Places(text)
    assert places.line_of(("a",)) == 1
    assert places.line_of(("x", "b")) == 3
    assert places.line_of(("y", 1, "c")) == 7
    assert places.line_of(("y", 1, "absent")) == 6
    assert places.line_of(("nowhere",)) is None


def headend(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).parent / "headend", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_init_writes_a_configuration_that_check_accepts(tmp_path: Path) -> None:
    assert headend("init", cwd=tmp_path).returncode == 0
    done = headend("check", "headend.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "ok: 1 lines, 1 meters, 1 plans")
    again = headend("init", cwd=tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_check_prints_each_problem_on_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(GOOD.replace('"15m"', '"17m"').replace("000000000001", "12"), encoding="utf-8")
    done = headend("check", "bad.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert len([line for line in done.stdout.splitlines() if line.startswith("bad.toml:")]) == 2
    assert "Traceback" not in done.stderr


def test_what_is_still_to_be_filled_or_closed_may_not_be_forgotten(tmp_path: Path) -> None:
    text = GOOD.replace("[[lines]]", "[ledger]\nclose_after_h = 6\n\n[[lines]]", 1)
    kept = text.replace('name = "luoyang-west"', 'name = "luoyang-west"\nfeed_retention = "4d"')
    assert loaded(tmp_path, kept).feed_retention_s == 4 * 86400
    assert loaded(tmp_path, kept).ledger.close_after_s == 6 * 3600
    assert loaded(tmp_path, text).feed_retention_s is None
    told = problems(tmp_path, kept.replace('"4d"', '"3d"'))  # back_fill is 3d by default
    assert any("feed_retention" in one and "expected at least 4d" in one for one in told)


def test_a_day_cannot_be_closed_before_its_daily_registers_are_read(tmp_path: Path) -> None:
    told = problems(tmp_path, GOOD.replace("[[lines]]", "[ledger]\nclose_after_h = 4\n\n[[lines]]", 1))
    assert any("ledger.close_after_h" in one for one in told)
