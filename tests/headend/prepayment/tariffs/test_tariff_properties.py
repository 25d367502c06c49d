"""Laws that every tariff keeps, drawn at random: no split changes a price, no cliff is crossed twice, and one place rounds."""

import ast
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import headend.prepayment
from headend.prepayment.days import day_number
from headend.prepayment.money import Rounding
from headend.prepayment.settlement.chain import reckon
from headend.prepayment.tariffs.tariff import Band, Household, Position, Tariff, charge_day
from headend.prepayment.tariffs.tariff_file import TARIFFS, load_tariff
from headend.prepayment.usage.pieces import Piece
from headend.prepayment.usage.usage import IntervalUse, UsageUnclear, usage_of_intervals
from tests.headend.prepayment.example_tariffs import FLAT, KINDS

D = Decimal
SHIPPED = tuple(load_tariff(path) for path in sorted(TARIFFS.glob("*.toml")))
BY_TIME = tuple(tariff for tariff in SHIPPED if tariff.timetable is not None)
ALL = (*KINDS, *SHIPPED)
OLD = Household(began_on=date(2015, 5, 1))
SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
# An ordinary day, the days on which an hour is missing or comes twice, and a leap day.
DAYS = (
    (date(2026, 7, 6), SHANGHAI), (date(2026, 3, 29), BERLIN), (date(2026, 10, 25), BERLIN), (date(2028, 2, 29), SHANGHAI),
)  # fmt: skip
KWH = st.decimals(min_value=0, max_value=60, places=3)


def id_of(one: object) -> str:
    return one.name if isinstance(one, Tariff) else str(one)


def grid(day: date, zone: ZoneInfo, minutes: int) -> list[tuple[datetime, datetime]]:
    """Equal intervals of the local day, as a head-end makes them: by elapsed time, on UTC."""
    start = datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()
    following = day + timedelta(days=1)
    end = datetime(following.year, following.month, following.day, tzinfo=zone).timestamp()
    places = range(int(start), int(end), minutes * 60)
    return [(datetime.fromtimestamp(at, zone), datetime.fromtimestamp(at + minutes * 60, zone)) for at in places]


def exact(tariff: Tariff, day: date, usage: Mapping[Band, Decimal]) -> Decimal:
    return charge_day(tariff, day, usage, Position(), OLD).exact


@pytest.mark.parametrize("tariff", BY_TIME, ids=id_of)
@pytest.mark.parametrize(("day", "zone"), DAYS, ids=str)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_any_split_of_a_days_use_into_intervals_is_the_same_charge(
    tariff: Tariff, day: date, zone: ZoneInfo, data: st.DataObject
) -> None:
    """Of quarter hours, halves, hours, and any mixture of the three; days of 23 and 25 hours included."""
    quarters = grid(day, zone, 15)
    used = data.draw(st.lists(KWH, min_size=len(quarters), max_size=len(quarters)))
    fine = [IntervalUse(start=start, end=end, kwh=kwh) for (start, end), kwh in zip(quarters, used, strict=True)]
    mixed: list[IntervalUse] = []
    at = 0
    while at < len(fine):
        # Hours lie on the hour, halves on the half.
        width = data.draw(
            st.sampled_from([width for width in (1, 2, 4) if at % width == 0 and at + width <= len(fine)])
        )
        some = fine[at : at + width]
        mixed.append(IntervalUse(start=some[0].start, end=some[-1].end, kwh=sum((one.kwh for one in some), D(0))))
        at += width
    data.draw(st.randoms(use_true_random=False)).shuffle(mixed)
    whole = usage_of_intervals(tariff, day, zone, fine)
    assert usage_of_intervals(tariff, day, zone, mixed) == whole
    assert sum(whole.values()) == sum(used)
    assert exact(tariff, day, usage_of_intervals(tariff, day, zone, mixed)) == exact(tariff, day, whole)


@pytest.mark.parametrize("tariff", ALL, ids=id_of)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_split_of_use_over_days_of_a_month_costs_the_same(tariff: Tariff, data: st.DataObject) -> None:
    """What is used today or tomorrow of one month and one version is as dear; so nothing is gained or lost by when it is read."""
    usage = data.draw(st.fixed_dictionaries({band: KWH for band in tariff.prices}))
    before = data.draw(st.decimals(min_value=0, max_value=4000, places=1))
    days = data.draw(st.integers(2, 5))
    shares = data.draw(st.lists(st.integers(0, 4), min_size=days, max_size=days))
    day = date(2026, 4, 3)
    period = "" if tariff.steps is None else tariff.steps.period_of(day)
    start = Position(period=period, used_kwh=before, month="2026-04")
    at_once = charge_day(tariff, day, usage, start, OLD).exact
    position, spread = start, D(0)
    left = dict(usage)
    for number in range(days):
        part = {}
        for band, kwh in usage.items():
            part[band] = left[band] if number == days - 1 else min(left[band], kwh * shares[number] / 10)
            left[band] -= part[band]
        charge = charge_day(tariff, day + timedelta(days=number), part, position, OLD)
        position, spread = charge.position, spread + charge.exact
    assert spread == at_once


@pytest.mark.parametrize("tariff", [one for one in ALL if one.steps is not None], ids=id_of)
@given(points=st.lists(st.decimals(min_value=0, max_value=5000, places=2), min_size=3, max_size=12))
@settings(max_examples=25, deadline=None)
def test_no_price_cliff_is_crossed_twice(tariff: Tariff, points: list[Decimal]) -> None:
    """A kWh more never costs less, never more than the dearest step, and each limit is charged on one side of it once."""
    assert tariff.steps is not None
    day = date(2026, 4, 3)
    band = next(iter(tariff.prices))
    limits = [step.above_kwh for step in tariff.steps.steps if step.above_kwh]
    places = sorted({*points, *limits})
    position = Position(period=tariff.steps.period_of(day), month="2026-04")
    paid, crossed = D(0), []
    dearest = max(exact_rate(tariff, band, step.addition) for step in tariff.steps.steps)
    cheapest = min(exact_rate(tariff, band, step.addition) for step in tariff.steps.steps)
    rates = []
    for low, high in pairwise([D(0), *places]):
        charge = charge_day(tariff, day, {band: high - low}, position, OLD)
        position, paid = charge.position, paid + charge.exact
        if high > low:
            rate = charge.exact / (high - low)
            assert cheapest <= rate <= dearest
            rates.append(rate)
        crossed += [
            line.what for line in charge.lines if line.what.startswith("step") and len(_steps(charge.lines)) > 1
        ]
    assert rates == sorted(rates), "steps only rise"
    assert not crossed, "cut at its limits, no part lies in two steps"
    assert paid == exact(tariff, day, {band: places[-1]})


def exact_rate(tariff: Tariff, band: Band, addition: Decimal) -> Decimal:
    net = tariff.prices[band] + addition + sum((levy.per_kwh for levy in tariff.surcharges), D(0))
    return net * (1 + sum((tax.rate for tax in tariff.taxes), D(0))) * 100


def _steps(lines: Sequence[object]) -> set[str]:
    return {line.what for line in lines if line.what.startswith("step")}  # type: ignore[attr-defined]


def test_a_day_of_nothing_that_was_doubted_comes_back_as_charged() -> None:
    """It was withdrawn with the same energy and the same money that it comes back with: nothing."""
    day = day_number(date(2026, 4, 3))
    piece = Piece(first=day, last=day, tariff=FLAT, usage={Band.ALL: D(0)})
    first = reckon([piece], [], Position(), D(0), OLD)
    withdrawn = reckon([], first.charges, Position(), D(0), OLD)
    assert [one.is_withdrawn for one in withdrawn.charges] == [True]
    again = reckon([piece], withdrawn.charges, Position(), D(0), OLD)
    assert [(one.is_withdrawn, one.exact) for one in again.charges] == [(False, D(0))]
    assert again.correction_minor == 0


def test_a_day_of_nothing_behind_a_fen_rounded_up_is_no_charge_below_nothing() -> None:
    """A tariff that rounds down takes over from one that had rounded up; what that was too much goes on to the next day."""
    day = day_number(date(2026, 4, 3))
    down = replace(FLAT, rounding=Rounding.DOWN)
    nothing, some = (Piece(first=day + n, last=day + n, tariff=down, usage={Band.ALL: D(n)}) for n in (0, 1))
    result = reckon([nothing, some], [], Position(), D("-0.3"), OLD)
    assert [one.minor for one in result.amounts] == [0, 52]  # 52.83 less 0.3
    assert result.carried == D("0.53")


# ------------------------------------------------------------------------------------------------ one place that rounds

ROUNDERS = {"quantize", "to_integral_value", "to_integral", "to_integral_exact", "__round__"}  # of a Decimal
PACKAGE = Path(headend.prepayment.__file__).parent
# Money that is worked out goes through money.rounded. These make whole things of what is no money to be booked.
ALLOWED = {"money.py"}


def rounding_in(source: str) -> list[str]:
    """Calls that round a Decimal, whoever is called."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ROUNDERS or (name == "round" and isinstance(node.func, ast.Name)):
            found.append(f"line {node.lineno}: {name}")
    return found


def test_rounding_is_in_one_place() -> None:
    found = {
        path.name: calls
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in ALLOWED and (calls := rounding_in(path.read_text(encoding="utf-8")))
    }
    assert not found
    assert rounding_in((PACKAGE / "money.py").read_text(encoding="utf-8"))


def test_the_search_for_rounding_finds_it() -> None:
    assert rounding_in("x = round(y)") == ["line 1: round"]
    assert rounding_in("x = y.quantize(z)") == ["line 1: quantize"]
    assert not rounding_in("x = rounded(y, z, mode)")


def test_an_interval_over_the_hour_that_comes_twice_still_lies_in_its_day() -> None:
    """And one over a change of band is refused on that day, too."""
    tariff = BY_TIME[0]
    day, zone = date(2026, 10, 25), BERLIN
    hours = grid(day, zone, 60)
    assert len(hours) == 25
    used = [IntervalUse(start=start, end=end, kwh=D(1)) for start, end in hours]
    assert sum(usage_of_intervals(tariff, day, zone, used).values()) == 25
    with pytest.raises(UsageUnclear):
        usage_of_intervals(tariff, day, zone, [IntervalUse(start=hours[0][0], end=hours[-1][1], kwh=D(25))])
