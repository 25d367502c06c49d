"""`meter-sim` as a process: what it prints, how it ends, and what it refuses."""

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

from protocols.dlt645 import messages as m
from protocols.dlt645.framer import Framer, Heard
from protocols.dlt645.items import Di
from simulators.cli import app

COMMAND = [sys.executable, "-c", "from simulators.cli import main; main()", "dlt645"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and pseudo-terminals")


@contextmanager
def simulator(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    found: dict[str, object] = json.loads(process.stdout.readline())
    return found


def refused(*arguments: str) -> str:
    """As a process, as a script would see it."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done
    assert done.stdout == ""
    return " ".join(done.stderr.replace("│", " ").split())


def refused_at_once(*arguments: str) -> str:
    """In this process, half a second faster."""
    done = CliRunner().invoke(app, ["dlt645", *arguments])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    return " ".join(done.stderr.replace("│", " ").split())


def ask(request: bytes, port: int, seconds: float = 5.0) -> list[Heard]:
    framer = Framer()
    found: list[Heard] = []
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(request)
        while not found:
            found = [one for one in framer.receive(connection.recv(4096), 0.0) if isinstance(one, Heard)]
    return found


@POSIX
def test_json_announces_each_line_and_sigterm_ends_it_well() -> None:
    options = ("--meters", "5", "--lines", "2", "--seed", "3", "--json")
    with simulator("--listen", "tcp://127.0.0.1:0", *options) as process:
        first, second = line_of(process), line_of(process)
        assert list(first) == ["url", "protocol", "meters"]
        assert first["protocol"] == "dlt645"
        assert first["meters"] == ["000000000001", "000000000002", "000000000003"]
        assert second["meters"] == ["000000000004", "000000000005"]
        assert first["url"] != second["url"]
        port = int(str(second["url"]).removeprefix("tcp://127.0.0.1:"))
        request = m.encode(m.ReadRequest(di=Di("00010000")), "000000000005").to_bytes(4)
        (heard,) = ask(request, port)
        assert isinstance(m.decode(heard.frame), m.ReadReply)
        process.send_signal(signal.SIGTERM)
        rest, problems = process.communicate(timeout=20)
        assert process.returncode == 0
        assert (rest, problems) == ("", "")


@POSIX
def test_a_pseudo_terminal_answers_and_ctrl_c_ends_it_well() -> None:
    options = ("--baud", "9600", "--first-address", "000000000777", "--dialect", "1997", "--json")
    with simulator("--pty", *options) as process:
        announced = line_of(process)
        url = str(announced["url"])
        assert url.startswith("serial:///dev/")
        assert url.endswith("?baud=9600")
        handle = os.open(url.removeprefix("serial://").partition("?")[0], os.O_RDWR | os.O_NOCTTY)
        try:
            os.write(handle, m.encode(m.ReadRequest(di=Di("9010")), "000000000777").to_bytes(4))
            framer, deadline = Framer(), time.monotonic() + 5
            found: list[object] = []
            while not found and time.monotonic() < deadline:
                if select.select([handle], [], [], 0.2)[0]:
                    found += framer.receive(os.read(handle, 4096), 0.0)
            assert [type(one) for one in found] == [Heard]
        finally:
            os.close(handle)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0


@POSIX
def test_people_get_a_table_with_the_address_of_each_line() -> None:
    with simulator("--listen", "tcp://127.0.0.1:0", "--meters", "300") as process:
        assert process.stdout is not None
        shown = ""
        while "Ctrl-C" not in shown:
            shown += process.stdout.readline()
        assert "tcp://127.0.0.1:" in shown
        assert "000000000300" in shown
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0


def heard_on(handle: int, request: bytes, seconds: float) -> list[Heard]:
    os.write(handle, request)
    framer, deadline = Framer(), time.monotonic() + seconds
    found: list[Heard] = []
    while not found and time.monotonic() < deadline:
        if select.select([handle], [], [], 0.1)[0]:
            found += [one for one in framer.receive(os.read(handle, 4096), 0.0) if isinstance(one, Heard)]
    return found


@POSIX
def test_faults_of_a_running_process_follow_their_file(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[faults]]\nkind = "silence"\n')
    request = m.encode(m.ReadRequest(di=Di("00010000")), "000000000001").to_bytes(4)
    options = ("--faults", str(file), "--quirk", "reply_delay_s=0.02", "--json")
    with simulator("--pty", *options) as process:
        url = str(line_of(process)["url"])
        assert process.stderr is not None
        handle = os.open(url.removeprefix("serial://").partition("?")[0], os.O_RDWR | os.O_NOCTTY)
        try:
            assert heard_on(handle, request, 0.5) == []
            file.write_text('[[faults]]\nkind = "wrong-address"\naddress = "000000000042"\n')
            assert "1 faults; struck so far: silence 1" in process.stderr.readline()
            assert [heard.frame.address for heard in heard_on(handle, request, 5)] == ["000000000042"]
            file.write_text("[[faults]]\nkind = 3\n")
            assert "the faults stay as they were" in process.stderr.readline()
            assert [heard.frame.address for heard in heard_on(handle, request, 5)] == ["000000000042"]
            process.send_signal(signal.SIGHUP)
            assert "the faults stay as they were" in process.stderr.readline()
        finally:
            os.close(handle)
        process.send_signal(signal.SIGTERM)
        rest, problems = process.communicate(timeout=20)
        assert process.returncode == 0
        assert rest == ""
        assert "faults struck: silence 1, wrong-address 2" in problems


@POSIX
def test_meters_play_the_contract_they_are_given() -> None:
    options = ("--contract", "dlt645/base_1997", "--quirk", "preamble=1", "--json")
    with simulator("--listen", "tcp://127.0.0.1:0", *options) as process:
        port = int(str(line_of(process)["url"]).rpartition(":")[2])
        (heard,) = ask(m.encode(m.ReadRequest(di=Di("9010")), "000000000001").to_bytes(4), port)
        assert isinstance(m.decode(heard.frame), m.ReadReply)


def test_a_port_in_use_is_said_and_ends_with_two() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refused("--listen", f"tcp://127.0.0.1:{port}", "--json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--meters", "0"], "expected 1 to 10000"),
        (["--meters", "2", "--lines", "3"], "expected 1 to the number of meters"),
        (["--first-address", "12345"], "12 digits"),
        (["--first-address", "00000000000A"], "12 digits"),
        (["--first-address", "999999999990", "--meters", "20"], "do not fit 12 digits"),
        (["--first-address", "999999999990", "--meters", "10"], "broadcast"),
        (["--baud", "0"], "expected 300 to 115200"),
        (["--timezone", "Mars/Olympus"], "no time zone"),
        (["--dialect", "2020"], "2007"),
        (["--pty"], "exclude each other"),
        (["--contract", "dlt645/none"], "no contract"),
        (["--contract", "dlt645/base_1997", "--dialect", "2007"], "speaks dlt645-1997"),
        (["--quirk", "speed=9"], "no quirk speed"),
        (["--faults", "/nowhere/faults.toml"], "No such file"),
    ],
)
def test_bad_arguments_are_said_and_end_with_two(arguments: list[str], said: str) -> None:
    assert said in refused_at_once("--listen", "tcp://127.0.0.1:0", *arguments)


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:9000", "udp://127.0.0.1:9000", "tcp://127.0.0.1", "tcp://127.0.0.1:99999"]
)
def test_a_listen_address_must_be_tcp_host_and_port(listen: str) -> None:
    assert "expected tcp://HOST:PORT" in refused_at_once("--listen", listen)


def test_neither_port_nor_terminal_is_refused() -> None:
    assert "--listen" in refused()
