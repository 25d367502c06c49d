"""Dated facts as the intervals take them into account: exchanges, ratios, clocks that were set. Kept whole in memory; they are few.

A fact counts for the intervals that have been told with it. One that comes late makes revisions of those it touches, step by step;
until it is through, it counts for the intervals behind its mark and for no others.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from headend.intervals.build import NO_FACTS, ratio_facts
from headend.intervals.model import ClockCorrection, Exchange, Facts
from headend.ratios import RatioFact
from headend.store.intervals import FactRow
from protocols.values import Unit

__all__ = ["ACCEPTANCE", "CLOCK", "EXCHANGE", "RATIO", "KnownFacts", "effective_ratios"]

EXCHANGE = "exchange"
RATIO = "ratio"
CLOCK = "clock"
ACCEPTANCE = "acceptance"  # has done all it does when it is recorded: it makes a revision of the read


class KnownFacts:
    def __init__(self) -> None:
        self._facts: dict[int, FactRow] = {}
        self._of_meter: dict[str, list[FactRow]] = {}
        self._built: dict[tuple[str, str, Unit], Facts] = {}
        self.newest = 0

    def reset(self, rows: Iterable[FactRow]) -> None:
        """Forget everything else."""
        self._facts.clear()
        self._of_meter.clear()
        self._built.clear()
        self.learn(rows)

    def learn(self, rows: Iterable[FactRow]) -> None:
        """In the order of their ids; a known one is replaced by what is known of it now."""
        for row in rows:
            self.newest = max(self.newest, row.id)
            if row.kind == ACCEPTANCE:
                continue
            self._facts[row.id] = row
            others = [one for one in self._of_meter.get(row.meter, ()) if one.id != row.id]
            self._of_meter[row.meter] = sorted([*others, row], key=lambda one: one.id)
            for key in [key for key in self._built if key[0] == row.meter]:
                del self._built[key]

    def pending(self) -> list[FactRow]:
        """Oldest first."""
        return sorted((one for one in self._facts.values() if not one.is_applied), key=lambda one: one.id)

    def are_pending(self, meter: str) -> bool:
        return any(not one.is_applied for one in self._of_meter.get(meter, ()))

    def ratios_after(self, meter: str, at: datetime) -> datetime | None:
        """When the ratio that began at `at` ends."""
        later = [one.at for one in self._of_meter.get(meter, ()) if one.kind == RATIO and one.at > at]
        return min(later, default=None)

    def of(self, meter: str, obis: str, unit: Unit, *, place: tuple[int, int] | None = None) -> Facts:
        """What counts now. place: channel and interval end, for facts that are not through yet; None: those count for nothing."""
        if meter not in self._of_meter:
            return NO_FACTS
        if place is not None and any(not one.is_applied for one in self._of_meter[meter]):
            return _facts(
                [one for one in self._of_meter[meter] if one.is_applied or place <= one.done], meter, obis, unit
            )
        key = (meter, obis, unit)
        if key not in self._built:
            self._built[key] = _facts([one for one in self._of_meter[meter] if one.is_applied], meter, obis, unit)
        return self._built[key]

    def with_fact(self, fact: FactRow, obis: str, unit: Unit) -> Facts:
        """What will count when this one does, too."""
        rows = [one for one in self._of_meter.get(fact.meter, ()) if one.is_applied and one.id != fact.id]
        return _facts(sorted([*rows, fact], key=lambda one: one.id), fact.meter, obis, unit)


def effective_ratios(rows: Iterable[FactRow]) -> list[RatioFact]:
    """Of the same meter and moment the newest counts."""
    newest = {(one.meter, one.at): one for one in sorted(rows, key=lambda one: one.id) if one.kind == RATIO}
    return [
        RatioFact(meter=one.meter, start=one.at, ct=Decimal(one.body["ct"]), pt=Decimal(one.body["pt"]))
        for one in newest.values()
        if "ct" in one.body
    ]


def _facts(rows: Sequence[FactRow], meter: str, obis: str, unit: Unit) -> Facts:
    ratio, changes = ratio_facts(effective_ratios(rows), meter, unit)
    exchanges = sorted((_exchange(one, obis) for one in rows if one.kind == EXCHANGE), key=lambda one: one.at)
    corrections = sorted(
        (ClockCorrection(at=one.at, before_s=float(one.body["before_s"])) for one in rows if one.kind == CLOCK),
        key=lambda one: one.at,
    )
    found = Facts(exchanges=tuple(exchanges), ratio=ratio, ratio_changes=changes, corrections=tuple(corrections))
    return NO_FACTS if found == NO_FACTS else found


def _exchange(row: FactRow, obis: str) -> Exchange:
    told: dict[str, Any] = row.body["registers"].get(obis, {})
    final, first = told.get("final"), told.get("first")
    return Exchange(
        at=row.at,
        final=None if final is None else Decimal(final),
        first=None if first is None else Decimal(first),
    )
