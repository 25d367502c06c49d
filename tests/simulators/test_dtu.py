"""Simulated DTUs: what they say, when they dial again, and the command that starts them."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from firmware_contracts.contract import load
from headend.clock import SystemClock
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadReply, ReadRequest, decode, encode
from protocols.values import MeterAddress
from simulators.cli import app
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.dtu import BadPacket, DtuSettings, SimulatedDtu, count_up, packet
from simulators.line import SimulatedLine
from simulators.load_curve import Kind
from simulators.meter import MeterModel

WAIT_S = 10.0
METER = "000000000001"
NOW = SystemClock().now


def test_a_template_becomes_the_bytes_it_stands_for() -> None:
    assert packet("{id}", "8601") == b"8601"
    assert packet(r"LOGIN:{id}\r\n", "8601") == b"LOGIN:8601\r\n"
    assert packet(r"\x78\x56\\\0", "8601") == b"\x78\x56\\\0"
    assert packet("注册{id}", "1") == "注册1".encode()
    for template in (r"\q", "\\", r"\x7", r"\xgg"):
        with pytest.raises(BadPacket, match="is none of"):
            packet(template, "1")


def test_ids_count_up_and_keep_their_length() -> None:
    assert count_up("D098", 3) == ["D098", "D099", "D100"]
    for first, count in (("D998", 3), ("abc", 1), ("", 1)):
        with pytest.raises(BadPacket):
            count_up(first, count)


class HeadEnd(asyncio.Protocol):
    """Takes every caller and keeps what it says."""

    def __init__(self, heard: list[bytes], transports: list[asyncio.Transport]) -> None:
        self.heard = heard
        self.transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.heard.append(b"")
        self.transports.append(transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        self.heard[-1] += data


@asynccontextmanager
async def a_dtu(
    heartbeat_s: float = 60.0,
) -> AsyncIterator[tuple[SimulatedDtu, list[bytes], list[asyncio.Transport]]]:
    heard: list[bytes] = []
    transports: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(lambda: HeadEnd(heard, transports), "127.0.0.1", 0)
    settings = DtuSettings(
        host="127.0.0.1",
        port=server.sockets[0].getsockname()[1],
        registration=b"8601",
        heartbeat=b"ping",
        heartbeat_s=heartbeat_s,
        redial_s=(0.02, 0.05),
    )
    model = MeterModel(MeterAddress(METER), seed=1, kind=Kind.HOUSEHOLD, clock_set_at=NOW())
    line = SimulatedLine(Dlt645Bus([Dlt645Meter(model, load("dlt645/base_2007"))]), NOW)
    dtu = SimulatedDtu("8601", settings, line, seed=1)
    task = asyncio.create_task(dtu.run())
    try:
        async with asyncio.timeout(WAIT_S):
            yield dtu, heard, transports
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()


async def turn() -> None:
    await asyncio.sleep(0.002)


async def test_a_dtu_registers_and_passes_on_what_its_meter_answers() -> None:
    async with a_dtu() as (dtu, heard, transports):
        while heard != [b"8601"]:
            await turn()
        transports[0].write(encode(ReadRequest(di=Di("00010000")), METER).to_bytes())
        while not heard[0].endswith(b"\x16"):
            await turn()
        reply = decode(Frame.from_bytes(heard[0][4:].lstrip(b"\xfe")))
        assert isinstance(reply, ReadReply)
        assert dtu.counters.bytes_received > 0


async def test_a_dtu_dials_again_when_it_is_hung_up_on_and_beats_when_it_has_nothing_to_say() -> None:
    async with a_dtu(heartbeat_s=0.03) as (dtu, heard, transports):
        while heard != [b"8601pingping"]:
            await turn()
        transports[0].abort()
        while len(heard) < 2 or not heard[1].startswith(b"8601"):
            await turn()
        assert dtu.counters.lost == 1
        dtu.is_mute = True
        beats = dtu.counters.heartbeats
        await asyncio.sleep(0.1)
        assert dtu.counters.heartbeats == beats


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--connect", "127.0.0.1:9001"], "expected tcp://HOST:PORT"),
        (["--connect", "tcp://127.0.0.1:9001", "--count", "0"], "expected 1 to"),
        (["--connect", "tcp://127.0.0.1:9001", "--first-id", "abc"], "ends in digits"),
        (["--connect", "tcp://127.0.0.1:9001", "--registration", r"\q"], "is none of"),
        (["--connect", "tcp://127.0.0.1:9001", "--tls-ca", "/nowhere.pem"], "expected PEM files"),
        (["--connect", "tcp://127.0.0.1:9001", "--tls-certificate", "/nowhere.pem"], "give --tls-ca"),
        (
            ["--connect", "tcp://127.0.0.1:9001", "--first-address", "999999999998", "--count", "3"],
            "do not fit 12 digits",
        ),
    ],
)
def test_arguments_that_cannot_be_met_are_refused(arguments: list[str], problem: str) -> None:
    done = CliRunner().invoke(app, ["dtu", *arguments], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 2
    assert problem in " ".join(done.output.replace("│", " ").split())


def test_the_command_prints_a_line_for_each_dtu_and_ends_with_a_signal() -> None:
    arguments = ["dtu", "--connect", "tcp://127.0.0.1:9", "--count", "2", "--meters-per-dtu", "2", "--json"]
    process = subprocess.Popen(
        [Path(sys.executable).parent / "meter-sim", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert told == [
        {
            "url": "listen://0.0.0.0:9?dtu=860000000000001",
            "protocol": "dlt645",
            "dtu": "860000000000001",
            "meters": ["000000000001", "000000000002"],
        },
        {
            "url": "listen://0.0.0.0:9?dtu=860000000000002",
            "protocol": "dlt645",
            "dtu": "860000000000002",
            "meters": ["000000000003", "000000000004"],
        },
    ]
    assert "0 of 2 connected at the end" in " ".join(said.split())
