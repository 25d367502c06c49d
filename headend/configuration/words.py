"""Texts that several tables of a configuration hold, each checked in one place: names, time zones, times of day, days of a year,
references to secrets."""

import re
from datetime import date
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict

from headend.secrets import is_reference

__all__ = ["LEAP_YEAR", "ConfigTable", "MonthDay", "Name", "Secret", "TimeOfDay", "Zone"]

LEAP_YEAR = 2024  # has every day that a year may have


class ConfigTable(BaseModel):
    """A table or entry: unknown keys are errors, and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w.:-]{1,64}", text):
        raise ValueError(f"{text!r}; expected 1 to 64 letters, digits, and . : _ -")
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone; expected an IANA name such as Asia/Shanghai") from error
    return name


def _clock(text: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d|24:00", text):
        raise ValueError(f"{text!r}; expected a time of day such as 09:00, or 24:00")
    return text


def _month_day(text: str) -> str:
    try:
        date.fromisoformat(f"{LEAP_YEAR}-{text}")
    except ValueError:
        raise ValueError(f"{text!r}; expected month and day such as 10-01") from None
    return text


def _secret(text: str) -> str:
    if not is_reference(text):
        raise ValueError('expected "env:NAME" or "file:PATH"; secrets are never written into this file')
    return text


Name = Annotated[str, AfterValidator(_name)]
TimeOfDay = Annotated[str, AfterValidator(_clock)]  # 24:00 ends a day
MonthDay = Annotated[str, AfterValidator(_month_day)]
Zone = Annotated[str, AfterValidator(_zone)]
Secret = Annotated[str, AfterValidator(_secret)]
