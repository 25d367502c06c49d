"""Talking to a running head-end: where it is, with which token, and what its refusals mean on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import quote

import typer

from headend.cli.output import ExitCode, fail

if TYPE_CHECKING:
    import httpx

__all__ = [
    "ConfigArgument",
    "ConfigOption",
    "TokenOption",
    "UrlOption",
    "any_body",
    "body_of",
    "calling",
    "path_part",
    "refuse",
]

DEFAULT_URL = "http://127.0.0.1:8645"
TOKEN_VARIABLE = "HEADEND_TOKEN"
QUIET_S_MAX = 60.0  # the stream beats every 15 s; four missed beats are a dead connection

ConfigArgument = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="Take the address from this configuration.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="CONFIG", help="Take the address from this configuration.")
]
UrlOption = Annotated[str | None, typer.Option(help=f"Address of the head-end.  [default: {DEFAULT_URL}]")]
TokenOption = Annotated[str | None, typer.Option(envvar=TOKEN_VARIABLE, help="A token with the role that this needs.")]


@contextmanager
def calling(config: Path | None, url: str | None, token: str | None) -> Iterator["httpx.Client"]:
    """A client for the head-end; what goes wrong on the way ends the command with its exit code."""
    import httpx  # here: the commands for the field should not wait for it to load

    base = url or (_url_of(config) if config is not None else DEFAULT_URL)
    if not token:
        fail(f"no token: create one with `headend token create CONFIG`, and give it as --token or in {TOKEN_VARIABLE}")
    token = token.strip()
    if not token.isascii() or not token.isprintable():
        fail("the token holds characters that no token has; expected hdt_… as `headend token create` printed it")
    try:
        with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=QUIET_S_MAX) as client:
            yield client
    except (httpx.TransportError, httpx.InvalidURL) as error:
        fail(f"{base} does not answer: {error}; is `headend run` running there?", ExitCode.SILENT)


def any_body(answer: "httpx.Response") -> dict[str, Any]:
    """The JSON object of an answer, good or not; empty where it has none."""
    try:
        body = answer.json()
    except ValueError:  # no JSON, or no text at all
        return {}
    return body if isinstance(body, dict) else {}


def body_of(answer: "httpx.Response", *, expected: str = "") -> dict[str, Any]:
    """The JSON of a good answer, which has a member `expected`; a problem document ends the command."""
    body = any_body(answer)
    if answer.status_code != 200 or (expected and expected not in body):
        refuse(answer, body)
    return body


def refuse(answer: "httpx.Response", body: dict[str, Any]) -> NoReturn:
    if answer.is_success:
        fail(f"{answer.url} is no head-end; is the address right?")
    why = f"{body.get('title', answer.reason_phrase)}: {body.get('detail', '')}".rstrip(": ")
    if answer.status_code >= 500:
        fail(f"the head-end cannot serve this at the moment: {why}", ExitCode.SILENT)
    next_step = f" {body['next_step']}" if body.get("next_step") else ""
    fail(f"refused: {why}{next_step}")


def path_part(text: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(text, safe="")


def _url_of(config: Path) -> str:
    from headend.config import load_config

    loaded = load_config(config)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        loaded.host, f"[{loaded.host}]" if ":" in loaded.host else loaded.host
    )
    return f"http://{host}:{loaded.port}"
