"""The shapes of a policy file's tables, as they are written."""

import re
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field

from headend.configuration.words import ConfigTable, MonthDay, Name, TimeOfDay, Zone

__all__ = [
    "DebtTable",
    "FileTable",
    "GroupTable",
    "NoticesTable",
    "OpensTable",
    "QuietTable",
    "WeatherTable",
    "shape_at",
]


def _duration(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,4}[smhd]", text):
        raise ValueError(f"{text!r}; expected seconds, minutes, hours or days such as 30s, 90m, 36h or 7d")
    return text


def _degrees(text: str | int) -> str | int:
    try:
        if Decimal(text).is_finite():
            return text
    except InvalidOperation:
        pass
    raise ValueError(f'{text!r}; expected degrees such as 32 or "-5.5"')


Text = Annotated[str, Field(min_length=1)]
Duration = Annotated[str, AfterValidator(_duration)]
Degrees = Annotated[str | int, AfterValidator(_degrees)]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Minor = Annotated[int, Field(ge=0, le=10**12)]
Days = Annotated[int, Field(ge=0, le=7)]


def _weekend() -> list[Weekday]:
    return ["sat", "sun"]


class WindowTable(ConfigTable):
    days: Annotated[list[Weekday], Field(min_length=1)]
    start: TimeOfDay
    end: TimeOfDay


class QuietTable(ConfigTable):
    days: Annotated[list[Weekday], Field(min_length=1)] = Field(default_factory=lambda: list(get_args(Weekday)))
    start: TimeOfDay
    end: TimeOfDay


class OpensTable(ConfigTable):
    windows: list[WindowTable]
    no_opens_on: list[Weekday]
    quiet: list[QuietTable] = Field(default_factory=list)
    rest_days: list[Weekday] = Field(default_factory=_weekend)
    worked_as: Weekday | Literal["never"] = "never"
    on_holidays: bool = False
    eves_of_holidays: Days
    eves_of_rest_days: Days = 0


class WeatherTable(ConfigTable):
    forecast_hours: Annotated[int, Field(ge=1, le=240)]
    age_max: Duration
    unit: Literal["C", "F"]
    at_or_below: Degrees | None = None
    at_or_above: Degrees | None = None


class DebtTable(ConfigTable):
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    minimum_minor: Minor
    grace_minor: Minor
    proof_age_max: Duration


class StepTable(ConfigTable):
    step: Name
    before: Duration
    age_max: Duration
    after_previous: Duration | None = None
    channels: list[Name] = Field(default_factory=list)


class NoticesTable(ConfigTable):
    steps: list[StepTable]


class PolicyTable(ConfigTable):
    id: Name
    version: Name
    title: Text
    timezone: Zone
    calendars: Annotated[list[Text], Field(min_length=1)]
    sources: Annotated[list[Text], Field(min_length=1)]
    margin: Duration = "2s"
    allow_unknown_class: bool = False


class ProtectedTable(ConfigTable):
    customer_class: Name
    reason: Text
    until: date | Literal["never"]


class SeasonTable(ConfigTable):
    customer_classes: Annotated[list[Name], Field(min_length=1)]
    first: MonthDay
    last: MonthDay
    reason: Text


class ReconnectTable(ConfigTable):
    close: Literal["permit-close", "directly"] = "permit-close"
    direct_meters: list[Name] = Field(default_factory=list)
    direct_tariff_groups: list[Name] = Field(default_factory=list)
    spread: Duration = "600s"
    spread_from: Annotated[int, Field(ge=1)] = 20


class GroupTable(ConfigTable):
    tariff_groups: Annotated[list[Name], Field(min_length=1)]
    title: Text
    opens: OpensTable | None = None
    debt: DebtTable | None = None
    notices: NoticesTable | None = None
    weather: WeatherTable | None = None
    without_weather: bool = False


class FileTable(ConfigTable):
    policy: PolicyTable
    opens: OpensTable
    debt: DebtTable
    notices: NoticesTable
    weather: WeatherTable | None = None
    protected: list[ProtectedTable]
    seasons: list[SeasonTable] = Field(default_factory=list)
    groups: list[GroupTable] = Field(default_factory=list)
    reconnect: ReconnectTable


def shape_at(where: tuple[str | int, ...]) -> type[BaseModel]:
    """The table that holds the key at the end of `where`."""
    shape: type[BaseModel] = FileTable
    for key in where[:-1]:
        field = shape.model_fields.get(key) if isinstance(key, str) else None
        if field is not None:
            inner = [
                kind for kind in _kinds(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)
            ]
            shape = inner[0] if inner else shape
    return shape


def _kinds(annotation: object) -> list[object]:
    """The annotation itself, and what stands in its brackets."""
    return [annotation, *(kind for inner in get_args(annotation) for kind in _kinds(inner))]
