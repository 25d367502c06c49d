"""Named faults of MQTT concentrators, and whether each strikes: a pure function of plan, name and count.

They stand in the same file, in the same notation, as the faults of meters (`faults`): a kind of this module is the
concentrator's, any other goes to the meters behind it. On the command line the shorthand `duplicate=0.2` is one fault
with its main parameter.
"""

import enum
import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

from msgspec import Struct

from simulators.faults import BadFaults, Fault, FaultPlan, Parameter, Value, read_plan
from simulators.load_curve import mix

__all__ = [
    "ConcentratorFault",
    "ConcentratorFaultKind",
    "ConcentratorPlan",
    "load_concentrator_plan",
    "parse_fault",
    "read_concentrator_plan",
]

_WHOLE = 1 << 64
_COMMON = ("name", "probability", "from", "until")


class ConcentratorFaultKind(enum.Enum):
    """The first group concerns the connection, the second what is published, the third commands, the last its clock."""

    SILENT_DROP = "silent-drop"

    DUPLICATE = "duplicate"
    REORDER = "reorder"
    MALFORMED = "malformed"

    REPLAYED_COMMANDS = "replayed-commands"
    LOST_ANSWERS = "lost-answers"
    SLOW_COMMANDS = "slow-commands"

    CLOCK_WRONG = "clock-wrong"


K = ConcentratorFaultKind
PARAMETERS: dict[ConcentratorFaultKind, dict[str, Parameter]] = {
    K.SILENT_DROP: {
        "for_s": Parameter(30.0, "how long nothing is read or sent", 0.1),
        "every_s": Parameter(0.0, "again so long after it began; 0: once"),
        "socket": Parameter("stays", "stays open, or vanishes without DISCONNECT", choices=("stays", "vanishes")),
    },
    K.DUPLICATE: {"copies": Parameter(1, "how often a reading is published again", 1, 100)},
    K.REORDER: {
        "window": Parameter(1000, "how many places a reading may move", 1, 100_000),
        "hold_s": Parameter(2.0, "longest time a reading is held back", 0.01, 3600.0),
    },
    K.MALFORMED: {},
    K.REPLAYED_COMMANDS: {
        "copies": Parameter(1, "how often a command arrives again", 1, 100),
        "delay_s": Parameter(1.0, "how long after it", 0.0, 86_400.0),
    },
    K.LOST_ANSWERS: {},
    K.SLOW_COMMANDS: {"delay_s": Parameter(3.0, "what a command takes longer", 0.0, 86_400.0)},
    K.CLOCK_WRONG: {
        "offset_s": Parameter(3600.0, "how far it is ahead, behind when negative", -1e9),
        "of": Parameter("both", "whose clock", choices=("both", "concentrator", "meters")),
    },
}
# What VALUE means in `--fault NAME=VALUE`: a parameter, or the probability where none is named.
_MAIN = {K.SILENT_DROP: "for_s", K.REORDER: "window", K.SLOW_COMMANDS: "delay_s", K.CLOCK_WRONG: "offset_s"}


class ConcentratorFault(Struct, frozen=True, kw_only=True):
    """One named fault. name: for the counts; the kind when empty. start, until: true time, aware; None: open.

    probability: of striking one message or command. Raises BadFaults.
    """

    kind: ConcentratorFaultKind
    name: str = ""
    probability: float = 1.0
    start: datetime | None = None
    until: datetime | None = None
    parameters: Mapping[str, Value] = {}

    def __post_init__(self) -> None:
        known = PARAMETERS[self.kind]
        for name, value in self.parameters.items():
            if name not in known:
                expected = ", ".join(sorted({*known, *_COMMON}))
                raise BadFaults(f"{self.title}: unknown key {name}, expected {expected}")
            _check(f"{self.title}: {name}", value, known[name])
        if not 0 <= self.probability <= 1:
            raise BadFaults(f"{self.title}: probability {self.probability}, expected 0 to 1")

    @property
    def title(self) -> str:
        return self.name or self.kind.value

    def get(self, parameter: str) -> Any:
        return self.parameters.get(parameter, PARAMETERS[self.kind][parameter].default)

    def is_on(self, now: datetime) -> bool:
        return (self.start is None or self.start <= now) and (self.until is None or now < self.until)


class ConcentratorPlan(Struct, frozen=True, kw_only=True):
    """The concentrator's own faults, and those of the meters behind it."""

    seed: int = 0
    faults: tuple[ConcentratorFault, ...] = ()
    meters: FaultPlan = FaultPlan()

    def of(self, kind: ConcentratorFaultKind, now: datetime) -> ConcentratorFault | None:
        """The one in force; of two of a kind the later counts."""
        for fault in reversed(self.faults):
            if fault.kind is kind and fault.is_on(now):
                return fault
        return None

    def strike(self, kind: ConcentratorFaultKind, count: int, now: datetime) -> tuple[ConcentratorFault, int] | None:
        """The fault and 64 bits for what it leaves open, when it strikes the `count`-th message or command."""
        fault = self.of(kind, now)
        if fault is None:
            return None
        drawn = mix(_base(self.seed, fault.title), count)
        return (fault, mix(drawn, 1)) if drawn < fault.probability * _WHOLE else None


@lru_cache(maxsize=4096)
def _base(seed: int, name: str) -> int:
    return mix(seed, crc32(name.encode()))


def load_concentrator_plan(path: Path, began: datetime) -> ConcentratorPlan:
    """From a TOML file. began: what "10m" in `from` and `until` counts from. Raises BadFaults, OSError."""
    try:
        return read_concentrator_plan(tomllib.loads(path.read_text(encoding="utf-8")), began)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFaults(f"{path} is not TOML: {error}") from error
    except BadFaults as error:
        raise BadFaults(f"{path}: {error}") from error


def read_concentrator_plan(content: Mapping[str, Any], began: datetime) -> ConcentratorPlan:
    """The same from what was read already. Raises BadFaults."""
    given = content.get("faults", [])
    if not isinstance(given, Sequence) or not all(isinstance(keys, dict) for keys in given):
        raise BadFaults("faults: expected [[faults]]")
    own = [keys for keys in given if _kind(keys.get("kind")) is not None]
    others = [keys for keys in given if _kind(keys.get("kind")) is None]
    meters = read_plan({**content, "faults": others}, began)
    faults = tuple(_read(keys, began) for keys in own)
    titles = [fault.title for fault in faults]
    if doubled := {title for title in titles if titles.count(title) > 1}:
        raise BadFaults(f"fault {', '.join(sorted(doubled))} stands twice: give each a name of its own")
    return ConcentratorPlan(seed=meters.seed, faults=faults, meters=meters)


def parse_fault(text: str) -> ConcentratorFault:
    """`NAME=VALUE` of the command line, or NAME alone for the defaults. Raises BadFaults."""
    name, equals, value = text.partition("=")
    kind = _kind(name.strip())
    if kind is None:
        raise BadFaults(f"no fault {name!r}, expected one of {', '.join(one.value for one in K)}")
    if not equals:
        return ConcentratorFault(kind=kind)
    try:
        number = float(value)
    except ValueError as error:
        raise BadFaults(f"{kind.value}: {value!r}, expected a number") from error
    main = _MAIN.get(kind)
    if main is None:
        return ConcentratorFault(kind=kind, probability=number)
    whole = type(PARAMETERS[kind][main].default) is int and number.is_integer()
    return ConcentratorFault(kind=kind, parameters={main: int(number) if whole else number})


def _kind(given: object) -> ConcentratorFaultKind | None:
    return next((kind for kind in K if kind.value == given), None)


def _read(keys: Mapping[str, Any], began: datetime) -> ConcentratorFault:
    """Name, probability and times are checked where those of meters are, under a kind without keys of its own."""
    shared = {key: value for key, value in keys.items() if key in _COMMON}
    common: Fault = read_plan({"faults": [{**shared, "kind": "echo"}]}, began).faults[0]
    return ConcentratorFault(
        kind=K(keys["kind"]),
        name=common.name,
        probability=common.probability,
        start=common.start,
        until=common.until,
        parameters={key: value for key, value in keys.items() if key not in (*_COMMON, "kind")},
    )


def _check(what: str, value: object, known: Parameter) -> None:
    if isinstance(known.default, str):
        if value not in known.choices:
            raise BadFaults(f"{what} {value!r}, expected {' or '.join(known.choices)}")
        return
    if isinstance(value, bool) or not isinstance(value, int if isinstance(known.default, int) else int | float):
        raise BadFaults(
            f"{what} {value!r}, expected a {'whole number' if isinstance(known.default, int) else 'number'}"
        )
    if not known.least <= value <= known.most:
        raise BadFaults(f"{what} {value}, expected {known.least:g} to {known.most:g}")
