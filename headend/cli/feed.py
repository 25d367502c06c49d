"""`headend feed tail`"""

import json as json_library
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from headend.cli.client import ConfigArgument, TokenOption, UrlOption, body_of, calling
from headend.cli.feed_export import export
from headend.cli.feed_schema import schema
from headend.cli.feed_verify import verify
from headend.cli.output import ExitCode, fail, print_line, stdout

if TYPE_CHECKING:
    import httpx

__all__ = ["register"]

PAGE = 1000


def register(app: typer.Typer) -> None:
    feed = typer.Typer(help="The numbered event feed of a running head-end.", no_args_is_help=True)
    feed.command("tail")(tail)
    feed.command("schema")(schema)
    feed.command("export")(export)
    feed.command("verify")(verify)
    app.add_typer(feed, name="feed")


def tail(
    config: ConfigArgument = None,
    url: UrlOption = None,
    token: TokenOption = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="Start behind this sequence.  [default: the newest 10]")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
    follow: Annotated[bool, typer.Option(help="Wait for more, or stop at the end.")] = True,
    json: Annotated[bool, typer.Option("--json", help="The events as they are, one per line.")] = False,
) -> None:
    """Show events as they become durable.

    Exit code 0: limit or end reached; 2: usage, or refused by the head-end; 3: no answer, the head-end cannot serve its feed at
    the moment, or it went away.
    """
    shown = 0
    with calling(config, url, token) as client:
        start = after if after is not None else max(0, _last_sequence(client) - 10)
        for event in _events(client, start, follow=follow):
            _show(event, json=json)
            shown += 1
            if shown == limit:
                return
        if follow:
            base = str(client.base_url).rstrip("/")
            fail(f"{base} ended the stream after {shown} event(s); is the head-end stopping?", ExitCode.SILENT)


def _last_sequence(client: "httpx.Client") -> int:
    """Also of a head-end that is unwell, as long as its store can be read."""
    answer = client.get("/healthz")
    try:
        last = answer.json().get("last_sequence")
    except (ValueError, AttributeError):  # no JSON, or no object
        last = None
    if isinstance(last, int) and answer.status_code in (200, 503):
        return last
    body_of(answer, expected="last_sequence")
    raise AssertionError("an answer without a number is refused")


def _events(client: "httpx.Client", after: int, *, follow: bool) -> Iterator[str]:
    """Pull to the end, then stream what comes."""
    if not follow:
        while True:
            answer = client.get("/v1/feed", params={"after": after, "limit": PAGE})
            page = body_of(answer, expected="events")
            for event in page["events"]:
                yield json_library.dumps(event, ensure_ascii=False, separators=(",", ":"))
            if not page["events"]:
                return
            after = page["next"]
    with client.stream("GET", "/v1/feed/stream", params={"after": after}) as answer:
        if answer.status_code != 200 or "text/event-stream" not in answer.headers.get("Content-Type", ""):
            answer.read()
            body_of(answer, expected="(a stream)")
        for line in answer.iter_lines():
            if line.startswith("data:"):
                yield line.removeprefix("data:").strip()


def _show(event: str, *, json: bool) -> None:
    if json:
        print_line(event.encode())
        return
    parsed = json_library.loads(event)
    data = parsed["data"]
    head = f"{parsed['sequence']:>8}  {parsed['time']}  {parsed['subject']:<16}"
    if parsed["type"] == "headend.interval.v1":
        _show_interval(head, data)
        return
    if parsed["type"] != "headend.read.v1":
        stdout.print(escape(f"{head}  {parsed['type']}  {json_library.dumps(data, ensure_ascii=False)}"))
        return
    if data["value"] is not None:
        value = f"[bold]{escape(data['value'])}[/] {escape(data['unit'])}"
    else:
        value = f"[red]missing: {escape(data.get('reason', ''))}[/]"
    tail = escape(f"{data['interval_end']}  {', '.join(data['quality'])}")
    stdout.print(f"{escape(head)}  {escape(data['obis']):<14} {value}  [dim]{tail}[/]")


def _show_interval(head: str, data: dict[str, Any]) -> None:
    if data["amount"] is not None:
        amount = f"[bold]+{escape(data['amount'])}[/] {escape(data['unit'])}"
    else:
        amount = f"[red]not known: {escape(data.get('reason', ''))}[/]"
    tail = escape(f"{data['start']} to {data['end']}  {', '.join([*data['quality'], *data.get('marks', [])])}")
    stdout.print(f"{escape(head)}  {escape(data['obis']):<14} {amount}  [dim]{tail}[/]")
