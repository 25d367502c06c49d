"""Intervals from a load profile that holds amounts per interval. A profile of register values is a series of boundaries: see `build`.

Meters label an interval by its end or by its beginning; which, is the contract's to say and never guessed. A record is filed under an
interval only when its label is that interval's edge exactly.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from headend.feed.envelope import iso_utc, plain
from headend.intervals.build import NO_FACTS, covered_unless_aligned, lacking, ratio_up_to, slots_of, with_ratio
from headend.intervals.model import Channel, Facts, Interval, Mark
from headend.intervals.registers import Kind, movement_max
from headend.model import Quality

__all__ = ["ProfileRecord", "intervals_from_profile"]


class ProfileRecord(Struct, frozen=True, kw_only=True):
    """One record. label: the meter's own time of it, UTC. amount: None: the meter marks it as not recorded.

    offset_s: what the meter's clock was off by when it wrote the label, positive is fast.
    """

    label: datetime
    amount: Decimal | None
    offset_s: float = 0.0
    quality: tuple[Quality, ...] = (Quality.MEASURED, Quality.BACK_FILLED)


def intervals_from_profile(
    channel: Channel,
    records: Iterable[ProfileRecord],
    *,
    since: datetime,
    until: datetime,
    labelled_by: Literal["start", "end"],
    facts: Facts = NO_FACTS,
) -> list[Interval]:
    """Every interval of the channel that ends in (since, until], oldest first.

    Two records with one label: the same amount is a repeat; two different ones are both doubted, for the clock was set back.
    """
    by_label: dict[datetime, list[ProfileRecord]] = {}
    for record in records:
        by_label.setdefault(record.label, []).append(record)
    slots = slots_of(channel, since, until)
    return [
        _interval(channel, start, end, by_label.get(end if labelled_by == "end" else start, []), labelled_by, facts)
        for start, end in pairwise(slots)
    ]


def _interval(
    channel: Channel, start: datetime, end: datetime, found: list[ProfileRecord], labelled_by: str, facts: Facts
) -> Interval:
    amounts = {record.amount for record in found if record.amount is not None}
    reason, evidence = _doubt(channel, amounts, (end - start).total_seconds())
    amount = None if reason else amounts.pop()
    corrections = [one for one in facts.corrections if start < one.at <= end]
    changes = [change for change in facts.ratio_changes if start < change.at < end]
    marks: tuple[Mark, ...] = ()
    if found and corrections:
        marks += (Mark.CLOCK_CORRECTED,)
        evidence["clock_corrected"] = "; ".join(iso_utc(one.at) for one in corrections)
    if found and changes:
        marks += (Mark.RATIO_CHANGED,)
        evidence["ratio_changed"] = "; ".join(f"{iso_utc(one.at)} from {one.before} to {one.after}" for one in changes)
    covered = None
    if amount is not None:
        # A clock that was set inside put the first edge where the old offset had it, and the last one where the new has it.
        since = start - timedelta(seconds=corrections[0].before_s if corrections else found[0].offset_s)
        until = end - timedelta(seconds=corrections[-1].after_s if corrections else found[0].offset_s)
        covered = covered_unless_aligned(since, until, start, end, marks)
    ratio = None if changes else ratio_up_to(end, facts)
    return Interval(
        meter=channel.meter,
        obis=channel.obis,
        start=start,
        end=end,
        period_s=channel.period_s,
        amount=amount,
        unit=channel.unit,
        quality=found[0].quality if amount is not None else lacking(reason),
        source=channel.source,
        marks=marks,
        reason=reason,
        evidence=evidence,
        covered=covered,
        ratio=ratio,
        primary=None if amount is None else with_ratio(amount, ratio, is_primary=channel.is_primary),
    )


def _doubt(channel: Channel, amounts: set[Decimal], seconds: float) -> tuple[str, dict[str, str]]:
    if not amounts:
        return "no-record", {}
    if len(amounts) > 1:
        return "repeated-label", {"amounts": ", ".join(plain(amount) for amount in sorted(amounts))}
    (amount,) = amounts
    if amount < 0 and channel.register.kind is not Kind.BALANCE:
        return "backward-step", {"amount": plain(amount)}
    most = movement_max(channel.register, seconds)
    if most is not None and abs(amount) > most:
        return "suspect-boundary", {"amount": plain(amount), "most": plain(most.quantize(Decimal("0.001")))}
    return "", {}
