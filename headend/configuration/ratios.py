"""`[[ratios]]` of a configuration, or a table of them: which transformers stand before which meter, and since when."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, PlainValidator

from headend.configuration.meters import rows_of
from headend.configuration.reader import Entry, Reader, names
from headend.ratios import RatioFact, parse_ratio

__all__ = ["RatioTable", "ratios_of"]

YEARS = range(1900, 2200)  # far beyond any meter; and no zone can push a moment out of what a datetime holds


def _moment(written: object) -> date:
    """A date or a datetime, as TOML has them or as text."""
    moment = written
    if isinstance(written, str):
        try:
            moment = datetime.fromisoformat(written) if len(written) > 10 else date.fromisoformat(written)
        except ValueError:
            moment = None
    if not isinstance(moment, date) or moment.year not in YEARS:
        raise ValueError(f"{_shown(written)}; expected a date such as 2026-01-01, or a time such as 2026-01-01T10:15")
    return moment


def _ratio(written: object) -> str:
    if isinstance(written, bool) or not isinstance(written, str | int):
        raise ValueError(f'{_shown(written)}; expected 80, or text such as "400/5" or "1.25"')
    parse_ratio(str(written))  # BadRatio is a ValueError that says what was expected
    return str(written)


def _shown(written: object) -> str:
    return repr(written) if isinstance(written, str) else str(written)


class RatioTable(BaseModel):
    """since: from when on; without an offset the site's own time. ct, pt: 80 or "400/5"."""

    model_config = ConfigDict(extra="forbid", strict=True)

    meter: str
    since: Annotated[date, PlainValidator(_moment)]
    ct: Annotated[str, PlainValidator(_ratio)] = "1"
    pt: Annotated[str, PlainValidator(_ratio)] = "1"


def ratios_of(
    reader: Reader, document: Mapping[str, Any], *, meters: Mapping[str, Any], zone: ZoneInfo
) -> list[RatioFact]:
    """The usable facts. Times without an offset are the site's own; a date is its midnight."""
    table = document.get("ratios")
    if isinstance(table, str):
        found = list(rows_of(reader, (reader.path.parent / table).resolve(), RatioTable, key="ratios"))
    else:
        found = reader.entries(document, "ratios", RatioTable)
    facts: dict[tuple[str, datetime], Entry] = {}
    good = []
    for entry in found:
        if entry.good is None:
            continue
        if entry.good.meter not in meters:
            entry.report(
                "meter", f"no meter that is read is named {entry.good.meter!r}; expected one of {names(meters)}"
            )
            continue
        start = _start(entry.good.since, zone)
        if (entry.good.meter, start) in facts:
            told = start.astimezone(zone).isoformat(timespec="minutes")
            entry.report("since", f"meter {entry.good.meter!r} has two ratios from {told} on; the first is used")
            continue
        facts[entry.good.meter, start] = entry
        good.append(
            RatioFact(meter=entry.good.meter, start=start, ct=parse_ratio(entry.good.ct), pt=parse_ratio(entry.good.pt))
        )
    return good


def _start(since: date, zone: ZoneInfo) -> datetime:
    moment = since if isinstance(since, datetime) else datetime.combine(since, time())
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
