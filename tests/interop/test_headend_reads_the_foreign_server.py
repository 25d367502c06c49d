"""`headend read` against PyPI `dlt645`'s server, over TCP and over a serial line (a pair of pseudo-terminals)."""

import json
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from tests.interop.peer_server import ADDRESS, ENERGIES, VARIABLES

pytestmark = pytest.mark.interop

HEADEND = Path(sys.executable).parent / "headend"
REPOSITORY = Path(__file__).parents[2]
EXPECTED = {f"di:{di:08X}": Decimal(str(value)) for di, value in {**ENERGIES, **VARIABLES}.items()}


@contextmanager
def peer(*arguments: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.interop.peer_server", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.strip() == "ready" for line in lines), "the foreign server did not start"
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def pty_pair() -> Iterator[tuple[str, str]]:
    """Two serial ports with a null-modem cable between them."""
    first, first_slave = pty.openpty()
    second, second_slave = pty.openpty()
    for fd in (first, second, first_slave, second_slave):
        tty.setraw(fd, termios.TCSANOW)
    done_read, done_write = os.pipe()

    def carry() -> None:
        while True:
            ready, _, _ = select.select([first, second, done_read], [], [])
            if done_read in ready:
                return
            for source, target in ((first, second), (second, first)):
                if source in ready:
                    os.write(target, os.read(source, 4096))

    cable = threading.Thread(target=carry, daemon=True)
    cable.start()
    try:
        yield os.ttyname(first_slave), os.ttyname(second_slave)
    finally:
        os.write(done_write, b"x")
        cable.join(timeout=5)
        for fd in (first, second, first_slave, second_slave, done_read, done_write):
            os.close(fd)


def read(line: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([HEADEND, "read", line, *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def tcp_line() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with peer("tcp", str(port)):
        yield f"tcp://127.0.0.1:{port}"


def assert_reads_all(line: str) -> None:
    done = read(line, ADDRESS, *EXPECTED, "--json")
    assert done.returncode == 0, done.stderr
    reads = json.loads(done.stdout)
    assert {found["quantity"]: Decimal(found["value"]) for found in reads} == EXPECTED
    assert len(reads) >= 10
    for found in reads:
        assert found["meter"] == ADDRESS
        assert found["quality"] == ["measured"]
        assert set(found) >= {
            "meter",
            "quantity",
            "obis",
            "value",
            "unit",
            "read_at",
            "received_at",
            "quality",
            "wire_sent",
            "wire_received",
            "elapsed_ms",
        }
        assert found["wire_received"].startswith("68 ")


def test_over_tcp(tcp_line: str) -> None:
    assert_reads_all(tcp_line)


def test_over_a_serial_line() -> None:
    with pty_pair() as (theirs, ours), peer("rtu", theirs):
        assert_reads_all(f"serial://{ours}?baud=9600&parity=E")


def test_by_obis_for_people(tcp_line: str) -> None:
    done = read(tcp_line, ADDRESS, "1-0:1.8.0", "1-0:32.7.0")
    assert done.returncode == 0
    assert "1234.56" in done.stdout
    assert "230.1" in done.stdout


def test_what_the_server_does_not_offer_is_refused_with_its_own_exit_code(tcp_line: str) -> None:
    done = read(tcp_line, ADDRESS, "1-0:1.8.0", "di:05060001", "--json")
    assert done.returncode == 5
    good, refused = json.loads(done.stdout)
    assert good["value"] == "1234.56"
    assert (refused["value"], refused["quality"], refused["kind"]) == (None, ["missing"], "refused")
