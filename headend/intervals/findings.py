"""What a truth check says, and the published names of the rules."""

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

from headend.model import Finding

__all__ = ["RULES", "Finding", "Outcome"]

# Published: a name is never given another meaning. In order of precedence: where several apply, the first names the root.
RULES: Mapping[str, str] = MappingProxyType(
    {
        "meter-swapped": "another meter answers: its serial number differs, or its register goes on from another level",
        "unit-changed": "the unit is not the one that the channel had",
        "busy-as-number": "a mark for busy, error or no value (FF.., all ones, greatest or smallest integer) was read as a number",
        "zero-glitch": "zero, where the register stood at an amount",
        "scale-changed": "the register's amount times (or divided by) a power of ten, a transformer ratio, 3.6 or a power of 65536",
        "rollover-implausible": "the register starts again near zero, but more would have been counted than can have been",
        "backward-step": "the register stands lower than before",
        "spike-physical": "more than the connection can carry",
        "spike-history": "far more than this meter has ever counted or measured",
        "stuck": "the register stands still although current flows, or for days although it always moved",
        "stale": "the reading is older than it claims",
        "clock-off": "the meter's clock is wrong by more than a minute; held when by more than four hours",
        "tariff-sum": "the tariffs do not add up to the total",
        "phase-sum": "the phases do not add up to the total",
    }
)


class Outcome(Struct, frozen=True):
    """What a second read said of the first: it cleared it, or it is no better and confirms it."""

    is_cleared: bool
    evidence: dict[str, str]
