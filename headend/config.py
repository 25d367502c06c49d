"""The configuration file: read, checked whole, every problem with its place.

What is wrong inside a `[[lines]]`, `[[plans]]`, `[[meters]]` or `[[sinks]]` entry costs that entry and what hangs on it; the
service runs for the rest. What is wrong in `[headend]`, `[api]` or `[control]`, or at the top, stops the start: there is no
telling what else would be done wrongly; so does a table of meters that cannot be read. Two meters that claim the same id, or the
same address on one line, are both left out, because guessing which is meant would put one customer's energy on another's bill.
"""

import os
import re
import tomllib
from collections.abc import Hashable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from headend.concentrators.settings import BrokerSettings, ConcentratorSettings
from headend.configuration.audit import AuditSettings, AuditTable
from headend.configuration.brokers import BrokerTable, ConcentratorTable, brokers_of, concentrators_of
from headend.configuration.control import ControlSettings, ControlTable, Customer, customers_of
from headend.configuration.listeners import ListenerTable, Place, listeners_of
from headend.configuration.meters import connections_of, meters_of
from headend.configuration.prepayment import PrepaymentSettings, PrepaymentTable, prepayment_of
from headend.configuration.ratios import RatioTable, ratios_of
from headend.configuration.reader import Entry, Problem, Reader
from headend.configuration.sinks import SinkTable, sinks_of
from headend.configuration.store import check_store_url, resolve_store_url
from headend.configuration.words import ConfigTable, Name, Secret, Zone
from headend.drivers.errors import BadLineUrl
from headend.drivers.listener_settings import ListenerSettings
from headend.drivers.protocols import IN_FLIGHT_MAX, timing_of
from headend.drivers.transport import LineUrl
from headend.errors import ConfigError
from headend.feed.sinks.settings import SinkConfig
from headend.intervals.registers import Connection
from headend.model import MeterRecord
from headend.ratios import RatioFact
from headend.scheduling.clock_check import ClockPolicy
from headend.secrets import BadSecret, SecretRefs
from protocols.exchange import Timing

__all__ = ["Config", "LedgerSettings", "LineConfig", "PlanConfig", "Problem", "load_config"]

PERIODS_S = (
    {f"{s}s": s for s in (5, 10, 15, 20, 30)}
    | {f"{m}m": 60 * m for m in (1, 2, 3, 5, 10, 15, 20, 30, 60)}
    | {f"{h}h": 3600 * h for h in (1, 2, 3, 4, 6, 8, 12, 24)}
    | {"1d": 86400}
)


class LineConfig(Struct, frozen=True, kw_only=True):
    """in_flight: requests under way at once; more than one for modbus-tcp only."""

    name: str
    url: LineUrl
    protocol: str
    timing: Timing
    retries: int
    in_flight: int = 1


class PlanConfig(Struct, frozen=True, kw_only=True):
    """quantities: OBIS codes or "di:…", as written. back_fill_s: how far back gaps are filled; 0: not at all."""

    name: str
    period_s: int
    quantities: tuple[str, ...]
    back_fill_s: int = 3 * 86400


class LedgerSettings(Struct, frozen=True, kw_only=True):
    """signing_key: reference to the key of manifests, "" for none. close_after_s: after midnight. target: of the collection rate."""

    signing_key: str = ""
    close_after_s: float = 5 * 3600.0
    target: Decimal = Decimal("0.98")


class Config(Struct, frozen=True, kw_only=True):
    """store: SQLAlchemy URL, absolute. feed_retention_s: how long events and reads are kept at least; None: for ever.

    connections, customers: by meter, where known. problems: what was left out and why.
    """

    path: Path
    name: str
    zone: ZoneInfo
    store: str
    host: str
    port: int
    lines: tuple[LineConfig, ...]
    plans: tuple[PlanConfig, ...]
    meters: tuple[MeterRecord, ...]
    sinks: tuple[SinkConfig, ...] = ()
    feed_retention_s: int | None = None
    ledger: LedgerSettings = LedgerSettings()
    ratios: tuple[RatioFact, ...] = ()
    connections: Mapping[str, Connection] = {}
    customers: Mapping[str, Customer] = {}
    control: ControlSettings = ControlSettings()
    audit: AuditSettings = AuditSettings()
    prepayment: PrepaymentSettings = PrepaymentSettings()
    listeners: Mapping[Place, ListenerSettings] = {}
    brokers: tuple[BrokerSettings, ...] = ()
    concentrators: tuple[ConcentratorSettings, ...] = ()
    secrets: SecretRefs = SecretRefs()
    clock: ClockPolicy = ClockPolicy()
    problems: tuple[Problem, ...]

    @property
    def source(self) -> str:
        """CloudEvents source of everything this head-end says."""
        return f"/headend/{self.name}"


# ------------------------------------------------------------------------------------------------ the file's shapes


def _listen(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r}; expected host:port, for example 127.0.0.1:8645")
    return text


def _period(text: str) -> str:
    if text not in PERIODS_S:
        raise ValueError(f"{text!r}; expected a period that divides the day: {', '.join(PERIODS_S)}")
    return text


def _look_back(text: str) -> str:
    if text != "off" and not re.fullmatch(r"[1-9]\d{0,2}[dh]", text):
        raise ValueError(f'{text!r}; expected days or hours such as 7d or 36h, or "off"')
    return text


def _retention(text: str) -> str:
    if text != "off" and not re.fullmatch(r"[1-9]\d{0,3}d", text):
        raise ValueError(f'{text!r}; expected days such as 400d, or "off" to keep everything')
    return text


def _settlement(text: str) -> str:
    if not re.fullmatch(r"(0[1-9]|1\d|2[0-8])([01]\d|2[0-3])", text):
        raise ValueError(f"{text!r}; expected day and hour as in the meters, 0100 for the first of the month at 00:00")
    return text


def _line_url(text: str) -> str:
    try:
        LineUrl.parse(text)
    except BadLineUrl as error:
        raise ValueError(str(error)) from error
    return text


def _phases(given: object) -> object:
    """In a table of meters it is text."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


class _Headend(ConfigTable):
    name: Name = "headend"
    timezone: Zone = "Asia/Shanghai"
    store: Annotated[str, AfterValidator(check_store_url)] = "sqlite:///headend.db"
    feed_retention: Annotated[str, AfterValidator(_retention)] = "off"


class _Api(ConfigTable):
    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:8645"


class _Ledger(ConfigTable):
    signing_key: Secret | None = None
    close_after_h: Annotated[float, Field(gt=4, le=48, strict=False)] = 5.0
    target: Annotated[float, Field(gt=0, le=1, strict=False)] = 0.98


class _Secrets(ConfigTable):
    password: Secret | None = None
    operator: Secret | None = None


class _Clock(ConfigTable):
    correct: Literal["off", "broadcast", "write"] = "off"
    limit_s: Annotated[float, Field(ge=5, le=240, strict=False)] = 60.0
    settlements: Annotated[
        tuple[Annotated[str, AfterValidator(_settlement)], ...], Field(max_length=3, strict=False)
    ] = ("0100",)


class _Line(ConfigTable):
    name: Name
    url: Annotated[str, AfterValidator(_line_url)]
    protocol: Literal["dlt645", "modbus-rtu", "modbus-tcp"] = "dlt645"
    reply_timeout_s: Annotated[float, Field(gt=0, le=120, strict=False)] | None = None
    turnaround_s: Annotated[float, Field(ge=0, le=10, strict=False)] = 0.0
    gap_s: Annotated[float, Field(gt=0, le=10, strict=False)] = 0.5
    preamble: Annotated[int, Field(ge=0, le=8)] = 4
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    in_flight: Annotated[int, Field(ge=1, le=IN_FLIGHT_MAX)] = 1


class _Plan(ConfigTable):
    name: Name
    period: Annotated[str, AfterValidator(_period)]
    quantities: Annotated[list[str], Field(min_length=1)]
    back_fill: Annotated[str, AfterValidator(_look_back)] = "3d"


class _Meter(ConfigTable):
    id: Name
    line: str
    address: str
    contract: str = "dlt645/base_2007"
    plan: str
    password: Secret | None = None
    current_max_a: Annotated[Decimal, Field(gt=0, le=10_000, strict=False)] | None = None
    voltage_v: Annotated[Decimal, Field(ge=50, le=500_000, strict=False)] = Decimal(220)
    phases: Annotated[Literal[1, 3], BeforeValidator(_phases)] = 1
    feeder: Name = ""
    customer_class: Name = ""
    tariff_group: Name = ""
    estimated_kw: Annotated[Decimal, Field(ge=0, le=100_000, strict=False)] | None = None


_FATAL_TABLES: dict[str, type[ConfigTable]] = {
    "headend": _Headend,
    "api": _Api,
    "control": ControlTable,
    "audit": AuditTable,
    "prepayment": PrepaymentTable,
    "secrets": _Secrets,
    "clock": _Clock,
    "ledger": _Ledger,
}
_ENTRY_TABLES: dict[str, type[BaseModel]] = {
    "lines": _Line,
    "listeners": ListenerTable,
    "brokers": BrokerTable,
    "concentrators": ConcentratorTable,
    "plans": _Plan,
    "meters": _Meter,
    "ratios": RatioTable,
    "sinks": SinkTable,
}


ENTRIES = ("lines", "listeners", "brokers", "concentrators", "plans", "sinks")


# ------------------------------------------------------------------------------------------------ reading it


def load_config(path: Path) -> Config:
    """Read and check. Raises ConfigError with every problem when the service cannot start at all."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; `headend init` writes a first configuration") from error
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the former also from a number of thousands of digits
        raise ConfigError(f"{path}: not TOML: {error}") from error
    reader = Reader(path, text)
    known = (*_FATAL_TABLES, *_ENTRY_TABLES)
    for key in document:
        if key not in known:
            reader.problem((key,), f"unknown key; expected one of {', '.join(known)}", fatal=True)
    tables = {name: reader.table(document, name, shape) for name, shape in _FATAL_TABLES.items()}
    head, secrets, clock, ledger = tables["headend"], tables["secrets"], tables["clock"], tables["ledger"]
    store = _store(reader, head.store)
    written = {name: reader.entries(document, name, _ENTRY_TABLES[name]) for name in ENTRIES}
    lines = _lines(reader, written["lines"])
    listeners = listeners_of(
        written["listeners"],
        folder=path.resolve().parent,
        lines=[(line.name, line.url) for line in lines.values()],
    )
    lines = _let_in(written["lines"], lines, listeners)
    brokers = brokers_of(reader, _uniquely_named(reader, written["brokers"]), head.name)
    concentrators = concentrators_of(
        _uniquely_named(reader, written["concentrators"]),
        brokers=brokers,
        written_brokers=written["brokers"],
        taken=lines,
        folder=path.resolve().parent,
    )
    plans = _plans(reader, written["plans"])
    meters = meters_of(
        reader,
        document,
        shape=_Meter,
        lines={**lines, **concentrators},
        plans=plans,
        written_lines=[*written["lines"], *written["concentrators"]],
        written_plans=written["plans"],
    )
    ratios = ratios_of(
        reader, document, meters={record.id: record for record, _ in meters}, zone=ZoneInfo(head.timezone)
    )
    sinks = sinks_of(
        reader, _uniquely_named(reader, written["sinks"]), head_end=head.name, zone=ZoneInfo(head.timezone)
    )
    retention_s = _retention_s(reader, head.feed_retention, plans, close_after_s=ledger.close_after_h * 3600)
    prepayment = prepayment_of(reader, tables["prepayment"], store=store)
    if reader.fatal:
        raise ConfigError("\n".join(str(problem) for problem in (*reader.fatal, *reader.problems)))
    host, _, port = tables["api"].listen.rpartition(":")
    # Not in the records: those are stored.
    passwords = {record.id: entry.password for record, entry in meters if entry.password is not None}
    return Config(
        path=path,
        name=head.name,
        zone=ZoneInfo(head.timezone),
        store=store,
        host=host.strip("[]"),
        port=int(port),
        lines=tuple(lines.values()),
        plans=tuple(plans.values()),
        meters=tuple(record for record, _ in meters),
        sinks=tuple(sinks.values()),
        feed_retention_s=retention_s,
        ledger=LedgerSettings(
            signing_key=ledger.signing_key or "",
            close_after_s=ledger.close_after_h * 3600,
            target=Decimal(str(ledger.target)),
        ),
        ratios=tuple(ratios),
        connections=connections_of(meters),
        customers=customers_of(meters),
        control=ControlSettings.of(tables["control"]),
        audit=AuditSettings.of(tables["audit"]),
        prepayment=prepayment,
        listeners={place: settings for place, settings in listeners.items() if settings is not None},
        brokers=tuple(brokers.values()),
        concentrators=tuple(concentrators.values()),
        secrets=SecretRefs(password=secrets.password, operator=secrets.operator, passwords=passwords),
        clock=ClockPolicy(correct=clock.correct, limit_s=clock.limit_s, settlements=tuple(clock.settlements)),
        problems=tuple(reader.problems),
    )


def _retention_s(reader: Reader, text: str, plans: Mapping[str, PlanConfig], *, close_after_s: float) -> int | None:
    """What is still to be filled or closed must not be gone."""
    if text == "off":
        return None
    kept_s = int(text[:-1]) * 86400
    needed_s = max([close_after_s, *(plan.back_fill_s for plan in plans.values())]) + 86400
    if kept_s < needed_s:
        reader.problem(
            ("headend", "feed_retention"),
            f"{text!r} is less than a day more than the longest `back_fill` and `close_after_h` need; expected at least "
            f"{-(-int(needed_s) // 86400)}d",
            fatal=True,
        )
    return kept_s


def _store(reader: Reader, text: str) -> str:
    try:
        return resolve_store_url(text, reader.path)
    except (BadSecret, ValueError) as error:
        reader.problem(("headend", "store"), str(error), fatal=True)
        return text


def _lines(reader: Reader, written: list[Entry]) -> dict[str, LineConfig]:
    unique = reader.unique(
        _uniquely_named(reader, written), "url", _far_end, "goes where {count} lines go; a line has one owner"
    )
    lines = {}
    for found in unique:
        if (entry := found.good) is None:
            continue
        url = LineUrl.parse(entry.url)
        if entry.protocol == "modbus-tcp" and url.scheme == "serial":
            found.report(
                "protocol", "'modbus-tcp' has no form for a serial port; expected modbus-rtu, so the line is left out"
            )
            continue
        if entry.in_flight > 1 and entry.protocol != "modbus-tcp":
            found.report(
                "in_flight", f"{entry.in_flight}; only modbus-tcp can have more than one under way, so there is one"
            )
        timing = replace(
            timing_of(url, entry.protocol, reply_timeout_s=entry.reply_timeout_s),
            turnaround_s=entry.turnaround_s,
            gap_s=entry.gap_s,
            preamble=entry.preamble if entry.protocol == "dlt645" else 0,
        )
        lines[entry.name] = LineConfig(
            name=entry.name,
            url=url,
            protocol=entry.protocol,
            timing=timing,
            retries=entry.retries,
            in_flight=entry.in_flight if entry.protocol == "modbus-tcp" else 1,
        )
    return lines


def _far_end(entry: Entry) -> Hashable | None:
    """What a line's URL leads to, whatever its options say."""
    text = entry.text("url")
    try:
        url = LineUrl.parse(text) if text is not None else None
    except BadLineUrl:  # reported by the shape
        return None
    if url is None:
        return None
    if url.scheme == "serial":
        return url.scheme, os.path.realpath(url.device)  # by-id names and ttyUSB numbers are the same port
    return url.scheme, url.host.lower(), url.port, url.dtu


def _let_in(
    written: list[Entry], lines: dict[str, LineConfig], listeners: Mapping[Place, ListenerSettings | None]
) -> dict[str, LineConfig]:
    """Without the lines that nobody could dial in to rightly."""
    waiting: dict[Place, list[LineConfig]] = {}
    for line in lines.values():
        if line.url.scheme == "listen":
            waiting.setdefault((line.url.host, line.url.port), []).append(line)
    problems: dict[str, str] = {}
    for place, there in waiting.items():
        settings = listeners.get(place, ListenerSettings())
        for line in there:
            if settings is None:
                problems[line.name] = "its [[listeners]] entry has a mistake"
            elif line.url.is_tls != (settings.tls is not None):
                problems[line.name] = (
                    "listens:// needs a [[listeners]] entry with certificate and key, and listen:// one without"
                )
            elif len({other.url.is_tls for other in there}) > 1:
                problems[line.name] = "one port has TLS or not, the same for all its lines"
            elif len(there) > 1 and not all(other.url.dtu for other in there):
                problems[line.name] = "several lines wait at this port: each needs the id of its DTU, ?dtu=…"
    for entry in written:
        if (name := entry.text("name")) in problems:
            entry.report("url", f"{entry.text('url')!r}: {problems[name]}; the line is left out")
    return {name: line for name, line in lines.items() if name not in problems}


def _plans(reader: Reader, written: list[Entry]) -> dict[str, PlanConfig]:
    """Their quantities are checked with the meters, whose contracts decide."""
    plans = {}
    for entry in (found.good for found in _uniquely_named(reader, written) if found.good is not None):
        period_s = PERIODS_S[entry.period]
        plans[entry.name] = PlanConfig(
            name=entry.name,
            period_s=period_s,
            quantities=tuple(dict.fromkeys(entry.quantities)),
            back_fill_s=_look_back_s(entry.back_fill),
        )
    return plans


def _look_back_s(text: str) -> int:
    return 0 if text == "off" else int(text[:-1]) * {"d": 86400, "h": 3600}[text[-1]]


def _uniquely_named(reader: Reader, entries: list[Entry]) -> list[Entry]:
    return reader.unique(entries, "name", lambda entry: entry.text("name"), "stands {count} times; expected it once")
