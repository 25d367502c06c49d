"""What the weather is going to be, as somebody outside tells it: by a file that is written anew, or over HTTP.

It is kept in memory only. After a start there is none, and a policy that asks for the weather opens nothing until one is told.
"""

import asyncio
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from headend.commands.rules import Forecast
from headend.store.writer import Execute

__all__ = ["BadForecast", "ForecastShape", "Forecasts", "forecast_of"]

LOOK_S = 30.0
COLDEST_C, HOTTEST_C = Decimal(-90), Decimal(60)
PLACES_MAX = 1000
PROBLEMS_MAX = 5  # told of one file

log = structlog.get_logger(__name__)


class BadForecast(ValueError):
    """What was told is no forecast; the message says what was expected."""


class ForecastShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As it is written. feeder: what it is for; "" everywhere where no other is told. Degrees Celsius."""

    issued_at: datetime
    reaches: datetime
    lowest_c: Decimal
    highest_c: Decimal
    source: str
    feeder: str = ""


def forecast_of(told: ForecastShape) -> Forecast:
    """Raises BadForecast."""
    if told.issued_at.tzinfo is None or told.reaches.tzinfo is None:
        raise BadForecast("a time has no zone; expected times with their offset, such as 2026-11-22T08:00:00Z")
    if told.reaches <= told.issued_at:
        raise BadForecast("reaches is not behind issued_at; expected until when the forecast reaches")
    are_numbers = told.lowest_c.is_finite() and told.highest_c.is_finite()
    if not are_numbers or not COLDEST_C <= told.lowest_c <= told.highest_c <= HOTTEST_C:
        raise BadForecast(
            f"lowest_c {told.lowest_c} and highest_c {told.highest_c}; expected {COLDEST_C} <= lowest <= highest <= "
            f"{HOTTEST_C} degrees Celsius"
        )
    if not told.source.strip():
        raise BadForecast("source is empty; expected who made the forecast")
    return Forecast(
        issued_at=told.issued_at,
        reaches=told.reaches,
        lowest_c=told.lowest_c,
        highest_c=told.highest_c,
        source=told.source,
    )


class Forecasts:
    """file: JSON, one forecast or a list of them, looked at twice a minute; None: none. execute: where it is read."""

    def __init__(self, *, file: Path | None, execute: Execute) -> None:
        self._file = file
        self._execute = execute
        self._told: dict[str, Forecast] = {}
        self._seen: bytes | None = None
        self.problem = ""

    def at(self, feeder: str) -> Forecast | None:
        return self._told.get(feeder) or self._told.get("")

    @property
    def told(self) -> dict[str, Forecast]:
        """By feeder, "" for everywhere."""
        return dict(self._told)

    def tell(self, told: ForecastShape) -> Forecast:
        """An older forecast than the one that is there is not taken. Raises BadForecast."""
        forecast = forecast_of(told)
        there = self._told.get(told.feeder)
        if there is not None and forecast.issued_at < there.issued_at:
            raise BadForecast(f"it is of {forecast.issued_at}, and there is one of {there.issued_at}")
        if there is None and len(self._told) >= PLACES_MAX:
            raise BadForecast(f"there are forecasts for {PLACES_MAX} feeders already")
        self._told[told.feeder] = forecast
        return forecast

    async def run(self) -> None:
        """Until cancelled."""
        while self._file is not None:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Read the file if it is another than before. What is wrong with it leaves what was told as it is, and older by the hour; one
        entry that cannot be used keeps none of the others out.
        """
        text = await self._execute(self._read)
        if text is None or text == self._seen:
            return
        self._seen = text
        problems = self._take(text)
        self.problem = f"The weather forecast cannot be used: {'; '.join(problems[:PROBLEMS_MAX])}." if problems else ""
        if problems:
            log.error("forecast refused", file=str(self._file), count=len(problems), problems=problems[:PROBLEMS_MAX])

    def _take(self, text: bytes) -> list[str]:
        """What of it cannot be used, and why."""
        try:
            is_list = text.lstrip().startswith(b"[")
            entries = msgspec.json.decode(text, type=list[msgspec.Raw]) if is_list else [msgspec.Raw(text)]
        except (msgspec.MsgspecError, UnicodeError) as error:
            return [str(error)]
        problems = []
        for number, entry in enumerate(entries, start=1):
            place = f"entry {number}: " if is_list else ""
            try:
                told = msgspec.json.decode(entry, type=ForecastShape)
                place = f"feeder {told.feeder}: " if told.feeder else place
                self.tell(told)
            except (BadForecast, msgspec.MsgspecError, UnicodeError) as error:
                problems.append(f"{place}{error}")
        return problems

    def _read(self) -> bytes | None:
        assert self._file is not None
        try:
            return self._file.read_bytes()
        except OSError as error:
            self.problem = f"The weather forecast cannot be read: {error.strerror}."
            return None
