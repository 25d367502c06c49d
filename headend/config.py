"""The configuration file: read, checked whole, every problem with its place.

What is wrong inside a `[[lines]]`, `[[plans]]`, `[[meters]]` or `[[sinks]]` entry costs that entry and what hangs on it; the
service runs for the rest. What is wrong in `[headend]`, `[api]` or `[control]`, or at the top, stops the start: there is no
telling what else would be done wrongly. Two meters that claim the same id, or the same address on one line, are both left out,
because guessing which is meant would put one customer's energy on another's bill.
"""

import csv
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from firmware_contracts.contract import Contract, load
from firmware_contracts.errors import ContractError
from headend.drivers.errors import BadLineUrl
from headend.drivers.transport import LineUrl
from headend.errors import ConfigError
from headend.model import MeterRecord
from headend.quantities import BadQuantity, resolve_register
from headend.toml_places import line_of
from protocols.dlt645.session import Timing
from protocols.errors import BadAddress
from protocols.values import MeterAddress

__all__ = ["Config", "LineConfig", "PlanConfig", "Problem", "load_config"]

PERIODS_S = (
    {f"{m}m": 60 * m for m in (1, 2, 3, 5, 10, 15, 20, 30, 60)}
    | {f"{h}h": 3600 * h for h in (1, 2, 3, 4, 6, 8, 12, 24)}
    | {"1d": 86400}
)
PROTOCOLS = ("dlt645",)
METER_COLUMNS = ("id", "line", "address", "contract", "plan")
# A tunnel adds its own delay (mobile network, PLC) to the meter's: 3 s covers serial servers, GPRS needs a setting.
TUNNEL_REPLY_TIMEOUT_S = 3.0


class Problem(Struct, frozen=True):
    """place: "headend.toml:31 meters[3].address"."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class LineConfig(Struct, frozen=True, kw_only=True):
    name: str
    url: LineUrl
    protocol: str
    timing: Timing
    retries: int


class PlanConfig(Struct, frozen=True, kw_only=True):
    """quantities: OBIS codes or "di:…", as written. late_after_s: a read captured later than this after its interval end is late."""

    name: str
    period_s: int
    quantities: tuple[str, ...]
    late_after_s: float


class Config(Struct, frozen=True, kw_only=True):
    """store: SQLAlchemy URL, absolute. problems: what was left out and why."""

    path: Path
    name: str
    zone: ZoneInfo
    store: str
    host: str
    port: int
    control_enabled: bool
    lines: tuple[LineConfig, ...]
    plans: tuple[PlanConfig, ...]
    meters: tuple[MeterRecord, ...]
    sinks: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def source(self) -> str:
        """CloudEvents source of everything this head-end says."""
        return f"/headend/{self.name}"


# ------------------------------------------------------------------------------------------------ the file's shapes


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone; expected an IANA name such as Asia/Shanghai") from error
    return name


def _listen(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r}; expected host:port, for example 127.0.0.1:8645")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w.:-]{1,64}", text):
        raise ValueError(f"{text!r}; expected 1 to 64 letters, digits, and . : _ -")
    return text


def _period(text: str) -> str:
    if text not in PERIODS_S:
        raise ValueError(f"{text!r}; expected a period that divides the day: {', '.join(PERIODS_S)}")
    return text


def _line_url(text: str) -> str:
    try:
        LineUrl.parse(text)
    except BadLineUrl as error:
        raise ValueError(str(error)) from error
    return text


def _secret(text: str) -> str:
    if not text.startswith(("env:", "file:")):
        raise ValueError('expected "env:NAME" or "file:PATH"; secrets are never written into this file')
    return text


def _digits(text: str) -> str:
    try:
        MeterAddress(text)
    except BadAddress as error:
        raise ValueError(str(error)) from error
    return text


Name = Annotated[str, AfterValidator(_name)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Headend(_Table):
    name: Name = "headend"
    timezone: Annotated[str, AfterValidator(_zone)] = "Asia/Shanghai"
    store: str = "sqlite:///headend.db"


class _Api(_Table):
    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:8645"


class _Control(_Table):
    enabled: bool = False


class _Line(_Table):
    name: Name
    url: Annotated[str, AfterValidator(_line_url)]
    protocol: Literal["dlt645"] = "dlt645"
    reply_timeout_s: Annotated[float, Field(gt=0, le=120, strict=False)] | None = None
    turnaround_s: Annotated[float, Field(ge=0, le=10, strict=False)] = 0.0
    gap_s: Annotated[float, Field(gt=0, le=10, strict=False)] = 0.5
    preamble: Annotated[int, Field(ge=0, le=8)] = 4
    retries: Annotated[int, Field(ge=0, le=10)] = 1


class _Plan(_Table):
    name: Name
    period: Annotated[str, AfterValidator(_period)]
    quantities: Annotated[list[str], Field(min_length=1)]


class _Meter(_Table):
    id: Name
    line: str
    address: Annotated[str, AfterValidator(_digits)]
    contract: str = "dlt645/base_2007"
    plan: str


class _Sink(_Table):
    name: Name
    kind: Literal["webhook", "mqtt", "nats", "file"]
    url: str
    secret: Annotated[str, AfterValidator(_secret)] | None = None


_FATAL_TABLES: dict[str, type[_Table]] = {"headend": _Headend, "api": _Api, "control": _Control}
_ENTRY_TABLES: dict[str, type[_Table]] = {"lines": _Line, "plans": _Plan, "meters": _Meter, "sinks": _Sink}


# ------------------------------------------------------------------------------------------------ reading it


class _Reader:
    """Collects problems while the document is taken apart."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        self.problems: list[Problem] = []
        self.fatal: list[Problem] = []

    def problem(self, where: tuple[str | int, ...], text: str, *, fatal: bool = False) -> None:
        line = line_of(self.text, where)
        place = f"{self.path.name}:{line}" if line else self.path.name
        self._add(Problem(f"{place} {_dotted(where)}".rstrip(), text), fatal=fatal)

    def row_problem(self, file: Path, row: int, column: str, text: str) -> None:
        self._add(Problem(f"{file.name}:{row} {column}".rstrip(), text), fatal=False)

    def _add(self, problem: Problem, *, fatal: bool) -> None:
        (self.fatal if fatal else self.problems).append(problem)

    def table(self, document: Mapping[str, Any], name: str) -> Any:
        raw = document.get(name, {})
        if not isinstance(raw, dict):
            self.problem((name,), f"expected a table [{name}], got {type(raw).__name__}", fatal=True)
            return _FATAL_TABLES[name]()
        try:
            return _FATAL_TABLES[name].model_validate(raw)
        except ValidationError as error:
            for where, text in _explain(error, _FATAL_TABLES[name]):
                self.problem((name, *where), text, fatal=True)
            return _FATAL_TABLES[name]()

    def entries(self, document: Mapping[str, Any], name: str) -> list[tuple[tuple[str | int, ...], Any]]:
        """The good entries of an array of tables, each with its place."""
        raw = document.get(name, [])
        if not isinstance(raw, list):
            self.problem((name,), f"expected entries [[{name}]], got {type(raw).__name__}", fatal=True)
            return []
        good: list[tuple[tuple[str | int, ...], Any]] = []
        for index, entry in enumerate(raw):
            try:
                good.append(((name, index), _ENTRY_TABLES[name].model_validate(entry)))
            except ValidationError as error:
                for where, text in _explain(error, _ENTRY_TABLES[name]):
                    self.problem((name, index, *where), text)
        return good


def load_config(path: Path) -> Config:
    """Read and check. Raises ConfigError with every problem when the service cannot start at all."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; `headend init` writes a first configuration") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    reader = _Reader(path, text)
    known = (*_FATAL_TABLES, *_ENTRY_TABLES)
    for key in document:
        if key not in known:
            reader.problem((key,), f"unknown key; expected one of {', '.join(known)}", fatal=True)
    head, api, control = (reader.table(document, name) for name in _FATAL_TABLES)
    lines = _lines(reader, document)
    plans = _plans(reader, document)
    meters = _meters(reader, document, lines, plans)
    sinks = [entry.name for _, entry in _unique(reader, reader.entries(document, "sinks"), "name")]
    if reader.fatal:
        raise ConfigError("\n".join(str(problem) for problem in (*reader.fatal, *reader.problems)))
    host, _, port = api.listen.rpartition(":")
    return Config(
        path=path,
        name=head.name,
        zone=ZoneInfo(head.timezone),
        store=_store_url(head.store, path),
        host=host.strip("[]"),
        port=int(port),
        control_enabled=control.enabled,
        lines=tuple(lines.values()),
        plans=tuple(plans.values()),
        meters=tuple(meters),
        sinks=tuple(sinks),
        problems=tuple(reader.problems),
    )


def _lines(reader: _Reader, document: Mapping[str, Any]) -> dict[str, LineConfig]:
    entries = _unique(reader, _unique(reader, reader.entries(document, "lines"), "name"), "url")
    lines = {}
    for _, entry in entries:
        url = LineUrl.parse(entry.url)
        default_s = Timing().reply_timeout_s if url.scheme == "serial" else TUNNEL_REPLY_TIMEOUT_S
        timing = Timing(
            baud=url.baud,
            reply_timeout_s=entry.reply_timeout_s or default_s,
            turnaround_s=entry.turnaround_s,
            gap_s=entry.gap_s,
            preamble=entry.preamble,
        )
        lines[entry.name] = LineConfig(
            name=entry.name, url=url, protocol=entry.protocol, timing=timing, retries=entry.retries
        )
    return lines


def _plans(reader: _Reader, document: Mapping[str, Any]) -> dict[str, PlanConfig]:
    plans = {}
    for where, entry in _unique(reader, reader.entries(document, "plans"), "name"):
        for index, quantity in enumerate(entry.quantities):
            if entry.quantities.index(quantity) != index:
                reader.problem((*where, "quantities"), f"{quantity!r} stands there twice")
        period_s = PERIODS_S[entry.period]
        plans[entry.name] = PlanConfig(
            name=entry.name,
            period_s=period_s,
            quantities=tuple(dict.fromkeys(entry.quantities)),
            late_after_s=period_s / 3,
        )
    return plans


def _meters(
    reader: _Reader, document: Mapping[str, Any], lines: Mapping[str, LineConfig], plans: Mapping[str, PlanConfig]
) -> list[MeterRecord]:
    if isinstance(document.get("meters"), str):
        found = _csv_meters(reader, (reader.path.parent / document["meters"]).resolve())
    else:
        found = [(_toml_reporter(reader, where), entry) for where, entry in reader.entries(document, "meters")]
    contracts: dict[str, Contract | None] = {}
    reported: set[tuple[str, str, str]] = set()
    good = []
    for report, entry in found:
        if entry.line not in lines:
            report("line", f"no line is named {entry.line!r}; expected one of {_names(lines)}")
        elif entry.plan not in plans:
            report("plan", f"no plan is named {entry.plan!r}; expected one of {_names(plans)}")
        elif (contract := _contract(contracts, entry.contract, report)) is not None:
            _check_quantities(reader, plans[entry.plan], contract, reported)
            good.append((report, entry))
    ids = Counter(entry.id for _, entry in good)
    places = Counter((entry.line, entry.address) for _, entry in good)
    meters = []
    for report, entry in good:
        if ids[entry.id] > 1:
            report("id", f"{entry.id!r} is the id of {ids[entry.id]} meters; ids are unique, so none of them is read")
        elif places[entry.line, entry.address] > 1:
            report(
                "address",
                f"{entry.address} stands {places[entry.line, entry.address]} times on line {entry.line!r}; "
                f"addresses on a line are unique, so none of them is read",
            )
        else:
            meters.append(
                MeterRecord(
                    id=entry.id,
                    line=entry.line,
                    address=entry.address,
                    contract=entry.contract,
                    plan=entry.plan,
                    protocol=lines[entry.line].protocol,
                )
            )
    return meters


def _contract(contracts: dict[str, Contract | None], name: str, report: Any) -> Contract | None:
    if name not in contracts:
        try:
            contracts[name] = load(name)
        except ContractError as error:
            contracts[name] = None
            report("contract", str(error))
    elif contracts[name] is None:
        report("contract", f"{name!r} cannot be used, see above")
    return contracts[name]


def _check_quantities(
    reader: _Reader, plan: PlanConfig, contract: Contract, reported: set[tuple[str, str, str]]
) -> None:
    for quantity in plan.quantities:
        key = (plan.name, quantity, contract.name)
        if key in reported:
            continue
        reported.add(key)
        try:
            resolve_register(contract, quantity)
        except BadQuantity as error:
            reader.problem(("plans",), f"plan {plan.name!r}, quantity {quantity!r}: {error}")


def _csv_meters(reader: _Reader, file: Path) -> list[tuple[Any, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reader.problem(("meters",), f"{file} cannot be read: {error}")
        return []
    rows = csv.DictReader(text.splitlines())
    columns = tuple(rows.fieldnames or ())
    if missing := [column for column in ("id", "line", "address", "plan") if column not in columns]:
        reader.row_problem(file, 1, "", f"missing column {', '.join(missing)}; expected {','.join(METER_COLUMNS)}")
        return []
    found = []
    for row in rows:
        report = _row_reporter(reader, file, rows.line_num)
        try:
            found.append(
                (report, _Meter.model_validate({key: value for key, value in row.items() if value not in (None, "")}))
            )
        except ValidationError as error:
            for where, problem in _explain(error, _Meter):
                report(_dotted(where), problem)
    return found


def _toml_reporter(reader: _Reader, where: tuple[str | int, ...]) -> Any:
    return lambda key, text: reader.problem((*where, key), text)


def _row_reporter(reader: _Reader, file: Path, row: int) -> Any:
    return lambda column, text: reader.row_problem(file, row, column, text)


def _unique(
    reader: _Reader, entries: Iterable[tuple[tuple[str | int, ...], Any]], key: str
) -> list[tuple[tuple[str | int, ...], Any]]:
    """Entries whose `key` no other has; the others are reported, all of them."""
    groups: dict[str, list[tuple[tuple[str | int, ...], Any]]] = defaultdict(list)
    for where, entry in entries:
        groups[getattr(entry, key)].append((where, entry))
    for value, group in groups.items():
        if len(group) > 1:
            for where, _ in group:
                reader.problem(
                    (*where, key), f"{value!r} stands {len(group)} times; expected it once, so none of them is used"
                )
    return [group[0] for group in groups.values() if len(group) == 1]


def _store_url(url: str, path: Path) -> str:
    prefix = "sqlite:///"
    if url.startswith(prefix) and not url.startswith(prefix + "/"):
        return prefix + str((path.resolve().parent / url.removeprefix(prefix)).resolve())
    return url


def _explain(error: ValidationError, model: type[_Table]) -> list[tuple[tuple[str | int, ...], str]]:
    """pydantic's findings in our words: what was expected, what came."""
    found = []
    for item in error.errors():
        kind, came = item["type"], item.get("input")
        if kind == "extra_forbidden":
            text = f"unknown key; expected one of {', '.join(model.model_fields)}"
        elif kind == "missing":
            text = "missing"
        elif kind == "value_error":
            text = str(item["ctx"]["error"])
        else:
            message = item["msg"].removeprefix("Input should be ")
            text = f"expected {message}, got {came!r}"
        found.append((tuple(item["loc"]), text))
    return found


def _dotted(where: tuple[str | int, ...]) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _names(known: Mapping[str, Any]) -> str:
    return ", ".join(known) or "(none is configured)"
