"""What the commands of `meter-sim` share: where lines listen, how long they run, which faults strike.

Errors of arguments leave as typer.BadParameter, what the system refuses as an exit with 2 and a sentence on standard error.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import typer
from rich.console import Console

from simulators.fault_file import FaultedBus, FaultFile, struck_on
from simulators.faults import BadFaults
from simulators.line import SimulatedLine, serve_pty, serve_tcp

__all__ = [
    "METERS_MAX",
    "cannot",
    "errors",
    "faults_of",
    "line_url",
    "listening",
    "on_signals",
    "place",
    "place_of_lines",
    "rate",
    "run",
    "serve_line",
    "shares",
    "tell",
    "true_clock",
    "zone",
]

METERS_MAX = 10_000

errors = Console(stderr=True, highlight=False)


def run(work: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it is installed. Ctrl-C before the signal handlers are set is an ordinary end, too."""
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


def on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))


def true_clock() -> tuple[datetime, Callable[[], datetime]]:
    """When it was started, and what it shows: wall time at the start, then monotonic.

    A corrected host clock must not make registers run backwards.
    """
    began, began_s = datetime.now(UTC), time.monotonic()
    return began, lambda: began + timedelta(seconds=time.monotonic() - began_s)


@asynccontextmanager
async def faults_of(path: Path, began: datetime, buses: Sequence[FaultedBus]) -> AsyncIterator[None]:
    """The file in force, and followed until the end; then what it did."""
    file = FaultFile(path, began, buses, tell)
    try:
        file.load()
    except (BadFaults, OSError) as error:
        raise cannot(str(error)) from error
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, file.reload)
    following = asyncio.create_task(file.follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        tell(f"faults struck: {struck_on(buses)}")


async def serve_line(line: SimulatedLine, host: str | None, port: int, stack: AsyncExitStack, *, settings: str) -> str:
    """On a TCP port, or on a pseudo-terminal when host is None. The URL under which the line can be reached.

    settings: of a serial port, "baud=2400", which a client of the pseudo-terminal is told.
    """
    if host is None:
        try:
            pty = await serve_pty(line)
        except (ImportError, OSError) as error:
            raise cannot(f"no pseudo-terminal on this system ({error}): use --listen") from error
        stack.callback(pty.close)
        return f"serial://{pty.path}?{settings}"
    async with listening(host, port):
        server = await serve_tcp(line, host, port)
    stack.callback(server.close)
    return line_url(server, host)


@asynccontextmanager
async def listening(host: str, port: int) -> AsyncIterator[None]:
    """Says what is wrong with a place where nobody can listen."""
    try:
        yield
    except OSError as error:
        raise cannot(
            f"cannot listen on {host}:{port}: {error.strerror or error}. "
            f"Expected a free port of this machine; port 0 takes any"
        ) from error


def line_url(server: asyncio.Server, host: str) -> str:
    number = server.sockets[0].getsockname()[1]
    return f"tcp://[{host}]:{number}" if ":" in host else f"tcp://{host}:{number}"


def place(listen: str | None, *, pty: bool) -> tuple[str | None, int]:
    """Host and port of `--listen`, or None for `--pty`. Raises BadParameter."""
    if pty and listen:
        raise typer.BadParameter("--listen and --pty exclude each other", param_hint="--pty")
    if pty:
        return None, 0
    if listen is None:
        raise typer.BadParameter("expected --listen tcp://HOST:PORT or --pty", param_hint="--listen")
    parts = urlsplit(listen)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme != "tcp" or not host or port is None or parts.path or parts.query:
        raise typer.BadParameter(
            f"{listen!r}, expected tcp://HOST:PORT, for example tcp://127.0.0.1:0", param_hint="--listen"
        )
    return host, port


def place_of_lines(listen: str | None, lines: int, *, pty: bool) -> tuple[str | None, int]:
    """The same for several lines, whose ports count up. Raises BadParameter."""
    host, port = place(listen, pty=pty)
    if port and port + lines - 1 > 65535:
        raise typer.BadParameter(f"{lines} lines from port {port} end above 65535", param_hint="--lines")
    return host, port


def shares(count: int, lines: int) -> list[tuple[int, int]]:
    """Which of `count` meters each line has, from and to: contiguous, the first one longer where it does not come out even.

    Raises BadParameter.
    """
    if not 1 <= count <= METERS_MAX:
        raise typer.BadParameter(f"{count}, expected 1 to {METERS_MAX}", param_hint="--meters")
    if not 1 <= lines <= count:
        raise typer.BadParameter(f"{lines}, expected 1 to the number of meters ({count})", param_hint="--lines")
    share, more = divmod(count, lines)
    ends = [share * (line + 1) + min(line + 1, more) for line in range(lines)]
    return list(zip([0, *ends], ends, strict=False))


def rate(baud: int | None) -> int | None:
    if baud is not None and not 300 <= baud <= 115_200:
        raise typer.BadParameter(f"{baud}, expected 300 to 115200, usually 2400 or 9600", param_hint="--baud")
    return baud


def zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise typer.BadParameter(
            f"{name!r} is no time zone, expected a name such as Asia/Shanghai", param_hint="--timezone"
        ) from error


def tell(sentence: str) -> None:
    """To people, on standard error."""
    errors.print(f"meter-sim: {sentence}", markup=False, soft_wrap=True)


def cannot(problem: str) -> typer.Exit:
    tell(problem)
    return typer.Exit(2)
