"""`[control]`: whether this head-end may switch supplies, under which policy, and who stands behind an operator code."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from msgspec import Struct
from msgspec.structs import replace
from pydantic import AfterValidator, Field

from headend.commands.governor import Limits
from headend.configuration.words import ConfigTable, Secret
from headend.model import MeterRecord

__all__ = ["ControlSettings", "ControlTable", "Customer", "LimitsTable", "customers_of"]

PERSON_MAX = 64

Count = Annotated[int, Field(ge=0, le=1_000_000)]
Share = Annotated[Decimal, Field(ge=0, le=1, strict=False)]
Kilowatts = Annotated[Decimal, Field(ge=0, le=10_000_000, strict=False)]


def _person(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > PERSON_MAX:
        raise ValueError(f"{text!r}; expected the name of a person, at most {PERSON_MAX} printable characters")
    return text.strip()


class LimitsTable(ConfigTable):
    """`[control.limits]`: what two people can never go beyond. What is not named is not bounded here."""

    per_hour: Count | None = None
    per_day: Count | None = None
    of_fleet_per_day: Share | None = None
    of_feeder_per_day: Share | None = None
    caller_per_hour: Count | None = None
    caller_per_day: Count | None = None
    line_per_hour: Count | None = None
    line_per_day: Count | None = None
    kw_per_hour: Kilowatts | None = None
    kw_per_day: Kilowatts | None = None


class ControlTable(ConfigTable):
    """As written."""

    enabled: bool = False
    policy: str = ""
    policy_key: str = ""
    forecast: str = ""
    clock: Literal["kernel", "vouched"] = "kernel"
    operators: dict[Annotated[str, AfterValidator(_person)], Secret] = Field(default_factory=dict)
    limits: LimitsTable = Field(default_factory=LimitsTable)


class ControlSettings(Struct, frozen=True, kw_only=True):
    """policy, policy_key, forecast: files, relative to the configuration; "" for none.

    clock: "kernel" asks the operating system whether the clock is synchronised; "vouched": somebody answers for it.
    operators: reference to the operator code of a person. ceiling: limits that no two people can go beyond, those that are named.
    """

    enabled: bool = False
    policy: str = ""
    policy_key: str = ""
    forecast: str = ""
    clock: str = "kernel"
    operators: Mapping[str, str] = {}
    ceiling: Mapping[str, int | Decimal] = {}

    @classmethod
    def of(cls, table: ControlTable) -> "ControlSettings":
        named = table.limits.model_dump(exclude_none=True)
        return cls(
            enabled=table.enabled,
            policy=table.policy,
            policy_key=table.policy_key,
            forecast=table.forecast,
            clock=table.clock,
            operators=dict(table.operators),
            ceiling=named,
        )

    def beyond(self, limits: Limits) -> tuple[str, ...]:
        """Names of the limits that go beyond the ceiling."""
        return tuple(
            name for name, most in self.ceiling.items() if (asked := getattr(limits, name)) is None or asked > most
        )

    def under(self, limits: Limits) -> Limits:
        """The same, nowhere beyond the ceiling."""
        return replace(limits, **{name: self.ceiling[name] for name in self.beyond(limits)})


class Customer(Struct, frozen=True, kw_only=True):
    """What the configuration says of whom a meter supplies; "" and None where it does not."""

    feeder: str = ""
    customer_class: str = ""
    tariff_group: str = ""
    estimated_kw: Decimal | None = None


def customers_of(meters: Iterable[tuple[MeterRecord, Any]]) -> dict[str, Customer]:
    """Of each meter of which something is said; one object for all that are alike."""
    alike: dict[Customer, Customer] = {}
    found: dict[str, Customer] = {}
    for record, entry in meters:
        one = Customer(
            feeder=entry.feeder,
            customer_class=entry.customer_class,
            tariff_group=entry.tariff_group,
            estimated_kw=entry.estimated_kw,
        )
        if one != Customer():
            found[record.id] = alike.setdefault(one, one)
    return found
