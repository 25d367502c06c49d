"""`[[brokers]]` and `[[concentrators]]`: what is usable of them, and what is said of the rest."""

import tomllib
from pathlib import Path

from headend.concentrators.settings import BrokerSettings, ConcentratorSettings
from headend.config_brokers import BrokerTable, ConcentratorTable, brokers_of, concentrators_of
from headend.config_reader import Reader
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
