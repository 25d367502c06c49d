"""What a scan has found out so far, in a file that outlives it."""

import os
from pathlib import Path

import msgspec
from msgspec import Struct, field

from headend.errors import HeadendError
from protocols.dlt645.narrowing import NarrowingState

__all__ = ["BadScanState", "Found", "ScanState", "Setting", "SettingReport", "load_state", "save_state"]

VERSION = 1


class BadScanState(HeadendError):
    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"scan state {path}: {problem}")


class Setting(Struct, frozen=True):
    """How a serial line is opened; both None behind a tunnel, whose serial side is set elsewhere."""

    baud: int | None = None
    parity: str | None = None

    def __str__(self) -> str:
        return f"{self.baud} 8{self.parity}1" if self.baud else "tunnel"


class Found(Struct, kw_only=True):
    """evidence: what answered to what, in words."""

    address: str
    dialect: str
    contract_hint: str
    evidence: list[str] = field(default_factory=list)
    baud: int | None = None
    parity: str | None = None


class SettingReport(Struct, kw_only=True):
    """verdict: found | empty | unreadable | busy. unresolved, shared: see NarrowingState."""

    baud: int | None
    parity: str | None
    verdict: str
    text: str
    stray_bytes: int = 0
    parity_errors: int = 0
    unresolved: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0


class ScanState(Struct, kw_only=True):
    """line, settings, dialects: what was asked for; a scan continues only as the one it began as.

    at: index of the setting in work. narrowings: of that setting, by dialect. overheard: address -> dialect, of that setting, not
    singled out yet. checked: addresses asked directly at that setting. unconfirmed: overheard, and silent when asked.
    stray_most: in one exchange. fastest_s: of the replies seen, from request to reply.
    """

    version: int = VERSION
    line: str
    settings: list[Setting]
    dialects: list[str]
    at: int = 0
    narrowings: dict[str, NarrowingState] = field(default_factory=dict)
    overheard: dict[str, str] = field(default_factory=dict)
    checked: list[str] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    reports: list[SettingReport] = field(default_factory=list)
    stray_bytes: int = 0
    stray_most: int = 0
    parity_errors: int = 0
    fastest_s: float | None = None
    exchanges: int = 0
    elapsed_s: float = 0.0
    finished: bool = False


def load_state(path: Path) -> ScanState | None:
    """None when there is no such file. Raises BadScanState."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadScanState(path, f"cannot be read: {error.strerror or error}") from error
    try:
        state = msgspec.json.decode(text, type=ScanState)
    except msgspec.DecodeError as error:
        raise BadScanState(path, f"is none that a scan has written ({error}); remove it to scan anew") from error
    if state.version != VERSION:
        raise BadScanState(path, f"was written by another version ({state.version}); remove it to scan anew")
    return state


def save_state(path: Path, state: ScanState) -> None:
    """Whole or not at all: a scan killed while it writes leaves the file as it was before. Raises BadScanState."""
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_bytes(msgspec.json.encode(state))
        os.replace(beside, path)
    except OSError as error:
        raise BadScanState(path, f"cannot be written: {error.strerror or error}") from error
