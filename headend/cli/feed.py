"""`headend feed tail`"""

import json as json_library
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from headend.cli.output import ExitCode, fail, stdout

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

    Exit code 0: limit or end reached; 2: usage, or refused by the head-end; 3: no answer.
    """
    import httpx  # here: the commands for the field should not wait for it to load

    base = url or (_url_of(config) if config is not None else DEFAULT_URL)
    if not token:
        fail(f"no token: create one with `headend token create CONFIG`, and give it as --token or in {TOKEN_VARIABLE}")
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
    return int(_checked(client.get("/healthz")).get("last_sequence", 0))


def _checked(answer: "httpx.Response") -> dict[str, Any]:
    """The JSON of a good answer; a problem document becomes an error of ours."""
    try:
        body = answer.json()
    except json_library.JSONDecodeError:
        body = {}
    if answer.is_error and answer.status_code != 503:
        fail(f"refused: {body.get('title', answer.reason_phrase)}: {body.get('detail', '')}".rstrip(": "))
    return body if isinstance(body, dict) else {}


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
        if answer.is_error:
            answer.read()
            _checked(answer)
        for line in answer.iter_lines():
            if line.startswith("data:"):
                yield line.removeprefix("data:").strip()


def _show(event: str, *, json: bool) -> None:
    if json:
        typer.echo(event)
        return
    parsed = json_library.loads(event)
    data = parsed["data"]
    head = f"{parsed['sequence']:>8}  {parsed['time']}  {parsed['subject']:<16}"
    if parsed["type"] != "headend.read.v1":
        stdout.print(escape(f"{head}  {parsed['type']}  {json_library.dumps(data, ensure_ascii=False)}"))
        return
    value = (
        f"[bold]{data['value']}[/] {data['unit']}"
        if data["value"] is not None
        else f"[red]missing: {data.get('reason', '')}[/]"
    )
    stdout.print(
        f"{escape(head)}  {data['obis']:<14} {value}  [dim]{data['interval_end']}  {', '.join(data['quality'])}[/]"
    )
