"""What a copy adds up to, per day and meter and per block of the feed, against what manifests say it should."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from headend.ledger.bundle import Bundle
from headend.ledger.digest import RecordsHash, digest_of, event_text, record_text
from headend.ledger.entries import MeterEntry
from headend.store.restores import Void

__all__ = ["Finding", "Sums", "Verdict"]

FINDINGS_MAX = 1000


class Finding(Struct, frozen=True, kw_only=True):
    """kind: missing | extra | changed | reordered | manifest. first, last: sequences, of some. meter: where it is about one."""

    kind: str
    what: str
    first: int | None = None
    last: int | None = None
    meter: str = ""


class Verdict(Struct, kw_only=True):
    """records: in the copy. vouched_through: up to this sequence the manifests can tell. notes: what could not be checked, and why."""

    records: int
    manifests: list[str]
    vouched_through: int
    findings: list[Finding]
    notes: list[str]
    left_off: int = 0

    @property
    def is_good(self) -> bool:
        return not self.findings

    def add(self, finding: Finding) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)
        else:
            self.left_off += 1


class Sums:
    """To be fed with the copy's events in the order of their sequences, each once.

    after: the copy begins behind it; what began before is not compared. one_meter: only this one's records are compared. voids: numbers
    that a restore has made void.
    """

    def __init__(
        self, bundles: Sequence[Bundle], *, with_events: bool, after: int, one_meter: str, voids: Sequence[Void]
    ) -> None:
        self._days = [_Day(bundle, voids) for bundle in bundles]
        self._with_events = with_events
        self._stretches = [] if one_meter else [_Stretch(bundle, with_events=with_events) for bundle in bundles]
        self._at = 0
        self._after = after
        self._one_meter = one_meter
        self._days_of: dict[str, list[_Day]] = {}

    def add(self, sequence: int, event: dict[str, Any]) -> None:
        data, identity = event.get("data"), str(event.get("id"))
        try:
            digest = digest_of(data)
            line = event_text(event, digest) if self._with_events else b""
        except (
            ValueError,
            OverflowError,
            RecursionError,
        ):  # what no event of ours has; then the hash is wrong, as it should be
            digest, line = "", b""
        record = record_text(identity, digest)
        while self._at < len(self._stretches) and sequence > self._stretches[self._at].stretch.through:
            self._at += 1
        if self._at < len(self._stretches) and sequence > self._stretches[self._at].stretch.after:
            self._stretches[self._at].add(sequence, record, line)
        if isinstance(data, dict) and identity.startswith("read:"):
            for day in self._of(str(data.get("interval_end"))):
                if day.counts(sequence):
                    day.add(sequence, str(data.get("meter")), record)

    def _of(self, interval_end: str) -> list["_Day"]:
        """All meters share their interval ends, so they are remembered."""
        found = self._days_of.get(interval_end)
        if found is None:
            try:
                end = datetime.fromisoformat(interval_end)
                found = [day for day in self._days if day.start < end <= day.end]
            except (ValueError, TypeError):  # no time, or one without a zone
                found = []
            self._days_of[interval_end] = found
        return found

    def check_days(self, verdict: Verdict) -> dict[str, set[str]]:
        """Gives, by interval end as written, the meters whose day does not agree."""
        for day in self._days:
            if self._one_meter:
                day.compare(self._one_meter, self._after, verdict)
            elif not day.is_whole_right():
                day.compare_all(self._after, verdict)
        return {end: {meter for day in days for meter in day.wrong} for end, days in self._days_of.items() if days}

    def check_blocks(self, verdict: Verdict) -> Iterator[tuple[int, int]]:
        """First and last sequence of blocks that are complete and not what they should be."""
        unproven = 0
        for stretch in self._stretches:
            stretch.end()
            for at in sorted(stretch.unproven):
                first, last = stretch.range_of(at)
                if stretch.counts.get(at, 0) == last - first + 1:
                    yield first, last
                else:
                    unproven += 1
        if unproven:
            verdict.notes.append(
                f"{unproven} blocks are not all there: what the copy has of them was not proven one by one"
            )


class _Day:
    """wrong: meters that do not agree."""

    def __init__(self, bundle: Bundle, voids: Sequence[Void]) -> None:
        self.bundle = bundle
        # A manifest from after a restore knows nothing of what was given out before it, one from before does.
        self._voids = [void for void in voids if void.last < bundle.manifest.through]
        self.start = datetime.fromisoformat(bundle.manifest.start)
        self.end = datetime.fromisoformat(bundle.manifest.end)
        self.wrong: set[str] = set()
        self._whole = RecordsHash()
        self._meters: dict[str, RecordsHash] = {}

    def counts(self, sequence: int) -> bool:
        """Whether the manifest has counted an event with this number, if it is of its day."""
        if sequence > self.bundle.manifest.through:
            return False
        return not self._voids or not any(void.first <= sequence <= void.last for void in self._voids)

    def add(self, sequence: int, meter: str, record: bytes) -> None:
        self._whole.add(sequence, record)
        records = self._meters.get(meter)
        if records is None:
            records = self._meters[meter] = RecordsHash()
        records.add(sequence, record)

    def is_whole_right(self) -> bool:
        return _is_same(self._whole, self.bundle.manifest)

    def compare_all(self, after: int, verdict: Verdict) -> None:
        manifest = self.bundle.manifest
        if self.bundle.meters is None:
            if manifest.first is None or manifest.first > after:
                what = f"{self.bundle.name}: the copy has {self._whole.count} records, expected {manifest.count}"
                verdict.add(Finding(kind=_kind(self._whole.count, manifest.count), what=what))
            return
        for meter in sorted({*self._meters, *self.bundle.meters}):
            self.compare(meter, after, verdict)

    def compare(self, meter: str, after: int, verdict: Verdict) -> None:
        if self.bundle.meters is None:
            verdict.notes.append(f"{self.bundle.name}: meter {meter} cannot be checked without the parts")
            return
        there, said = self._meters.get(meter) or RecordsHash(), self.bundle.meters.get(meter)
        if said is not None and said.first is not None and said.first <= after:
            return  # its day began before the copy
        expected = 0 if said is None else said.count
        if (said is None and not there.count) or (said is not None and _is_same(there, said)):
            return
        self.wrong.add(meter)
        what = f"{meter} on {self.bundle.manifest.day}: {there.count} records, expected {expected}"
        if there.count == expected:
            what = f"{meter} on {self.bundle.manifest.day}: its {expected} records are not those of the feed"
        verdict.add(Finding(kind=_kind(there.count, expected), what=what, meter=meter))


class _Stretch:
    """unproven: numbers of blocks; counts: of the events that the copy has of each."""

    def __init__(self, bundle: Bundle, *, with_events: bool) -> None:
        self.stretch = bundle.manifest.feed
        self.unproven = set(range(len(self.stretch.records)))
        self.counts: dict[int, int] = {}
        self._with_events = with_events
        self._at = -1
        self._record = self._event = hashlib.sha256()

    def add(self, sequence: int, record: bytes, event: bytes) -> None:
        at = (sequence - self.stretch.after - 1) // self.stretch.block
        if at != self._at:
            self.end()
            self._at, self._record, self._event = at, hashlib.sha256(), hashlib.sha256()
        self.counts[at] = self.counts.get(at, 0) + 1
        self._record.update(record)
        self._event.update(event)

    def end(self) -> None:
        if self._at < 0 or self._record.hexdigest() != self.stretch.records[self._at]:
            return
        if not self._with_events or self._event.hexdigest() == self.stretch.events[self._at]:
            self.unproven.discard(self._at)

    def range_of(self, at: int) -> tuple[int, int]:
        first = self.stretch.after + 1 + at * self.stretch.block
        return first, min(first + self.stretch.block - 1, self.stretch.through)


def _is_same(there: RecordsHash, said: MeterEntry | Any) -> bool:
    return (there.count, there.first, there.last, there.sha256) == (said.count, said.first, said.last, said.sha256)


def _kind(there: int, expected: int) -> str:
    return "changed" if there == expected else "missing" if there < expected else "extra"
