"""Shapes of payloads: an example of the payload with fields in it, read in both directions.

    {"ts": "{at:ms}", "values": {"{name}": "{amount:number}"}, "quality?": {"{name}": ["{problem:mark}"]}}

- "{field}" or "{field:conversion}" is a value; `fields` lists the conversions. "{a:x&b:y}" reads one value twice; b is
  written where it reads back as the same a, else a.
- {"key": …} is a key that must be there, {"key?": …} one that may be missing, null or "". Other keys are ignored.
- {"{field}": …} stands for all other keys, each with its value: an object keyed by meter or by name. "{field}+" wants
  at least one; "{field}?" passes over those whose value has another shape.
- [ … ] with one shape is a list of any length of that shape.
- {"|": [ … ]} is the first of several shapes that fits; written is the one that holds most of what there is to say.
- "{group}" with a name of [settings] is that constant. Fields that begin with _ are read and mean nothing.
- Anything else must be exactly that.

Reading gives rows: one for each innermost entry, holding the fields of all levels around it, so that a table comes out
of every nesting. Writing groups rows again by the fields of each level.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from protocols.concentrator.fields import ABSENT, EPOCH, Conversion, Surroundings, conversion
from protocols.concentrator.json_text import Mismatch
from protocols.concentrator.topics import identity
from protocols.errors import BadLayout, EncodeError

__all__ = ["ROWS_MAX", "Row", "Shape", "compile_shape"]

ROWS_MAX = 2000  # values in one message
_SLOT = re.compile(r"\{([\w.]+(?::\w+)?(?:&[\w.]+(?::\w+)?)*)\}")
_LOOP = re.compile(r"\{(\w+)\}([?+]?)")

Row = dict[str, Any]


class Reading:
    """How far one payload has been read. now: wall time."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.entries = 0

    def count(self) -> None:
        self.entries += 1
        if self.entries > ROWS_MAX:
            raise Mismatch(f"at most {ROWS_MAX} values", "more", fault="size")


class Shape(Protocol):
    """direct: the fields that stand outside of lists and keyed objects. fields: all. loops: has lists or keyed objects."""

    direct: frozenset[str]
    fields: frozenset[str]
    loops: bool

    def read(self, value: Any, reading: Reading) -> list[Row]:
        """One row without loops. Raises Mismatch."""

    def write(self, rows: Sequence[Row]) -> Any:
        """ABSENT when something that must be there is in none of the rows. Raises EncodeError."""


def compile_shape(example: Any, around: Surroundings, constants: Mapping[str, Any]) -> Shape:
    """example: of JSON. Raises BadLayout."""
    if isinstance(example, str):
        slot = _SLOT.fullmatch(example)
        if slot is None:
            if "{" in example:
                raise BadLayout(example, "expected a field such as {meter} or {at:ms}")
            return Constant(example)
        parts = [part.partition(":") for part in slot[1].split("&")]
        if len(parts) == 1 and parts[0][0] in constants and not parts[0][0].startswith("_"):
            return Constant(constants[parts[0][0]])
        return Slot([(field, conversion(how, around)) for field, _, how in parts], constants)
    if isinstance(example, dict):
        if set(example) == {"|"}:
            return Either([compile_shape(one, around, constants) for one in example["|"]])
        return _compile_object(example, around, constants)
    if isinstance(example, list) and len(example) == 1:
        return Each(compile_shape(example[0], around, constants))
    return Constant(example)


def _compile_object(example: Mapping[str, Any], around: Surroundings, constants: Mapping[str, Any]) -> Shape:
    keys: dict[str, tuple[bool, Shape]] = {}
    loop: tuple[str, str, Shape] | None = None
    for key, inner in example.items():
        shape = compile_shape(inner, around, constants)
        found = _LOOP.fullmatch(key)
        if found is None:
            keys[key.removesuffix("?")] = (key.endswith("?"), shape)
        elif loop is None:
            loop = (found[1], found[2], shape)
        else:
            raise BadLayout(key, "an object can have one key that stands for all others")
    return Object(keys, loop)


class Constant:
    direct: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()
    loops = False

    def __init__(self, value: Any) -> None:
        self._value = value

    def read(self, value: Any, reading: Reading) -> list[Row]:
        # 1 is not true, and neither is "1"
        if type(value) is not type(self._value) or value != self._value:
            raise Mismatch(repr(self._value), value)
        return [{}]

    def write(self, rows: Sequence[Row]) -> Any:
        return self._value


class Slot:
    loops = False

    def __init__(self, parts: Sequence[tuple[str, Conversion]], constants: Mapping[str, Any]) -> None:
        self._parts = parts
        self._constants = constants
        self.direct = self.fields = frozenset(field for field, _ in parts)

    def read(self, value: Any, reading: Reading) -> list[Row]:
        return [{field: how.read(value, reading.now) for field, how in self._parts}]

    def write(self, rows: Sequence[Row]) -> Any:
        first = self._given(self._parts[0][0], rows)
        how = self._parts[0][1]
        written = how.write(first) if first is not ABSENT else ABSENT
        if written is ABSENT:
            return ABSENT
        for field, other in self._parts[1:]:
            given = self._given(field, rows)
            wire = other.write(given) if given is not ABSENT else ABSENT
            if wire is not ABSENT and _reads_as(how, wire) == first:
                written = wire
        return written

    def _given(self, field: str, rows: Sequence[Row]) -> Any:
        given = _common(field, rows)
        return self._constants.get(field, ABSENT) if given is ABSENT and field.startswith("_") else given


class Object:
    def __init__(self, keys: Mapping[str, tuple[bool, Shape]], loop: tuple[str, str, Shape] | None) -> None:
        """keys: optional, shape. loop: field, mark, shape."""
        self._keys = keys
        self._loop = loop
        inner = [shape for _, shape in keys.values()]
        self.loops = loop is not None or any(shape.loops for shape in inner)
        self.direct = frozenset[str]().union(*(shape.direct for shape in inner))
        self.fields = frozenset[str]().union(*(shape.fields for shape in inner))
        if loop is not None:
            self.fields |= loop[2].fields | {loop[0]}

    def read(self, value: Any, reading: Reading) -> list[Row]:
        if not isinstance(value, dict):
            raise Mismatch("an object", value)
        direct: Row = {}
        inner: list[Row] = []
        for key, (optional, shape) in self._keys.items():
            if key not in value or (optional and value[key] in (None, "")):
                if not optional:
                    raise Mismatch(f"a key {key!r}", value)
                continue
            try:
                rows = shape.read(value[key], reading)
            except Mismatch as error:
                raise error.under(key) from None
            if shape.loops:
                inner += rows
            else:
                direct |= rows[0]
        if self._loop is not None:
            inner += self._read_loop(value, reading)
        return [direct | row for row in inner] or [direct]

    def _read_loop(self, value: Mapping[str, Any], reading: Reading) -> list[Row]:
        assert self._loop is not None
        field, mark, shape = self._loop
        found: list[Row] = []
        for key, one in value.items():
            if key in self._keys:
                continue
            try:
                name = identity(key)
                reading.count()
                found += [{field: name} | row for row in shape.read(one, reading)]
            except Mismatch as error:
                if mark == "?" and error.fault == "shape":
                    continue
                raise error.under(key) from None
        if mark == "+" and not found:
            raise Mismatch("at least one entry", value)
        return found

    def write(self, rows: Sequence[Row]) -> Any:
        written: dict[str, Any] = {}
        for key, (optional, shape) in self._keys.items():
            wire = shape.write(rows)
            if wire is ABSENT and not optional:
                return ABSENT
            if wire is not ABSENT and not (optional and shape.loops and not wire):
                written[key] = wire
        if self._loop is not None:
            field, mark, shape = self._loop
            entries = {
                str(name): wire
                for (name,), group in _groups(rows, (field,))
                if name is not ABSENT and (wire := shape.write(group)) is not ABSENT
            }
            if mark == "+" and not entries:
                return ABSENT
            written |= entries
        return written


class Each:
    direct: frozenset[str] = frozenset()
    loops = True

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.fields = shape.fields

    def read(self, value: Any, reading: Reading) -> list[Row]:
        if not isinstance(value, list):
            raise Mismatch("a list", value)
        found: list[Row] = []
        for index, one in enumerate(value):
            reading.count()
            try:
                found += self._shape.read(one, reading)
            except Mismatch as error:
                raise error.under(str(index)) from None
        return found

    def write(self, rows: Sequence[Row]) -> Any:
        fields = tuple(sorted(field for field in self._shape.direct if not field.startswith("_")))
        wires = [
            self._shape.write(group)
            for values, group in _groups(rows, fields)
            if any(value is not ABSENT for value in values) or not fields
        ]
        if wires and all(wire is ABSENT for wire in wires):
            return ABSENT
        return [wire for wire in wires if wire is not ABSENT]


class Either:
    def __init__(self, shapes: Sequence[Shape]) -> None:
        self._shapes = shapes
        self.direct = frozenset[str]().union(*(shape.direct for shape in shapes))
        self.fields = frozenset[str]().union(*(shape.fields for shape in shapes))
        self.loops = any(shape.loops for shape in shapes)

    def read(self, value: Any, reading: Reading) -> list[Row]:
        best: Mismatch | None = None
        entries = reading.entries
        for shape in self._shapes:
            try:
                reading.entries = entries  # what did not fit does not count
                return shape.read(value, reading)
            except Mismatch as error:
                if best is None or len(error.path) > len(best.path) or error.fault != "shape":
                    best = error
        assert best is not None
        raise best

    def write(self, rows: Sequence[Row]) -> Any:
        given = {field for row in rows for field in row}
        for shape in sorted(self._shapes, key=lambda shape: -len(shape.fields & given)):
            if (wire := shape.write(rows)) is not ABSENT:
                return wire
        return ABSENT


def _reads_as(how: Conversion, wire: Any) -> Any:
    try:
        return how.read(wire, EPOCH)
    except Mismatch:
        return ABSENT


def _common(field: str, rows: Sequence[Row]) -> Any:
    """What the rows say of the field, which must be one thing. Raises EncodeError."""
    found: Any = ABSENT
    for row in rows:
        value = row.get(field, ABSENT)
        if value is ABSENT or value is found:
            continue
        if found is not ABSENT and value != found:
            raise EncodeError(f"one message cannot say {field} {found} and {field} {value}")
        found = value
    return found


def _groups(rows: Sequence[Row], fields: tuple[str, ...]) -> Iterable[tuple[tuple[Any, ...], list[Row]]]:
    """Rows by their values of the fields, in order of appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        values = tuple(row.get(field, ABSENT) for field in fields)
        if any(isinstance(value, dict | list) for value in values):
            values = tuple(repr(value) for value in values)
        groups.setdefault(values, []).append(row)
    return groups.items()
