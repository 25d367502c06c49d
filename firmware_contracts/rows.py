"""Rows and tables of a DL/T 645 contract: few lines that name many data identifiers.

A row's `di` is a pattern. Capital hex digits stand for themselves; a lower-case pair (1997: a single letter) is a
placeholder for one byte (one nibble) and names a table, or a plain range, in the row:

    [[rows]]
    di = "00kktthh"
    kk = "energy"           # [tables.energy]
    tt = "tariff"
    hh = "settlement"
    blocks = ["tt", "hh"]   # FFH is allowed here, in one place at a time, and asks for all values of the table
    name = "{kk} energy, {tt}{hh}"
    obis = "1-0:{kk}.8.{tt}{hh}"
    layout = "XXXXXX.XX"

A table gives columns of text to each value, by single value or range; in a range `{n}` is the number in decimal, and
`{100+n}`, `{n-2}` compute. The column `fields` of a range is a layout with a field for each value, which gives name,
layout and unit. A row may take part of a table: `kk = "energy 01..0A"`, or write a range alone: `nn = "01..0C"`, with
the number as name and the one before it as column `before`. In a row `{kk}` is the column of the same name as the key
it stands in (`name`, `zh`, `obis`), `{kk:power}` any other one. layout, unit, signed, access, source, note and series
given by a table override those of the row: the more particular wins. An OBIS code that refers to a column its value
does not have is absent; `secondary = true` leaves the search by OBIS code to other rows with the same code.

Rows that share most keys are written together, each DI (or pattern) with its own keys:

    [[rows]]
    access = "rw"
    source = "S07;L"
    [rows.items]
    "04000103" = { name = "Max demand period", layout = "NN", unit = "min" }
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from firmware_contracts.errors import BadContract
from protocols.dlt645.layout import parse_layout
from protocols.errors import BadLayout, BadText

__all__ = ["OVERRIDES", "Row", "Table", "expand_items", "expand_layout", "overlap"]

OVERRIDES = ("layout", "unit", "signed", "access", "source", "note", "series")
ROW_KEYS = {"di", "name", "zh", "obis", "blocks", "members", "partial", "terminated", "secondary", "bytes", *OVERRIDES}
_REFERENCE = re.compile(r"\{([a-z]{1,2})(?::([a-z_]+))?\}")
_NUMBER = re.compile(r"\{(?:(\d+)\+)?n(?:([+-])(\d+))?\}")
_RANGE = re.compile(r"([0-9A-F]{1,2})(?:\.\.([0-9A-F]{1,2}))?")
_PLAIN_NUMBER = {"name": "{n}", "zh": "{n}", "obis": "{n}", "before": "{n-1}"}
_BLOCK = {"name": "block", "zh": ""}
_LAYOUT_NAME = re.compile(r"<(\w+)>")
_PATTERN = {8: re.compile(r"(?:[0-9A-F]{2}|[a-z]{2}){4}"), 4: re.compile(r"[0-9A-Fa-z]{4}")}


class Table:
    """Columns of text by value. Layers: of the contract at the bottom first; each may say values of those below anew.

    keys: the first value of every line. layouts: the contract's named ones.
    """

    def __init__(self, file: str, name: str, layers: Sequence[Mapping[str, Any]], layouts: Mapping[str, str]) -> None:
        self.name = name
        self._layouts = layouts
        self.columns: dict[int, dict[str, Any]] = {}
        self.keys: dict[str, int] = {}
        for rows in layers:
            self.columns |= self._layer(file, rows)
        if not self.columns:
            raise BadContract(file, f"tables.{name}", "no values")

    def _layer(self, file: str, rows: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        layer: dict[int, dict[str, Any]] = {}
        for key, columns in rows.items():
            where = f"tables.{self.name}.{key}"
            match = _RANGE.fullmatch(key)
            if match is None:
                raise BadContract(file, where, "expected a hex value or a range such as 01..3F")
            if not isinstance(columns, dict):
                raise BadContract(file, where, "expected a table of columns")
            low, high = int(match[1], 16), int(match[2] or match[1], 16)
            self.keys[key] = low
            own = {column: text for column, text in columns.items() if column != "fields"}
            fields = self._fields(file, where, columns.get("fields"), high - low + 1)
            for value in range(low, high + 1):
                if value in layer:
                    raise BadContract(file, where, f"{value:02X} is given twice")
                layer[value] = fields[value - low] | {column: _numbered(text, value) for column, text in own.items()}
        return layer

    def _fields(self, file: str, where: str, text: Any, count: int) -> list[dict[str, Any]]:
        if text is None:
            return [{} for _ in range(count)]
        try:
            fields = parse_layout(expand_layout(str(text), self._layouts))[0].before
        except BadText as error:
            raise BadContract(file, where, str(error)) from error
        if len(fields) != count:
            raise BadContract(file, where, f"fields: {len(fields)} for {count} values")
        return [
            {"name": field.label, "layout": field.wire.text, "unit": field.unit.value if field.unit else ""}
            for field in fields
        ]

    def part(self, file: str, where: str, ranges: str) -> "Table":
        """The same table with fewer values: ranges such as 01,04,0B..0F."""
        chosen: set[int] = set()
        for text in ranges.split(","):
            match = _RANGE.fullmatch(text)
            if match is None:
                raise BadContract(file, where, f"{text!r} is no value or range")
            chosen |= set(range(int(match[1], 16), int(match[2] or match[1], 16) + 1))
        if not chosen <= self.columns.keys():
            raise BadContract(file, where, f"{ranges!r} is not all in table {self.name!r}")
        part = Table.__new__(Table)
        part.name, part._layouts = self.name, self._layouts
        part.columns = {value: columns for value, columns in self.columns.items() if value in chosen}
        part.keys = {key: value for key, value in self.keys.items() if value in chosen} or {ranges: min(chosen)}
        return part


def _numbered(text: Any, number: int) -> Any:
    if not isinstance(text, str):
        return text

    def compute(match: re.Match[str]) -> str:
        delta = int(match[3] or 0)
        return str(int(match[1] or 0) + number + (-delta if match[2] == "-" else delta))

    return _NUMBER.sub(compute, text)


class Row:
    """One row of one file: a pattern of DIs and what they mean."""

    def __init__(self, file: str, keys: Mapping[str, Any], tables: Mapping[str, Table]) -> None:
        self.file = file
        self.keys = keys
        pattern = keys.get("di")
        if not isinstance(pattern, str) or len(pattern) not in _PATTERN:
            raise BadContract(file, f"row {pattern!r}", "di is missing or not a pattern of 8 or 4 characters")
        if _PATTERN[len(pattern)].fullmatch(pattern) is None:
            raise BadContract(file, f"row {pattern}", "di: expected capital hex digits and lower-case placeholders")
        self.pattern = pattern
        self.width = 2 if len(self.pattern) == 8 else 1
        self.all_ones = 0xFF if self.width == 2 else 0xF
        self.tokens = [self.pattern[at : at + self.width] for at in range(0, len(self.pattern), self.width)]
        self.placeholders = [token for token in self.tokens if token.islower()]
        self._check_keys()
        self.blocks: tuple[str, ...] = tuple(keys.get("blocks", ()))
        self.tables = {token: self._table(token, tables) for token in self.placeholders}
        self._fixed = [None if token in self.tables else int(token, 16) for token in self.tokens]
        self.allowed = [self._allowed(token) for token in self.tokens]

    def _check_keys(self) -> None:
        if len(set(self.placeholders)) != len(self.placeholders):
            self.fail("di: a placeholder stands twice")
        unknown = set(self.keys) - ROW_KEYS - set(self.placeholders)
        if unknown:
            self.fail(f"unknown key {', '.join(sorted(unknown))}")
        missing = {"name", *self.placeholders} - set(self.keys)
        if missing:
            self.fail(f"{', '.join(sorted(missing))} missing")
        if set(self.keys.get("blocks", ())) - set(self.placeholders):
            self.fail("blocks: names what is no placeholder of di")
        if self.keys.get("series", "") not in ("", "load-record", "curve"):
            self.fail("series: expected load-record or curve")

    def _table(self, token: str, tables: Mapping[str, Table]) -> Table:
        given = self.keys[token]
        name, _, ranges = given.partition(" ") if isinstance(given, str) else ("", "", "")
        if name in tables:
            table = tables[name].part(self.file, f"row {self.pattern}", ranges) if ranges else tables[name]
        elif _RANGE.fullmatch(name) and not ranges:
            table = Table(self.file, name, [{name: _PLAIN_NUMBER}], {})
        else:
            self.fail(f"{token}: no table {given!r}, and no range such as 01..0C")
        if max(table.columns) > self.all_ones or (token in self.blocks and self.all_ones in table.columns):
            self.fail(f"{token}: the values of {name!r} do not fit here")
        return table

    def fail(self, problem: str) -> Any:
        raise BadContract(self.file, f"row {self.pattern}", problem)

    def match(self, di: str) -> dict[str, int] | None:
        """Values of the placeholders when this row answers the DI; a block's placeholder is FFH (FH)."""
        if len(di) != len(self.tokens) * self.width:
            return None
        values: dict[str, int] = {}
        block = False
        for index, token in enumerate(self.tokens):
            value = int(di[index * self.width : (index + 1) * self.width], 16)
            fixed = self._fixed[index]
            if fixed is not None:
                if value != fixed:
                    return None
                continue
            if value not in self.tables[token].columns:
                if value != self.all_ones or token not in self.blocks or block:
                    return None
                block = True
            values[token] = value
        return values

    def block_of(self, values: Mapping[str, int]) -> str | None:
        """The placeholder that asks for a block."""
        return next((token for token in self.blocks if values[token] not in self.tables[token].columns), None)

    def di(self, values: Mapping[str, int]) -> str:
        return self.fill(self.pattern, values)

    def fill(self, pattern: str, values: Mapping[str, int]) -> str:
        """Digits for the placeholders of a pattern of DIs, of this row or of its members."""
        tokens = [pattern[at : at + self.width] for at in range(0, len(pattern), self.width)]
        return "".join(f"{values[token]:0{self.width}X}" if token in values else token for token in tokens)

    def text(self, key: str, values: Mapping[str, int]) -> str | None:
        """The row's text with its references filled in; None when it refers to a column that is not there.

        A placeholder without a value shows as itself, <tt>.
        """
        text = self.keys.get(key)
        if not isinstance(text, str):
            return None
        missing = False

        def fill(match: re.Match[str]) -> str:
            nonlocal missing
            if match[1] not in self.tables:
                self.fail(f"{key}: {{{match[1]}}} is no placeholder of di")
            if match[1] not in values:
                return f"<{match[1]}>"
            columns = self.tables[match[1]].columns.get(values[match[1]], _BLOCK)
            found = columns.get(match[2] or key)
            missing = missing or found is None
            return str(found or "")

        filled = " ".join(_REFERENCE.sub(fill, text).split()).replace(" ,", ",")
        return None if missing else filled

    def setting(self, key: str, values: Mapping[str, int]) -> Any:
        """layout, unit and the like: from the tables if they say, else from the row; None when neither does."""
        for token in self.placeholders:
            columns = self.tables[token].columns.get(values[token], {}) if token in values else {}
            if key in columns:
                return columns[key]
        given = self.keys.get(key)
        return self.text(key, values) if isinstance(given, str) and "{" in given else given

    def differs(self, token: str) -> bool:
        """Do the values of the placeholder have layouts or units of their own?"""
        return any("layout" in columns or "unit" in columns for columns in self.tables[token].columns.values())

    def references(self) -> Iterator[tuple[str, str]]:
        """Placeholder and column of every reference in the row's texts."""
        for key, text in self.keys.items():
            if isinstance(text, str):
                for match in _REFERENCE.finditer(text):
                    yield match[1], match[2] or key

    def combinations(self) -> Iterator[dict[str, int]]:
        """Every DI of the row that is no block, ascending."""
        orders = [sorted(self.tables[token].columns) for token in self.placeholders]
        for chosen in itertools.product(*orders):
            yield dict(zip(self.placeholders, chosen, strict=True))

    def samples(self) -> Iterator[dict[str, int]]:
        """Few DIs that show every line of every table once, and every kind of block."""
        first = {token: min(table.columns) for token, table in self.tables.items()}
        yield first
        for token, table in self.tables.items():
            for value in table.keys.values():
                if value != first[token]:
                    yield {**first, token: value}
            if token in self.blocks:
                yield {**first, token: self.all_ones}

    def may_answer(self, beginning: str) -> bool:
        """Can a DI that begins so, x for any digit, be one of this row's?"""
        if len(beginning) > len(self.pattern):
            return False
        padded = beginning.ljust(len(self.pattern), "x")
        wanted = [padded[at : at + self.width] for at in range(0, len(padded), self.width)]
        return all(
            any(_fits(f"{value:0{self.width}X}", digits) for value in allowed)
            for digits, allowed in zip(wanted, self.allowed, strict=True)
        )

    def _allowed(self, token: str) -> frozenset[int]:
        if token not in self.tables:
            return frozenset({int(token, 16)})
        return frozenset(self.tables[token].columns) | ({self.all_ones} if token in self.blocks else set())

    def nearest(self, di: str) -> tuple[tuple[int, ...], str]:
        """Distance byte by byte, and the row's DI nearest to the given one, never a block."""
        given = [int(di[at : at + self.width], 16) for at in range(0, len(di), self.width)]
        options = [
            self.tables[token].columns if token in self.tables else self.allowed[index]
            for index, token in enumerate(self.tokens)
        ]
        chosen = [
            min((abs(option - value), option) for option in possible)[1]
            for value, possible in zip(given, options, strict=True)
        ]
        return (
            tuple(abs(a - b) for a, b in zip(given, chosen, strict=True)),
            "".join(f"{value:0{self.width}X}" for value in chosen),
        )


def _fits(digits: str, pattern: str) -> bool:
    return all(wanted in ("x", digit) for wanted, digit in zip(pattern, digits, strict=True))


def expand_layout(text: str, layouts: Mapping[str, str]) -> str:
    """Named layouts put in. Raises BadLayout."""

    def named(match: re.Match[str]) -> str:
        if match[1] not in layouts:
            raise BadLayout(text, f"no layout named {match[1]!r}")
        return layouts[match[1]]

    expanded = text
    for _ in range(4):  # a named layout may use others; deeper nesting would be a circle
        expanded = _LAYOUT_NAME.sub(named, expanded)
    return expanded


def expand_items(file: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Keys of every row, rows written together taken apart."""
    for keys in rows:
        shared = {key: given for key, given in keys.items() if key != "items"}
        items = keys.get("items", {"": {}})
        if not isinstance(items, dict) or not all(isinstance(own, dict) for own in items.values()):
            raise BadContract(file, f"row {keys.get('di', '')}", "items: expected a DI and its keys on every line")
        for di, own in items.items():
            yield shared | ({"di": di} if di else {}) | own


def overlap(one: Row, other: Row) -> str | None:
    """A DI that both rows answer, or None."""
    if len(one.pattern) != len(other.pattern):
        return None
    common = []
    for mine, theirs in zip(one.allowed, other.allowed, strict=True):
        if mine.isdisjoint(theirs):
            return None
        common.append(min(mine & theirs))
    di = "".join(f"{value:0{one.width}X}" for value in common)
    return di if one.match(di) is not None and other.match(di) is not None else None
