"""What all commands share: exit codes, where errors go, how JSON and tables are printed, how a time is typed."""

import enum
import sys
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headend.drivers.errors import DriverError
from headend.errors import HeadendError

__all__ = [
    "ExitCode",
    "exit_code_of",
    "fail",
    "forgive_encoding",
    "moment_of",
    "print_json",
    "print_line",
    "print_table",
    "stderr",
    "stdout",
]

PIPE_WIDTH = 10_000  # a pipe has no width; rich would assume 80 columns and cut what does not fit

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class ExitCode(enum.IntEnum):
    """Design 5.2."""

    GOOD = 0
    USAGE = 2  # usage or configuration, also a line that cannot be opened
    SILENT = 3  # no reply by the deadline
    CORRUPT = 4
    REFUSED = 5  # by the meter
    CONTRADICTED = 6  # or unconfirmed


_BY_KIND = {
    "silent": ExitCode.SILENT,
    "unmatched": ExitCode.SILENT,
    "corrupt": ExitCode.CORRUPT,
    "refused": ExitCode.REFUSED,
    "unsupported": ExitCode.REFUSED,
    "unconfirmed": ExitCode.CONTRADICTED,
    "contradicted": ExitCode.CONTRADICTED,
}


def exit_code_of(error: HeadendError) -> ExitCode:
    if isinstance(error, DriverError):
        return _BY_KIND.get(error.kind, ExitCode.USAGE)
    return ExitCode.USAGE


def forgive_encoding() -> None:
    """A terminal that cannot show a sign gets a question mark for it, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def fail(text: str, code: ExitCode = ExitCode.USAGE) -> NoReturn:
    """One message on standard error, and out."""
    stderr.print(Text.assemble(("error:", "bold red"), " ", text))
    raise typer.Exit(code)


def moment_of(option: str, text: str, *, or_a: str = "") -> datetime:
    """A time with its zone, UTC. or_a: what else the option takes, for the error: "length such as 15m, or a "."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        fail(f"{option} is {text!r}; expected a {or_a}time such as 2026-11-22T16:00:00Z")
    fail(f"{option} {text!r} has no zone; expected a time such as 2026-11-22T16:00:00Z or …+08:00")


def print_json(value: Any) -> None:
    """One JSON document on one line of standard output, flushed: readers may be waiting for it."""
    print_line(msgspec.json.encode(value))


def print_line(line: bytes) -> None:
    """One line for programs: UTF-8 whatever the terminal's encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def print_table(table: Table) -> None:
    """All of it: on a terminal what is too wide is folded, through a pipe nothing is."""
    if stdout.is_terminal:
        for column in table.columns:
            column.overflow = "fold"
        stdout.print(table)
    else:
        Console(file=sys.stdout, width=PIPE_WIDTH, highlight=False, soft_wrap=True).print(table)
