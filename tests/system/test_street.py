"""One service for all ways to a meter: Modbus on three transports, MQTT concentrators of two families, DTUs that dial in."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.brokers import Broker, mosquitto
from tests.system.processes import BIN, HeadEndProcess, eventually, free_port, make_tokens, pull, simulated

QUANTITIES = ["1-0:1.8.0", "1-0:32.7.0"]
SDM630 = "modbus/eastron_sdm630"
DTSU666 = "modbus/chint_dtsu666"
KNOWN_DTU, EXCHANGED_DTU, NEW_DTU = "860000000000001", "000000000000000", "860000000000002"
RETAINED = "hes/v1/tx-9/cmd/req"
# Meters by asset number: what the feed says of the contract row that gave each read.
SOURCES = {
    "T000001": f"{SDM630}:",
    "T000002": f"{SDM630}:",
    "R000001": f"{DTSU666}:",
    "P000001": f"{SDM630}:",
    "D000301": "dlt645/base_2007:",
    "Q000201": "concentrator/hes_v1:",
    "G000401": "concentrator/state_grid:",
}


class Street:
    """The running service, its parts, and the commands that an operator would type beside it."""

    def __init__(self, config: Path, head_end: HeadEndProcess, broker: Broker, admin: str, reader: str) -> None:
        self.config = config
        self.head_end = head_end
        self.broker = broker
        self.admin = admin
        self.reader = reader
        self.client: httpx.Client = head_end.wait_ready()

    def stop(self) -> None:
        code, log = self.head_end.stop(), self.head_end.log.read_text()
        assert code == 0, log[-3000:]
        assert "Traceback" not in log

    def restart(self) -> None:
        self.stop()
        self.head_end = HeadEndProcess(self.config, self.reader)
        self.client = self.head_end.wait_ready()

    def get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()

    def read_now(self, meter: str, *quantities: str) -> list[dict[str, Any]]:
        answer = self.client.post(f"/v1/meters/{meter}/reads", json={"quantities": quantities})
        assert answer.status_code == 200, answer.text
        reads: list[dict[str, Any]] = answer.json()["reads"]
        return reads

    def events(self, kind: str = "headend.read.v1") -> list[dict[str, Any]]:
        return [event for event in pull(self.client, 0) if event["type"] == kind]

    def dtu(self, *arguments: str, token: str | None = None) -> "subprocess.CompletedProcess[str]":
        token = self.admin if token is None else token
        return subprocess.run(
            [BIN / "headend", "dtu", *arguments, "--url", str(self.client.base_url), "--token", token],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    folder = tmp_path_factory.mktemp("street")
    port = free_port()
    with ExitStack() as stack:
        start = stack.enter_context
        listen = ("--listen", "tcp://127.0.0.1:0")
        [tcp] = start(
            simulated("modbus", *listen, "--framing", "tcp", "--contract", SDM630, "--meters", "2", "--seed", "1")
        )
        [rtu] = start(simulated("modbus", *listen, "--contract", DTSU666, "--ct", "40", "--seed", "2"))
        [pty] = start(simulated("modbus", "--pty", "--contract", SDM630, "--seed", "3"))
        broker = start(mosquitto(folder))
        at_broker = ("--broker", broker.url, "--period", "2", "--meters", "2")
        start(simulated("mqtt", *at_broker, "--name", "tx-9", "--first-address", "000000000201", "--seed", "4"))
        start(
            simulated(
                *("mqtt", *at_broker, "--contract", "concentrator/state_grid", "--name", "edge-1"),
                *("--first-address", "000000000401", "--prefix", "site-4/", "--seed", "5"),
            )
        )
        config = folder / "headend.toml"
        config.write_text(
            f"""
[headend]
name = "street"
store = "sqlite:///{folder}/store.db"
[api]
listen = "127.0.0.1:0"
[[plans]]
name = "plan"
period = "1h"
quantities = {json.dumps(QUANTITIES)}
[[brokers]]
name = "city"
url = "{broker.url}"
[[concentrators]]
name = "tx-9"
broker = "city"
[[concentrators]]
name = "edge-1"
broker = "city"
contract = "concentrator/state_grid"
prefix = "site-4/"
[[listeners]]
url = "listen://127.0.0.1:{port}"
heartbeat_timeout_s = 120
allow = ["127.0.0.0/8"]
[[ratios]]
meter = "R000001"
since = 2026-01-01
ct = "200/5"
"""
            + a_line("tcp", tcp["url"], "modbus-tcp", "in_flight = 4\n")
            + a_line("rtu", rtu["url"], "modbus-rtu")
            + a_line("pty", pty["url"], "modbus-rtu")
            + a_line("dtu-1", f"listen://127.0.0.1:{port}?dtu={KNOWN_DTU}", "dlt645")
            + a_line("dtu-2", f"listen://127.0.0.1:{port}?dtu={EXCHANGED_DTU}", "dlt645")
            + a_meter("T000001", "tcp", "1", SDM630)
            + a_meter("T000002", "tcp", "2", SDM630)
            + a_meter("R000001", "rtu", "1", DTSU666)
            + a_meter("P000001", "pty", "1", SDM630)
            + a_meter("D000301", "dtu-1", "000000000301")
            + a_meter("D000302", "dtu-2", "000000000302")
            + a_meter("Q000201", "tx-9", "000000000201")
            + a_meter("G000401", "edge-1", "000000000401"),
            encoding="utf-8",
        )
        admin, reader = make_tokens(config, {"admin": (("admin",), ""), "reader": (("read",), "")}).values()
        head_end = HeadEndProcess(config, reader)
        running = Street(config, head_end, broker, admin, reader)
        try:
            start(
                simulated(
                    *("dtu", "--connect", f"tcp://127.0.0.1:{port}", "--count", "2", "--first-id", KNOWN_DTU),
                    *("--first-address", "000000000301", "--heartbeat", "ping", "--seed", "6"),
                    count=2,
                )
            )
            yield running
        finally:
            running.stop()


def a_line(name: str, url: str, protocol: str, more: str = "") -> str:
    return f'[[lines]]\nname = "{name}"\nurl = "{url}"\nprotocol = "{protocol}"\n{more}'


def a_meter(identity: str, line: str, address: str, contract: str = "dlt645/base_2007") -> str:
    return f'[[meters]]\nid = "{identity}"\nline = "{line}"\naddress = "{address}"\ncontract = "{contract}"\nplan = "plan"\n'


def test_reads_of_every_kind_of_meter_arrive_with_their_source(street: Street) -> None:
    wanted = {(meter, obis) for meter in SOURCES for obis in QUANTITIES}
    eventually(lambda: wanted <= {(one["subject"], one["data"]["obis"]) for one in street.events()})
    energies = {}
    for event in street.events():
        told = event["data"]
        if (told["meter"], told["obis"]) not in wanted:
            continue
        # Late is what a polled one becomes when the test starts in the later part of the hour.
        assert [word for word in told["quality"] if word != "late"] == ["measured"], told
        assert told["source"].startswith(SOURCES[told["meter"]]), told
        assert told["unit"] == ("kWh" if told["obis"] == QUANTITIES[0] else "V")
        if told["obis"] == QUANTITIES[0]:
            energies[told["meter"]] = Decimal(told["value"])
        else:
            assert 190 < Decimal(told["value"]) < 260
    assert len(set(energies.values())) == len(SOURCES)  # every meter has its own, and none has got another's
    assert street.client.get("/healthz").status_code == 200


def test_a_meter_is_read_now_whatever_lies_between(street: Street) -> None:
    tcp = street.read_now("T000001", "1-0:14.7.0", "reg:4:0x0046:float32")
    assert [one["name"] for one in tcp] == ["frequency", "frequency"]
    assert tcp[0]["wire_sent"].endswith("00 06 01 04 00 46 00 02")
    [rtu] = street.read_now("R000001", "1-0:1.8.0")
    assert rtu["wire_sent"] == "01 03 10 1E 00 02 A0 CD"
    assert [one["quantity"] for one in street.read_now("P000001")] == QUANTITIES
    forwarded = street.read_now("Q000201", "di:02010100", "1-0:32.7.0")
    assert [one["obis"] for one in forwarded] == ["1-0:32.7.0"] * 2
    assert forwarded[0]["wire_received"].startswith("68 01 02 00 00 00 00 68 91")
    eventually(lambda: {one["name"]: one["state"] for one in street.get("/v1/lines")["lines"]}["dtu-1"] == "up")
    [dialled] = street.read_now("D000301", "1-0:32.7.0")
    told, unknown = street.read_now("G000401", "1-0:32.7.0*255", "1-0:99.99.0")
    assert (told["quantity"], told["obis"], told["name"]) == ("1-0:32.7.0*255", "1-0:32.7.0", "PhV_phsA")
    assert (told["wire_sent"], told["read_at"] is None) == ("", False)
    assert (unknown["value"], unknown["quality"], unknown["kind"]) == (None, ["missing"], "refused")
    assert [one["quantity"] for one in street.read_now("G000401")] == QUANTITIES
    for one in (*tcp, rtu, *forwarded, dialled, told):
        assert (one["quality"], "problem" in one) == (["measured"], False), one
    [silent] = street.read_now("D000302", "1-0:32.7.0")
    assert (silent["kind"], "waiting for DTU" in silent["problem"]) == ("line-down", True)


@pytest.mark.parametrize(
    ("meter", "quantity", "says"),
    [
        ("T000001", "di:02010100", "names a DL/T 645 item; this meter speaks Modbus"),
        ("T000001", "1-0:99.99.0", "1-0:99.99.0"),
        ("T000001", "reg:9:0:float32", "function"),
        ("Q000201", "reg:4:0x0046:float32", "names a Modbus register; this meter speaks DL/T 645"),
        ("G000401", "di:02010100", "by OBIS code"),
        ("G000401", "volts", "'volts' is not an OBIS code"),
    ],
)
def test_what_a_meter_cannot_be_asked_is_refused_before_a_byte_leaves(
    street: Street, meter: str, quantity: str, says: str
) -> None:
    answer = street.client.post(f"/v1/meters/{meter}/reads", json={"quantities": [quantity]})
    assert answer.status_code == 400
    assert says in answer.json()["detail"], answer.json()


def test_a_read_behind_transformers_has_both_sides(street: Street) -> None:
    eventually(
        lambda: {one["data"]["obis"] for one in street.events() if one["subject"] == "R000001"} >= set(QUANTITIES)
    )
    of_both = {one["data"]["obis"]: one["data"] for one in street.events() if one["subject"] == "R000001"}
    energy, voltage = (of_both[obis] for obis in QUANTITIES)
    assert (energy["side"], energy["ratio"]) == ("secondary", "40")
    assert Decimal(energy["primary"]) == 40 * Decimal(energy["value"])
    assert (voltage["ratio"], voltage["primary"]) == ("1", voltage["value"])
    for event in street.events():
        assert ("ratio" in event["data"]) == (event["subject"] == "R000001")
    stored = street.get("/v1/meters/R000001/reads?obis=1-0:1.8.0")["reads"]
    assert [(one["ratio"], one["primary"]) for one in stored] == [("40", energy["primary"])]


def test_the_interface_tells_of_lines_concentrators_and_metrics(street: Street) -> None:
    eventually(lambda: len(street.get("/v1/concentrators/unknown")["unknown"]) == 2)
    found = street.get("/v1/concentrators")
    assert [(one["name"], one["state"]) for one in found["brokers"]] == [("city", "up")]
    one, other = found["concentrators"]
    assert (one["name"], one["contract"], one["state"], one["reason"]) == (
        "tx-9",
        "concentrator/hes_v1",
        "online",
        "said",
    )
    assert (other["name"], other["state"], other["reason"]) == ("edge-1", "online", "heard")
    assert (one["meters"], one["listed"], one["problem"]) == (1, 2, "")
    strangers = {(one["concentrator"], one["meter"]) for one in street.get("/v1/concentrators/unknown")["unknown"]}
    assert strangers == {("tx-9", "000000000202"), ("edge-1", "000000000402")}
    lines = {one["name"]: one for one in street.get("/v1/lines")["lines"]}
    assert {name: one["protocol"] for name, one in lines.items()} == {
        "tcp": "modbus-tcp",
        "rtu": "modbus-rtu",
        "pty": "modbus-rtu",
        "dtu-1": "dlt645",
        "dtu-2": "dlt645",
    }
    for name in ("tcp", "rtu", "pty"):
        counters = lines[name]["counters"]
        assert counters["requests"] == counters["replied"] > 0
        assert (counters["unmatched_frames"], counters["noise_bytes"]) == (0, 0)
    metrics = street.client.get("/metrics").text
    for line in (
        'headend_line_up{line="pty"} 1.0',
        'headend_broker_up{broker="city"} 1.0',
        'headend_concentrators{broker="city",state="online"} 2.0',
        'headend_broker_refused_total{broker="city",reason="unknown-meter"}',
        'headend_dtus_connected{listen="127.0.0.1:',
    ):
        assert line in metrics, line
    assert "000000000" not in metrics  # no meter is ever a label


def test_a_dtu_that_nobody_knows_is_listed_adopted_and_known_after_a_restart(street: Street) -> None:
    eventually(lambda: [caller["dtu"] for caller in street.get("/v1/callers")["unknown"]] == [NEW_DTU])
    eventually(lambda: street.get("/v1/callers")["listeners"][0]["connected"] == 1)
    shown = street.dtu("list")
    assert (shown.returncode, NEW_DTU in shown.stdout) == (0, True), shown
    assert "1 DTUs on their lines, 1 unknown" in shown.stdout
    as_json = json.loads(street.dtu("list", "--json", token=street.reader).stdout)
    assert as_json == street.get("/v1/callers")
    for arguments, code, says in (
        (("adopt", NEW_DTU, "nowhere"), 2, "no line 'nowhere'"),
        (("adopt", NEW_DTU, "tcp"), 2, "no line 'tcp' is dialled in to"),
        (("adopt", KNOWN_DTU, "dtu-2"), 2, "is that of line 'dtu-1'"),
        (("adopt", "", "dtu-2"), 2, "must be the id of a DTU"),
        (("adopt", NEW_DTU), 2, "LINE"),
    ):
        refused = street.dtu(*arguments)
        assert refused.returncode == code
        assert says in " ".join(refused.stderr.split()), refused.stderr
    refused = street.dtu("adopt", NEW_DTU, "dtu-2", token=street.reader)
    assert (refused.returncode, "needs the role admin" in refused.stderr) == (2, True)
    assert [caller["dtu"] for caller in street.get("/v1/callers")["unknown"]] == [NEW_DTU]

    adopted = street.dtu("adopt", NEW_DTU, "dtu-2", "--json")
    assert (adopted.returncode, json.loads(adopted.stdout)["connected"]) == (0, True), adopted.stderr
    eventually(lambda: QUANTITIES[0] in {one["data"]["obis"] for one in street.events() if one["subject"] == "D000302"})
    assert street.get("/v1/callers")["unknown"] == []

    street.restart()
    eventually(lambda: {one["name"]: one["state"] for one in street.get("/v1/lines")["lines"]}["dtu-2"] == "up")
    [read] = street.read_now("D000302", "1-0:32.7.0")
    assert (read["quality"], "problem" in read) == (["measured"], False), read
    assert street.get("/v1/callers")["unknown"] == []
    ids = [event["id"] for event in pull(street.client, 0)]
    assert len(set(ids)) == len(ids)


def test_a_retained_command_moves_nothing_and_is_reported(street: Street) -> None:
    """Somebody has left an order to open the supply on the concentrator's command topic."""
    eventually(lambda: "problem" not in street.read_now("Q000201", "di:04000503")[0])  # connected again after a restart
    [before] = street.read_now("Q000201", "di:04000503")
    order = {"id": "evil", "meter": "000000000201", "op": "open", "params": {}, "ttl_ms": 3_600_000}
    message = json.dumps(order | {"ts": int(time.time() * 1000)})
    at = ("-h", street.broker.host, "-p", str(street.broker.port), "-q", "1", "-r", "-t", RETAINED)
    subprocess.run(["mosquitto_pub", *at, "-m", message], check=True, timeout=30)

    def reported() -> list[dict[str, Any]]:
        return [one for one in street.events("headend.meter-status.v1") if one["data"]["kind"] == "retained-command"]

    eventually(reported)
    told = reported()[-1]
    assert (told["subject"], told["data"]["topic"], told["data"]["size"]) == ("tx-9", RETAINED, len(message))
    eventually(
        lambda: [one for one in street.events("headend.meter-event.v1") if one["data"]["name"] == "retained-command"]
    )
    [after] = street.read_now("Q000201", "di:04000503")
    assert after["value"] == before["value"] is not None, (before, after)
    names = {one["data"]["name"] for one in street.events("headend.meter-event.v1")}
    assert "relay-opened" not in names
    assert street.get("/v1/concentrators/tx-9")["counters"]["retained_commands"] >= 1
