"""What the commands about supply switches have in common: their options, and what a refusal looks like on a terminal."""

from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from headend.cli.client import any_body, refuse
from headend.cli.output import ExitCode, fail, print_json

if TYPE_CHECKING:
    import httpx

__all__ = ["Json", "Reason", "good_body", "tell_refused"]

Reason = Annotated[str, typer.Option(help="Why; stands in the audit log.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, nothing else on standard output.")]


def tell_refused(answer: "httpx.Response", body: dict[str, Any], *, json: bool) -> NoReturn:
    """json: the head-end's problem document goes to standard output; what it says to people, to standard error."""
    refusals = body.get("refusals")
    if json and "title" in body and not answer.is_success:
        print_json(body)
        if refusals:
            raise typer.Exit(ExitCode.USAGE)
    if not refusals:
        refuse(answer, body)
    lines = [f"{one['rule']} ({one['version']}): {one['text']}\n         needed: {one['needed']}" for one in refusals]
    fail("refused:\n  " + "\n  ".join(lines))


def good_body(answer: "httpx.Response", expected: str, *, json: bool) -> dict[str, Any]:
    body = any_body(answer)
    if not answer.is_success:
        tell_refused(answer, body, json=json)
    if expected not in body:
        refuse(answer, body)
    return body
