"""Which intervals are missing, pure.

Every interval end ("slot") since a channel's first stored one should have a read. A slot is a gap when it has none, because the
head-end was not running, or when its newest revision is a missing read that another try could still turn into a number. A missing
read whose reason is an answer of the meter (it refused, has no such register, kept no record) is settled: asking again would
only cost line time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from msgspec import Struct

from headend.model import SlotState
from headend.scheduling.plan import next_slot, slot_at

__all__ = ["SETTLED", "Gap", "find_gaps", "newest", "slots_between"]

# Reasons that are the meter's own last word. Everything else (silent, line-down, stopped, …) is worth another look.
SETTLED = frozenset(
    {"refused", "not-measured", "unsupported", "meter-has-no-data", "meter-clock-off", "ambiguous-time"}
)


class Gap(Struct, frozen=True, order=True):
    """A slot without a number. revision: what the read that settles it must carry; 0 where nothing is published yet."""

    slot: datetime
    obis: str
    revision: int


def slots_between(start: datetime, end: datetime, period_s: int, zone: ZoneInfo) -> Iterator[datetime]:
    """Interval ends with start <= slot < end, oldest first."""
    slot = slot_at(start, period_s, zone)
    if slot < start:
        slot = next_slot(slot, period_s, zone)
    while slot < end:
        yield slot
        slot = next_slot(slot, period_s, zone)


def find_gaps(
    obis: str,
    stored: Iterable[SlotState],
    expected: Sequence[datetime],
    *,
    first: datetime | None,
    unattended_before: datetime,
) -> list[Gap]:
    """Gaps of one channel among `expected` slots, oldest first.

    stored: what the store has of these slots, any order, several revisions of a slot allowed.
    first: the channel's oldest slot in the store; nothing before it was ever owed, and a channel without one owes nothing yet.
    unattended_before: only older slots may be gaps without a row. Those from here on are the poller's: what it could not read
    becomes a row when their round ends, and until then nothing is missing.
    """
    if first is None:
        return []
    newest_of: dict[datetime, SlotState] = {}
    for state in stored:
        known = newest_of.get(state.slot)
        if known is None or state.revision > known.revision:
            newest_of[state.slot] = state
    gaps = []
    for slot in expected:
        found = newest_of.get(slot)
        if found is None:
            if first <= slot < unattended_before:
                gaps.append(Gap(slot, obis, 0))
        elif found.reason and found.reason not in SETTLED:
            gaps.append(Gap(slot, obis, found.revision + 1))
    return gaps


def newest(gaps: Mapping[str, Sequence[Gap]], slots_max: int) -> list[Gap]:
    """The gaps of the newest `slots_max` slots, newest first; all channels of a slot or none."""
    wanted = sorted({gap.slot for channel in gaps.values() for gap in channel}, reverse=True)[:slots_max]
    if not wanted:
        return []
    oldest = wanted[-1]
    kept = (gap for channel in gaps.values() for gap in channel if gap.slot >= oldest)
    return sorted(kept, key=lambda gap: (gap.slot, gap.obis), reverse=True)
