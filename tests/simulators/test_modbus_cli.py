"""`meter-sim modbus` as a process: what it prints, how it answers and ends, and what it refuses."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from protocols.modbus import pdu as p
from protocols.modbus.adu import RtuFrame, TcpFrame
from simulators.cli import app

COMMAND = [sys.executable, "-c", "from simulators.cli import main; main()", "modbus"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and pseudo-terminals")
RELAY = "modbus/generic_relay_meter"


@contextmanager
def simulator(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def announced(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    found: dict[str, object] = json.loads(process.stdout.readline())
    return found


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["modbus", *arguments])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    return " ".join(done.stderr.replace("│", " ").split())


def ask(url: object, request: bytes, size: int) -> bytes:
    host, _, port = str(url).removeprefix("tcp://").rpartition(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        while len(got) < size:
            got += connection.recv(4096)
    return got


@POSIX
def test_json_announces_lines_of_rtu_meters_and_sigterm_ends_it_well() -> None:
    options = ("--meters", "5", "--lines", "2", "--first-unit", "11", "--json")
    with simulator("--listen", "tcp://127.0.0.1:0", *options) as process:
        first, second = announced(process), announced(process)
        assert list(first) == ["url", "protocol", "meters"]
        assert first["protocol"] == "modbus-rtu"
        assert (first["meters"], second["meters"]) == (["11", "12", "13"], ["11", "12"])
        frame = RtuFrame(12, p.encode_request(p.ReadRegisters(4, 0, 2)))
        reply = RtuFrame.from_bytes(ask(second["url"], frame.to_bytes(), 9))
        assert reply.unit == 12
        assert isinstance(p.decode_reply(reply.pdu), p.Registers)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0


@POSIX
def test_modbus_tcp_plays_the_contract_with_its_ratios() -> None:
    options = ("--framing", "tcp", "--contract", "modbus/chint_dtsu666", "--ct", "40", "--pt", "2.5", "--json")
    with simulator("--listen", "tcp://127.0.0.1:0", *options) as process:
        line = announced(process)
        assert line["protocol"] == "modbus-tcp"
        frame = TcpFrame(7, 1, p.encode_request(p.ReadRegisters(3, 6, 2)))
        reply = TcpFrame.from_bytes(ask(line["url"], frame.to_bytes(), 13))
        assert reply.transaction == 7
        assert p.decode_reply(reply.pdu) == p.Registers(3, bytes.fromhex("0028 0019"))


def heard_on(handle: int, request: bytes, seconds: float, size: int = 8) -> bytes:
    os.write(handle, request)
    deadline, heard = time.monotonic() + seconds, b""
    while len(heard) < size and time.monotonic() < deadline:
        if select.select([handle], [], [], 0.1)[0]:
            heard += os.read(handle, 4096)
    return heard


@POSIX
def test_a_pseudo_terminal_follows_its_file_of_faults(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[faults]]\nkind = "silence"\nmeters = ["9"]\n')
    with simulator("--pty", "--first-unit", "9", "--contract", RELAY, "--faults", str(file), "--json") as process:
        line = announced(process)
        assert str(line["url"]).endswith("?baud=9600&parity=N")
        assert process.stderr is not None
        handle = os.open(str(line["url"]).removeprefix("serial://").partition("?")[0], os.O_RDWR | os.O_NOCTTY)
        request = RtuFrame(9, p.encode_request(p.WriteCoil(0, False))).to_bytes()
        try:
            assert heard_on(handle, request, 0.5) == b""
            file.write_text('[[faults]]\nkind = "wrong-di"\n')
            assert "wrong-di cannot happen here" in process.stderr.readline()
            file.write_text('[[faults]]\nkind = "wrong-address"\naddress = "33"\n')
            assert "1 faults; struck so far: silence 1" in process.stderr.readline()
            assert RtuFrame.from_bytes(heard_on(handle, request, 5)).unit == 33
        finally:
            os.close(handle)
        process.send_signal(signal.SIGINT)
        _, problems = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "faults struck: silence 1, wrong-address 1" in problems


@POSIX
def test_people_get_a_table_and_a_command_to_try() -> None:
    with simulator("--listen", "tcp://127.0.0.1:0", "--meters", "300", "--lines", "2") as process:
        assert process.stdout is not None
        shown = ""
        while "Ctrl-C" not in shown:
            shown += process.stdout.readline()
        assert "try: headend read tcp://127.0.0.1:" in shown
        assert "--protocol modbus-rtu --contract modbus/eastron_sdm630" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--meters", "248"], "247 is the last: take more --lines"),
        (["--first-unit", "0"], "expected 1 to 247"),
        (["--first-unit", "248"], "expected 1 to 247"),
        (["--first-unit", "247", "--meters", "2"], "would end with unit 248"),
        (["--contract", "modbus/none"], "no contract"),
        (["--contract", "dlt645/base_2007"], "expected modbus"),
        (["--ct", "0"], "expected a number above 0"),
        (["--pt", "NaN"], "expected a number above 0"),
        (["--ct", "many"], "expected a number above 0"),
        (["--holes", "some"], "rejected"),
        (["--framing", "ascii"], "rtu"),
        (["--out-of-order"], "need --framing tcp"),
        (["--relay-delay", "-1"], "expected 0 to 3600 seconds"),
        (["--pty"], "exclude each other"),
        (["--baud", "0"], "expected 300 to 115200"),
        (["--faults", "/nowhere/faults.toml"], "No such file"),
    ],
)
def test_bad_arguments_are_said_and_end_with_two(arguments: list[str], said: str) -> None:
    assert said in refused("--listen", "tcp://127.0.0.1:0", *arguments)


def test_modbus_tcp_on_a_pseudo_terminal_is_refused() -> None:
    assert "needs --listen" in refused("--pty", "--framing", "tcp")


def test_a_port_in_use_is_said_for_both_framings() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for framing in ("rtu", "tcp"):
            said = refused("--listen", f"tcp://127.0.0.1:{port}", "--framing", framing)
            assert f"cannot listen on 127.0.0.1:{port}" in said
