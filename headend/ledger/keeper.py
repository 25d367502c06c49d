"""The task that closes each day, some hours after its midnight, and closes it again when something of it has changed since.

A day's first manifest counts what the feed has by then; what back-filling may still change is `open` in it. A manifest that no
longer says the truth gets a new revision at the next closing: because reads of its day came later, or because the time has passed in
which its open intervals could be filled. Days that were missed while the head-end was down are closed one after the other.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import structlog

from headend.clock import Clock
from headend.feed.envelope import encode_event
from headend.intervals.days import local_day
from headend.ledger.account import Window
from headend.ledger.closing import DayLook, LedgerDisagrees, day_of, touched_days
from headend.ledger.collection import TARGET, CollectionReport, report_of
from headend.ledger.digest import digest_of
from headend.ledger.duty import Duty
from headend.ledger.issue import entries_of, manifest_of
from headend.ledger.manifest import MANIFEST_TYPE, PART_TYPE, Previous, parts_of, whole_event
from headend.ledger.signing import SigningKey
from headend.ledger.states import states_of
from headend.model import Event
from headend.store.ledger import Issued, LedgerBook
from headend.store.restores import over, runs
from headend.store.rows import epoch_ms, from_epoch_ms
from headend.store.writer import Execute, Writer

__all__ = ["CLOSE_AFTER_S", "LedgerKeeper"]

# A daily register may be read until four hours after its midnight (`poller.ACCEPT_MAX`), and is missing only then.
CLOSE_AFTER_S = 5 * 3600
DAYS_MISSED_MAX = 62  # older ones stay unclosed; a clock that jumps by years must not fill the feed
LOOK_S = 60.0  # between two looks at the wall clock, which may be stepped

log = structlog.get_logger(__name__)
_decode = msgspec.json.Decoder().decode


class LedgerKeeper:
    """One per head-end.

    source: of the feed's events, "/headend/NAME". execute: where the steps run; better not the writer's thread, which they would
    hold up. key: None issues manifests without a signature.
    """

    def __init__(
        self,
        book: LedgerBook,
        writer: Writer,
        duties: Iterable[Duty],
        *,
        zone: ZoneInfo,
        source: str,
        clock: Clock,
        execute: Execute,
        key: SigningKey | None = None,
        close_after_s: float = CLOSE_AFTER_S,
        target: Decimal = TARGET,
    ) -> None:
        self._book = book
        self._writer = writer
        self._duties = list(duties)
        self._zone = zone
        self._source = source
        self._clock = clock
        self._execute = execute
        self._key = key
        self._close_after = timedelta(seconds=close_after_s)
        self._target = target
        self._stopping = asyncio.Event()
        self._looked_on: date | None = None
        self._trouble: dict[str, str] = {}
        self.collection: CollectionReport | None = None
        self.last_closed: date | None = None
        self.issued = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """For /healthz: days whose reads and events disagree."""
        return tuple(self._trouble.values())

    @property
    def closed_until(self) -> datetime | None:
        """End of the newest closed day."""
        return None if self.last_closed is None else local_day(self.last_closed, self._zone)[1]

    def stop(self) -> None:
        """End after the step in hand."""
        self._stopping.set()

    async def run(self) -> None:
        await self.begin()
        while not self._stopping.is_set():
            await self.close_due()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def begin(self) -> None:
        """Find manifests that were issued just before the last end, and say what is owed from now on."""
        mark = await self._execute(self._book.mark)
        last = await self._execute(self._book.last_sequence)
        if mark is None:
            await self._execute(lambda: self._book.begin(last))
        else:
            await self._recover(mark.looked_through + 1, last)
        now = epoch_ms(self._clock.now())
        changed = await self._execute(lambda: self._book.set_duties(self._duties, now))
        last_day = await self._execute(self._book.last_day)
        self.last_closed = None if last_day is None else date.fromisoformat(last_day)
        log.info("ledger is kept", meters=len(self._duties), changed=changed, last_closed=last_day)

    async def close_due(self) -> int:
        """Close what is due, gives how many manifests were issued. Once a day there is something to do."""
        now = self._clock.now()
        yesterday = (now - self._close_after).astimezone(self._zone).date() - timedelta(days=1)
        if self._looked_on is not None and yesterday <= self._looked_on:
            return 0
        before = self.issued
        known = await self._execute(self._book.latest)
        newest = await self._execute(self._book.newest)
        touched: set[date] = set()
        for day in await self._execute(lambda: self._due(yesterday, known)):
            touched |= await self._close(day, None)
        await self._reopen(known, yesterday, touched, seen_after=0 if newest is None else newest.through)
        if self.collection is None and self.last_closed is not None:
            look = DayLook(Window(self.last_closed, self._zone, now), await self._execute(self._book.last_sequence))
            if await self._steps(look.count(self._book)):
                self.collection = report_of(look.window, look.accounts.values(), target=self._target)
        if not self._stopping.is_set():
            self._looked_on = yesterday
        return self.issued - before

    def _due(self, yesterday: date, known: Mapping[str, Issued]) -> list[date]:
        """Days to be closed for the first time, oldest first."""
        begun = self._book.first_duty()
        if begun is None:
            return []
        first = day_of(from_epoch_ms(begun + 1), self._zone)
        earliest = yesterday - timedelta(days=DAYS_MISSED_MAX - 1)
        if first < earliest and earliest.isoformat() not in known:
            log.warning("days before this one stay unclosed", day=earliest.isoformat())
        days = (max(first, earliest) + timedelta(days=number) for number in range(DAYS_MISSED_MAX))
        return [day for day in days if day <= yesterday and day.isoformat() not in known]

    async def _reopen(
        self, known: Mapping[str, Issued], yesterday: date, touched: set[date], *, seen_after: int
    ) -> None:
        """Close days anew that are open or that reads have come for; once after each closing, also when we died between the two.

        touched: by events behind `seen_after`.
        """
        mark = await self._execute(self._book.mark)
        closed = await self._execute(partial(self._book.newest, first_only=True))
        if mark is None or closed is None or mark.reopened_through >= closed.through:
            return
        # What this run has not seen: events of closings that we did not come back from, and of manifests issued anew.
        unseen = touched_days(
            self._book, self._zone, after=mark.reopened_through, through=min(seen_after, closed.through), found=touched
        )
        if not await self._steps(unseen):
            return
        for text in sorted(known):
            day = date.fromisoformat(text)
            # A clock that was set back has closed days that have not come yet: they wait for theirs.
            if day <= yesterday and (day in touched or not known[text].is_final):
                await self._close(day, known[text])
        if not self._stopping.is_set():
            await self._execute(lambda: self._book.set_mark(reopened_through=closed.through))

    # -------------------------------------------------------------------------------------------- one day

    async def _close(self, day: date, before: Issued | None) -> set[date]:
        """Issue the day's manifest unless `before` still says it all. Gives the days whose reads were seen on the way."""
        now = self._clock.now()
        look = DayLook(Window(day, self._zone, now), await self._execute(self._book.last_sequence))
        if not await self._steps(look.count(self._book)):
            return set()
        if before is None:
            self.collection = report_of(look.window, look.accounts.values(), target=self._target)
        elif not await self._has_changed(look, before):
            return set()
        newest = await self._execute(self._book.newest)
        mark = await self._execute(self._book.mark)
        after = newest.through if newest is not None else 0 if mark is None else mark.begins_after
        try:
            if not await self._steps(look.hash_events(self._book, after=after)):
                return set()
        except LedgerDisagrees as error:
            if before is None:
                self._trouble[day.isoformat()] = f"{error}; no manifest of that day is issued."
            # The feed of an old day may have been pruned: then its last manifest stays.
            log.error("day cannot be closed", day=day.isoformat(), problem=str(error))
            return set()
        self._trouble.pop(day.isoformat(), None)
        await self._issue(look, before, newest)
        return look.touched

    async def _has_changed(self, look: DayLook, before: Issued) -> bool:
        said = await self._execute(lambda: self._data(before))
        if look.events < said["count"]:
            log.warning("reads of a closed day are gone; its manifest stays", day=before.day, reads=look.events)
            return False
        return bool(look.events > said["count"] or states_of(look.states) != said["states"])

    def _data(self, issued: Issued) -> dict[str, Any]:
        body = self._book.body(issued.day, issued.revision)
        assert body is not None, f"{issued} has no body"
        return _decode(body[0])["data"]  # type: ignore[no-any-return]

    async def _issue(self, look: DayLook, before: Issued | None, newest: Issued | None) -> None:
        now = self._clock.now()
        day = look.window.day.isoformat()
        lowest = await self._execute(self._book.lowest_revision)
        revision = lowest if before is None else max(lowest, before.revision + 1)
        parts = parts_of(day, revision, look.through, entries_of(look), now)
        manifest = manifest_of(
            look,
            source=self._source,
            revision=revision,
            closed_at=now,
            parts=[entry for entry, _ in parts],
            previous=None
            if newest is None
            else Previous(day=newest.day, revision=newest.revision, sha256=newest.sha256),
            key=self._key,
        )
        events = [*(event for _, event in parts), whole_event(manifest, now)]
        sequences = await self._writer.submit_all(events)
        texts = [
            encode_event(event, source=self._source, sequence=sequence)
            for event, sequence in zip(events, sequences, strict=True)
            if sequence is not None
        ]
        await self._record(events[-1], sequences[-1] or 0, texts[-1], texts[:-1])
        self.issued += 1
        self.last_closed = max(look.window.day, self.last_closed or look.window.day)
        log.info("day closed", day=day, revision=revision, through=look.through, states=manifest.states)

    async def _record(self, event: Event, sequence: int, whole: bytes, parts: list[bytes]) -> None:
        data = event.data
        issued = msgspec.convert({**data, "sequence": sequence, "sha256": digest_of(data)}, Issued)
        await self._execute(lambda: self._book.record(issued, whole, parts))

    async def _recover(self, first: int, last: int) -> None:
        """Manifests that are in the feed and not yet in the index: we died between the two."""
        first = max(first, await self._execute(self._book.first_sequence))
        parts: dict[str, bytes] = {}
        voids = await self._execute(self._book.voids)
        while (first := over(voids, first - 1) + 1) <= last:
            run = next(runs(voids, first, last))
            portion = await self._execute(partial(self._book.events, *run))
            for sequence, text in portion:
                if b'"headend.manifest' not in text:
                    continue
                event = _decode(text)
                if event["type"] == PART_TYPE:
                    parts[event["id"]] = text
                elif event["type"] == MANIFEST_TYPE:
                    found = Event(type=MANIFEST_TYPE, subject="", data=event["data"], time=self._clock.now())
                    await self._record(found, sequence, text, [parts[entry["id"]] for entry in event["data"]["parts"]])
                    log.info("manifest found in the feed", day=event["data"]["day"], sequence=sequence)
            first = portion[-1][0] + 1
        await self._execute(lambda: self._book.set_mark(looked_through=last))

    async def _steps(self, steps: Iterator[None]) -> bool:
        """One after the other, the loop having its turn between them; False when we are to stop and some were left out."""

        def step() -> bool:
            return next(steps, _END) is not _END

        while not self._stopping.is_set():
            if not await self._execute(step):
                return True
        return False


_END = object()
