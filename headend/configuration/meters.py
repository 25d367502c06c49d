"""The meters of a configuration, from `[[meters]]` or from a table, with everything they refer to.

A table that cannot be read, or that has not one usable row, stops the start: a service that runs for no meters looks healthy, and
forgets those it had.
"""

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct, defstruct
from pydantic import BaseModel, ValidationError

from firmware_contracts.errors import ContractError
from headend.configuration.reader import Entry, Reader, dotted, explain_errors, names
from headend.intervals.registers import Connection
from headend.model import MeterRecord
from headend.quantities import (
    AnyContract,
    BadQuantity,
    channel_of,
    check_address,
    load_contract,
    place_of,
    resolve_register,
)
from protocols.errors import BadAddress

__all__ = ["connections_of", "meters_of", "rows_of"]


def meters_of(
    reader: Reader,
    document: Mapping[str, Any],
    *,
    shape: type[BaseModel],
    lines: Mapping[str, Any],
    plans: Mapping[str, Any],
    written_lines: list[Entry],
    written_plans: list[Entry],
) -> list[tuple[MeterRecord, Any]]:
    """Each usable meter with its entry as written. written_…: all entries, so that one with a mistake of its own is told from none."""
    table = document.get("meters")
    if isinstance(table, str):
        file = (reader.path.parent / table).resolve()
        found = list(rows_of(reader, file, shape))
    else:
        found = reader.entries(document, "meters", shape)
    known_contracts = _Contracts(reader.path.resolve().parent, str(shape.model_fields["contract"].default))
    declared = {"line": _by_name(written_lines), "plan": _by_name(written_plans)}
    left_out_with: Counter[tuple[str, str]] = Counter()
    pairs: set[tuple[str, str]] = set()
    good: list[tuple[Entry, AnyContract]] = []
    for entry in found:
        is_right = _has_address(entry, lines) and entry.good is not None
        left_out = left_out_with if is_right else Counter()
        has_line = _refers(entry, "line", lines, declared["line"], left_out)
        has_plan = _refers(entry, "plan", plans, declared["plan"], left_out)
        contract = known_contracts.of(entry)
        if contract is not None and (plan := entry.text("plan")) is not None:
            pairs.add((plan, contract.name))
        if not (is_right and has_line and has_plan) or contract is None:
            continue
        if _speaks(entry, contract, lines[entry.good.line].protocol):
            good.append((entry, contract))
    for (key, name), count in (+left_out_with).items():
        declared[key][name].report("name", f"{name!r} is left out, and {count} meter(s) with it")
    _check_quantities(written_plans, pairs, known_contracts)
    meters = list(_told_apart(found, good, lines))
    if isinstance(table, str) and not meters and not reader.fatal:
        reader.problem(("meters",), f"{file} has no usable row; expected one meter a row at least", fatal=True)
    return meters


def connections_of(meters: Iterable[tuple[MeterRecord, Any]]) -> dict[str, Connection]:
    """What each meter's connection carries, where its current is given; one object for all that are alike."""
    alike: dict[Connection, Connection] = {}
    found: dict[str, Connection] = {}
    for record, entry in meters:
        if entry.current_max_a is not None:
            one = Connection(current_max_a=entry.current_max_a, voltage_v=entry.voltage_v, phases=entry.phases)
            found[record.id] = alike.setdefault(one, one)
    return found


def _by_name(entries: list[Entry]) -> dict[str, Entry]:
    return {name: entry for entry in entries if (name := entry.text("name")) is not None}


def _refers(
    entry: Entry,
    key: str,
    known: Mapping[str, Any],
    declared: Mapping[str, Entry],
    left_out_with: Counter[tuple[str, str]],
) -> bool:
    """Whether the entry's `key` names something usable. A name that stands nowhere is reported, also for an entry that is left out
    already; meters of a line or plan with a mistake of its own are only counted: that is one problem, not one per meter."""
    name = entry.text(key)
    if name is None:  # missing or no text: that has been reported
        return False
    if name in known:
        return True
    if name in declared:
        left_out_with[key, name] += 1
    else:
        entry.report(key, f"no {key} is named {name!r}; expected one of {names(declared)}")
    return False


def _has_address(entry: Entry, lines: Mapping[str, Any]) -> bool:
    """Whether the address is one of its line's protocol; of DL/T 645 where the line is not known."""
    address, line = entry.text("address"), entry.text("line")
    if address is None:
        return False
    try:
        check_address(address, lines[line].protocol if line is not None and line in lines else "dlt645")
    except BadAddress as error:
        entry.report("address", str(error))
        return False
    return True


def _speaks(entry: Entry, contract: AnyContract, protocol: str) -> bool:
    """Whether the meter's contract is of the line's protocol."""
    if protocol == "mqtt":  # its concentrator tells quantities; the contract is for what is forwarded
        return True
    speaks = "modbus" if protocol.startswith("modbus") else "dlt645"
    if contract.protocol.startswith(speaks):
        return True
    entry.report(
        "contract",
        f"{contract.name!r} speaks {contract.protocol}, line {entry.good.line!r} {protocol}; expected a contract of "
        f"{speaks}/…, `headend contract list` names them",
    )
    return False


class _Contracts:
    """Contracts by the name that a configuration gives them; paths start from its folder."""

    def __init__(self, folder: Path, default: str) -> None:
        self.folder = folder
        self.default = default
        self._loaded: dict[str, AnyContract | ContractError] = {}

    def of(self, entry: Entry) -> AnyContract | None:
        """Reports a contract that cannot be used, in full the first time."""
        name = entry.text("contract", self.default)
        if name is None:
            return None
        is_first = name not in self._loaded
        loaded = self.load(name)
        if not isinstance(loaded, ContractError):
            return loaded
        entry.report("contract", str(loaded) if is_first else f"{name!r} cannot be used, see above")
        return None

    def load(self, name: str) -> AnyContract | ContractError:
        if name not in self._loaded:
            try:
                self._loaded[name] = load_contract(name, self.folder)
            except ContractError as error:
                self._loaded[name] = error
        return self._loaded[name]


def _check_quantities(plans: list[Entry], pairs: set[tuple[str, str]], contracts: _Contracts) -> None:
    """Spelling first, once per plan; then against each contract that its meters have, or the default one."""
    for plan in plans:
        written = plan.raw.get("quantities")
        spelled = [quantity for quantity in _texts(written) if _is_spelled(plan, quantity)]
        for index, quantity in enumerate(spelled):
            if quantity in spelled[:index]:
                plan.report("quantities", f"{quantity!r} stands there twice")
        used = sorted(contract for name, contract in pairs if name == plan.text("name"))
        for contract in used or [contracts.default]:
            if not isinstance(loaded := contracts.load(contract), ContractError):
                _check_against(plan, list(dict.fromkeys(spelled)), loaded)


def _texts(written: object) -> list[str]:
    return [text for text in written if isinstance(text, str)] if isinstance(written, list) else []


def _is_spelled(plan: Entry, quantity: str) -> bool:
    try:
        channel_of(quantity)
    except BadQuantity as error:
        plan.report("quantities", f"plan {plan.text('name')!r}, quantity {quantity!r}: {error}")
        return False
    return True


def _check_against(plan: Entry, quantities: list[str], contract: AnyContract) -> None:
    seen: dict[str, str] = {}
    for quantity in quantities:
        told = f"plan {plan.text('name')!r}, quantity {quantity!r}"
        try:
            place = place_of(resolve_register(contract, quantity))
        except BadQuantity as error:
            plan.report("quantities", f"{told}: {error}")
            continue
        if place in seen:
            plan.report(
                "quantities",
                f"{told}: the same register as {seen[place]!r} ({place} of {contract.name}); it is read once",
            )
        seen.setdefault(place, quantity)


def _told_apart(
    found: list[Entry], good: list[tuple[Entry, AnyContract]], lines: Mapping[str, Any]
) -> Iterator[tuple[MeterRecord, Any]]:
    """Good meters that no other entry claims to be, an entry with mistakes included: it will be mended one day."""
    ids = Counter(entry.text("id") for entry in found)
    places = Counter((entry.text("line"), entry.text("address")) for entry in found)
    contracts = {id(entry): contract for entry, contract in good}
    for entry in found:
        name, place = entry.text("id"), (entry.text("line"), entry.text("address"))
        if name is not None and ids[name] > 1:
            entry.report("id", f"{name!r} is the id of {ids[name]} meters; ids are unique, so none of them is read")
        elif None not in place and places[place] > 1:
            entry.report(
                "address",
                f"{place[1]} stands {places[place]} times on line {place[0]!r}; addresses on a line are unique, so none of "
                f"them is read",
            )
        elif id(entry) in contracts:
            meter = entry.good
            record = MeterRecord(
                id=meter.id,
                line=sys.intern(meter.line),  # one string for all meters of a line, not one for each row of a table
                address=meter.address,
                contract=contracts[id(entry)].name,
                plan=sys.intern(meter.plan),
                protocol=lines[meter.line].protocol,
            )
            yield record, meter


# ------------------------------------------------------------------------------------------------ a table of meters


def rows_of(reader: Reader, file: Path, shape: type[BaseModel], *, key: str = "meters") -> Iterator[Entry]:
    """The rows of a CSV file. Its file and its header are right, or nothing is read from it. key: where the file is named."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        reader.problem((key,), f"{file} cannot be read: {error.strerror}", fatal=True)
        return
    except UnicodeDecodeError as error:
        reader.problem((key,), f"{file} is no UTF-8 text: {error.reason}; save it as CSV UTF-8", fatal=True)
        return
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    at = 1
    try:
        columns = [column.strip() for column in next(rows, [])]
        if not _header_is_right(reader, file, columns, shape):
            return
        for row in rows:
            start, at = at + 1, rows.line_num
            if any(cell.strip() for cell in row):
                yield _row(reader, file, start, dict(zip(columns, row, strict=False)), row[len(columns) :], shape)
    except csv.Error as error:
        reader.row_problem(file, at + 1, "", f"cannot be read from here on: {error}; is a quote missing?", fatal=True)


def _header_is_right(reader: Reader, file: Path, columns: list[str], shape: type[BaseModel]) -> bool:
    expected = ",".join(shape.model_fields)
    needed = [name for name, field in shape.model_fields.items() if field.is_required()]
    mistakes = {
        "missing column": [name for name in needed if name not in columns],
        "unknown column": [name or '""' for name in columns if name not in shape.model_fields],
        "column twice": [name for name, count in Counter(columns).items() if count > 1],
    }
    for mistake, found in mistakes.items():
        if found:
            reader.row_problem(file, 1, "", f"{mistake} {', '.join(found)}; expected {expected}", fatal=True)
    return not any(mistakes.values())


def _row(
    reader: Reader, file: Path, number: int, cells: dict[str, str], surplus: list[str], shape: type[BaseModel]
) -> Entry:
    def report(column: str, text: str) -> None:
        reader.row_problem(file, number, column, text)

    raw: dict[str, str] = {column: cell.strip() for column, cell in cells.items() if cell.strip()}
    good: Any = None
    if any(cell.strip() for cell in surplus):
        report("", f"{len(surplus)} cells more than columns; expected {len(cells)}, so the row is left out")
    else:
        try:
            model = shape.model_validate(raw)
            # A fleet's rows are all held at once: a struct takes a tenth of what pydantic and the row's dictionary do.
            good, raw = _compact(shape)(**{name: getattr(model, name) for name in shape.model_fields}), {}
        except ValidationError as error:
            for where, text in explain_errors(error, shape):
                report(dotted(where), text)
    return Entry(report, raw, good)


@lru_cache(maxsize=4)
def _compact(shape: type[BaseModel]) -> type[Struct]:
    return defstruct(f"Compact{shape.__name__}", list(shape.model_fields), frozen=True, kw_only=True, gc=False)
