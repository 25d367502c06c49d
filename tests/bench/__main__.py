"""`make bench`: all measurements, one table; `python -m tests.bench --json` for programs.

Standard output has the table or the JSON object, standard error the progress. Missed goals are printed, and do not make it fail:
figures of a shared machine prove nothing by themselves.
"""

import argparse
import logging
import os
import platform
import sys
from datetime import UTC, datetime

import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from headend.drivers.protocols import IN_FLIGHT_MAX
from headend.observability import configure_logs
from tests.bench.audit import measure_audit
from tests.bench.decoding import measure_decoding
from tests.bench.drain import measure_drain
from tests.bench.figures import Figure
from tests.bench.ingest import measure_ingest
from tests.bench.late import measure_late
from tests.bench.memory import measure_memory
from tests.bench.modbus import measure_modbus
from tests.bench.reading import measure_reading
from tests.bench.reconnect import measure_reconnect
from tests.bench.replay import measure_replay
from tests.bench.settlement import measure_settlement
from tests.bench.wire import measure_wire

MEASUREMENTS = (
    *(
        "decoding",
        "reading",
        "modbus",
        "late",
        "memory",
        "wire",
        "ingest",
        "replay",
        "drain",
        "settlement",
        "audit",
        "reconnect",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--rounds", type=int, default=5, help="of every measurement")
    parser.add_argument("--seconds", type=float, default=1.5, help="per client and round of reading and modbus")
    parser.add_argument("--lines", type=int, default=64, help="TCP connections of every reading client")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT_MAX, help="requests under way per Modbus TCP line")
    parser.add_argument("--one-core", action="store_true", help="keep every reading client on one core (Linux)")
    parser.add_argument("--meters", type=int, default=20_000, help="idle meters for the memory figure")
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="this measurement; may be repeated")
    asked = parser.parse_args()
    if not 1 <= asked.in_flight <= IN_FLIGHT_MAX:
        parser.error(f"in-flight must be from 1 to {IN_FLIGHT_MAX}, as on a line")
    if asked.rounds < 1 or asked.seconds <= 0 or asked.lines < 1 or asked.meters < 1:
        parser.error("rounds, seconds, lines and meters must be above zero")
    configure_logs(level=logging.ERROR)
    found: dict[str, list[Figure]] = {}
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)
    ) as progress:
        task = progress.add_task("starting")

        def note(text: str) -> None:
            progress.update(task, description=text)

        for name in asked.only or MEASUREMENTS:
            note(name)
            if name == "decoding":
                found[name] = measure_decoding(rounds=asked.rounds, seconds=0.2)
            elif name == "reading":
                found[name] = measure_reading(
                    rounds=asked.rounds, seconds=asked.seconds, lines=asked.lines, one_core=asked.one_core, note=note
                )
            elif name == "modbus":
                found[name] = measure_modbus(
                    rounds=asked.rounds, seconds=asked.seconds, in_flight=asked.in_flight, note=note
                )
            elif name == "late":
                found[name] = measure_late(note=note)
            elif name == "wire":
                found[name] = measure_wire(rounds=min(asked.rounds, 3), seconds=2 * asked.seconds, note=note)
            elif name == "ingest":
                found[name] = measure_ingest(rounds=min(asked.rounds, 3), note=note)
            elif name == "replay":
                found[name] = measure_replay(rounds=asked.rounds, note=note)
            elif name == "drain":
                found[name] = measure_drain(rounds=min(asked.rounds, 3), note=note)
            elif name == "reconnect":
                found[name] = measure_reconnect(note=note)
            elif name == "audit":
                found[name] = measure_audit(rounds=asked.rounds, note=note)
            elif name == "settlement":
                found[name] = measure_settlement(note=note)
            else:
                found[name] = measure_memory(rounds=asked.rounds, meters=asked.meters, note=note)
    machine = _machine()
    if asked.json:
        figures = {name: [_as_json(figure) for figure in figures] for name, figures in found.items()}
        sys.stdout.write(msgspec.json.encode({"machine": machine, "figures": figures}).decode() + "\n")
    else:
        _print(found, machine, rounds=asked.rounds, lines=asked.lines)


def _machine() -> dict[str, object]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _as_json(figure: Figure) -> dict[str, object]:
    """goal: None when there is none, and `met` then, too."""
    described: dict[str, object] = msgspec.to_builtins(figure)
    return described | {"met": figure.met}


def _print(found: dict[str, list[Figure]], machine: dict[str, object], *, rounds: int, lines: int) -> None:
    table = Table(
        title=f"headend benchmark: median and range of {rounds} rounds, {lines} connections",
        caption=f"Python {machine['python']}, {machine['cores']} cores, load {machine['load']}, {machine['system']}",
    )
    table.add_column("what")
    table.add_column("median", justify="right")
    table.add_column("min … max", justify="right")
    table.add_column("goal", justify="right")
    table.add_column("")
    verdicts = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}
    for figures in found.values():
        for figure in figures:
            table.add_row(
                figure.name,
                f"{_number(figure.median)} {figure.unit}".rstrip(),
                f"{_number(figure.low)} … {_number(figure.high)}",
                "" if figure.goal is None else str(figure.goal),
                verdicts[figure.met],
            )
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


if __name__ == "__main__":
    main()
