"""Asking a running head-end over HTTP, with its refusals and silences as this command line tells them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from headend.cli.output import ExitCode, fail

if TYPE_CHECKING:
    import httpx

__all__ = ["DEFAULT_URL", "TOKEN_VARIABLE", "answer_of", "head_end"]

DEFAULT_URL = "http://127.0.0.1:8645"
TOKEN_VARIABLE = "HEADEND_TOKEN"
ANSWER_S_MAX = 60.0


@contextmanager
def head_end(config: Path | None, url: str | None, token: str | None) -> Iterator["httpx.Client"]:
    """config: where the address is taken from when no `url` is given. A head-end that does not answer is exit code 3."""
    import httpx  # here: the commands for the field should not wait for it to load

    base = url or (_url_of(config) if config is not None else DEFAULT_URL)
    token = (token or "").strip()
    if not token:
        fail(f"no token: create one with `headend token create CONFIG`, and give it as --token or in {TOKEN_VARIABLE}")
    if not token.isascii() or not token.isprintable():
        fail("the token holds characters that no token has; expected hdt_… as `headend token create` printed it")
    try:
        with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=ANSWER_S_MAX) as client:
            yield client
    except (httpx.TransportError, httpx.InvalidURL) as error:
        fail(f"{base} does not answer: {error}; is `headend run` running there?", ExitCode.SILENT)


def _url_of(config: Path) -> str:
    from headend.config import load_config

    loaded = load_config(config)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        loaded.host, f"[{loaded.host}]" if ":" in loaded.host else loaded.host
    )
    return f"http://{host}:{loaded.port}"


def answer_of(answer: "httpx.Response", *, or_none: bool = False) -> Any:
    """The JSON of a good answer; a problem document becomes an error of ours. or_none: 404 gives None."""
    try:
        body = answer.json()
    except ValueError:  # no JSON, or no text at all
        body = None
    if answer.status_code == 404 and or_none:
        return None
    if answer.status_code != 200 or not isinstance(body, dict):
        _refuse(answer, body if isinstance(body, dict) else {})
    return body


def _refuse(answer: "httpx.Response", body: dict[str, Any]) -> NoReturn:
    if answer.is_success:
        fail(f"{answer.url} is nothing that a head-end says; is the address right?")
    why = f"{body.get('title', answer.reason_phrase)}: {body.get('detail', '')}".rstrip(": ")
    if answer.status_code >= 500:
        fail(f"the head-end cannot answer at the moment: {why}", ExitCode.SILENT)
    fail(f"refused: {why}")
