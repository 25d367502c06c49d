"""`headend audit verify | export | acknowledge`"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from headend.cli.client import ConfigArgument, TokenOption, UrlOption, body_of, calling
from headend.cli.output import ExitCode, fail, print_json, stderr, stdout

if TYPE_CHECKING:
    from headend.audit.checkpoint import Checkpoint
    from headend.audit.verify import Verdict
    from headend.config import Config
    from headend.keys import PublicKey
    from headend.store.store import Store

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    audit = typer.Typer(help="The audit log: prove it, give evidence, end its alarm.", no_args_is_help=True)
    audit.command("verify")(verify)
    audit.command("export")(export)
    audit.command("acknowledge")(acknowledge)
    app.add_typer(audit, name="audit")


def verify(
    what: Annotated[Path, typer.Argument(metavar="CONFIG|FILE", help="headend.toml, or what `audit export` wrote.")],
    key: Annotated[
        list[Path] | None, typer.Option(help="Public key, PEM.  [default: those of the configuration]")
    ] = None,
    witness: Annotated[
        list[Path] | None,
        typer.Option(
            help="Checkpoints seen elsewhere: a witness file or a copy of the feed; may be given several times."
        ),
    ] = None,
    feed: Annotated[
        bool, typer.Option(help="With CONFIG: hold the log against the checkpoints in its feed, too.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Prove an audit log: nothing changed, taken out, put in or moved, and with a witness nothing cut off or rolled back.

    Exit code 0: proven; 2: usage; 6: something is wrong.
    """
    from headend.audit.entries import EVIDENCE_FORMAT, entries_in_file, header_in_file
    from headend.audit.verify import verify_evidence, verify_log
    from headend.keys import PublicKey

    keys = [PublicKey.from_pem(_bytes(path).decode("ascii", "replace")) for path in key or []]
    seen = [one for path in witness or [] for one in _witnessed(path)]
    if what.suffix == ".toml":
        verdict = _verify_store(what, keys, seen, feed=feed)
    else:
        try:
            with what.open("rb") as file:
                header = header_in_file(file.readline(1_000_000))
                if header.format == EVIDENCE_FORMAT:
                    verdict = verify_evidence(header.meter or "", entries_in_file(file), keys, seen)
                else:
                    verdict = verify_log(entries_in_file(file), keys, seen)
        except OSError as error:
            fail(f"{what} cannot be read: {error.strerror}")
        except ValueError as error:
            fail(f"{what}: {error}; give headend.toml, or a file that `headend audit export` wrote")
    _tell(verdict, json=json)
    if not verdict.is_good:
        raise typer.Exit(ExitCode.CONTRADICTED)


def export(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file, headend.toml.")],
    meter: Annotated[
        str | None, typer.Argument(metavar="[METER]", help="Asset number; without one the whole log.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="File to write; it must not be there.")] = None,
    actor: Annotated[str, typer.Option(help="Who asks for it; stands in the log.")] = "command line",
    reason: Annotated[str, typer.Option(help="Why; stands in the log.")] = "",
    json: Annotated[bool, typer.Option("--json", help="What was written, as one JSON object.")] = False,
) -> None:
    """Write one evidence file: a meter's records, the proof that they are in the log, and checkpoints; or the whole log.

    That a meter's evidence was given is itself recorded, as the file's last record. Exit code 0: written; 2: usage.
    """
    from headend.audit.evidence import evidence_lines, log_lines, record_export
    from headend.audit.settings import log_of, signing_key_of
    from headend.clock import SystemClock
    from headend.config import load_config
    from headend.store.audit import AuditBook

    if to is None:
        fail("give the file to write with --to FILE")
    loaded = load_config(config)
    settings, base = loaded.audit, loaded.path.resolve().parent
    signing = signing_key_of(settings, base=base)
    key = None if signing is None else signing.public
    clock = SystemClock()
    with _store(loaded) as store:
        book = AuditBook(store.engine)
        if meter is None:
            lines = log_lines(store, key=key)
        else:
            if not book.records(meter=meter, limit=1):
                fail(f"the audit log has no record of a meter {meter!r}; expected an asset number, as M000001")
            log = log_of(settings, store, source=loaded.source, base=base, clock=clock)
            through = record_export(store, log, meter, actor=actor, reason=reason, now=clock.now())
            lines = evidence_lines(book, meter, through=through, key=key)
        try:
            with to.open("xb") as file:
                count = sum(1 for line in lines if file.write(line + b"\n"))
        except FileExistsError:
            fail(f"{to} is there already: evidence is never overwritten; name another file")
        except OSError as error:
            fail(f"{to} cannot be written: {error.strerror}")
    if key is None:
        stderr.print("[yellow]note[/]: no `signing_key` in \\[audit]: its checkpoints are not signed")
    if json:
        print_json({"file": str(to), "meter": meter, "lines": count, "signed_by": None if key is None else key.id})
    else:
        stdout.print(escape(f"{count} lines in {to}; `headend audit verify {to}` or tools/verify_audit.py proves them"))


def acknowledge(
    reason: Annotated[str, typer.Argument(metavar="REASON", help="What was found, and why the log may go on.")],
    config: ConfigArgument = None,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """End the alarm of a broken log at the running head-end; until then it opens no supply."""
    with calling(config, url, token) as client:
        answer = body_of(client.post("/v1/audit/acknowledge", json={"reason": reason}), expected="number")
    stdout.print(f"acknowledged in record {answer['number']}; the break itself stays in the log")


# ------------------------------------------------------------------------------------------------ the store


@contextmanager
def _store(config: "Config") -> Iterator["Store"]:
    from headend.store.store import open_store

    store = open_store(config.store, config.name)
    try:
        yield store
    finally:
        store.close()


def _verify_store(path: Path, keys: list["PublicKey"], seen: list["Checkpoint"], *, feed: bool) -> "Verdict":
    from headend.audit.entries import entries_in_store
    from headend.audit.settings import known_keys_of, signing_key_of, witness_of
    from headend.audit.verify import verify_log
    from headend.audit.witness import checkpoints_in
    from headend.config import load_config
    from headend.database.engine import reading
    from headend.store.audit import AuditBook

    loaded = load_config(path)
    settings, base = loaded.audit, loaded.path.resolve().parent
    if not keys:
        own = signing_key_of(settings, base=base)
        keys = [*([] if own is None else [own.public]), *known_keys_of(settings, base=base)]
    witness = witness_of(settings, base=base)
    if witness is not None and witness.path.exists():
        seen = [*seen, *_witnessed(witness.path)]
    with _store(loaded) as store, Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        if feed:
            seen = [*seen, *checkpoints_in(_feed(store, progress))]
        total = AuditBook(store.engine).last_number()
        task = progress.add_task("verifying the audit log", total=total)
        with reading(store.engine, "verifying the audit log") as connection:
            return verify_log(
                entries_in_store(connection),
                keys,
                seen,
                on_progress=lambda number: progress.update(task, completed=number),
            )


def _feed(store: "Store", progress: Progress) -> Iterator[bytes]:
    """Every event; a feed that was pruned begins later."""
    from headend.store.ledger import EVENTS_AT_ONCE, LedgerBook

    book = LedgerBook(store.engine)
    first, last = book.first_sequence(), store.last_sequence()
    task = progress.add_task("looking for checkpoints in the feed", total=last)
    after = max(0, first - 1)
    while after < last:
        events = store.events_after(after, EVENTS_AT_ONCE)
        if not events:
            return
        yield from events
        after += len(events)
        progress.update(task, completed=after)


def _witnessed(path: Path) -> list["Checkpoint"]:
    from headend.audit.witness import checkpoints_in

    found = list(checkpoints_in(_bytes(path).split(b"\n")))
    if not found:
        fail(
            f"{path} holds no checkpoint; expected a witness file, or a copy of the feed as `feed tail --json` prints it"
        )
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")


def _tell(verdict: "Verdict", *, json: bool) -> None:
    if json:
        print_json({"ok": verdict.is_good, "verdict": verdict})
        return
    findings: Sequence[str] = verdict.findings
    for finding in findings:
        stdout.print(f"[red]{escape(finding)}[/]")
    if verdict.left_off:
        stdout.print(f"and {verdict.left_off} more")
    for note in verdict.notes:
        stdout.print(f"[dim]note: {escape(note)}[/]")
    head = f"{verdict.records} records, {verdict.checkpoints} checkpoints that vouch through {verdict.through}"
    if verdict.is_good:
        stdout.print(f"[green]proven[/]: {head}")
    else:
        stdout.print(f"[red]{len(findings) + verdict.left_off} problem(s)[/]: {head}")
