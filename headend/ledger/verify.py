"""Compares a consumer's copy with signed manifests: what is missing, extra, changed or out of order, as far as they can tell.

Numbers without gap name what is missing; a number twice names what is extra; hashes per meter and day, and per block of the feed, find
what was changed, and where the two cross, few records are left to look at. What lies behind the newest manifest is vouched for by none.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from headend.feed.envelope import READ_TYPE
from headend.ledger.bundle import Bundle
from headend.ledger.copy import Copy
from headend.ledger.sums import Finding, Sums, Verdict
from headend.store.restores import runs

__all__ = ["contradiction", "verify"]

NAMED_MAX = 20  # records named in one finding


def verify(
    copy: Copy, bundles: Sequence[Bundle], *, after: int | None = None, meter: str = "", problems: Sequence[str] = ()
) -> Verdict:
    """bundles, problems: manifests that can be believed, and what is wrong with the others, as `bundles_of` gives them.

    after: the copy begins behind this sequence, and what lies before is not expected. meter: the copy has only this one's records.
    """
    begins = min((bundle.manifest.feed.after for bundle in bundles), default=0)
    through = max((bundle.manifest.through for bundle in bundles), default=0)
    if after is None:
        after = min(begins, copy.sequences[0] - 1) if copy.sequences else begins
    verdict = Verdict(
        records=len(copy),
        manifests=[bundle.name for bundle in bundles],
        vouched_through=through,
        findings=[Finding(kind="manifest", what=problem) for problem in problems],
        notes=[],
    )
    _check_lines(copy, verdict)
    if not meter:
        _check_numbers(copy, after, through, verdict)
        _check_chain(bundles, verdict)
    sums = Sums(bundles, with_events=copy.has_envelopes, after=after, one_meter=meter, voids=copy.voids)
    for _, sequence, event in copy.events():
        if sequence > after:
            sums.add(sequence, event)
    doubtful = sums.check_days(verdict)
    for block in sums.check_blocks(verdict):
        verdict.add(_name_changed(copy, block, doubtful))
    _note_limits(copy, through, verdict)
    return verdict


def _check_lines(copy: Copy, verdict: Verdict) -> None:
    for line in copy.unreadable:
        verdict.add(Finding(kind="changed", what=f"line {line} is no event with a sequence"))
    for line in copy.reordered:
        verdict.add(Finding(kind="reordered", what=f"line {line} has a lower sequence than a line before it"))
    for line, repeat in copy.repeated:
        verdict.add(Finding(kind="extra", what=f"line {repeat} has the sequence of line {line}"))


def _check_numbers(copy: Copy, after: int, through: int, verdict: Verdict) -> None:
    expected = after + 1
    for sequence in copy.sequences:
        if sequence > after:
            for first, last in runs(copy.voids, expected, sequence - 1):
                verdict.add(_missing(first, last))
            expected = sequence + 1
    for first, last in runs(copy.voids, expected, through):
        verdict.add(_missing(first, last))


def _missing(first: int, last: int) -> Finding:
    what = f"event {first} is missing" if first == last else f"events {first} to {last} are missing"
    return Finding(kind="missing", what=what, first=first, last=last)


def _check_chain(bundles: Sequence[Bundle], verdict: Verdict) -> None:
    """Stretches follow each other, and each manifest names the one before it."""
    for before, bundle in pairwise(bundles):
        previous, after = bundle.manifest.previous, bundle.manifest.feed.after
        if after > before.manifest.through:
            verdict.notes.append(
                f"events {before.manifest.through + 1} to {after} are vouched for by no manifest given"
            )
        elif after < before.manifest.through:
            verdict.add(Finding(kind="manifest", what=f"{bundle.name} does not follow {before.name}"))
        elif (
            previous is not None
            and (previous.day, previous.revision) == before.key
            and previous.sha256 != before.sha256
        ):
            verdict.add(Finding(kind="manifest", what=f"{before.name} is not the one that {bundle.name} follows"))


def _name_changed(copy: Copy, block: tuple[int, int], doubtful: Mapping[str, set[str]]) -> Finding:
    """As exactly as it can be told: a record that contradicts itself, or those of meters whose day does not agree.

    doubtful: by interval end as written, the meters.
    """
    first, last = block
    contradictions: list[str] = []
    candidates: list[int] = []
    for _, sequence, event in copy.events(bisect_left(copy.sequences, first)):
        if sequence > last:
            break
        if said := contradiction(event):
            contradictions.append(f"event {sequence}: {said}")
        data = event.get("data")
        if (
            not isinstance(data, dict)
            or not str(event.get("id")).startswith("read:")
            or str(data.get("meter")) in doubtful.get(str(data.get("interval_end")), ())
        ):
            candidates.append(sequence)
    what = f"events {first} to {last} are not those of the feed"
    if contradictions:
        what += "; " + "; ".join(contradictions[:NAMED_MAX])
    elif 0 < len(candidates) <= NAMED_MAX:
        what += f"; look at {', '.join(map(str, candidates))}"
    return Finding(kind="changed", what=what, first=first, last=last)


def contradiction(event: Mapping[str, Any]) -> str:
    """What of a read event does not fit the rest of it; "" when all does, or the event is no read."""
    data = event.get("data")
    if event.get("type") != READ_TYPE or not isinstance(data, dict):
        return ""
    said = {name: data.get(name) for name in ("meter", "obis", "interval_end", "revision", "received_at")}
    derived = {
        "id": "read:{meter}:{obis}:{interval_end}:{revision}".format(**said),
        "subject": said["meter"],
        "time": said["received_at"],
    }
    wrong = (name for name, value in derived.items() if name in event and event[name] != value)
    return next((f"its {name} says {event[name]!r}, its data {derived[name]!r}" for name in wrong), "")


def _note_limits(copy: Copy, through: int, verdict: Verdict) -> None:
    """What nobody can tell."""
    # The newest manifest cannot vouch for itself; its signature does.
    own = sum(sequence > through for sequence in copy.manifest_sequences)
    behind = len(copy) - bisect_right(copy.sequences, through) - own
    if behind:
        verdict.notes.append(
            f"{behind} events behind {through} are vouched for by no manifest yet: only their numbers were checked"
        )
    for void in copy.voids:
        there = bisect_right(copy.sequences, void.last) - bisect_left(copy.sequences, void.first)
        verdict.notes.append(
            f"the head-end was restored from a backup: it has nothing of {void.first} to {void.last}, of which the copy has {there} "
            f"events"
        )
    if len(copy) and not copy.has_envelopes:
        verdict.notes.append(
            "the copy has no envelopes: id and data are proven; source, subject and time are not there"
        )
