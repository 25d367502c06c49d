"""Proves a log, or one meter's evidence: what was changed, taken out, put in or moved, cut off or rolled back. Pure.

The chain finds what was changed by somebody who does not compute it anew; checkpoints what was changed by somebody who does and has
not the key; what was seen of the log elsewhere, a witness, finds records cut off its end and a store that was rolled back.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from headend.audit.chain import START, Body, Tail, read_body, trouble_after
from headend.audit.checkpoint import Checkpoint, parsed, signature_problem
from headend.audit.entries import CheckpointEntry, Entry, ProvenEntry, RecordEntry, Unreadable
from headend.audit.kinds import ACKNOWLEDGED_BREAK, BROKEN, EXPORTED
from headend.audit.record import hash_of
from headend.audit.tree import root_from, root_of
from headend.keys import PublicKey

__all__ = ["Verdict", "verify_evidence", "verify_log"]

FINDINGS_MAX = 1000  # named in a verdict; the rest is counted


class Verdict(Struct, kw_only=True):
    """through: last record that a checkpoint vouches for. findings: what is wrong; left_off: how many more. notes: what to know."""

    records: int = 0
    checkpoints: int = 0
    through: int = 0
    findings: list[str] = []
    left_off: int = 0
    notes: list[str] = []

    @property
    def is_good(self) -> bool:
        return not self.findings

    def add(self, finding: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)
        else:
            self.left_off += 1


class _Break(Struct):
    """A new segment. lost: records between these are gone, as it says itself."""

    number: int
    problem: str
    lost: tuple[int, int]
    is_acknowledged: bool = False


class _Breaks:
    def __init__(self) -> None:
        self._found: dict[int, _Break] = {}

    def look(self, body: Body) -> None:
        try:
            data = msgspec.json.decode(body.data)
            if body.kind == BROKEN:
                lost = (int(data["found"]["number"]), body.number)
                self._found[body.number] = _Break(body.number, str(data["problem"]), lost)
            else:
                for number in data["breaks"]:
                    self._found[number].is_acknowledged = True
        except (msgspec.MsgspecError, LookupError, TypeError, ValueError, RecursionError):
            self._found.setdefault(body.number, _Break(body.number, "it cannot be read", (0, 0)))

    def tell(self, verdict: Verdict) -> None:
        for one in self._found.values():
            said = f"record {one.number} begins a new segment: {one.problem}"
            if one.is_acknowledged:
                verdict.notes.append(f"{said}; an operator has acknowledged it")
            else:
                verdict.add(f"{said}; nobody has acknowledged it")

    def explains(self, number: int) -> bool:
        """Whether the record is among those that an acknowledged break says are gone."""
        return any(one.is_acknowledged and one.lost[0] < number < one.lost[1] for one in self._found.values())


class _Witnesses:
    """Checkpoints that were seen elsewhere, held against those that are there."""

    def __init__(self, seen: Iterable[Checkpoint], keys: Sequence[PublicKey], verdict: Verdict) -> None:
        self._seen: dict[int, Checkpoint] = {}
        for one in seen:
            if problem := signature_problem(one, keys):
                verdict.add(f"the witness's checkpoint {one.number} {problem}")
            elif one.number in self._seen and self._seen[one.number].digest != one.digest:
                verdict.add(f"two checkpoints {one.number} were witnessed that differ: the log was rolled back")
            else:
                self._seen[one.number] = one
        self.newest = max(self._seen, default=0)
        self._pending = dict(self._seen)

    def meet(self, checkpoint: Checkpoint, verdict: Verdict) -> None:
        seen = self._pending.pop(checkpoint.number, None)
        if seen is not None and seen.digest != checkpoint.digest:
            verdict.add(f"checkpoint {checkpoint.number} is another than the one that was witnessed")

    def tell(self, verdict: Verdict, is_explained: Callable[[int], bool]) -> None:
        for number in sorted(self._pending):
            said = f"checkpoint {number} was witnessed, and is gone"
            if is_explained(number):
                verdict.notes.append(f"{said}, as an acknowledged break says")
            else:
                verdict.add(said)


def verify_log(
    entries: Iterable[Entry],
    keys: Sequence[PublicKey] = (),
    witnessed: Iterable[Checkpoint] = (),
    *,
    on_progress: Callable[[int], Any] = lambda number: None,
) -> Verdict:
    """The whole log from its first record on. on_progress: called at each checkpoint with its number."""
    verdict = Verdict()
    breaks = _Breaks()
    witnesses = _Witnesses(witnessed, keys, verdict)
    meters: dict[str, int] = {}
    before, last = START, None
    hashes: list[str] = []  # since the last checkpoint
    for entry in entries:
        if isinstance(entry, RecordEntry):
            verdict.records += 1
            hashes.append(entry.hash)
            try:
                body = read_body(entry.body)
            except ValueError as error:
                number = before.number + 1 if entry.number is None else entry.number
                verdict.add(f"record {number} {error}")
                before = Tail(number, entry.hash)
                continue
            number = body.number if entry.number is None else entry.number
            for trouble in trouble_after(before, number, entry.hash, entry.body, body, entry.columns):
                verdict.add(trouble)
            if body.meter is not None:
                count = meters.get(body.meter, 0) + 1
                if body.meter_number != count:
                    verdict.add(f"record {number} is number {body.meter_number} of {body.meter}, expected {count}")
                meters[body.meter] = body.meter_number or count
            if body.kind in (BROKEN, ACKNOWLEDGED_BREAK):
                breaks.look(body)
            before = Tail(number, entry.hash)
        elif isinstance(entry, CheckpointEntry):
            try:
                checkpoint = parsed(entry.body)
            except ValueError as error:
                verdict.add(f"the checkpoint behind record {before.number} is {error}")
                continue
            _check(checkpoint, entry, before, last, hashes, keys, verdict)
            witnesses.meet(checkpoint, verdict)
            on_progress(checkpoint.number)
            last, hashes = checkpoint, []
        else:
            verdict.add(entry.what if isinstance(entry, Unreadable) else "a record of evidence stands in a log")
    verdict.through = 0 if last is None else last.number
    breaks.tell(verdict)
    witnesses.tell(verdict, breaks.explains)
    _note_log(verdict, hashes, keys, witnesses.newest)
    return verdict


def _check(
    checkpoint: Checkpoint,
    entry: CheckpointEntry,
    before: Tail,
    last: Checkpoint | None,
    hashes: Sequence[str],
    keys: Sequence[PublicKey],
    verdict: Verdict,
) -> None:
    verdict.checkpoints += 1
    name = f"checkpoint {checkpoint.number}"
    if problem := signature_problem(checkpoint, keys):
        verdict.add(f"{name} {problem}")
    if entry.number not in (None, checkpoint.number):
        verdict.add(f"{name} is filed under {entry.number}")
    if (checkpoint.number, checkpoint.hash) != (before.number, before.hash):
        verdict.add(f"{name} does not vouch for record {before.number} as it is")
    elif checkpoint.root != root_of(hashes):
        verdict.add(f"{name} does not vouch for the records {checkpoint.first} to {checkpoint.number} as they are")
    previous, first = (None, 1) if last is None else (last.digest, last.number + 1)
    if checkpoint.previous != previous or checkpoint.first != first:
        follows = "the beginning" if last is None else f"checkpoint {last.number}"
        verdict.add(f"{name} does not follow {follows}")


def _note_log(verdict: Verdict, hashes: Sequence[str], keys: Sequence[PublicKey], newest: int) -> None:
    if hashes:
        verdict.notes.append(
            f"{len(hashes)} records behind {verdict.through} are under no checkpoint yet: only their chain was checked"
        )
    if not keys:
        verdict.notes.append("signatures were not checked: whoever can write the log can write checkpoints; give a key")
    if not newest:
        verdict.notes.append(
            "no witness was given: records cut off the end, or an older state of the whole log, cannot be told"
        )
    elif newest < verdict.through:
        verdict.notes.append(f"what is behind checkpoint {newest} was not witnessed: its end could have been cut off")


def verify_evidence(
    meter: str, entries: Iterable[Entry], keys: Sequence[PublicKey] = (), witnessed: Iterable[Checkpoint] = ()
) -> Verdict:
    """All records of one meter, up to the one that says that they were given away."""
    verdict = Verdict()
    seen: dict[int, set[str]] = {}
    for one in witnessed:
        seen.setdefault(one.number, set()).add(one.digest)
    checkpoints: dict[int, Checkpoint] = {}
    number, count, kind = 0, 0, ""
    proven: list[ProvenEntry] = []
    for entry in entries:
        if isinstance(entry, CheckpointEntry):
            verdict.checkpoints += 1
            try:
                checkpoint = parsed(entry.body)
            except ValueError as error:
                verdict.add(f"a line holds {error}")
                continue
            if problem := signature_problem(checkpoint, keys):
                verdict.add(f"checkpoint {checkpoint.number} {problem}")
            if seen.get(checkpoint.number, set()) - {checkpoint.digest}:
                verdict.add(f"checkpoint {checkpoint.number} is another than the one that was witnessed")
            if checkpoint.number in checkpoints:
                verdict.add(f"checkpoint {checkpoint.number} stands there twice")
            checkpoints[checkpoint.number] = checkpoint
        elif isinstance(entry, ProvenEntry):
            verdict.records += 1
            proven.append(entry)
        else:
            verdict.add(entry.what if isinstance(entry, Unreadable) else "a record of a log stands in evidence")
    for entry in proven:
        try:
            body = read_body(entry.body)
            root = root_from(hash_of(entry.previous, entry.body), entry.proof)
        except ValueError as error:
            verdict.add(f"record behind {number}: {error}")
            continue
        found = checkpoints.get(entry.checkpoint)
        if found is None:
            verdict.add(f"record {body.number} names checkpoint {entry.checkpoint}, which is not there")
        elif found.root != root or not found.first <= body.number <= found.number:
            verdict.add(f"record {body.number} was changed: checkpoint {found.number} does not vouch for it")
        if body.meter != meter:
            verdict.add(f"record {body.number} is not of {meter}")
        if body.number <= number or body.meter_number != count + 1:
            verdict.add(f"record {body.number} is number {body.meter_number} of the meter, expected {count + 1}")
        number, count, kind = body.number, body.meter_number or count + 1, body.kind
    verdict.through = max(checkpoints, default=0)
    if unused := sorted(checkpoints.keys() - {entry.checkpoint for entry in proven}):
        verdict.add(f"checkpoint {unused[0]} is that of no record here")
    if kind != EXPORTED:
        verdict.add(
            "it does not end with the record of its own export: records behind the last could have been cut off"
        )
    if not keys:
        verdict.notes.append(
            "signatures were not checked: whoever can write the file can write checkpoints; give a key"
        )
    return verdict
