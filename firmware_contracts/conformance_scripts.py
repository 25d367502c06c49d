"""The checks of a conformance run as scripts: generators that yield requests, are sent answers, and end with a verdict.

Items and series are here, with what can be said of a single answer; `device_scripts` has the checks of the meter as a
whole. All of them only read.
"""

from collections.abc import Generator, Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from firmware_contracts.contract import Contract
from firmware_contracts.fetching import (
    NO_DATA,
    Fetched,
    Judged,
    Kit,
    Script,
    fetch,
    refusal_said,
    told,
    values_said,
)
from firmware_contracts.findings import Answer, Ask, Verdict
from firmware_contracts.plausibility import implausible
from protocols.dlt645.items import ItemSpec, ItemValue, decode
from protocols.dlt645.load_record import decode_blocks
from protocols.errors import ItemError
from protocols.values import Unit

__all__ = ["item_script", "judge_values"]

CURVE_POINTS = 4
BACK = timedelta(hours=3)  # before now: some points are there at any usual interval, an hour included
ENERGY_STEP_MAX = Decimal(50)  # kWh between two readings of one run: an hour of a large shop


def item_script(spec: ItemSpec) -> Script:
    """Read the item once, and judge size, digits and plausibility."""

    def script(kit: Kit) -> Generator[Ask, Answer, Judged]:
        count, start = _series_request(spec, kit)
        fetched = yield from fetch(kit, spec.di, count=count, start=start)
        return _judge(kit, spec, fetched, start)

    return script


def _series_request(spec: ItemSpec, kit: Kit) -> tuple[int | None, str | None]:
    """N and start time: curves always want both, load records as DI0 says (00 earliest, 01 from a time, 02 latest)."""
    start = f"{kit.local - BACK:%y%m%d%H%M}"
    if spec.series == "curve":
        return CURVE_POINTS, start
    if spec.series == "load-record":
        return 1, start if spec.di.text.endswith("01") else None
    return None, None


def _judge(kit: Kit, spec: ItemSpec, fetched: Fetched, start: str | None) -> Judged:
    expected = told(spec)
    if fetched.refused is not None and not fetched.problem:
        return _refused(kit, spec, fetched, expected)
    if fetched.data is None:
        return Judged(verdict=Verdict.FAIL, expected=f"{expected}, or a refusal", came=fetched.problem)
    if spec.series and not fetched.data:
        return Judged(verdict=Verdict.NOT_JUDGED, expected=expected, came="a reply without any record")
    try:
        values = decode(fetched.data, spec)
    except ItemError as error:
        problem = str(error).removeprefix(f"{spec.di} {spec.name}: ")
        came = f"{problem}: {fetched.data.hex(' ').upper() or 'no data'}"
        return Judged(verdict=Verdict.FAIL, expected=expected, came=came)
    kit.values[spec.di.text] = values
    limit = kit.contract.limits.read_data_max
    problems = (
        [f"a frame with {fetched.longest} bytes of DATA, the limit is {limit}"] if fetched.longest > limit else []
    )
    problems += judge_values(kit, spec, values)
    if spec.series == "curve" and start is not None:
        problems += _late_points(values, start)
    if spec.series == "load-record" and len(blocks := decode_blocks(fetched.data)) != 1:
        problems.append(f"{len(blocks)} blocks, asked for one")
    return Judged(
        verdict=Verdict.FAIL if problems else Verdict.PASS,
        expected=expected,
        came="; ".join(problem.removeprefix(f"{spec.name}: ") for problem in problems) or values_said(values),
    )


def _refused(kit: Kit, spec: ItemSpec, fetched: Fetched, expected: str) -> Judged:
    assert fetched.refused is not None
    came = refusal_said(fetched.refused, kit.dialect)
    if not kit.promised:
        return Judged(verdict=Verdict.NOT_OFFERED, expected=expected, came=came)
    if fetched.refused.word & NO_DATA and _may_not_have_happened(spec.di.text):
        return Judged(
            verdict=Verdict.NOT_JUDGED, expected=expected, came=f"{came}: perhaps nothing has been recorded yet"
        )
    return Judged(verdict=Verdict.FAIL, expected=f"{expected}: the contract promises it", came=came)


def _may_not_have_happened(di: str) -> bool:
    """Records of events and of freezes that somebody has to order: a new meter has none, and some then refuse."""
    if len(di) != 8 or di.endswith("00"):
        return False
    is_event = di[:2] in ("03", "1D", "1E") or "10" <= di[:2] <= "22"
    return is_event or (di[:2] == "05" and di[2:4] not in ("04", "06"))


def judge_values(kit: Kit, spec: ItemSpec, values: list[ItemValue]) -> list[str]:
    """Everything that is wrong with values that fit their layout."""
    problems = list(implausible(spec, values, kit.local))
    problems += _identity(kit, spec, values)
    problems += _against_members(kit, spec, values)
    if kit.promised:
        problems += _counts(kit.contract, spec, values)
    return problems


def _identity(kit: Kit, spec: ItemSpec, values: list[ItemValue]) -> Iterator[str]:
    if spec.di.text == "04000401" and values[0].content != kit.device.address:
        yield f"address {values[0].content}, asked {kit.device.address}"


def _against_members(kit: Kit, spec: ItemSpec, values: list[ItemValue]) -> Iterator[str]:
    """An energy in a block is the energy read alone before it, or a little more."""
    for member, value in zip(spec.members, values, strict=False):
        alone = kit.values.get(member.di.text)
        if not alone or spec.series or value.unit not in (Unit.KWH, Unit.KVARH):
            continue
        before, after = alone[0].content, value.content
        if len(alone) != 1 or not isinstance(before, Decimal) or not isinstance(after, Decimal):
            continue
        if abs(after - before) > ENERGY_STEP_MAX:
            yield f"{member.name}: {after} in the block, {before} alone"


def _counts(contract: Contract, spec: ItemSpec, values: list[ItemValue]) -> Iterator[str]:
    di, limits = spec.di.text, contract.limits
    if di == "04000204" and values[0].content != limits.tariffs:
        yield f"{values[0].content} tariffs, the contract says {limits.tariffs}"
    if di[:2] in ("00", "01") and di[4:6] == "FF" and len(values) != 1 + limits.tariffs:
        yield f"total and {len(values) - 1} tariffs, the contract says {limits.tariffs}"
    if limits.phases == 1 and di[:2] == "02" and di[4:] == "FF00":
        yield from _absent_phases(contract, spec, values)


def _absent_phases(contract: Contract, spec: ItemSpec, values: list[ItemValue]) -> Iterator[str]:
    """Phases B and C of a single-phase meter: left out, FFH or zero, as the quirk says."""
    present = sum(int(member.di.text[4:6], 16) < 2 for member in spec.members)
    absent = [value.content for value in values[present:]]
    fill = contract.quirks.absent_phase
    if fill == "omitted":
        fits = not absent
    else:
        wanted = None if fill == "ff" else Decimal(0)
        fits = len(values) == len(spec.members) and all(content == wanted for content in absent)
    if not fits:
        came = ", ".join("FFH" if content is None else str(content) for content in absent) or "nothing"
        yield f"phases B and C: {came}, the contract says {fill}"


def _late_points(values: list[ItemValue], start: str) -> Iterator[str]:
    """The first point is the first at or after the time asked for; the meter rounds up to its grid."""
    asked = datetime.strptime(f"20{start}", "%Y%m%d%H%M")  # noqa: DTZ007 - the meter's wall time has no zone
    if (first := values[0].at) is not None and not asked <= first <= asked + BACK:
        yield f"first point at {first:%Y-%m-%d %H:%M}, asked from {asked:%Y-%m-%d %H:%M}"
