"""Texts that several tables of a configuration hold, each checked in one place: names, time zones, references to secrets."""

import re
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict

from headend.secrets import is_reference

__all__ = ["ConfigTable", "Name", "Secret", "Zone"]


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


def _secret(text: str) -> str:
    if not is_reference(text):
        raise ValueError('expected "env:NAME" or "file:PATH"; secrets are never written into this file')
    return text


Name = Annotated[str, AfterValidator(_name)]
Zone = Annotated[str, AfterValidator(_zone)]
Secret = Annotated[str, AfterValidator(_secret)]
