"""`headend feed export`: the feed as a file of one event a line, which `headend feed verify` proves."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.progress import Progress

from headend.cli.client import ConfigArgument, TokenOption, UrlOption, body_of, calling
from headend.cli.output import fail, print_json, stderr, stdout

if TYPE_CHECKING:
    from io import BufferedRandom

    import httpx

__all__ = ["export"]

PAGE = 1000
TAIL = 1 << 20  # bytes: the last line of a file is in them, since an event is some hundred bytes


class _Page(msgspec.Struct):
    """events: as they stand in the feed, byte for byte."""

    events: list[msgspec.Raw]
    next: int


class _Numbered(msgspec.Struct):
    sequence: str


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to: NDJSON, one event a line.")],
    config: ConfigArgument = None,
    url: UrlOption = None,
    token: TokenOption = None,
    after: Annotated[int | None, typer.Option(min=0, help="Start behind this sequence.  [default: 0]")] = None,
    through: Annotated[int | None, typer.Option(min=1, help="Stop at this one.  [default: the end]")] = None,
    resume: Annotated[bool, typer.Option("--append", help="Go on behind the last event that FILE has.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as one JSON object.")] = False,
) -> None:
    """Pull the feed into a file. Exit code 0: all of it is there; 2: usage, or refused; 3: no answer."""
    if resume and after is not None:
        fail("--append goes on behind the file's last event: expected no --after beside it")
    try:
        with file.open("r+b" if resume and file.exists() else "xb+") as out, calling(config, url, token) as client:
            start = _last_of(out) if resume else after or 0
            last, count = _write(client, out, start, through)
    except FileExistsError:
        fail(f"{file} exists already: give --append to go on behind its last event, or another name")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}; what it has stays, go on with --append")
    if json:
        print_json({"file": str(file), "after": start, "through": last, "events": count})
    else:
        stdout.print(f"wrote {count} event(s), {start + 1} to {last}, to {file}", markup=False)


def _write(client: "httpx.Client", out: "BufferedRandom", after: int, through: int | None) -> tuple[int, int]:
    count = 0
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("pulling events", total=None)
        while through is None or after < through:
            limit = PAGE if through is None else min(PAGE, through - after)
            answer = client.get("/v1/feed", params={"after": after, "limit": limit})
            if answer.status_code != 200:
                body_of(answer, expected="events")
            try:
                page = msgspec.json.decode(answer.content, type=_Page)
            except msgspec.DecodeError:
                body_of(answer, expected="events")
                raise
            if not page.events:
                break
            out.write(b"".join(bytes(event) + b"\n" for event in page.events))
            count += len(page.events)
            after = page.next
            progress.update(task, completed=count, description=f"pulling events, at {after}")
        out.flush()
        os.fsync(out.fileno())
    return after, count


def _last_of(out: "BufferedRandom") -> int:
    """The last whole event; what was cut off behind it is removed."""
    size = out.seek(0, os.SEEK_END)
    if not size:
        return 0
    start = out.seek(max(0, size - TAIL))
    tail = out.read()
    whole, _, rest = tail.rpartition(b"\n")
    if rest:
        out.truncate(size - len(rest))
    if not whole and start == 0:
        out.truncate(0)
        out.seek(0)
        return 0
    out.seek(0, os.SEEK_END)
    try:
        return int(msgspec.json.decode(whole.rpartition(b"\n")[2], type=_Numbered).sequence)
    except (msgspec.DecodeError, ValueError):
        fail("FILE does not end with an event: expected a file that this command wrote")
