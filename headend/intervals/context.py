"""What a truth check is given beside the read: the register's promise, the channel's history, and what else is known of the meter."""

from datetime import datetime
from decimal import Decimal

from msgspec import Struct

from headend.intervals.history import History
from headend.intervals.registers import SLACK_S, Register
from headend.model import Quality, Read

__all__ = ["Context", "Seen", "allowed_ticks", "moment_of_read", "physical_w", "usual_ticks"]

HISTORY_FACTOR = 10
HISTORY_AFTER_H = 72  # a weekend or a washing day belongs to what is usual
HISTORY_FLOOR_W = (
    20_000  # no more is asked of a history: a house that stood empty may be heated from one day to the next
)
UNKNOWN_POWER_MAX_W = 10_000_000  # where nobody has said what the connection carries: no customer of ours draws more


class Context(Struct, frozen=True, kw_only=True, gc=False):
    """history: None before the channel's first read.

    clock_offset_s: of the meter's clock as last measured, positive is fast; None: not known, or of no matter to this channel.
    serial_expected, serial_found: asset or serial number on record, and as read back last; "" when not known.
    power_w: what flows just now in the direction that this register counts, from the same round; None: not known. 0 where the
    relay is open: a register that nothing flows through is right to stand still.
    ratio: of the transformers, to recognise a value that was multiplied once too often.
    """

    register: Register
    history: History | None = None
    period_s: int = 900
    clock_offset_s: float | None = None
    serial_expected: str = ""
    serial_found: str = ""
    power_w: int | None = None
    ratio: Decimal | None = None


class Seen(Struct, gc=False):
    """The read as the checks look at it. ticks: its amount in millionths. at: seconds since 2020.

    power_w: as in Context, or what the round says of it. moved, elapsed: since the last good read. allowed: the most it may have
    counted since then.
    has_rolled_over: it stands lower because it started again, and that is plausible.
    """

    context: Context
    power_w: int | None
    ticks: int
    at: int
    moved: int
    elapsed: int
    allowed: int
    has_rolled_over: bool = False


def moment_of_read(read: Read) -> datetime:
    """When the register stood so: by the label where there is one, else when the reply was complete."""
    if read.read_at is not None or Quality.BACK_FILLED in read.quality:
        return read.interval_end
    return read.received_at


def physical_w(register: Register) -> int:
    return UNKNOWN_POWER_MAX_W if register.power_max_w is None else register.power_max_w


def allowed_ticks(register: Register, history: History, elapsed: int) -> int:
    """By the connection, and by the history once it is long enough: whichever is less."""
    most_w = physical_w(register)
    if history.watched_h >= HISTORY_AFTER_H:
        most_w = min(most_w, max(HISTORY_FACTOR * history.peak_w, history_floor_w(register)))
    return ticks_at(most_w, elapsed) + register.slack_ticks


def usual_ticks(register: Register, history: History, elapsed: int) -> int:
    """The most it would count by its history, however short that is."""
    most_w = min(physical_w(register), max(HISTORY_FACTOR * history.peak_w, history_floor_w(register)))
    return ticks_at(most_w, elapsed) + register.slack_ticks


def history_floor_w(register: Register) -> int:
    return HISTORY_FLOOR_W if register.power_max_w is None else max(register.power_max_w // 2, 1)


def ticks_at(power_w: int, seconds: int) -> int:
    """1 W for 3600 s is 1000 millionths of a kWh."""
    return power_w * (seconds + SLACK_S) * 5 // 18
