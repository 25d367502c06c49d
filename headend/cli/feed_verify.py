"""`headend feed verify`"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress

from headend.cli.client import TokenOption, body_of, calling
from headend.cli.output import ExitCode, fail, print_json, stderr, stdout

if TYPE_CHECKING:
    import httpx

    from headend.ledger.copy import Copy
    from headend.ledger.signing import PublicKey
    from headend.ledger.sums import Verdict

__all__ = ["verify"]

PAGE = 5000


def verify(
    copy: Annotated[Path, typer.Argument(metavar="COPY", help="NDJSON, one event a line.")],
    manifest: Annotated[
        list[Path] | None, typer.Option(help="As GET /v1/manifests/DAY gives it; may be given several times.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Take manifests from this head-end, and compare with its feed event by event.")
    ] = None,
    token: TokenOption = None,
    key: Annotated[list[Path] | None, typer.Option(help="Public key of the manifests, PEM.")] = None,
    after: Annotated[int | None, typer.Option(min=0, help="The copy begins behind this sequence.")] = None,
    meter: Annotated[str, typer.Option(help="The copy has only this meter's records.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Prove a consumer's copy of the feed: what is missing, extra, changed or out of order.

    Manifests are those of --manifest, of --url, or those that are in the copy. Exit code 0: proven; 2: usage; 3: --url does not answer;
    6: something does not agree.
    """
    from headend.ledger.bundle import bundles_of
    from headend.ledger.compare import compare
    from headend.ledger.copy import Copy
    from headend.ledger.verify import verify as verified

    keys = _keys(key or [])
    read = Copy.of_file(copy)
    given = [event for path in manifest or [] for event in _events(path)]
    if url is None:
        bundles, problems = bundles_of(given or _inside(read), keys)
        if not bundles and not problems:
            fail("there is no manifest in the copy: give one with --manifest, or the head-end with --url")
        verdict = verified(read, bundles, after=after, meter=meter, problems=problems)
    else:
        with calling(None, url, token) as client:
            own_key = _own_key(client) if not keys else []
            bundles, problems = bundles_of(given or list(_manifests(client, read)), keys or own_key)
            verdict = verified(read, bundles, after=after, meter=meter, problems=problems)
            if own_key:
                verdict.notes.append("the key came from the head-end itself: with --key nobody has to believe it")
            if len(read) and not meter:
                first = read.sequences[0] - 1 if after is None else after
                for finding in compare(read, _feed(client, first, read.sequences[-1]), after=first):
                    verdict.add(finding)
    if not keys and url is None:
        verdict.notes.append(
            "signatures were not checked: whoever can change the copy can change manifests; give --key"
        )
    _tell(verdict, json=json)
    if not verdict.is_good:
        raise typer.Exit(ExitCode.CONTRADICTED)


def _keys(paths: Sequence[Path]) -> list["PublicKey"]:
    from headend.ledger.signing import PublicKey

    return [PublicKey.from_pem(_text(path).decode("ascii", "replace")) for path in paths]


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")


def _events(path: Path) -> list[dict[str, Any]]:
    from headend.ledger.bundle import events_in

    try:
        return events_in(_text(path))
    except ValueError as error:
        fail(f"{path} holds no manifest: {error}; expected what GET /v1/manifests/DAY gives")


def _inside(copy: "Copy") -> list[dict[str, Any]]:
    from headend.ledger.bundle import events_in

    return events_in(b"\n".join(copy.manifests)) if copy.manifests else []


# ------------------------------------------------------------------------------------------------ asking the head-end


def _own_key(client: "httpx.Client") -> list["PublicKey"]:
    from headend.ledger.signing import PublicKey

    answer = client.get("/v1/manifest-key")
    found = None if answer.status_code == 404 else body_of(answer)
    return [] if found is None else [PublicKey.from_pem(found["pem"])]


def _manifests(client: "httpx.Client", copy: "Copy") -> Iterator[dict[str, Any]]:
    """Those that vouch for something of the copy's range, and the first that vouches for more: it tells a cut tail."""
    if not len(copy):
        return
    after = 0
    while True:
        page = body_of(client.get("/v1/manifests", params={"after": after, "limit": 1000}))
        for issued in page["manifests"]:
            if issued["through"] >= copy.sequences[0]:
                params = {"revision": issued["revision"]}
                found = body_of(client.get(f"/v1/manifests/{issued['day']}", params=params))
                yield found["manifest"]
                yield from found["parts"]
                if issued["through"] > copy.sequences[-1]:
                    return
        if not page["manifests"]:
            return
        after = page["next"]


def _feed(client: "httpx.Client", after: int, last: int) -> Iterator[dict[str, Any]]:
    """Events behind `after` up to `last`."""
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("comparing with the feed", total=last - after)
        while after < last:
            page = body_of(client.get("/v1/feed", params={"after": after, "limit": min(PAGE, last - after)}))
            if not page["events"]:
                return
            yield from page["events"]
            progress.advance(task, page["next"] - after)
            after = page["next"]


def _tell(verdict: "Verdict", *, json: bool) -> None:
    if json:
        print_json({"ok": verdict.is_good, "verdict": verdict})
        return
    for finding in verdict.findings:
        stdout.print(f"[red]{finding.kind}[/]: {escape(finding.what)}")
    if verdict.left_off:
        stdout.print(f"and {verdict.left_off} more")
    for note in verdict.notes:
        stdout.print(f"[dim]note: {escape(note)}[/]")
    head = f"{verdict.records} events, {len(verdict.manifests)} manifests that vouch through {verdict.vouched_through}"
    if verdict.is_good:
        stdout.print(f"[green]proven[/]: {head}")
    else:
        stdout.print(f"[red]{len(verdict.findings) + verdict.left_off} problem(s)[/]: {head}")
