"""`[[brokers]]` and `[[concentrators]]`: what is usable of them, and what is said of the rest."""

import tomllib
from pathlib import Path

import pytest

from headend.concentrators.settings import BrokerSettings, ConcentratorSettings
from headend.config import load_config
from headend.configuration.brokers import BrokerTable, ConcentratorTable, brokers_of, concentrators_of
from headend.configuration.reader import Reader
from tests.brokers import make_certificates


def read(
    tmp_path: Path, text: str, *, lines: tuple[str, ...] = ()
) -> tuple[dict[str, BrokerSettings], dict[str, ConcentratorSettings], list[str]]:
    reader = Reader(tmp_path / "headend.toml", text)
    document = tomllib.loads(text)
    written = reader.entries(document, "brokers", BrokerTable)
    brokers = brokers_of(reader, written, "luoyang-west")
    found = concentrators_of(
        reader.entries(document, "concentrators", ConcentratorTable),
        brokers=brokers,
        written_brokers=written,
        taken=dict.fromkeys(lines),
    )
    return brokers, found, [str(problem) for problem in reader.problems]


def test_a_broker_and_its_concentrator_with_what_they_have_by_default(tmp_path: Path) -> None:
    brokers, concentrators, problems = read(
        tmp_path,
        '[[brokers]]\nname = "west"\nurl = "mqtt://10.0.0.1"\n[[concentrators]]\nname = "TX-12"\nbroker = "west"\n',
    )
    assert problems == []
    west = brokers["west"]
    assert (west.url.host, west.url.port, west.client_id, west.version) == (
        "10.0.0.1",
        1883,
        "headend-luoyang-west-west",
        5,
    )
    assert (west.session_expiry_s, west.in_flight_max, west.clear_retained_commands) == (7 * 86400, 500, False)
    assert concentrators["TX-12"] == ConcentratorSettings(name="TX-12", broker="west", contract="concentrator/hes_v1")


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    brokers, concentrators, problems = read(
        tmp_path,
        f"""
[[brokers]]
name = "west"
url = "mqtts://localhost:8884"
version = "3.1.1"
client_id = "me"
username = "headend"
password = "env:BROKER"
ca = "certificates/{certificates.ca.name}"
certificate = "{certificates.client_certificate}"
key = "{certificates.client_key}"
session_expiry = "36h"
keep_alive_s = 30
in_flight = 100
clear_retained_commands = true

[[concentrators]]
name = "house-3"
broker = "west"
contract = "concentrator/tasmota_sml"
timezone = "Asia/Shanghai"
prefix = "site-7/"
settings = {{ relay_meter = "MT2" }}
silent_after = "90m"
""",
    )
    assert problems == []
    west = brokers["west"]
    assert (west.version, west.client_id, west.username, west.password) == (4, "me", "headend", "env:BROKER")
    assert (west.session_expiry_s, west.keep_alive_s, west.in_flight_max) == (36 * 3600, 30, 100)
    assert west.clear_retained_commands
    assert west.tls() is not None
    house = concentrators["house-3"]
    assert (house.timezone, house.prefix, house.silent_after_s) == ("Asia/Shanghai", "site-7/", 5400.0)
    assert house.settings == {"relay_meter": "MT2"}


@pytest.mark.parametrize(
    ("key", "written", "says"),
    [
        ("name", '"a b"', "expected 1 to 64 letters"),
        ("url", '"mqtt://"', "expected"),
        ("url", '"mqtt://user:hunter2@127.0.0.1"', "user names and passwords do not belong here"),
        ("version", '"3.1"', "expected '5' or '3.1.1', got '3.1'"),
        ("version", "5", "expected '5' or '3.1.1', got 5"),
        ("client_id", '"a b"', "printable ASCII characters without blanks"),
        ("client_id", f'"{"x" * 129}"', "1 to 128"),
        ("username", "5", "expected a valid string"),
        ("password", '"hunter2"', "secrets are never written into this file"),
        ("ca", '"ca.pem"', "has no TLS; expected mqtts://"),
        ("certificate", '"c.pem"', "has no TLS; expected mqtts://"),
        ("key", '"k.pem"', "has no TLS; expected mqtts://"),
        ("session_expiry", '"1w"', "expected minutes, hours or days"),
        ("session_expiry", "7", "expected a valid string"),
        ("keep_alive_s", "4", "greater than or equal to 5"),
        ("keep_alive_s", "301", "less than or equal to 300"),
        ("in_flight", "19", "greater than or equal to 20"),
        ("in_flight", "2001", "less than or equal to 2000"),
        ("clear_retained_commands", '"yes"', "expected a valid boolean"),
        ("colour", '"red"', "unknown key; expected one of name, url, version"),
    ],
)
def test_every_key_of_a_broker_is_checked_and_told_with_its_place(
    tmp_path: Path, key: str, written: str, says: str
) -> None:
    keys = {"name": '"west"', "url": '"mqtt://127.0.0.1"'} | {key: written}
    text = "[[brokers]]\n" + "".join(f"{name} = {one}\n" for name, one in keys.items())
    brokers, _, problems = read(tmp_path, text)
    assert brokers == {}
    [problem] = problems
    assert f"brokers[0].{key}: " in problem
    assert says in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("key", "written", "says"),
    [
        ("name", '"a/b"', "expected 1 to 64 letters"),
        ("broker", '"east"', "no broker is named 'east'; expected one of west"),
        ("contract", '"modbus/eastron_sdm630"', "the concentrator is left out"),
        ("contract", '"nowhere.toml"', "nowhere.toml"),
        ("timezone", '"Mars/Olympus"', "is not a time zone"),
        ("prefix", '"{nobody}/"', "left out"),
        ("prefix", "5", "expected a valid string"),
        ("settings", "{ nobody = 1 }", "nobody"),
        ("settings", '"a"', "expected a valid dictionary"),
        ("silent_after", '"15s"', "expected minutes, hours or days"),
        ("qos", "1", "unknown key; expected one of name, broker, contract"),
    ],
)
def test_every_key_of_a_concentrator_is_checked_and_told_with_its_place(
    tmp_path: Path, key: str, written: str, says: str
) -> None:
    keys = {"name": '"C1"', "broker": '"west"'} | {key: written}
    text = '[[brokers]]\nname = "west"\nurl = "mqtt://127.0.0.1"\n[[concentrators]]\n'
    _, concentrators, problems = read(tmp_path, text + "".join(f"{name} = {one}\n" for name, one in keys.items()))
    assert concentrators == {}
    [problem] = problems
    assert "concentrators[0]." in problem
    assert says in problem


def test_concentrators_whose_topics_do_not_name_them_need_a_prefix_each(tmp_path: Path) -> None:
    """Without one every message of the one would be taken for the other's, and both would obey each command."""
    text = '[[brokers]]\nname = "west"\nurl = "mqtt://127.0.0.1"\n'
    for name, prefix in (
        ("T1", ""),
        ("T2", ""),
        ("T3", "site-3/"),
        ("T4", "{concentrator}/"),
        ("T5", "{concentrator}/"),
    ):
        text += f'[[concentrators]]\nname = "{name}"\nbroker = "west"\ncontract = "concentrator/thingsboard"\n'
        text += f'prefix = "{prefix}"\n' if prefix else ""
    _, concentrators, problems = read(tmp_path, text)
    assert list(concentrators) == ["T3", "T4", "T5"]
    assert len(problems) == 2
    for number, problem in enumerate(problems):
        assert (
            f"concentrators[{number}].prefix: 2 concentrators of concentrator/thingsboard share the topics" in problem
        )


def test_a_contract_file_is_sought_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(
        '[contract]\nprotocol = "mqtt"\nextends = "concentrator/neuron"\ndescription = "a site"\nprovenance = "its list"\n'
        '[names]\nkwh_total = { obis = "1-0:1.8.0", unit = "kWh", source = "its list" }\n',
        encoding="utf-8",
    )
    path = tmp_path / "headend.toml"
    path.write_text(
        '[[brokers]]\nname = "west"\nurl = "mqtt://127.0.0.1"\n'
        '[[concentrators]]\nname = "C1"\nbroker = "west"\ncontract = "site.toml"\n',
        encoding="utf-8",
    )
    config = load_config(path)
    assert config.problems == ()
    assert config.concentrators[0].contract == str(tmp_path / "site.toml")


@pytest.mark.parametrize(
    ("address", "contract", "says"),
    [
        ("000000000001", "dlt645/base_2007", None),
        ("Meter A", "modbus/eastron_sdm630", None),
        ("a/b", "dlt645/base_2007", "expected 1 to 64 printable characters without / + and #"),
        ("+", "dlt645/base_2007", "without / + and #"),
        ("", "dlt645/base_2007", "expected 1 to 64"),
        ("x" * 65, "dlt645/base_2007", "expected 1 to 64"),
        ("1", "concentrator/hes_v1", "describes a concentrator; expected a meter's contract"),
    ],
)
def test_a_meter_behind_a_concentrator_is_called_what_its_topics_call_it(
    tmp_path: Path, address: str, contract: str, says: str | None
) -> None:
    path = tmp_path / "headend.toml"
    path.write_text(
        '[[plans]]\nname = "plan"\nperiod = "15m"\nquantities = ["1-0:1.8.0"]\n'
        '[[brokers]]\nname = "west"\nurl = "mqtt://127.0.0.1"\n[[concentrators]]\nname = "C1"\nbroker = "west"\n'
        f'[[meters]]\nid = "M1"\nline = "C1"\naddress = "{address}"\ncontract = "{contract}"\nplan = "plan"\n',
        encoding="utf-8",
    )
    config = load_config(path)
    if says is None:
        assert (config.problems, [meter.protocol for meter in config.meters]) == ((), ["mqtt"])
    else:
        assert (len(config.problems), config.meters) == (1, ())
        assert says in str(config.problems[0])


def test_meters_of_a_concentrator_that_is_left_out_are_counted_at_it(tmp_path: Path) -> None:
    path = tmp_path / "headend.toml"
    path.write_text(
        '[[plans]]\nname = "plan"\nperiod = "15m"\nquantities = ["1-0:1.8.0"]\n'
        '[[brokers]]\nname = "west"\nurl = "mqtt://127.0.0.1"\nca = "ca.pem"\n'
        '[[concentrators]]\nname = "C1"\nbroker = "west"\n'
        '[[meters]]\nid = "M1"\nline = "C1"\naddress = "000000000001"\nplan = "plan"\n',
        encoding="utf-8",
    )
    broker, concentrator = map(str, load_config(path).problems)
    assert "brokers[0].ca" in broker
    assert "concentrators[0].name: 'C1' is left out, and 1 meter(s) with it" in concentrator


def test_what_cannot_be_used_is_named_with_its_place_and_costs_only_itself(tmp_path: Path) -> None:
    brokers, concentrators, problems = read(
        tmp_path,
        """
[[brokers]]
name = "good"
url = "mqtt://127.0.0.1"

[[brokers]]
name = "no-tls"
url = "mqtt://127.0.0.1"
ca = "ca.pem"

[[brokers]]
name = "no-file"
url = "mqtts://127.0.0.1"
ca = "nowhere.pem"

[[brokers]]
name = "secret"
url = "mqtts://127.0.0.1"
password = "hunter2"

[[brokers]]
name = "odd"
url = "http://127.0.0.1"
colour = "red"

[[brokers]]
name = "clear"
url = "mqtt://10.0.0.1"
password = "env:X"

[[concentrators]]
name = "C1"
broker = "good"

[[concentrators]]
name = "C2"
broker = "nobody"

[[concentrators]]
name = "C3"
broker = "no-tls"

[[concentrators]]
name = "C4"
broker = "good"
contract = "concentrator/none"

[[concentrators]]
name = "line-1"
broker = "good"

[[concentrators]]
name = "C5"
broker = "good"
contract = "concentrator/tasmota_sml"
settings = { relay = "MT2" }
timezone = "Mars/Olympus"
""",
        lines=("line-1",),
    )
    assert list(brokers) == ["good", "clear"]
    assert list(concentrators) == ["C1"]
    told = "\n".join(problems)
    assert "brokers[1].ca: mqtt://127.0.0.1 has no TLS" in told
    assert "brokers[2].ca" in told
    assert "nowhere.pem cannot be used: No such file or directory" in told
    assert "brokers[3].password: expected" in told
    assert "hunter2" not in told
    assert "brokers[4].colour: unknown key" in told
    assert "brokers[5].password: goes to 10.0.0.1 in the clear" in told
    assert "concentrators[1].broker: no broker is named 'nobody'; expected one of good, clear" in told
    assert "concentrators[2]" not in told  # its broker is reported
    assert "concentrators[3].contract" in told
    assert "concentrators[4].name: 'line-1' is the name of a line, too" in told
    assert "concentrators[5].timezone: 'Mars/Olympus' is not a time zone" in told
