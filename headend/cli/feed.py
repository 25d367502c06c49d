"""`headend feed tail`"""

import json as json_library
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape

from headend.cli.output import ExitCode, fail, print_line, stdout

if TYPE_CHECKING:
    import httpx

__all__ = ["register"]

DEFAULT_URL = "http://127.0.0.1:8645"
TOKEN_VARIABLE = "HEADEND_TOKEN"
PAGE = 1000
QUIET_S_MAX = 60.0  # the stream beats every 15 s; four missed beats are a dead connection


def register(app: typer.Typer) -> None:
    feed = typer.Typer(help="The numbered event feed of a running head-end.", no_args_is_help=True)
    feed.command("tail")(tail)
    feed.callback()(_group)
    app.add_typer(feed, name="feed")


def _group() -> None:
    """Keeps `tail` a subcommand while it is the only one."""


def tail(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Take the address from this configuration.")
    ] = None,
    url: Annotated[str | None, typer.Option(help=f"Address of the head-end.  [default: {DEFAULT_URL}]")] = None,
    token: Annotated[str | None, typer.Option(envvar=TOKEN_VARIABLE, help="A token with role read.")] = None,
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
    import httpx  # here: the commands for the field should not wait for it to load

    base = url or (_url_of(config) if config is not None else DEFAULT_URL)
    if not token:
        fail(f"no token: create one with `headend token create CONFIG`, and give it as --token or in {TOKEN_VARIABLE}")
    token = token.strip()
    if not token.isascii() or not token.isprintable():
        fail("the token holds characters that no token has; expected hdt_… as `headend token create` printed it")
    headers = {"Authorization": f"Bearer {token}"}
    shown = 0
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=QUIET_S_MAX) as client:
            start = after if after is not None else max(0, _last_sequence(client) - 10)
            for event in _events(client, start, follow=follow):
                _show(event, json=json)
                shown += 1
                if shown == limit:
                    return
            if follow:
                fail(f"{base} ended the stream after {shown} event(s); is the head-end stopping?", ExitCode.SILENT)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        fail(f"{base} does not answer: {error}; is `headend run` running there?", ExitCode.SILENT)


def _url_of(config: Path) -> str:
    from headend.config import load_config

    loaded = load_config(config)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        loaded.host, f"[{loaded.host}]" if ":" in loaded.host else loaded.host
    )
    return f"http://{host}:{loaded.port}"


def _last_sequence(client: "httpx.Client") -> int:
    """Also of a head-end that is unwell, as long as its store can be read."""
    answer = client.get("/healthz")
    body = _body(answer)
    last = body.get("last_sequence")
    if isinstance(last, int) and answer.status_code in (200, 503):
        return last
    _refuse(answer, body)


def _checked(answer: "httpx.Response") -> dict[str, Any]:
    """The JSON of a good answer; a problem document becomes an error of ours."""
    body = _body(answer)
    if answer.status_code != 200 or not isinstance(body.get("events"), list):
        _refuse(answer, body)
    return body


def _body(answer: "httpx.Response") -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:  # no JSON, or no text at all
        body = {}
    return body if isinstance(body, dict) else {}


def _refuse(answer: "httpx.Response", body: dict[str, Any]) -> NoReturn:
    if answer.is_success:
        fail(f"{answer.url} is no feed of a head-end; is the address right?")
    why = f"{body.get('title', answer.reason_phrase)}: {body.get('detail', '')}".rstrip(": ")
    if answer.status_code >= 500:
        fail(f"the head-end cannot serve its feed at the moment: {why}", ExitCode.SILENT)
    fail(f"refused: {why}")


def _events(client: "httpx.Client", after: int, *, follow: bool) -> Iterator[str]:
    """Pull to the end, then stream what comes."""
    if not follow:
        while True:
            answer = client.get("/v1/feed", params={"after": after, "limit": PAGE})
            page = _checked(answer)
            for event in page["events"]:
                yield json_library.dumps(event, ensure_ascii=False, separators=(",", ":"))
            if not page["events"]:
                return
            after = page["next"]
    with client.stream("GET", "/v1/feed/stream", params={"after": after}) as answer:
        if answer.status_code != 200 or "text/event-stream" not in answer.headers.get("Content-Type", ""):
            answer.read()
            _refuse(answer, _body(answer))
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
    if parsed["type"] != "headend.read.v1":
        stdout.print(escape(f"{head}  {parsed['type']}  {json_library.dumps(data, ensure_ascii=False)}"))
        return
    if data["value"] is not None:
        value = f"[bold]{escape(data['value'])}[/] {escape(data['unit'])}"
    else:
        value = f"[red]missing: {escape(data.get('reason', ''))}[/]"
    tail = escape(f"{data['interval_end']}  {', '.join(data['quality'])}")
    stdout.print(f"{escape(head)}  {escape(data['obis']):<14} {value}  [dim]{tail}[/]")
