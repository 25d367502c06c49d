"""Every read passes here before it is published: truth checks with what is known of its channel, and what is remembered of it.

Whoever has reads of one meter (a poller's turn, a concentrator's message, the meter's own memory) hands them in together and puts
what comes back into the store: each read with its findings, and with the history that its channel has from then on. Both become
durable in one commit, so that a restart knows of every suspicion that the feed knows of.

A register whose reads begin to be doubted is told once, as `headend.meter-status.v1` of kind "suspicion", and so is what becomes of
it. The event is put before the read: a crash between them may repeat it, and never loses it.

Belongs to one event loop. Histories are kept as they are stored, some 30 bytes for each channel, and decoded for each read.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection as Transaction

from headend.clock import Clock
from headend.feed.envelope import iso_utc
from headend.intervals.context import Context
from headend.intervals.findings import Finding
from headend.intervals.history import History, Suspicion, moment_of, rebased, second_of
from headend.intervals.promised import promised_register
from headend.intervals.promises import pushed_register
from headend.intervals.quality import TruthChecks, Verdict, judge
from headend.intervals.registers import Connection, Register, ticks_of
from headend.model import Event, Item, JudgedRead, MeterClock, PushedRead, Quality, Read
from headend.ratios import Ratios
from headend.store.histories import rebase_history
from protocols.values import Unit

__all__ = ["ACCEPTED", "Guard", "GuardedMeter", "Judgement", "Rebase", "rebase_rows"]

EVENT_TYPE = "headend.meter-status.v1"
KIND = "suspicion"
ACCEPTED = "accepted"

log = structlog.get_logger(__name__)


class GuardedMeter(Struct, frozen=True, kw_only=True, gc=False):
    """contract: whose rows its polled reads follow. connection: what the customer's line carries, with ratio 1; None: not known."""

    id: str
    contract: str
    period_s: int
    connection: Connection | None = None


class _Alike(Struct):
    """What meters of one contract and connection share: their registers by quantity, made when they are first read."""

    contract: str
    connection: Connection | None
    registers: dict[str, Register] = {}


class _Watched(Struct, gc=False):
    id: str
    period_s: int
    alike: _Alike
    histories: dict[str, bytes]


class _Doubt(Struct):
    """A read that a second one, taken at once, would confirm or clear. items: to be published when there is none."""

    read: Read
    verdict: Verdict
    items: list[Item]


class Judgement(Struct):
    """What is to be published of one round. reads: the round as it came."""

    reads: Sequence[Read]
    settled: list[Item] = []
    doubts: list[_Doubt] = []

    @property
    def items(self) -> list[Item]:
        """As it is without a second read."""
        return [*self.settled, *(item for doubt in self.doubts for item in doubt.items)]

    @property
    def again(self) -> list[str]:
        """Quantities of which a second read would tell more."""
        return [doubt.read.obis for doubt in self.doubts]


class Rebase(Struct, frozen=True, kw_only=True):
    """A fact about to move the baseline of one channel. items: what tells of it, for the fact's own transaction."""

    meter: str
    obis: str
    generation: int
    history: bytes
    items: tuple[Event, ...]


class Guard:
    """The truth checks of one head-end.

    histories: by meter and quantity, as stored; taken over. clocks: as last measured, by meter; may change. ratios: of transformers.
    findings: how often each rule was found, held or only remarked on. changes: how often a suspicion changed, by rule and state.
    """

    def __init__(
        self,
        meters: Iterable[GuardedMeter],
        *,
        histories: dict[str, dict[str, bytes]],
        clock: Clock,
        clocks: Mapping[str, MeterClock],
        ratios: Ratios,
    ) -> None:
        alike: dict[tuple[str, Connection | None], _Alike] = {}
        self._meters: dict[str, _Watched] = {}
        for meter in meters:
            key = (meter.contract, meter.connection)
            shared = alike.setdefault(key, _Alike(*key))
            self._meters[meter.id] = _Watched(meter.id, meter.period_s, shared, histories.get(meter.id, {}))
        self._clock = clock
        self._clocks = clocks
        self._ratios = ratios
        self._checks = TruthChecks()
        self.findings: Counter[tuple[str, bool]] = Counter()
        self.changes: Counter[tuple[str, str]] = Counter()

    # -------------------------------------------------------------------------------------------- reads

    def examine(self, reads: Sequence[Read], *, is_pushed: bool = False) -> Judgement:
        """Reads of one meter, for one interval end. Missing ones, and those that came suspect, pass.

        is_pushed: by a concentrator, which may repeat itself.
        """
        judgement = Judgement(reads)
        settled = judgement.settled
        given: list[tuple[Read, Context]] = []
        for read in reads:
            if self._is_examined(read):
                given.append((read, self._context(read, is_pushed=is_pushed)))
            else:
                settled.append(PushedRead(read) if is_pushed else read)
        if not given:
            return judgement
        for (read, context), verdict in zip(given, self._verdicts(given), strict=True):
            if is_pushed and _is_correction(read, context.history) and not verdict.is_held:
                verdict = replace(verdict, history=context.history)  # one of the two is wrong: the store says so
            kept = self._kept(verdict.read, verdict, is_pushed=is_pushed)
            if _has_changed(context.history, verdict.history):
                items = [*self._told(read, context.history, verdict.history, "read"), kept]
                if verdict.ask_again:
                    judgement.doubts.append(_Doubt(read, verdict, items))
                else:
                    settled += items
            else:
                settled.append(kept)
        return judgement

    def _is_examined(self, read: Read) -> bool:
        return read.amount is not None and read.meter in self._meters and Quality.SUSPECT not in read.quality

    def _verdicts(self, given: Sequence[tuple[Read, Context]]) -> list[Verdict]:
        """An error of ours loses no read and lets none pass: what cannot be examined is suspect."""
        try:
            return self._checks.examine_round(given)
        except Exception:
            log.exception("reads could not be examined", meter=given[0][0].meter if given else "", count=len(given))
            return [
                Verdict(replace(read, quality=(*read.quality, Quality.SUSPECT)), (), context.history)
                for read, context in given
            ]

    def judge(self, judgement: Judgement, seconds: Sequence[Read]) -> list[Item]:
        """What is to be published when doubtful quantities were read a second time, at once. seconds: what that reply holds.

        A second read that is good follows the first one as its correction; one that is no better stands in the first one's evidence.
        """
        items = list(judgement.settled)
        found = {read.obis: read for read in seconds if self._is_examined(read)}
        for doubt in judgement.doubts:
            second = found.get(doubt.read.obis)
            items += doubt.items if second is None else self._judged(doubt, second, judgement, found)
        return items

    def _judged(self, doubt: _Doubt, second: Read, judgement: Judgement, found: Mapping[str, Read]) -> list[Item]:
        first = doubt.verdict.findings[0]
        context = self._context(second)
        before = context.history
        others = [
            (other, self._context(other))
            for read in judgement.reads
            if read.obis != second.obis and self._is_examined(other := found.get(read.obis, read))
        ]
        outcome, verdict = judge(first, second, context, others)
        if outcome.is_cleared:
            corrected = replace(verdict.read, revision=doubt.read.revision + 1)
            told = self._told(second, before, verdict.history, "second-read")
            return [*doubt.items, *told, self._kept(corrected, verdict)]
        if verdict.history is None or verdict.history.suspicion is None or not verdict.history.suspicion.is_confirmed:
            return doubt.items
        told = self._told(second, before, verdict.history, "second-read")
        asked = {name: text for name, text in outcome.evidence.items() if name != "rule"}
        root = Finding(first.rule, first.evidence | asked | {"confirmed": "true"})
        whole = replace(doubt.verdict, findings=(root, *doubt.verdict.findings[1:]), history=verdict.history)
        return [*doubt.items[:-1], *told, self._kept(doubt.verdict.read, whole)]

    def _kept(self, read: Read, verdict: Verdict, *, is_pushed: bool = False) -> Item:
        """The read as it is to be stored; from now on this is what is remembered."""
        if verdict.findings:
            for finding in verdict.findings:
                self.findings[finding.rule, finding.is_held] += 1
            read = replace(read, findings=verdict.findings)
        item = PushedRead(read) if is_pushed else read
        if verdict.history is None:
            return item
        history = _encode(verdict.history)
        self._meters[read.meter].histories[read.obis] = history
        return JudgedRead(item, history, verdict.history.generation)

    def _context(self, read: Read, *, is_pushed: bool = False) -> Context:
        meter = self._meters[read.meter]
        ratio = self._ratios.factor(meter.id, read.unit, read.interval_end) if self._ratios else None
        stored = meter.histories.get(read.obis)
        clock = self._clocks.get(meter.id)
        return Context(
            register=self._register(meter.alike, read, ratio, is_pushed=is_pushed),
            history=None if stored is None else _decode(stored),
            period_s=meter.period_s,
            clock_offset_s=None if clock is None else _surely_off(clock, read.interval_end),
            ratio=ratio,
        )

    def _register(self, alike: _Alike, read: Read, ratio: Decimal | None, *, is_pushed: bool) -> Register:
        connection = alike.connection
        if is_pushed:
            assert read.amount is not None
            exponent = read.amount.as_tuple().exponent
            return _pushed(read.obis, read.unit, exponent if isinstance(exponent, int) else 0, connection)
        if connection is not None and ratio is not None and read.is_primary:
            return promised_register(alike.contract, read.obis, read.unit, replace(connection, ratio=ratio))
        register = alike.registers.get(read.obis)
        if register is None or register.unit is not read.unit:
            register = alike.registers[read.obis] = promised_register(alike.contract, read.obis, read.unit, connection)
        return register

    # -------------------------------------------------------------------------------------------- what is remembered

    def history(self, meter: str, obis: str) -> History | None:
        """What the channel is remembered by; None before its first read."""
        watched = self._meters.get(meter)
        stored = None if watched is None else watched.histories.get(obis)
        return None if stored is None else _decode(stored)

    def channels(self, meter: str) -> list[str]:
        """Quantities of a meter of which something is remembered."""
        watched = self._meters.get(meter)
        return [] if watched is None else sorted(watched.histories)

    def rebasing(self, meter: str, obis: str, amount: Decimal | None, at: datetime, *, by: str) -> Rebase | None:
        """A fact about one channel: a meter exchange with its first reading, or an amount that an operator accepts.

        amount: None where nobody wrote it down. by: "meter-exchange" or "accepted". None: nothing is remembered of the channel; or an
        accepted amount is older than the last good read, and says nothing of where the register stands now.
        Nothing is changed yet: `rebase_rows` in the fact's transaction makes it durable, `apply` after it makes it known.
        """
        history = self.history(meter, obis)
        if history is None or (by == ACCEPTED and second_of(at) < history.at):
            return None
        moved = rebased(history, amount, at)
        told = () if history.suspicion is None else (self._event(meter, obis, "lifted", history.suspicion, by),)
        return Rebase(meter=meter, obis=obis, generation=moved.generation, history=_encode(moved), items=told)

    def apply(self, rebases: Iterable[Rebase]) -> None:
        """When they are durable. A read that was judged meanwhile is published as it was judged, and forgotten."""
        for one in rebases:
            self._meters[one.meter].histories[one.obis] = one.history
            for event in one.items:
                self.changes[str(event.data["rule"]), str(event.data["state"])] += 1

    # -------------------------------------------------------------------------------------------- what is told

    def _told(self, read: Read, before: History | None, after: History | None, by: str) -> list[Item]:
        """The events of a suspicion that began, changed or ended with this read."""
        was = None if before is None else before.suspicion
        now = None if after is None else after.suspicion
        told: list[tuple[str, Suspicion]] = []
        if was is not None and now is None:
            told.append(("lifted", was))
        elif now is not None:
            if was is None or was.rule != now.rule:
                told.append(("opened", now))
            if now.is_confirmed and (was is None or not was.is_confirmed):
                told.append(("confirmed", now))
        events: list[Item] = []
        for state, suspicion in told:
            self.changes[suspicion.rule, state] += 1
            events.append(self._event(read.meter, read.obis, state, suspicion, by))
        return events

    def _event(self, meter: str, obis: str, state: str, suspicion: Suspicion, by: str) -> Event:
        """Its id is made from the content, so that a repeat after a crash has the same."""
        since = iso_utc(moment_of(suspicion.since))
        identity = f"{KIND}:{meter}:{obis}:{since}:{suspicion.rule}:{state}"
        return Event(
            type=EVENT_TYPE,
            subject=meter,
            data={
                "meter": meter,
                "kind": KIND,
                "obis": obis,
                "state": state,
                "rule": suspicion.rule,
                "since": since,
                "reads": suspicion.reads,
                "by": by,
                "evidence": dict(suspicion.evidence),
            },
            time=self._clock.now(),
            id=identity,
        )


def rebase_rows(transaction: Transaction, rebases: Iterable[Rebase]) -> list[Item]:
    """In the fact's own transaction; gives what is to be published with it. Whoever judged before does not overwrite it."""
    items: list[Item] = []
    for one in rebases:
        rebase_history(transaction, one.meter, one.obis, one.generation, one.history)
        items += one.items
    return items


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(History).decode


def _has_changed(before: History | None, after: History | None) -> bool:
    """Whether something about a suspicion may have changed; of clean reads nothing has."""
    was = None if before is None else before.suspicion
    return was is not (None if after is None else after.suspicion)


def _is_correction(read: Read, history: History | None) -> bool:
    """Another amount for the moment that the baseline is of."""
    if history is None or read.amount is None:
        return False
    return second_of(read.interval_end) == history.at and ticks_of(read.amount) != history.last


def _surely_off(clock: MeterClock, moment: datetime) -> float:
    """By so much at least, as sure as it was measured."""
    offset_s = clock.offset_at(moment)
    sure_s = max(0.0, abs(offset_s) - clock.uncertainty_s)
    return sure_s if offset_s > 0 else -sure_s


@lru_cache(maxsize=16384)
def _pushed(obis: str, unit: Unit, exponent: int, connection: Connection | None) -> Register:
    return pushed_register(obis, unit, Decimal(1).scaleb(exponent), connection)
