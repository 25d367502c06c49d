"""What all commands share: exit codes, where errors go, how JSON is printed."""

import enum
import sys
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console

from headend.drivers.errors import DriverError
from headend.errors import HeadendError

__all__ = ["ExitCode", "exit_code_of", "fail", "print_json", "stderr", "stdout"]

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
}


def exit_code_of(error: HeadendError) -> ExitCode:
    if isinstance(error, DriverError):
        return _BY_KIND.get(error.kind, ExitCode.USAGE)
    return ExitCode.USAGE


def fail(text: str, code: ExitCode = ExitCode.USAGE) -> NoReturn:
    """One message on standard error, and out."""
    stderr.print(f"[bold red]error:[/] {_escape(text)}")
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    """One JSON document on one line of standard output, flushed: readers may be waiting for it."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
