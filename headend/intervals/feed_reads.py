"""Reads as the feed tells them, for who follows it. Everything else in the feed is passed over without being looked at."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from functools import lru_cache

import msgspec
from msgspec import Struct

from headend.feed.envelope import READ_TYPE
from headend.model import Quality

__all__ = ["FedRead", "reads_in"]

_BEGINS = b'{"specversion":"1.0","id":"read:'


class FedRead(Struct, frozen=True, gc=False):
    """`data` of a read's event."""

    meter: str
    obis: str
    value: Decimal | None
    unit: str
    interval_end: datetime
    read_at: datetime | None
    received_at: datetime
    quality: tuple[str, ...]
    source: str
    revision: int
    reason: str = ""
    side: str = ""

    @property
    def qualities(self) -> tuple[Quality, ...]:
        return _qualities(self.quality)


class _Event(Struct, frozen=True):
    type: str
    data: FedRead


_decode = msgspec.json.Decoder(_Event).decode


def reads_in(events: Iterable[bytes]) -> Iterator[FedRead]:
    """In the order of the feed."""
    for event in events:
        if event.startswith(_BEGINS):
            found = _decode(event)
            if found.type == READ_TYPE:
                yield found.data


@lru_cache(maxsize=256)
def _qualities(words: tuple[str, ...]) -> tuple[Quality, ...]:
    return tuple(one for one in Quality if one.value in words)
