"""What a meter model and firmware promises: data identifiers with layout, unit, sign, access and source.

A contract is a TOML file: `[contract]` (protocol, maker, model, firmware, extends), `[limits]`, `[serial]`,
`[passwords]`, `[relay]`, `[offers]` and `[[quirks]]` (see `sections`), `[layouts]` (named pieces of layout, used as
`<name>`), `[tables]` and `[[rows]]`; the notation of the last two is that of `rows`. A contract that extends another
one holds the differences only: its rows answer first, its tables add to or replace values of the tables below it, its
keys and quirks replace those of the same name. A row without unit, layout, access or source is refused when the file
is loaded, and so are unknown keys and two rows of one file that answer the same DI.
"""

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from firmware_contracts.errors import BadContract, NotOffered, UnknownItem
from firmware_contracts.files import known_keys, layers, merged, names, section, stamp
from firmware_contracts.rows import OVERRIDES, Row, Table, expand_items, expand_layout, overlap
from firmware_contracts.sections import Limits, Offers, Passwords, QuirkRow, Quirks, Relay, Serial, quirks_from_rows
from protocols.dlt645.items import Di, ItemSpec, Separators, fields_of, size_range
from protocols.dlt645.layout import Kind, parse_layout
from protocols.errors import BadText
from protocols.values import Obis, Unit

__all__ = ["Contract", "Family", "Limits", "Offers", "QuirkRow", "Quirks", "contract_names", "load"]

SECTIONS = {"contract", "limits", "serial", "passwords", "relay", "offers", "quirks", "layouts", "tables", "rows"}
ABOUT = {"protocol", "maker", "model", "firmware", "description", "provenance", "extends"}
PROTOCOLS = {"dlt645-2007": 8, "dlt645-1997": 4}  # and the number of hex digits of their DIs
TARIFFS = "tariff"  # the table of tariff numbers: a contract's limit cuts it short
COLUMNS = {"name", "zh", "obis", *OVERRIDES}
FOUND_MAX = 16384  # specs kept per contract: all a fleet polls, while a scan of all DIs cannot fill the memory


class Family(Struct, frozen=True, kw_only=True):
    """A line of a printed table: DIs that differ in tariff, settlement or number only, `di` with their placeholders.

    unit: of the values, several with commas. layout and unit are "" where the items of a record differ in them.
    """

    di: str
    name: str
    name_zh: str
    layout: str
    unit: str
    signed: bool
    access: str
    obis: str
    source: str
    note: str


class Contract:
    """A loaded contract. Made by `load`."""

    def __init__(self, name: str, files: list[tuple[str, Mapping[str, Any]]]) -> None:
        """files: name and content, the most particular first."""
        self.name = name
        self._file, top = files[0]
        about = merged(files, "contract")
        known_keys(self._file, "contract", about, ABOUT)
        self.protocol = str(about.get("protocol", ""))
        if self.protocol not in PROTOCOLS:
            raise BadContract(self._file, "contract", f"protocol: expected one of {', '.join(PROTOCOLS)}")
        self.maker = str(about.get("maker", ""))
        self.model = str(about.get("model", ""))
        self.firmware = str(about.get("firmware", ""))
        self.description = str(top.get("contract", {}).get("description", ""))
        self.provenance = str(top.get("contract", {}).get("provenance", ""))
        self.extends: str | None = top.get("contract", {}).get("extends")
        self.limits: Limits = section(self._file, "limits", merged(files, "limits"), Limits)
        self.serial: Serial = section(self._file, "serial", merged(files, "serial"), Serial)
        self.passwords: Passwords = section(self._file, "passwords", merged(files, "passwords"), Passwords)
        self.relay: Relay = section(self._file, "relay", merged(files, "relay"), Relay)
        offers = merged(files, "offers")
        self.offers: Offers | None = section(self._file, "offers", offers, Offers) if offers else None
        self.quirks, self.quirk_rows = quirks_from_rows([(file, text.get("quirks", [])) for file, text in files])
        self._layouts = {layout: str(text) for layout, text in merged(files, "layouts").items()}
        tables = {
            table: Table(self._file, table, layers, self._layouts) for table, layers in _table_layers(files).items()
        }
        self._rows = [self._layer(file, content, tables) for file, content in files]
        self._by_first: dict[int, list[Row]] = {}
        for row in (row for layer in self._rows for row in layer):
            for first in row.allowed[0]:
                self._by_first.setdefault(first, []).append(row)
        self._find = lru_cache(maxsize=FOUND_MAX)(self._resolve)
        self._dis_by_obis: dict[str, str] | None = None
        self._check(tables)

    @property
    def separators(self) -> Separators:
        return Separators(self.quirks.separators)

    def find(self, di: Di) -> ItemSpec:
        """What the DI means. Raises UnknownItem, naming the nearest DIs, or its leaf NotOffered."""
        spec = self._find(di.text)
        if not self.has(di):
            raise NotOffered(self.name, di.text, spec.name)
        return spec

    def has(self, di: Di) -> bool:
        """Whether the contract leaves the DI in; True for all when it does not say what is offered."""
        if self.offers is None:
            return True
        return self.offers.has(di.text) and not self._is_beyond_tariffs(di.text)

    def _is_beyond_tariffs(self, di: str) -> bool:
        row, values = self._row_of(di) or (None, {})
        tariffs = [values[token] for token, table in row.tables.items() if table.name == TARIFFS] if row else []
        return any(self.limits.tariffs < tariff < row.all_ones for tariff in tariffs) if row else False

    def samples(self) -> Iterator[ItemSpec]:
        """Few items that stand for all offered ones: each line of each table once, and the blocks of each quantity.

        What [offers] names digit by digit is there as well.
        """
        rows = [row for layer in self._rows for row in layer]
        dis = [row.di(values) for row in rows for values in (*row.samples(), *_block_values(row))]
        if self.offers is not None:
            dis += [di for di in self.offers.items if len(di) == PROTOCOLS[self.protocol] and "x" not in di]
        for di in dict.fromkeys(dis):
            if self.has(Di(di)):
                yield self._find(di)  # an item that a more particular row answers comes from that one

    def find_obis(self, obis: Obis) -> ItemSpec:
        """The item that holds this quantity, never a block: present values before past ones, in the order of the rows.

        Of a record with several values, such as the counts of three phases, the one with this OBIS code is meant.
        Raises UnknownItem.
        """
        if self._dis_by_obis is None:
            self._dis_by_obis = dict(self._obis_index())
        di = self._dis_by_obis.get(obis.text)
        if di is None:
            raise UnknownItem(self.name, obis.text, difflib.get_close_matches(obis.text, self._dis_by_obis, n=3))
        return self._find(di)

    def items(self) -> Iterator[Family]:
        """Lines for tables and documents; tariffs, settlements and numbers stay placeholders."""
        for row in (row for layer in self._rows for row in layer):
            for told in _told_values(row):
                spec = self._find(row.di({token: min(table.columns) for token, table in row.tables.items()} | told))
                if not self.has(spec.di):
                    continue
                units = dict.fromkeys(field.unit.value for field in fields_of(spec) if field.unit and field.unit.value)
                differs = any(row.differs(token) for token in row.placeholders if token not in told)
                yield Family(
                    di=row.fill(row.pattern, told),
                    name=row.text("name", told) or spec.name,
                    name_zh=row.text("zh", told) or spec.name_zh,
                    layout="" if differs else spec.layout,
                    unit="" if differs else ",".join(units),
                    signed=spec.signed,
                    access=spec.access,
                    obis=row.text("obis", told) or "",
                    source=spec.origin,
                    note=spec.note,
                )

    def _layer(self, file: str, content: Mapping[str, Any], tables: Mapping[str, Table]) -> list[Row]:
        known_keys(file, "", content, SECTIONS)
        given = content.get("rows", [])
        if not isinstance(given, list) or not all(isinstance(keys, dict) for keys in given):
            raise BadContract(file, "rows", "expected [[rows]]")
        rows = [Row(file, keys, tables) for keys in expand_items(file, given)]
        for index, row in enumerate(rows):
            if len(row.pattern) != PROTOCOLS[self.protocol]:
                row.fail(f"di: {self.protocol} has DIs of {PROTOCOLS[self.protocol]} digits")
            for other in rows[:index]:
                if (di := overlap(row, other)) is not None:
                    row.fail(f"answers {di}, as row {other.pattern} does")
        return rows

    def _check(self, tables: Mapping[str, Table]) -> None:
        """Resolve something of every row and of every line of every table: a gap shows when the file is read."""
        used: dict[str, set[str]] = {name: set(COLUMNS) for name in tables}
        for row in (row for layer in self._rows for row in layer):
            for token, column in row.references():
                if token in row.tables:
                    used.setdefault(row.tables[token].name, set()).add(column)
            for values in row.samples():
                self._resolve(row.di(values))
        self._check_offers()
        for name, table in tables.items():
            for columns in table.columns.values():
                known_keys(self._file, f"tables.{name}", columns, used[name])

    def _check_offers(self) -> None:
        """A pattern that fits no item is a slip of the pen, and would promise nothing."""
        for pattern in self.offers.items + self.offers.left_out if self.offers else ():
            if not any(row.may_answer(pattern) for layer in self._rows for row in layer):
                raise BadContract(self._file, "offers", f"{pattern!r} fits no item of the contract")

    def _resolve(self, di: str) -> ItemSpec:
        if (found := self._row_of(di)) is not None:
            return self._spec(*found)
        same_length = [row for layer in self._rows for row in layer if len(row.pattern) == len(di)]
        near = sorted({row.nearest(di) for row in same_length})[:3]
        names = (f"{candidate} ({self._find(candidate).name})" for _, candidate in near)
        raise UnknownItem(self.name, di, list(names))

    def _row_of(self, di: str) -> tuple[Row, dict[str, int]] | None:
        for row in self._by_first.get(int(di[: 2 if len(di) == 8 else 1], 16), ()):
            if (values := row.match(di)) is not None:
                return row, values
        return None

    def _spec(self, row: Row, values: dict[str, int]) -> ItemSpec:
        di = row.di(values)
        block = row.block_of(values)
        members: tuple[ItemSpec, ...] = ()
        if block is not None:
            options = sorted(row.tables[block].columns)
            members = tuple(self._spec(row, {**values, block: option}) for option in options)
        elif "members" in row.keys:
            members = tuple(self._member(row, row.fill(pattern, values)) for pattern in row.keys["members"])
        settings = {key: row.setting(key, values) for key in OVERRIDES}
        if members:
            settings["access"] = settings["access"] or members[0].access
            settings["unit"] = _common_unit(members)
            settings["layout"] = ""
            settings["signed"] = False
        missing = [key for key in ("unit", "layout", "access", "source") if settings[key] is None]
        if missing:
            row.fail(f"{di}: {', '.join(missing)} missing")
        if settings["access"] not in ("r", "rw", "w", "x"):
            row.fail(f"{di}: access {settings['access']!r}, expected r, rw, w or x")
        name = row.text("name", values)
        if not name:
            row.fail(f"{di}: name refers to a column that is missing")
        obis = None if block is not None else row.text("obis", values)
        try:
            spec = ItemSpec(
                di=Di(di),
                name=name or "",
                name_zh=(row.text("zh", values) or "") + ("数据块" if block else ""),
                layout=self._layout(str(settings["layout"])),
                unit=Unit.from_text(settings["unit"]),
                signed=bool(settings["signed"]),
                access=settings["access"],
                obis=Obis(obis) if obis else None,
                members=members,
                partial=bool(row.keys.get("partial", True)),
                terminated=bool(row.keys.get("terminated", False)),
                series=settings["series"] or "",
                source=f"{self.name}:{di}",
                origin=settings["source"],
                note=settings["note"] or "",
            )
            signed = all(field.wire.signed and field.wire.kind is Kind.AMOUNT for field in fields_of(spec))
            spec = msgspec.structs.replace(spec, signed=signed)
            self._check_size(row, spec)
        except BadText as error:
            row.fail(f"{di}: {error}")
        return spec

    def _member(self, row: Row, di: str) -> ItemSpec:
        try:
            return self._resolve(di)
        except UnknownItem as error:
            raise BadContract(row.file, f"row {row.pattern}", f"members: {error}") from error

    def _layout(self, layout: str) -> str:
        layout = expand_layout(layout, self._layouts)
        text_format = {"reversed": "ASCII*", "plain": "ASCII_PLAIN*", "detect": "ASCII_ANY*"}[self.quirks.ascii_order]
        layout = layout.replace("ASCII*", text_format)
        if layout:
            parse_layout(layout)
        return layout

    def _check_size(self, row: Row, spec: ItemSpec) -> None:
        if (size := row.keys.get("bytes")) is not None and size not in size_range(spec):
            row.fail(f"{spec.di}: the layout makes {size_range(spec)[0]} bytes, the row says {size}")

    def _obis_index(self) -> Iterator[tuple[str, str]]:
        """Backwards, so that in a dict the first row wins."""
        found: list[tuple[str, str]] = []
        rows = [row for layer in self._rows for row in layer]
        for row in sorted(rows, key=lambda row: bool(row.keys.get("secondary"))):
            if "obis" in row.keys:
                for values in row.combinations():
                    if obis := row.text("obis", values):
                        found.append((obis, row.di(values)))
            for values in row.combinations() if _has_own_obis(row) else ():
                spec = self._find(row.di(values))
                found += [(field.obis.text, spec.di.text) for field in fields_of(spec) if field.obis]
        return reversed([(obis, di) for obis, di in found if self.has(Di(di))])


@lru_cache(maxsize=256)
def _load(name: str, changed: int) -> Contract:
    return Contract(name, layers(name))


def load(name: str) -> Contract:
    """A contract by its name, "dlt645/base_2007", or by the path of a .toml file. Kept once loaded, until it changes.

    Raises UnknownContract, BadContract.
    """
    return _load(name, stamp(name))


def contract_names() -> list[str]:
    """Names of the contracts of DL/T 645 meters that come with the package. `library` has those of all protocols."""
    return names("dlt645")


def _table_layers(files: list[tuple[str, Mapping[str, Any]]]) -> dict[str, list[Mapping[str, Any]]]:
    """By table, what each file says of it, the most general file first."""
    layers: dict[str, list[Mapping[str, Any]]] = {}
    for file, content in reversed(files):
        for table, rows in content.get("tables", {}).items():
            if not isinstance(rows, dict):
                raise BadContract(file, f"tables.{table}", "expected values with columns")
            layers.setdefault(table, []).append(rows)
    return layers


def _common_unit(members: tuple[ItemSpec, ...]) -> str:
    units = {member.unit for member in members}
    return units.pop().value if len(units) == 1 else ""


def _told_values(row: Row) -> Iterator[dict[str, int]]:
    """Values of the placeholders whose tables name items one by one; ranges only count, and stay placeholders."""
    told = [token for token in row.placeholders if ".." not in "".join(row.tables[token].keys)]
    for chosen in itertools.product(*(sorted(row.tables[token].columns) for token in told)):
        yield dict(zip(told, chosen, strict=True))


def _block_values(row: Row) -> Iterator[dict[str, int]]:
    """Every block of every quantity, the other placeholders at their lowest."""
    for token in row.blocks:
        for told in _told_values(row):
            lowest = {other: min(table.columns) for other, table in row.tables.items()}
            yield lowest | told | {token: row.all_ones}


def _has_own_obis(row: Row) -> bool:
    """Do layouts of the row give OBIS codes to single values?"""
    layouts = [row.keys.get("layout", "")]
    layouts += [columns.get("layout", "") for table in row.tables.values() for columns in table.columns.values()]
    return any(re.search(r"\[[^\]]*:", str(layout)) for layout in layouts)
