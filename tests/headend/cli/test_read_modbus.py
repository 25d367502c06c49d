"""`headend read` over Modbus, and for a DTU that dials in: good and bad input, and what the exit code says."""

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from protocols.modbus.adu import RtuFrame, TcpFrame
from tests.headend.cli.test_read import read
from tests.system.processes import BIN, free_port, simulated

SDM630 = "modbus/eastron_sdm630"
RTU = ("--protocol", "modbus-rtu")
TCP = ("--protocol", "modbus-tcp")
REGISTER = "reg:4:0x0048:float32"
# The fact sheet's request for two input registers from 0048H, and a reply with 230.2, 43 66 33 33.
REQUEST = bytes.fromhex("01 04 00 48 00 02 F1 DD")
REPLY = RtuFrame(1, bytes.fromhex("04 04 43 66 33 33")).to_bytes()


@contextmanager
def answering(*replies: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A far end that gives the n-th reply to the n-th request; None: silence. What it was asked is in the list."""
    asked: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            for reply in replies:
                asked.append(connection.recv(300))
                if reply is not None:
                    connection.sendall(reply)
            while connection.recv(300):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}", asked
    finally:
        thread.join(timeout=10)
        server.close()


@pytest.fixture(scope="module")
def rtu() -> Iterator[str]:
    arguments = ("--listen", "tcp://127.0.0.1:0", "--contract", SDM630, "--meters", "2", "--holes", "rejected")
    with simulated("modbus", *arguments) as [line]:
        yield line["url"]


@pytest.fixture(scope="module")
def tcp() -> Iterator[str]:
    arguments = ("--listen", "tcp://127.0.0.1:0", "--framing", "tcp", "--contract", SDM630, "--answer-absent")
    with simulated("modbus", *arguments) as [line]:
        yield line["url"]


def test_quantities_by_code_with_a_contract_and_registers_without_one(rtu: str, tcp: str) -> None:
    for url, protocol in ((rtu, RTU), (tcp, TCP)):
        done = read(url, "1", "1-0:1.8.0", REGISTER, *protocol, "--contract", SDM630, "--json")
        assert done.returncode == 0, done.stderr
        by_code, by_register = json.loads(done.stdout)
        assert (by_code["obis"], by_code["unit"], by_code["quality"]) == ("1-0:1.8.0", "kWh", ["measured"])
        assert by_register["unit"] == "kWh"  # the contract has a point there
        assert abs(float(by_register["value"]) - float(by_code["value"])) < 1
        bare = read(url, "1", REGISTER, *protocol, "--json")
        assert bare.returncode == 0, bare.stderr
        [shown] = json.loads(bare.stdout)
        assert (shown["obis"], shown["unit"], shown["meter"]) == (None, "", "1")
    table = read(rtu, "2", "1-0:32.7.0", *RTU, "--contract", SDM630)
    assert (table.returncode, "voltage_l1" in table.stdout) == (0, True)


def test_the_fact_sheet_s_frames_go_and_come() -> None:
    with answering(REPLY) as (url, asked):
        done = read(url, "1", REGISTER, *RTU, "--json")
    [shown] = json.loads(done.stdout)
    assert (shown["value"], shown["wire_sent"]) == ("230.2", "01 04 00 48 00 02 F1 DD")
    assert (asked, shown["wire_received"]) == ([REQUEST], REPLY.hex(" ").upper())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("1",), "give --contract modbus/… (`headend contract list` names them), or the register itself"),
        (("1", "1-0:32.7.0"), "give --contract modbus/…"),
        (("1", "di:00010000", "--contract", SDM630), "this meter speaks Modbus"),
        (("1", "--contract", "dlt645/base_2007"), "speaks dlt645-2007; expected one of modbus/…"),
        (("1", "--contract", "modbus/nobody"), "no contract 'modbus/nobody'"),
        (("1", "--contract", "concentrator/hes_v1"), "describes a concentrator"),
        (("1", "1-0:99.99.99", "--contract", SDM630), "1-0:99.99.99"),
        (("0", REGISTER), "'0' is not a meter address: expected a Modbus unit, 1 to 247"),
        (("300", REGISTER), "expected a Modbus unit, 1 to 247"),
        (("000000000001", REGISTER), "expected a Modbus unit, 1 to 247"),
        (("one", REGISTER), "expected a Modbus unit, 1 to 247"),
        (("1", "reg:4:0x0048"), "reg:FUNCTION:ADDRESS:TYPE"),
        (("1", "reg:4:0x0048:float23"), "float23"),
        (("1", "reg:6:0x0048:float32"), "reg:6:0x0048:float32"),
        (("1", "reg:4:0xFFFF:float32"), "reg:4:0xFFFF:float32"),
        (("1", "reg:4:0x0048:float32:middle"), "middle"),
        (("1", "reg:4:0x0048:float32", "--timeout", "0"), "expected seconds above 0"),
        (("1", "reg:4:0x0048:float32", "--wait", "nan"), "expected seconds above 0"),
    ],
)
def test_what_cannot_be_asked_ends_with_two_before_a_byte_leaves(arguments: tuple[str, ...], says: str) -> None:
    done = read("tcp://127.0.0.1:9", *arguments, *RTU, "--json")
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_protocol_that_is_none_and_one_that_the_port_cannot_carry() -> None:
    done = read("tcp://127.0.0.1:9", "1", REGISTER, "--protocol", "modbus")
    assert (done.returncode, "modbus-rtu, modbus-tcp" in " ".join(done.stderr.split())) == (2, True)
    done = read("serial:///dev/ttyUSB77", "1", REGISTER, *TCP)
    assert (done.returncode, "no form for a serial port" in " ".join(done.stderr.split())) == (2, True)


def test_a_meter_that_refuses_ends_with_five_and_its_exception(rtu: str, tcp: str) -> None:
    hole = "reg:4:0x2000:float32"
    done = read(rtu, "1", hole, *RTU, "--json")
    assert done.returncode == 5, done.stderr
    [shown] = json.loads(done.stdout)
    assert (shown["kind"], shown["value"]) == ("refused", None)
    assert shown["wire_received"] == "01 84 02 C2 C1"
    assert "02" in shown["problem"]
    people = read(rtu, "1", hole, *RTU)
    assert (people.returncode, "refused:" in people.stderr, people.stdout) == (5, True, "")
    # One that is refused does not cost the one that is not.
    both = read(rtu, "1", hole, REGISTER, *RTU, "--json")
    assert both.returncode == 5
    assert [one["value"] is None for one in json.loads(both.stdout)] == [True, False]
    # A concentrator that answers for a meter that it cannot reach makes that meter silent.
    absent = read(tcp, "9", REGISTER, *TCP, "--json")
    assert absent.returncode == 3, absent.stderr
    assert json.loads(absent.stdout)[0]["kind"] == "silent"


def test_a_meter_that_is_not_there_ends_with_three_at_the_time_out(rtu: str) -> None:
    began = time.monotonic()
    done = read(rtu, "9", REGISTER, *RTU, "--timeout", "0.3", "--retries", "0", "--json")
    assert time.monotonic() - began < 10
    assert done.returncode == 3, done.stderr
    [shown] = json.loads(done.stdout)
    assert (shown["kind"], shown["wire_received"]) == ("silent", "")
    assert shown["wire_sent"].startswith("09 04 00 48 00 02")


DAMAGED = [
    (RTU, REPLY[:-1] + b"\x00"),
    (RTU, REPLY[:5]),
    (RTU, bytes.fromhex("01 04 06 43 66 33 33 00 00")),
    (TCP, b"\x00\x01\x00\x00\x00"),
    (TCP, bytes.fromhex("00 01 00 01 00 07 01 04 04 43 66 33 33")),
]


@pytest.mark.parametrize(("protocol", "reply"), DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_reply_ends_with_four_and_is_shown(protocol: tuple[str, str], reply: bytes) -> None:
    with answering(reply) as (url, _):
        done = read(url, "1", REGISTER, *protocol, "--timeout", "0.5", "--retries", "0", "--json")
    assert done.returncode == 4, done.stdout + done.stderr
    [shown] = json.loads(done.stdout)
    assert shown["kind"] in ("corrupt", "line-down")  # where no next frame can be found, the connection is given up
    received = bytes.fromhex(shown["wire_received"])
    assert received
    assert reply.startswith(received)  # all of it, or as far as it was read before it was given up


def test_an_answer_to_another_transaction_is_no_answer() -> None:
    foreign = TcpFrame(0x7777, 1, bytes.fromhex("04 04 43 66 33 33")).to_bytes()
    with answering(foreign) as (url, _):
        done = read(url, "1", REGISTER, *TCP, "--timeout", "0.5", "--retries", "0", "--json")
    [shown] = json.loads(done.stdout)
    assert (done.returncode in (3, 4), shown["value"]) == (True, None)
    assert shown["kind"] in ("unmatched", "silent")


def test_a_damaged_reply_is_asked_for_again() -> None:
    with answering(REPLY[:-1] + b"\x00", REPLY) as (url, asked):
        done = read(url, "1", REGISTER, *RTU, "--timeout", "0.5", "--retries", "1", "--json")
    assert (done.returncode, json.loads(done.stdout)[0]["value"]) == (0, "230.2")
    assert asked == [REQUEST] * 2


def test_a_value_that_is_not_measured_is_none() -> None:
    nan = RtuFrame(1, bytes.fromhex("04 04 7F C0 00 00")).to_bytes()
    with answering(nan) as (url, _):
        done = read(url, "1", REGISTER, *RTU, "--json")
    [shown] = json.loads(done.stdout)
    assert (done.returncode, shown["value"], shown["quality"]) == (0, None, ["missing"])


# ------------------------------------------------------------------------------------------------ DTUs that dial in


def test_a_dtu_that_dials_in_is_read_beside_the_cabinet() -> None:
    port = free_port()
    with simulated("dtu", "--connect", f"tcp://127.0.0.1:{port}", "--first-id", "860000000000001") as [dtu]:
        done = read(f"listen://127.0.0.1:{port}?dtu={dtu['dtu']}", dtu["meters"][0], "--json", "--wait", "40")
    assert done.returncode == 0, done.stderr
    [shown] = json.loads(done.stdout)
    assert (shown["meter"], shown["unit"], shown["quality"]) == (dtu["meters"][0], "kWh", ["measured"])
    assert "waiting for DTU 860000000000001 to dial in on 127.0.0.1" in " ".join(done.stderr.split())


def test_nobody_who_dials_in_ends_with_two_within_the_time() -> None:
    began = time.monotonic()
    done = read(f"listen://127.0.0.1:{free_port()}", "000000000001", "--wait", "0.5", "--json")
    assert time.monotonic() - began < 15
    assert (done.returncode, json.loads(done.stdout)) == (2, [])
    assert "no DTU has dialled in within 0.5 s" in " ".join(done.stderr.split())


def test_a_stranger_who_dials_in_is_named_and_asked_nothing() -> None:
    port = free_port()
    command = [str(BIN / "headend"), "read", f"listen://127.0.0.1:{port}?dtu=860000000000009", "1", REGISTER, *RTU]
    waiting = subprocess.Popen([*command, "--wait", "4"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with connected(port) as stranger:
            stranger.sendall(b"860000000000002")
            _, told = waiting.communicate(timeout=30)
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(100) == b""
    finally:
        waiting.kill()
    assert waiting.returncode == 2
    assert "callers that nobody waits for: 860000000000002" in " ".join(told.split())


def test_a_port_in_use_and_tls_without_a_certificate_are_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = read(f"listen://127.0.0.1:{taken.getsockname()[1]}", "000000000001", "--wait", "5")
    assert (done.returncode, "cannot listen on 127.0.0.1" in " ".join(done.stderr.split())) == (2, True)
    done = read(f"listens://127.0.0.1:{free_port()}", "000000000001", "--wait", "5")
    assert (done.returncode, "needs a certificate" in " ".join(done.stderr.split())) == (2, True)


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """As soon as somebody listens there."""
    until = time.monotonic() + 20
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            break
        except OSError:
            assert time.monotonic() < until, "nobody ever listened"
            time.sleep(0.02)
    with connection:
        yield connection
