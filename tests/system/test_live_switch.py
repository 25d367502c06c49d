"""Supplies are switched for real: `headend run` as a process, meters behind TCP and behind a broker, orders as people type them."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import dlt645
import pytest

from tests.brokers import mosquitto
from tests.system.live_site import LiveSite
from tests.system.processes import BIN, eventually, simulated

VERIFIER = Path(__file__).parents[2] / "tools" / "verify_audit.py"
LISTEN = ("--listen", "tcp://127.0.0.1:0")
DLT645 = "dlt645/generic_single_phase_fee_control_2013"
MODBUS = "modbus/generic_relay_meter"
AT_ONCE = ("--quirk", "reply_delay_s=0.02")
CURRENT = 0x02020100


def a_line(name: str, url: str, protocol: str) -> str:
    return f'[[lines]]\nname = "{name}"\nurl = "{url}"\nprotocol = "{protocol}"\nreply_timeout_s = 1\n'


def a_meter(identity: str, line: str, address: str, contract: str) -> str:
    return f'[[meters]]\nid = "{identity}"\nline = "{line}"\naddress = "{address}"\ncontract = "{contract}"\nplan = "plan"\n'


def has_power(url: str, address: str) -> bool:
    """Whether current flows, as a foreign client reads it from the meter itself, past the running head-end."""
    there = urlsplit(url)
    client = dlt645.MeterClientService.new_tcp_client(there.hostname, there.port, timeout=5.0)
    assert client.set_address(bytes.fromhex(address)[::-1].hex())
    current_a = client.read_02(CURRENT).value
    return bool(current_a > 0)


def check_log(site: LiveSite) -> None:
    """By the head-end's own verifier and by the one that shares nothing with it, which reads a file: of a server, the export."""
    ours = subprocess.run([BIN / "headend", "audit", "verify", site.config], capture_output=True, text=True, timeout=60)
    assert (ours.returncode, "proven" in ours.stdout) == (0, True), ours.stdout + ours.stderr
    log = site.folder / "store.db"
    if not log.exists():
        log = site.folder / f"log-{time.monotonic_ns()}.ndjson"
        subprocess.run([BIN / "headend", "audit", "export", site.config, "--to", log], check=True, timeout=60)
    words = ["-I", str(VERIFIER), str(log), "--key", str(site.folder / "audit-key.pub.pem")]
    alone = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)
    assert alone.returncode == 0, alone.stdout + alone.stderr


@pytest.mark.both_databases
def test_a_supply_is_opened_and_closed_by_people_and_no_kill_forgets_what_is_owed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        meters = ("--contract", DLT645, "--meters", "2", "--seed", "1", *AT_ONCE)
        [line] = stack.enter_context(simulated("dlt645", *LISTEN, *meters))
        [first, second] = line["meters"]
        things = a_line("wire", line["url"], "dlt645")
        things += a_meter("M000001", "wire", first, DLT645) + a_meter("M000002", "wire", second, DLT645)
        site = LiveSite(tmp_path, things)
        proof = tmp_path / "proof.json"
        an_open = ("relay", "open", "M000001", "--reason", "arrears", "--proof", str(proof))

        site.start()
        asked = site.ask_limits()
        approved = site.cli("approvals", "approve", asked["id"], "--digest", asked["digest"], who="Bob")
        assert approved.returncode == 0, approved.stderr
        assert has_power(line["url"], first)
        proof.write_text(json.dumps(site.proof("M000001")))
        opened = site.cli(*an_open, "--json", who="Ann")
        assert opened.returncode == 0, opened.stdout + opened.stderr
        assert json.loads(opened.stdout)["command"]["state"] == "verified"
        assert not has_power(line["url"], first)
        assert has_power(line["url"], second)

        # The other one is opened and paid, and the process dies before anything can be done about it.
        assert site.ended(site.order("open", "M000002", who="Ann"))["state"] == "verified"
        assert site.ask("POST", "/v1/obligations", site.payment("M000002"), who="desk").status_code == 202
        site.kill()

        site.start()
        closed = site.cli("relay", "close", "M000001", "--reason", "paid at the counter", "--json", who="Carl")
        assert closed.returncode == 0, closed.stdout + closed.stderr
        assert json.loads(closed.stdout)["command"]["state"] == "verified"
        eventually(lambda: not site.client.get("/v1/obligations").json()["obligations"], 120)
        assert has_power(line["url"], first)
        assert has_power(line["url"], second)
        site.stop()
        check_log(site)


def faults(folder: Path, **kinds: str) -> str:
    """kinds: of faults, and the address or unit of the meter that has it. Gives the file."""
    more = {"silent_after_order": "for_s = 300.0"}
    path = folder / f"{'-'.join(kinds.values())}.toml"
    parts = (
        f'[[faults]]\nkind = "{kind.replace("_", "-")}"\nmeters = ["{meter}"]\n{more.get(kind, "")}\n'
        for kind, meter in kinds.items()
    )
    path.write_text("".join(parts), encoding="utf-8")
    return str(path)


def test_behind_tcp_and_a_broker_each_order_ends_in_its_own_state(tmp_path: Path) -> None:
    """Meters that obey, meters whose contact is stuck, and one that falls silent with the order: all at the same time."""
    good, stuck = "000000000300", "000000000301"
    with ExitStack() as stack:
        start = stack.enter_context
        broker = start(mosquitto(tmp_path))
        wire_faults, bus_faults = (
            faults(tmp_path, stuck_relay="000000000001"),
            faults(tmp_path, stuck_relay="2", silent_after_order="3"),
        )
        [wire] = start(simulated("dlt645", *LISTEN, "--contract", DLT645, *AT_ONCE, "--faults", wire_faults))
        bus_is = ("--framing", "tcp", "--contract", MODBUS, "--meters", "3", "--seed", "2", "--faults", bus_faults)
        [bus] = start(simulated("modbus", *LISTEN, *bus_is))
        behind = ("--name", "tx-9", "--meters", "2", "--first-address", good, "--meter-contract", DLT645, "--seed", "3")
        start(simulated("mqtt", "--broker", broker.url, *behind, "--faults", faults(tmp_path, stuck_relay=stuck)))
        things = f'[[brokers]]\nname = "city"\nurl = "{broker.url}"\n'
        things += '[[concentrators]]\nname = "tx-9"\nbroker = "city"\n'
        things += a_line("wire", wire["url"], "dlt645") + a_line("bus", bus["url"], "modbus-tcp")
        things += a_meter("D1", "wire", "000000000001", DLT645)
        things += "".join(a_meter(f"B{unit}", "bus", str(unit), MODBUS) for unit in (1, 2, 3))
        things += a_meter("Q1", "tx-9", good, DLT645) + a_meter("Q2", "tx-9", stuck, DLT645)
        site = LiveSite(tmp_path, things)
        site.start()
        asked = site.ask_limits()
        approved = site.ask("POST", f"/v1/approvals/{asked['id']}/approve", {"digest": asked["digest"]}, who="Bob")
        assert approved.status_code == 200, approved.text

        orders = {meter: site.order("open", meter, who="Ann") for meter in ("D1", "B1", "B2", "B3", "Q1", "Q2")}
        found = {meter: site.ended(orders[meter]) for meter in ("B1", "Q1")}
        closes = {meter: site.order("close", meter, who="Carl") for meter in found}  # while others are still under way
        found |= {meter: site.ended(identity) for meter, identity in orders.items() if meter not in found}
        assert {meter: command["state"] for meter, command in found.items()} == {
            "D1": "contradicted",
            "B1": "verified",
            "B2": "contradicted",
            "B3": "unconfirmed",
            "Q1": "verified",
            "Q2": "contradicted",
        }
        said = {meter: command["detail"] for meter, command in found.items()}
        assert "relay does not follow" in said["D1"]["because"]
        assert "relay does not follow" in said["Q2"]["because"]
        assert (said["B1"]["contact"], said["B2"]["contact"]) == ("open", "closed")
        assert said["B3"]["reply"] == "none: silent"
        assert said["Q1"]["reply"] == "acknowledged: done"
        assert {command["register"]["obis"] for command in found.values()} == {"1-0:1.8.0"}
        assert {meter: site.ended(identity)["state"] for meter, identity in closes.items()} == {
            "B1": "verified",
            "Q1": "verified",
        }
        site.stop()
        check_log(site)
