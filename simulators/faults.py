"""Named faults of meters and lines, and when each of them strikes: a pure function of plan, meter, request and time.

A plan is a seed and a list of faults. Whether a fault strikes is drawn from the seed, its name, the meter's address and
how many requests that meter has heard: the same requests meet the same faults in every run, whatever else happens on
the line, and adding a fault does not move the others. `fault_injector` does what is decided here.

A plan in a file is TOML; `docs/simulators.md` has the keys:

    seed = 7
    [[faults]]
    kind = "late-reply"
    probability = 0.1
    meters = ["000000000003"]
    from = "10m"
    timeout_s = 1.0
"""

import enum
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

from msgspec import Struct

from simulators.load_curve import mix

__all__ = [
    "METER_ADDRESSES",
    "PARAMETERS",
    "UNITS",
    "AddressRule",
    "BadFaults",
    "Fault",
    "FaultKind",
    "FaultPlan",
    "Parameter",
    "Strike",
    "load_plan",
    "read_plan",
]

_ADDRESS = re.compile(r"\d{12}|\d{1,3}")  # of a DL/T 645 meter, or a Modbus unit
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_TOP = {"seed", "faults"}
_COMMON = {"name", "kind", "probability", "meters", "from", "until"}
_WHOLE = 1 << 64


class FaultKind(enum.Enum):
    """The first group spoils a reply, the second the line, the third the meter itself, the last orders to its relay."""

    SILENCE = "silence"
    LATE_REPLY = "late-reply"
    WRONG_ADDRESS = "wrong-address"
    WRONG_DI = "wrong-di"
    BAD_CHECKSUM = "bad-checksum"
    BIT_FLIP = "bit-flip"
    DROPPED_BYTE = "dropped-byte"
    HALF_REPLY = "half-reply"
    SPLIT = "split"
    MERGE = "merge"
    NOISE_BEFORE = "noise-before"
    NOISE_AFTER = "noise-after"
    DUPLICATE_REPLY = "duplicate-reply"

    ECHO = "echo"
    BABBLE = "babble"

    CLOCK_STEP = "clock-step"
    CLOCK_DRIFT = "clock-drift"
    POWER_CUT = "power-cut"
    METER_SWAP = "meter-swap"
    STUCK_RELAY = "stuck-relay"
    SLOW_CONTACT = "slow-contact"
    PROTECTED_METER = "protected-meter"
    WRONG_OPERATOR = "wrong-operator"
    CUSTOMERS_BUTTON = "customers-button"

    ACK_WITHOUT_SWITCH = "ack-without-switch"
    LOST_ACKNOWLEDGEMENT = "lost-acknowledgement"
    SILENT_AFTER_ORDER = "silent-after-order"


Value = bool | int | float | str


class AddressRule(Struct, frozen=True):
    """How a protocol writes the address of a meter. expected: the same in words."""

    pattern: str
    expected: str

    def check(self, title: str, addresses: Sequence[str]) -> None:
        """Raises BadFaults."""
        for address in addresses:
            if re.fullmatch(self.pattern, address) is None:
                raise BadFaults(f"{title}: meter {address!r}, expected {self.expected}")


METER_ADDRESSES = AddressRule(r"\d{12}", "12 digits")
UNITS = AddressRule(r"0|[1-9]\d?|1\d\d|2[0-4]\d|25[0-5]", "a unit, 1 to 247 (over TCP 0 to 255)")


class Parameter(Struct, frozen=True):
    """least, most: bounds of a number. choices: of a text; empty: any."""

    default: Value
    meaning: str
    least: float = 0.0
    most: float = 1e9
    choices: tuple[str, ...] = ()


K = FaultKind
_GAP = "seconds of silence between"
PARAMETERS: dict[FaultKind, dict[str, Parameter]] = {
    K.SILENCE: {
        "obeys": Parameter(True, "the meter does what it was asked, only the reply is lost; false: it heard nothing")
    },
    K.LATE_REPLY: {
        "timeout_s": Parameter(1.0, "what the master waits, from the end of its request"),
        "least": Parameter(1.01, "earliest reply, in time-outs"),
        "most": Parameter(5.0, "latest reply, in time-outs"),
    },
    K.WRONG_ADDRESS: {
        "address": Parameter("", "12 digits, or a unit; empty: another meter's of the line, or one digit changed")
    },
    K.WRONG_DI: {"di": Parameter("", "8 or 4 hex digits; empty: one digit of the right one changed")},
    K.BAD_CHECKSUM: {},
    K.BIT_FLIP: {"bits": Parameter(1, "how many bits of the reply are turned over", 1)},
    K.DROPPED_BYTE: {},
    K.HALF_REPLY: {"share": Parameter(0.0, "of the reply that is sent; 0 draws one each time", 0.0, 1.0)},
    K.SPLIT: {
        "parts": Parameter(2, "chunks the reply is sent in", 2),
        "gap_s": Parameter(0.05, f"{_GAP} them; above 0.5 the standard calls it the end of the frame"),
    },
    K.MERGE: {},
    K.NOISE_BEFORE: {
        "bytes": Parameter(8, "most bytes of noise; at least one", 1, 4096),
        "gap_s": Parameter(0.0, f"{_GAP} noise and reply; 0: one chunk"),
    },
    K.NOISE_AFTER: {
        "bytes": Parameter(8, "most bytes of noise; at least one", 1, 4096),
        "gap_s": Parameter(0.0, f"{_GAP} reply and noise; 0: one chunk"),
    },
    K.DUPLICATE_REPLY: {
        "copies": Parameter(1, "how often it is sent again", 1, 100),
        "gap_s": Parameter(0.05, f"{_GAP} them"),
    },
    K.ECHO: {},
    K.BABBLE: {
        "duty": Parameter(0.3, "share of the time in which garbage is on the wire", 0.001, 0.99),
        "bytes": Parameter(30, "most bytes of one burst", 1, 4096),
    },
    K.CLOCK_STEP: {"step_s": Parameter(600, "seconds the clock jumps once, back when negative", -1e9)},
    K.CLOCK_DRIFT: {
        "ppm": Parameter(500, "parts per million the clock gains, loses when negative", -500_000, 1_000_000)
    },
    K.POWER_CUT: {
        "clock": Parameter(
            "keeps", "what the clock does without power: goes on, or stands still", choices=("keeps", "stops")
        )
    },
    K.METER_SWAP: {"seed": Parameter(0, "of the meter that answers instead; 0 draws one")},
    K.STUCK_RELAY: {
        "senses": Parameter(True, "status word 3 tells where the contact is; false: where it was told to go")
    },
    K.SLOW_CONTACT: {"after_s": Parameter(3.0, "seconds from the order to the contact's move", 0.0, 3600.0)},
    K.PROTECTED_METER: {},
    K.WRONG_OPERATOR: {"code": Parameter("00000000", "8 hex digits: the only operator whose orders are taken")},
    K.CUSTOMERS_BUTTON: {"after_s": Parameter(30.0, "seconds from the permission until the customer presses", 0.0)},
    K.ACK_WITHOUT_SWITCH: {},
    K.LOST_ACKNOWLEDGEMENT: {
        "obeys": Parameter(True, "the order is done, only the reply is lost; false: it was not heard")
    },
    K.SILENT_AFTER_ORDER: {
        "obeys": Parameter(True, "the order is done before the meter falls silent"),
        "for_s": Parameter(60.0, "seconds in which it answers nothing at all", 0.0),
    },
}


class BadFaults(ValueError):
    """A fault or a file of faults is wrong. The message names place, what was expected and what came."""


class Fault(Struct, frozen=True, kw_only=True):
    """One named fault. Raises BadFaults.

    name: for counting and removing; the kind when empty. probability: of striking a request (of the meters' own faults:
    a meter, once). meters: addresses, 12 digits or Modbus units; empty: all. start, until: true time, aware; None: open.
    parameters: see PARAMETERS; what is left out has its default.
    """

    kind: FaultKind
    name: str = ""
    probability: float = 1.0
    meters: tuple[str, ...] = ()
    start: datetime | None = None
    until: datetime | None = None
    parameters: Mapping[str, Value] = {}

    def __post_init__(self) -> None:
        known = PARAMETERS[self.kind]
        for name, value in self.parameters.items():
            if name not in known:
                expected = ", ".join(sorted({*known, *_COMMON}))
                raise BadFaults(f"{self.title}: unknown key {name}, expected {expected}")
            _check(self.title, name, value, known[name])
        if isinstance(self.probability, bool) or not 0 <= self.probability <= 1:
            raise BadFaults(f"{self.title}: probability {self.probability}, expected 0 to 1")
        for address in self.meters:
            if _ADDRESS.fullmatch(address) is None:
                raise BadFaults(f"{self.title}: meter {address!r}, expected 12 digits or a Modbus unit")
        for moment in (self.start, self.until):
            if moment is not None and moment.tzinfo is None:
                raise BadFaults(f"{self.title}: {moment.isoformat()} has no time zone")

    @property
    def title(self) -> str:
        return self.name or self.kind.value

    def get(self, parameter: str) -> Any:
        return self.parameters.get(parameter, PARAMETERS[self.kind][parameter].default)

    def concerns(self, address: str) -> bool:
        return not self.meters or address in self.meters

    def is_on(self, now: datetime) -> bool:
        return (self.start is None or self.start <= now) and (self.until is None or now < self.until)

    def draw(self, seed: int, address: str, count: int) -> "Strike | None":
        """Whether it strikes the `count`-th request that the meter heard; times are not looked at."""
        drawn = mix(_base(seed, self.title, address), count)
        return Strike(fault=self, random=mix(drawn, 1)) if drawn < self.probability * _WHOLE else None


class Strike(Struct, frozen=True, kw_only=True):
    """A fault that strikes. random: 64 bits for what it leaves open."""

    fault: Fault
    random: int

    def number(self, index: int, below: int) -> int:
        """The `index`-th number of this strike, 0 to below - 1."""
        return mix(self.random, index) % max(1, below)

    def bytes(self, index: int, count: int) -> "bytes":
        words = (mix(self.random, index + word) for word in range((count + 7) // 8))
        return b"".join(word.to_bytes(8, "little") for word in words)[:count]


class FaultPlan(Struct, frozen=True, kw_only=True):
    """Faults by name; of two with one name the later counts."""

    seed: int = 0
    faults: tuple[Fault, ...] = ()

    def add(self, *faults: Fault) -> "FaultPlan":
        """With these; a fault of the same name is replaced."""
        names = {fault.title for fault in faults}
        return FaultPlan(
            seed=self.seed, faults=(*(fault for fault in self.faults if fault.title not in names), *faults)
        )

    def remove(self, *names: str) -> "FaultPlan":
        """Without these. Raises BadFaults for a name that is not there."""
        if unknown := set(names) - {fault.title for fault in self.faults}:
            raise BadFaults(f"no fault {', '.join(sorted(unknown))}")
        return FaultPlan(seed=self.seed, faults=tuple(fault for fault in self.faults if fault.title not in names))

    def strikes(self, address: str, count: int, now: datetime) -> list[Strike]:
        """What strikes the `count`-th request that the meter heard, at `now`."""
        struck = (
            fault.draw(self.seed, address, count)
            for fault in self.faults
            if fault.concerns(address) and fault.is_on(now)
        )
        return [strike for strike in struck if strike is not None]


@lru_cache(maxsize=65_536)
def _base(seed: int, name: str, address: str) -> int:
    return mix(mix(seed, crc32(name.encode())), int(address, 16))


def load_plan(path: Path, began: datetime, addresses: AddressRule = METER_ADDRESSES) -> FaultPlan:
    """Read a plan from a TOML file. began: what "10m" in `from` and `until` counts from. Raises BadFaults, OSError."""
    try:
        return read_plan(tomllib.loads(path.read_text(encoding="utf-8")), began, addresses)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFaults(f"{path} is not TOML: {error}") from error
    except BadFaults as error:
        raise BadFaults(f"{path}: {error}") from error


def read_plan(content: Mapping[str, Any], began: datetime, addresses: AddressRule = METER_ADDRESSES) -> FaultPlan:
    """The same from what was read already. Raises BadFaults."""
    if unknown := set(content) - _TOP:
        raise BadFaults(f"unknown key {', '.join(sorted(unknown))}, expected seed and [[faults]]")
    seed, given = content.get("seed", 0), content.get("faults", [])
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise BadFaults(f"seed {seed!r}, expected a whole number")
    if not isinstance(given, list) or not all(isinstance(keys, dict) for keys in given):
        raise BadFaults("faults: expected [[faults]]")
    faults = [_read_fault(keys, index, began) for index, keys in enumerate(given, start=1)]
    for fault in faults:
        addresses.check(fault.title, fault.meters)
    titles = [fault.title for fault in faults]
    if doubled := {title for title in titles if titles.count(title) > 1}:
        raise BadFaults(f"fault {', '.join(sorted(doubled))} stands twice: give each a name of its own")
    return FaultPlan(seed=seed, faults=tuple(faults))


def _read_fault(keys: Mapping[str, Any], index: int, began: datetime) -> Fault:
    kinds = {kind.value: kind for kind in FaultKind}
    if keys.get("kind") not in kinds:
        raise BadFaults(f"fault {index}: kind {keys.get('kind')!r}, expected one of {', '.join(kinds)}")
    name, probability, meters = keys.get("name", ""), keys.get("probability", 1.0), keys.get("meters", [])
    if not isinstance(name, str):
        raise BadFaults(f"fault {index}: name {name!r}, expected a text")
    if not isinstance(probability, int | float):
        raise BadFaults(f"fault {index}: probability {probability!r}, expected 0 to 1")
    if meters == "all":
        meters = []
    if not isinstance(meters, Sequence) or isinstance(meters, str) or not all(isinstance(one, str) for one in meters):
        raise BadFaults(f'fault {index}: meters {meters!r}, expected "all" or a list of addresses')
    return Fault(
        kind=kinds[keys["kind"]],
        name=name,
        probability=float(probability),
        meters=tuple(meters),
        start=_moment(keys, "from", index, began),
        until=_moment(keys, "until", index, began),
        parameters={key: value for key, value in keys.items() if key not in _COMMON},
    )


def _moment(keys: Mapping[str, Any], key: str, index: int, began: datetime) -> datetime | None:
    """A TOML date and time with offset, or how long after the start: seconds, or a text such as "90s", "10m", "6h"."""
    given = keys.get(key)
    if given is None:
        return None
    if isinstance(given, datetime) and given.tzinfo is not None:
        return given.astimezone(UTC)
    found = _DURATION.fullmatch(str(given)) if isinstance(given, int | float | str) else None
    if found is None or isinstance(given, bool):
        raise BadFaults(
            f'fault {index}: {key} {given!r}, expected "10m" after the start, or a date with time and offset'
        )
    return began + timedelta(seconds=float(found[1]) * _UNIT_S[found[2]])


def _check(title: str, name: str, value: object, known: Parameter) -> None:
    kind = type(known.default)
    right = (
        isinstance(value, int | float) and not isinstance(value, bool) if kind in (int, float) else type(value) is kind
    )
    if kind is int and isinstance(value, float):
        right = False
    if not right:
        raise BadFaults(f"{title}: {name} {value!r}, expected {'a number' if kind in (int, float) else kind.__name__}")
    if isinstance(value, int | float) and not isinstance(value, bool) and not known.least <= value <= known.most:
        raise BadFaults(f"{title}: {name} {value}, expected {known.least:g} to {known.most:g}")
    if known.choices and value not in known.choices:
        raise BadFaults(f"{title}: {name} {value!r}, expected {' or '.join(known.choices)}")
