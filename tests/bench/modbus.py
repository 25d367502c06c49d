"""Modbus TCP: reads of sixty registers per second, ours into the store, beside pymodbus' async client that only has them.

Both ask the same far end in the same round. The goal is judged over one connection each, both clients on uvloop: that is what one
concentrator gives. What pymodbus does on the event loop it gets by default is printed, too.
"""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import structlog
import uvloop
from msgspec import Struct

from headend.drivers.protocols import IN_FLIGHT_MAX
from tests.bench import client_modbus_ours, prepared_modbus
from tests.bench.far_end import REPOSITORY, far_end
from tests.bench.figures import Figure, Goal, Stretch, ratio, spread

__all__ = ["measure_modbus"]

CONNECTIONS = (1, 8)
CLIENT_S_MAX = 120.0
OVER_FOREIGN = Goal(least=2.5)


class _Client(Struct, frozen=True):
    """quantities: None for the foreign one, which knows no quantities. is_default_loop: asyncio's own instead of uvloop."""

    name: str
    quantities: tuple[str, ...] | None = None
    is_default_loop: bool = False


CLIENTS = {
    "one": _Client("headend, 1 quantity stored", prepared_modbus.ONE),
    "typical": _Client("headend, 4 quantities stored", prepared_modbus.TYPICAL),
    "all": _Client("headend, all 30 stored", prepared_modbus.ALL),
    "foreign": _Client("pymodbus on uvloop"),
    "foreign-default": _Client("pymodbus on asyncio", is_default_loop=True),
}


def measure_modbus(
    *,
    rounds: int,
    seconds: float,
    in_flight: int = IN_FLIGHT_MAX,
    connections: tuple[int, ...] = CONNECTIONS,
    note: Callable[[str], None] = lambda _: None,
) -> list[Figure]:
    """Each round runs every client once for `seconds` over each number of connections, in an order that rotates."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {
        (kind, lines): [] for lines in connections for kind in CLIENTS
    }
    with far_end(module="tests.bench.far_end_modbus") as other:
        for number in range(rounds):
            turns = list(found)
            for kind, lines in turns[number % len(turns) :] + turns[: number % len(turns)]:
                note(f"modbus, round {number + 1} of {rounds}: {CLIENTS[kind].name}, {_connections(lines)}")
                found[kind, lines].append(_run(kind, other.port, lines, in_flight, seconds))
    assert other.unknown == 0, f"{other.unknown} requests were not what the far end expects"
    assert other.answered >= sum(one["reads"] for several in found.values() for one in several)
    return [figure for lines in connections for figure in _figures(found, lines, in_flight)]


def _figures(found: dict[tuple[str, int], list[dict[str, float]]], lines: int, in_flight: int) -> list[Figure]:
    over = _connections(lines)
    wall, core = {}, {}
    for kind, client in CLIENTS.items():
        several = found[kind, lines]
        name = f"{client.name}, {over}" + (f", {in_flight} in flight" if client.quantities else "")
        wall[kind] = spread(f"{name}: reads per second", "/s", (one["reads"] / one["wall_s"] for one in several))
        core[kind] = spread(f"{name}: reads per CPU second", "/s", (one["reads"] / one["cpu_s"] for one in several))
    goal = OVER_FOREIGN if lines == CONNECTIONS[0] else None
    return [
        *(figure for kind in CLIENTS for figure in (wall[kind], core[kind])),
        ratio(f"headend over pymodbus, both on uvloop, {over}, wall", wall["typical"], wall["foreign"], goal),
        ratio(f"headend over pymodbus on asyncio, {over}, wall", wall["typical"], wall["foreign-default"]),
        ratio(f"headend over pymodbus, both on uvloop, {over}, per core", core["typical"], core["foreign"]),
        ratio(f"headend with 1 quantity over pymodbus, both on uvloop, {over}, wall", wall["one"], wall["foreign"]),
        ratio(f"headend with all 30 over pymodbus, both on uvloop, {over}, wall", wall["all"], wall["foreign"]),
    ]


def _connections(lines: int) -> str:
    return f"{lines} connection{'s' if lines > 1 else ''}"


def _run(kind: str, port: int, lines: int, in_flight: int, seconds: float) -> dict[str, float]:
    arguments = [str(argument) for argument in (kind, port, lines, in_flight, seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.modbus", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=CLIENT_S_MAX,
        check=False,
    )
    assert done.returncode == 0, f"{kind} failed: {done.stderr[-2000:]}"
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


async def _measured(client: _Client, port: int, lines: int, in_flight: int, seconds: float) -> Stretch:
    if client.quantities is not None:
        return await client_modbus_ours.measure(port, lines, in_flight, client.quantities, seconds)
    from tests.bench import client_modbus_foreign  # only who measures it carries it

    return await client_modbus_foreign.measure(port, lines, seconds)


def main(kind: str, port: int, lines: int, in_flight: int, seconds: float) -> None:
    """One client in a process of its own, so that CPU time is its own."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    client = CLIENTS[kind]
    with asyncio.Runner(loop_factory=None if client.is_default_loop else uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_measured(client, port, lines, in_flight, seconds)).figures))


if __name__ == "__main__":
    kind_of, where, lines_of, ahead, duration = sys.argv[1:]
    main(kind_of, int(where), int(lines_of), int(ahead), float(duration))
