"""What a manifest says of one meter, and of a stretch of the feed. Pure."""

from msgspec import Struct

__all__ = ["MeterEntry", "Run", "Stretch", "block_size"]

BLOCK_MIN = 256
BLOCKS_MAX = 256


class Run(Struct, frozen=True, kw_only=True):
    """Intervals of one quantity, one after the other, that share why they are not collected. first, last: their ends."""

    obis: str
    state: str
    reason: str
    first: str
    last: str
    count: int


class MeterEntry(Struct, frozen=True, kw_only=True):
    """One meter's day. count, first, last, sha256: of its read events whose interval end is in the day; first and last are sequences,
    null when there are none. states: how many intervals ended in each. missing: which are not collected; missing_left_off: how many
    more, when the list is cut.
    """

    meter: str
    count: int
    first: int | None
    last: int | None
    sha256: str
    states: dict[str, int]
    missing: list[Run]
    missing_left_off: int = 0


class Stretch(Struct, frozen=True, kw_only=True):
    """Every event with after < sequence <= through, of whatever type, in blocks of `block` sequences; the last may be shorter.

    records, events: a hash per block, of the events' ids and data alone, and of all that they say (`digest`).
    """

    after: int
    through: int
    block: int
    records: list[str]
    events: list[str]


def block_size(events: int) -> int:
    """The smallest power of two from 256 on that needs no more than 256 blocks."""
    size = BLOCK_MIN
    while size * BLOCKS_MAX < events:
        size *= 2
    return size
