"""`meter-sim mqtt` and `meter-sim broker` as processes: what they print, how they end, and what they refuse."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from simulators.cli_mqtt import register
from tests.brokers import Broker, make_certificates, make_password_file, mosquitto

COMMAND = "import typer; from simulators.cli_mqtt import register; app = typer.Typer(); register(app); app()"
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals")
pytestmark = POSIX


@contextmanager
def simulator(*arguments: str, environment: dict[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def line_of(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


@contextmanager
def listening(broker: Broker, topic: str, count: int, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """mosquitto_sub in a session that is there before the block begins, until so many messages have come."""
    client = ["mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-t", topic, *options]
    session = [*client, "-i", "listener", "-c"]
    subprocess.run([*session, "-E"], check=True, timeout=20)
    process = subprocess.Popen([*session, "-C", str(count), "-W", "50"], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ends(process: "subprocess.Popen[str]") -> str:
    process.send_signal(signal.SIGTERM)
    _, problems = process.communicate(timeout=20)
    assert process.returncode == 0, problems
    return problems


def test_json_announces_each_concentrator_when_it_is_connected(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        options = ("--broker", broker.url, "--concentrators", "2", "--meters", "3", "--name", "north", "--json")
        with simulator("mqtt", *options) as process:
            first, second = line_of(process), line_of(process)
            assert first == {
                "url": broker.url,
                "protocol": "mqtt",
                "concentrator": "north-1",
                "contract": "concentrator/hes_v1",
                "meters": ["000000000001", "000000000002", "000000000003"],
            }
            assert second["meters"] == ["000000000004", "000000000005", "000000000006"]
            said = ends(process)
            assert "north-1: connected 1 times, 0 messages unsent" in said


def test_counted_readings_end_by_themselves_and_a_killed_simulator_goes_on_where_it_was(tmp_path: Path) -> None:
    options = ("--numbered", "--rate", "400", "--count", "600", "--store", str(tmp_path / "unsent"), "--json")
    with mosquitto(tmp_path) as broker, listening(broker, "hes/v1/sim/meter/+/data", 600) as heard:
        for turn in range(3):
            with simulator("mqtt", "--broker", broker.url, "--meters", "2", *options) as process:
                line_of(process)
                if turn < 2:
                    broker.wait_for("as sim", since=0)
                    with pytest.raises(subprocess.TimeoutExpired):
                        process.wait(0.4)
                    process.kill()  # and nothing in order
                    continue
                _, problems = process.communicate(timeout=40)
                assert process.returncode == 0, problems
        output, _ = heard.communicate(timeout=50)
    numbers = [json.loads(line)["values"]["1-0:1.8.0"] for line in output.splitlines()]
    # One that was sent again before its acknowledgement was seen may stand in for the last ones of the 600 lines.
    assert len(numbers) == 600
    assert set(numbers) >= set(range(1, 600 - 60))


def test_any_family_and_faults_can_be_asked_for(tmp_path: Path) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text('[[faults]]\nkind = "duplicate"\nname = "twice"\n[[faults]]\nkind = "silence"\n')
    options = ("--contract", "concentrator/tasmota_sml", "--meter-name", "MT{number}", "--name", "tasmota_1", "--json")
    speed = ("--period", "1", "--faults", str(faults), "--fault", "lost-answers=0.5")
    with (
        mosquitto(tmp_path) as broker,
        listening(broker, "tele/#", 4, "-v") as heard,
        simulator("mqtt", "--broker", broker.url, "--meters", "1", *options, *speed) as process,
    ):
        assert line_of(process)["meters"] == ["MT1"]
        output, _ = heard.communicate(timeout=50)
        assert "faults struck: twice" in ends(process)
    lines = output.splitlines()
    assert lines[0] == "tele/tasmota_1/LWT Online"
    topic, _, payload = lines[1].partition(" ")
    assert topic == "tele/tasmota_1/SENSOR"
    assert "Total_in" in json.loads(payload)["MT1"]
    assert lines[2] == lines[1]


def test_tls_user_and_password_from_the_environment(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    users = make_password_file(tmp_path, {"meters": "secret"})
    with mosquitto(tmp_path, tls=certificates, client_certificates=True, password_file=users) as broker:
        options = ("--broker", f"mqtts://meters@{broker.host}:{broker.port}", "--ca", str(certificates.ca), "--json")
        own = ("--certificate", str(certificates.client_certificate), "--key", str(certificates.client_key))
        with simulator("mqtt", *options, *own, environment={"METER_SIM_PASSWORD": "secret"}) as process:
            assert line_of(process)["url"] == broker.url
            ends(process)
        with simulator("mqtt", *options, *own, environment={"METER_SIM_PASSWORD": "guessed"}) as process:
            assert process.stderr is not None
            assert "Not authorized" in process.stderr.readline()


def test_the_small_broker_serves_concentrators_of_mqtt_3_1_1() -> None:
    with simulator("broker", "--json") as running:
        url = line_of(running)["url"]
        with simulator("mqtt", "--broker", url, "--mqtt", "3.1.1", "--json") as process:
            assert line_of(process)["url"] == url
            ends(process)
        ends(running)


def refused(*arguments: str) -> str:
    app = typer.Typer()
    register(app)
    done = CliRunner().invoke(app, ["mqtt", *arguments])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--broker", "http://x"], "expected mqtt://HOST:PORT"),
        (["--broker", "mqtt://user:secret@:1883"], "expected mqtt://HOST:PORT"),
        (["--contract", "concentrator/none"], "no contract"),
        (["--contract", "dlt645/base_2007"], "dlt645/base_2007"),
        (["--meter-contract", "dlt645/none"], "no contract"),
        (["--meters", "0"], "expected 1 to 10000"),
        (["--concentrators", "0"], "expected 1 to 1000"),
        (["--concentrators", "2", "--contract", "concentrator/thingsboard"], "--prefix"),
        (["--first-address", "12345"], "12 digits"),
        (["--period", "0"], "expected 1 to 86400"),
        (["--numbered", "--rate", "100000"], "expected up to 1000 a second"),
        (["--numbered", "--count", "0"], "at least 1"),
        (["--quantity", "energy"], "OBIS"),
        (["--mqtt", "3"], "5 or 3.1.1"),
        (["--name", "a+b"], "without wildcards"),
        (["--meter-name", "MT"], "does not tell meters apart"),
        (["--meter-name", "{nobody}"], "{number} or {address}"),
        (["--key", "x.pem"], "needs --certificate"),
        (["--ca", "x.pem"], "need mqtts://"),
        (["--fault", "speed=1"], "no fault"),
        (["--faults", "/nowhere/faults.toml"], "No such file"),
        (["--timezone", "Mars/Olympus"], "no time zone"),
        (["--setting", "colour=red", "--contract", "concentrator/neuron"], "colour"),
        (["--broker", "mqtts://127.0.0.1", "--ca", "/nowhere/ca.pem"], "certificates"),
    ],
)
def test_bad_arguments_are_said_and_end_with_two(arguments: list[str], said: str) -> None:
    where = [] if "--broker" in arguments else ["--broker", "mqtt://127.0.0.1:1"]
    answer = refused(*where, *arguments)
    assert said in answer
    assert "secret" not in answer
