"""What a Modbus meter promises: points, what one request may ask for, the relay, serial settings.

A contract is a TOML file: `[contract]` (protocol, maker, model, firmware, description, provenance, confidence, port,
notes, extends), `[sources]` (short keys for the documents that rows name), `[limits]`, `[serial]`, `[invalid]` (contents
that mean "not measured", by type), `[ratios]` (where the meter keeps its transformer ratios), `[relay]`, `[offers]` and
`[[rows]]`; rows are described in `modbus_rows`, the other sections below. A contract that extends another one holds the
differences only: sections are replaced key by key, rows by name; `left_out` of `[offers]` names inherited points that the
meter does not have. Description, provenance, confidence, port and notes are each file's own.

A read of a power comes out in kW, kvar or kVA whatever the file says: see `modbus_rows`.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import Struct

from firmware_contracts.blocks import Block, ModbusLimits, plan_blocks
from firmware_contracts.errors import BadContract, BadRegister, UnknownItem
from firmware_contracts.files import Layer, known_keys, layers, merged, names, section, stamp
from firmware_contracts.modbus_relay import ModbusRelay, ModbusRelayStatus
from firmware_contracts.modbus_rows import (
    ADDRESS_MAX,
    FUNCTIONS,
    TYPES,
    Row,
    normalised,
    point_from_row,
    read_marks,
    rows_of,
)
from firmware_contracts.sections import Serial
from protocols.modbus.points import Point, PointType, WordOrder
from protocols.values import Obis, Unit

__all__ = [
    "ModbusContract",
    "ModbusLimits",
    "ModbusRelay",
    "ModbusRelayStatus",
    "RegisterName",
    "load_modbus",
    "modbus_names",
    "read_modbus",
    "register_point",
]

SECTIONS = {"contract", "sources", "limits", "serial", "invalid", "ratios", "relay", "offers", "rows"}
ABOUT = {"protocol", "extends", "maker", "model", "firmware"}
OWN = {"description", "provenance", "confidence", "port", "notes"}  # of each file, never inherited
CONFIDENCE = {"A": "two independent sources", "B": "one source", "C": "indirect"}
_REGISTER = re.compile(r"reg:([0-9]{1,3}):(0[xX][0-9a-fA-F]{1,4}|[0-9]{1,5}):([a-z]+[0-9]+)(?::(big|little))?")


class RegisterName(Struct, frozen=True):
    """A register as people write it, reg:FUNCTION:ADDRESS:TYPE[:WORD_ORDER], the high word first where nothing is said.

    Which word comes first makes no difference to a single register, and is not kept.
    """

    function: int
    address: int
    type: PointType
    order: WordOrder

    @classmethod
    def from_text(cls, text: str) -> "RegisterName":
        """Raises BadRegister."""
        match = _REGISTER.fullmatch(text.strip())
        if match is None:
            raise BadRegister(text, "it does not have these parts")
        function, address, kind, order = match.groups()
        if kind not in TYPES:
            raise BadRegister(text, f"no type {kind}, there are {', '.join(TYPES)}")
        if int(function) not in FUNCTIONS:
            raise BadRegister(text, f"function {function} reads no registers; 3 reads holding, 4 input registers")
        number = int(address, 16 if address[:2].lower() == "0x" else 10)
        width = TYPES[kind].width
        if number + width > ADDRESS_MAX + 1:
            raise BadRegister(text, f"{width} registers from {number} end beyond FFFFH")
        return cls(int(function), number, TYPES[kind], WordOrder(order or "big") if width > 1 else WordOrder.BIG)

    @property
    def text(self) -> str:
        """The one spelling under which it is stored."""
        order = "" if self.order is WordOrder.BIG else f":{self.order.value}"
        return f"reg:{self.function}:0x{self.address:04X}:{self.type.value}{order}"

    @property
    def point(self) -> Point:
        """A point that no contract has a row for: the number in the registers, without scale and unit."""
        return Point(
            name=self.text,
            function=self.function,
            address=self.address,
            type=self.type,
            word_order=self.order,
            unit=Unit.NONE,
            source=self.text,
            note="no row of the contract: what the registers hold, without scale and unit",
        )


class _Offers(Struct, frozen=True, forbid_unknown_fields=True):
    left_out: tuple[str, ...] = ()


class _Own(Struct, frozen=True, kw_only=True):
    """What each file says of itself."""

    description: str = ""
    provenance: str = ""
    confidence: Literal["A", "B", "C"] = "C"
    port: Literal["rs485", "ethernet"] = "rs485"
    notes: tuple[str, ...] = ()


class ModbusContract:
    """A loaded contract. Made by `load_modbus`.

    points: in the order of the file, power in kW. ratios: the points where the meter keeps "ct" and "pt", as far as known.
    confidence: A two independent sources, B one, C indirect. problems: rows that could not be read, for the linter;
    a contract that `load_modbus` gives has none.
    """

    protocol = "modbus"

    def __init__(self, name: str, files: Sequence[Layer]) -> None:
        """files: the most particular first. Raises BadContract for a section; rows in trouble go to `problems`."""
        self.name = name
        self._file, top = files[0]
        about = merged(files, "contract")
        if about.get("protocol") != self.protocol:
            raise BadContract(self._file, "contract", f"protocol: {about.get('protocol')!r}, expected modbus")
        known_keys(self._file, "contract", about, ABOUT | OWN)
        for file, content in files:
            known_keys(file, "", content, SECTIONS)
        self.maker = str(about.get("maker", ""))
        self.model = str(about.get("model", ""))
        self.firmware = str(about.get("firmware", ""))
        self.extends: str | None = top["contract"].get("extends")
        own: _Own = section(
            self._file, "contract", {key: top["contract"][key] for key in OWN & set(top["contract"])}, _Own
        )
        self.description = own.description
        self.provenance = own.provenance
        self.confidence = own.confidence
        self.port = own.port
        self.notes = own.notes
        self.sources: dict[str, tuple[str, ...]] = _sources(self._file, merged(files, "sources"))
        self.limits: ModbusLimits = section(self._file, "limits", merged(files, "limits"), ModbusLimits)
        serial = {"baud": 9600, "parity": "N", "stop_bits": 1} | merged(files, "serial")
        self.serial: Serial = section(self._file, "serial", serial, Serial)
        relay = merged(files, "relay")
        self.relay: ModbusRelay | None = section(self._file, "relay", relay, ModbusRelay) if relay else None
        offers: _Offers = section(self._file, "offers", top.get("offers", {}), _Offers)
        marks = _marks(self._file, merged(files, "invalid"))
        rows, problems = rows_of(files, offers.left_out)
        self.written = tuple(self._read(rows, marks, problems))
        self.points = tuple(normalised(point) for point in self.written)
        self.ratios = {point.name: point for point in self._read(self._ratio_rows(files), {}, problems)}
        self.problems = tuple(problems)
        self._by_name = {point.name: point for point in self.points}
        self._by_obis = {point.obis.text: point for point in reversed(self.points) if point.obis}
        self._by_place: dict[tuple[int, int, PointType], Point] = {
            (point.function, point.address, point.type): point for point in reversed(self.points)
        }

    def find(self, name: str) -> Point:
        """The point of this name, "voltage_l1". Raises UnknownItem."""
        if name not in self._by_name:
            raise UnknownItem(self.name, f"point {name}", difflib.get_close_matches(name, self._by_name, n=3))
        return self._by_name[name]

    def find_obis(self, obis: Obis) -> Point:
        """The point that holds this quantity. Raises UnknownItem."""
        if obis.text not in self._by_obis:
            raise UnknownItem(self.name, obis.text, difflib.get_close_matches(obis.text, self._by_obis, n=3))
        return self._by_obis[obis.text]

    def find_register(self, text: str) -> Point:
        """The point that reg:… names: the contract's own if it has one there, else a bare number without a unit.

        Raises BadRegister, also where the text leaves the high word first and the meter puts the low one there: the number
        would be wrong, and look like one.
        """
        name = RegisterName.from_text(text)
        own = self._by_place.get((name.function, name.address, name.type))
        if own is not None and (own.width == 1 or own.word_order is name.order):
            return own
        orders = {own.word_order} if own is not None else {point.word_order for point in self.points if point.width > 1}
        if name.type.width > 1 and name.order is WordOrder.BIG and orders == {WordOrder.LITTLE}:
            raise BadRegister(text, f"{self.name} has the low word first: write {name.text}:little")
        return msgspec.structs.replace(name.point, source=f"{self.name}:{name.text}")

    def plan(self, points: Iterable[Point]) -> tuple[Block, ...]:
        """The fewest requests that read these points. Raises OutOfReach."""
        return plan_blocks(tuple(points), self.limits, known=self.points)

    def _ratio_rows(self, files: Sequence[Layer]) -> list[Row]:
        given = merged(files, "ratios")
        known_keys(self._file, "ratios", given, {"ct", "pt"})
        for name, keys in given.items():
            if not isinstance(keys, dict):
                raise BadContract(self._file, "ratios", f"{name}: expected the keys of a point")
        return [
            Row(file=self._file, name=name, keys={"unit": "", "access": "r"} | keys) for name, keys in given.items()
        ]

    def _read(
        self, rows: Iterable[Row], marks: Mapping[PointType, tuple[int, ...]], problems: list[BadContract]
    ) -> list[Point]:
        points = []
        for row in rows:
            try:
                points.append(point_from_row(row, self.name, self.sources, marks))
            except BadContract as problem:
                problems.append(problem)
        return points


def _sources(file: str, given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    for key, documents in given.items():
        if (
            not isinstance(documents, list)
            or not documents
            or not all(isinstance(one, str) and one for one in documents)
        ):
            raise BadContract(file, "sources", f"{key}: expected a list of documents")
    return {key: tuple(documents) for key, documents in given.items()}


def _marks(file: str, given: Mapping[str, Any]) -> dict[PointType, tuple[int, ...]]:
    known_keys(file, "invalid", given, TYPES)
    return {TYPES[kind]: read_marks(file, "invalid", marks, TYPES[kind]) for kind, marks in given.items()}


def register_point(text: str) -> Point:
    """The bare point that reg:… names, with no contract in view. Raises BadRegister."""
    return RegisterName.from_text(text).point


def read_modbus(name: str) -> ModbusContract:
    """A contract with its `problems`, for the linter. Raises UnknownContract, BadContract where no contract can be made."""
    return ModbusContract(name, layers(name))


@lru_cache(maxsize=256)
def _load(name: str, changed: int) -> ModbusContract:
    contract = read_modbus(name)
    if contract.problems:
        raise contract.problems[0]
    if not contract.points:
        raise BadContract(name, "rows", "no points: expected [[rows]] with [rows.points]")
    return contract


def load_modbus(name: str) -> ModbusContract:
    """A contract by its name, "modbus/eastron_sdm630", or by the path of a .toml file. Kept once loaded, until it changes.

    Raises UnknownContract, BadContract.
    """
    return _load(name, stamp(name))


def modbus_names() -> list[str]:
    """Names of the contracts of Modbus meters that come with the package."""
    return names("modbus")
