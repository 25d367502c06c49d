"""`[[ratios]]` of a configuration, or a table of them: which transformers stand before which meter, and since when."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from headend.config_meters import rows_of
from headend.config_reader import Entry, Reader, names
from headend.ratios import RatioFact, parse_ratio

__all__ = ["ratios_of", "written_moment", "written_ratio"]


def written_ratio(text: str) -> str:
    parse_ratio(text)  # BadRatio is a ValueError that says what was expected
    return text


def written_moment(moment: str | date | datetime) -> str | date | datetime:
    if isinstance(moment, str):
        try:
            datetime.fromisoformat(moment)
        except ValueError as error:
            raise ValueError(
                f"{moment!r}; expected a date such as 2026-01-01, or a time such as 2026-01-01T10:15"
            ) from error
    return moment


def ratios_of(
    reader: Reader, document: Mapping[str, Any], *, shape: type[BaseModel], meters: Mapping[str, Any], zone: ZoneInfo
) -> list[RatioFact]:
    """The usable facts. Times without an offset are the site's own; a date is its midnight."""
    table = document.get("ratios")
    if isinstance(table, str):
        found = list(rows_of(reader, (reader.path.parent / table).resolve(), shape))
    else:
        found = reader.entries(document, "ratios", shape)
    facts: dict[tuple[str, datetime], Entry] = {}
    good = []
    for entry in found:
        if entry.good is None:
            continue
        if entry.good.meter not in meters:
            entry.report("meter", f"no meter is named {entry.good.meter!r}; expected one of {names(meters)}")
            continue
        start = _start(entry.good.since, zone)
        if (entry.good.meter, start) in facts:
            entry.report(
                "since", f"meter {entry.good.meter!r} has two ratios from {start.isoformat()} on; the first is used"
            )
            continue
        facts[entry.good.meter, start] = entry
        good.append(
            RatioFact(meter=entry.good.meter, start=start, ct=parse_ratio(entry.good.ct), pt=parse_ratio(entry.good.pt))
        )
    return good


def _start(since: str | date | datetime, zone: ZoneInfo) -> datetime:
    moment = datetime.fromisoformat(since) if isinstance(since, str) else since
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
