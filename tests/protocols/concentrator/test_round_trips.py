"""Anything a concentrator can say comes back the same, whatever the values. Our encoder and decoder agree; that both agree
with the families' documents is test_published_examples."""

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocols.concentrator.messages import (
    CommandAnswer,
    ListedMeter,
    MeterData,
    MeterEvent,
    MeterList,
    Presence,
    PushedValue,
    Retained,
    Status,
    Uplink,
)
from protocols.values import Obis, Unit
from tests.protocols.concentrator.support import NOW, contract

HES = contract("hes_v1")
NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"), exclude_characters="/+#"),
    min_size=1,
    max_size=20,
)
TIMES = st.integers(946_684_800_000, 4_102_444_799_999).map(
    lambda ms: datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
)
AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=4)
WORDS = st.lists(st.sampled_from(["suspect", "late", "clock-invalid"]), unique=True).map(",".join)
QUANTITIES = st.sampled_from(
    [
        ("1-0:1.8.0", Unit.KWH),
        ("1-0:2.8.1", Unit.KWH),
        ("1-0:16.7.0", Unit.KW),
        ("1-0:32.7.0", Unit.V),
        ("1-0:3.8.0*1", Unit.KVARH),
    ]
)


@st.composite
def pushed(draw: st.DrawFn) -> PushedValue:
    obis, unit = draw(QUANTITIES)
    problem = draw(WORDS)
    amount = draw(st.none() | AMOUNTS) if problem else draw(AMOUNTS)
    return PushedValue(name=obis, obis=Obis(obis), amount=amount, unit=unit, problem=problem)


VALUES = st.lists(pushed(), max_size=5, unique_by=lambda value: value.name).map(tuple)
DATA = st.builds(
    MeterData,
    concentrator=NAMES,
    meter=NAMES,
    at=TIMES,
    sequence=st.none() | st.integers(0, 2**31),
    values=VALUES,
)
UPLINKS = st.one_of(
    DATA,
    st.builds(
        Presence,
        concentrator=NAMES,
        online=st.booleans(),
        at=st.none() | TIMES,
        software=st.just("") | NAMES,
        meters=st.none() | st.integers(0, 10_000),
    ),
    st.builds(
        MeterList,
        NAMES,
        st.lists(
            st.builds(
                ListedMeter,
                address=NAMES,
                protocol=st.sampled_from(["", "dlt645-2007"]),
                contract=st.sampled_from(["", "dlt645/base_2007"]),
                reachable=st.none() | st.booleans(),
            ),
            min_size=1,
            max_size=5,
            unique_by=lambda meter: meter.address,
        ).map(tuple),
    ),
    st.builds(
        MeterEvent,
        concentrator=NAMES,
        meter=NAMES,
        at=st.none() | TIMES,
        name=NAMES,
        detail=st.dictionaries(NAMES, st.integers(-(2**40), 2**40) | NAMES | st.booleans(), max_size=3),
    ),
    st.builds(
        CommandAnswer,
        concentrator=NAMES,
        id=NAMES,
        status=st.sampled_from(Status.ALL),
        code=st.just("") | NAMES,
        detail=st.none() | st.dictionaries(NAMES, st.integers(0, 100), min_size=1, max_size=3),
        at=st.none() | TIMES,
    ),
)


@given(uplink=UPLINKS)
@settings(max_examples=400, deadline=None)
def test_hes_v1_says_everything_and_it_comes_back_the_same(uplink: Uplink) -> None:
    (told,) = HES.encode_uplink(uplink)
    assert isinstance(told, Retained) == isinstance(uplink, Presence | MeterList)
    (found,) = HES.decode(told.topic, told.payload, now=NOW)
    if isinstance(uplink, MeterData):  # what is missing stands behind what there is
        assert isinstance(found, MeterData)
        by_name = sorted(found.values, key=lambda value: value.name)
        assert by_name == sorted(uplink.values, key=lambda value: value.name)
        found = msgspec.structs.replace(found, values=uplink.values)
    assert found == uplink


@given(data=DATA)
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("family", ["neuron", "thingsboard", "tasmota_sml", "aliyun", "state_grid"])
def test_every_familys_readings_keep_quantity_amount_and_unit(family: str, data: MeterData) -> None:
    """Problems with a number, and milliseconds, are not sayable everywhere; numbers and units are."""
    codec = contract(family)
    at = data.at.replace(microsecond=0) if data.at else None
    data = MeterData(concentrator=codec.concentrator or data.concentrator, meter=data.meter, at=at, values=data.values)
    assume(data.values)
    (told,) = codec.encode_uplink(data)
    found = codec.decode(told.topic, told.payload, now=NOW)
    amounts: dict[Obis | None, tuple[Decimal, Unit]] = {}
    for uplink in found:
        assert isinstance(uplink, MeterData)
        assert (uplink.concentrator, uplink.meter) == (data.concentrator, data.meter)
        assert uplink.at == at or not uplink.values
        for value in uplink.values:
            if value.amount is not None:
                amounts[value.obis] = (value.amount, value.unit)
    assert amounts == {value.obis: (value.amount, value.unit) for value in data.values if value.amount is not None}


def test_values_of_two_times_are_never_said_as_if_they_were_of_one() -> None:
    early = MeterData(concentrator="C1", meter="", at=NOW.replace(hour=1), values=(_energy("1.8.0"),))
    late = MeterData(concentrator="C1", meter="", at=NOW, values=(_energy("2.8.0"),))
    answer = CommandAnswer(concentrator="C1", id="1", status=Status.DONE, values=(early, late))
    with pytest.raises(ValueError, match="one message cannot say at"):
        HES.encode_uplink(answer)


def _energy(which: str) -> PushedValue:
    return PushedValue(name=f"1-0:{which}", obis=Obis(f"1-0:{which}"), amount=Decimal(1), unit=Unit.KWH)
