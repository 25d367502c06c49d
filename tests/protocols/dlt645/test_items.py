"""Items of DL/T 645 from bytes to values and back.

Public frames with known values (tests/vectors), the base contracts for what each DI means, and Hypothesis over DIs of
every row for the way back. Importing contracts here is for the tests only: the code under test knows none.
"""

import csv
import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware_contracts.contract import load
from protocols.dlt645.items import Di, ItemSpec, ItemValue, Separators, decode, encode, fields_of
from protocols.dlt645.layout import Field, Kind, parse_layout
from protocols.errors import BadDi, BadDigit, BadLayout, BadSize, EncodeError, ItemError
from protocols.values import Obis, Unit

TESTS = Path(__file__).parents[2]
CONTRACTS = {"2007": "dlt645/base_2007", "1997": "dlt645/base_1997"}
with (TESTS / "firmware_contracts" / "di_table.csv").open(encoding="utf-8", newline="") as file:
    SPECS = [load(CONTRACTS[row["dialect"]]).find(Di(row["di"])) for row in csv.DictReader(file)]
PLAIN = [spec for spec in SPECS if not spec.series and not spec.terminated]


def spec_of(di: str) -> ItemSpec:
    return load("dlt645/base_2007" if len(di) == 8 else "dlt645/base_1997").find(Di(di))


def contents(data: str, di: str) -> list[str | None]:
    return [None if value.content is None else str(value.content) for value in decode(bytes.fromhex(data), spec_of(di))]


# Vectors


def _vectors() -> Iterator[Any]:
    with (TESTS / "vectors" / "dlt645_vectors.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            vector = json.loads(line)
            answers = vector["c"] in ("91", "81") and vector["ver"] != "vendor"
            if answers and vector["valid"] and vector["value"] is not None:
                yield pytest.param(vector, id=vector["id"])


@pytest.mark.parametrize("vector", list(_vectors()))
def test_public_frames_decode_to_their_known_values_and_back(vector: dict[str, Any]) -> None:
    spec = spec_of(vector["di"])
    data = bytes.fromhex(vector["payload"])[len(spec.di.wire) :]
    assert bytes.fromhex(vector["payload"]) == spec.di.wire + data
    values = decode(data, spec)
    known = vector["value"]
    if spec.di == Di("C032"):
        # The vector lists the bytes of the number as sent; it is one number, its low byte first.
        known = int("".join(f"{pair:02}" for pair in reversed(known)))
    expected = known if isinstance(known, list) else [known]
    assert len(values) == len(expected)
    for value, wanted in zip(values, expected, strict=True):
        if wanted is None:
            assert value.content is None
        elif isinstance(value.content, Decimal):
            assert value.content == Decimal(str(wanted))
        elif isinstance(wanted, int):
            assert int(str(value.content)) == wanted
        else:
            assert value.content == wanted
    assert encode(list(values), spec) == data


def test_the_vectors_are_there() -> None:
    assert len(list(_vectors())) >= 50


# What decoding promises


def test_amounts_keep_the_scale_of_their_layout() -> None:
    (value,) = decode(bytes(4), spec_of("00010000"))
    assert value == ItemValue(
        name="Forward active energy, total", obis=Obis("1-0:1.8.0"), content=Decimal("0.00"), unit=Unit.KWH
    )
    assert str(value.content) == "0.00"


def test_top_bit_is_minus_only_where_the_row_says_signed() -> None:
    assert contents("01000080", "00000000") == ["-0.01"]
    assert contents("01000080", "00010000") == ["800000.01"]
    assert contents("812380", "02030000") == ["-0.2381"]
    assert contents("00000080", "00000000") == ["0.00"]


def test_ff_in_every_byte_is_not_measured_and_never_a_number() -> None:
    assert contents("2322FFFFFFFF", "0201FF00") == ["222.3", None, None]
    assert contents("FFFFFFFF", "00000000") == [None]
    assert contents("FFFFFFFFFFFFFFFF", "01010000") == [None]
    with pytest.raises(BadDigit):
        decode(bytes.fromhex("00FFFFFF"), spec_of("00010000"))
    with pytest.raises(BadDigit) as caught:
        decode(bytes.fromhex("0A000000"), spec_of("00010000"))
    assert "00010000 Forward active energy, total" in str(caught.value)
    assert caught.value.wire == bytes.fromhex("0A000000")


def test_wrong_lengths_say_what_was_expected() -> None:
    with pytest.raises(BadSize, match="3 bytes, expected 4"):
        decode(bytes(3), spec_of("00010000"))
    with pytest.raises(BadSize):
        decode(b"", spec_of("0001FF00"))
    with pytest.raises(BadSize):
        decode(bytes(4 * 65), spec_of("0001FF00"))
    with pytest.raises(BadSize):
        decode(bytes(5), spec_of("00010000"))


def test_maximum_demand_carries_the_time_of_the_maximum() -> None:
    (value,) = decode(bytes.fromhex("563412 3009150824"), spec_of("01010000"))
    assert (value.content, value.at) == (Decimal("12.3456"), datetime(2024, 8, 15, 9, 30))
    (none_yet,) = decode(bytes(8), spec_of("01010000"))
    assert (none_yet.content, none_yet.at) == (Decimal("0.0000"), None)


def test_times_are_digits_with_a_date_where_they_hold_one() -> None:
    (clock,) = decode(bytes.fromhex("22061205311025"), spec_of("0400010C"))
    assert (clock.content, clock.at) == ("25103105120622", datetime(2025, 10, 31, 12, 6, 22))
    (impossible,) = decode(bytes.fromhex("0000310224"), spec_of("05060001"))
    assert (impossible.content, impossible.at) == ("2402310000", None)
    (settlement,) = decode(bytes.fromhex("9999"), spec_of("04000B02"))
    assert (settlement.content, settlement.at) == ("9999", None)


def test_status_word_three_prints_high_byte_first() -> None:
    (value,) = decode(bytes.fromhex("5000"), spec_of("04000503"))
    assert (value.content, value.unit) == ("0050", Unit.BITS)


def test_status_block_ends_with_seven_words_or_with_the_key_word() -> None:
    assert len(contents("00" * 14, "040005FF")) == 7
    assert contents("00" * 14 + "78563412", "040005FF")[7] == "12345678"
    assert len(contents("0000AA" * 7, "040005FF")) == 7


def test_texts_come_last_character_first_and_lose_their_padding() -> None:
    assert contents("000041302E35", "04000405") == ["5.0A"]
    assert contents("FFFFFFFFFFFF", "04000405") == [None]


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (b"220.0V", "220.0V"),
        (b"V0.022", "220.0V"),
        (b"5.0A\0\0", "5.0A"),
        (b"\0\0A0.5", "5.0A"),
        (b"ABCDEF", "FEDCBA"),
    ],
)
def test_text_order_can_be_judged_by_plausibility(wire: bytes, text: str) -> None:
    spec = ItemSpec(di=Di("04000404"), name="Rated voltage", layout="ASCII_ANY*6")
    (value,) = decode(wire, spec)
    assert value.content == text


def test_screen_items_are_data_identifiers_even_with_ff_in_them() -> None:
    assert contents("00FF0100", "04040101") == ["0001FF00"]
    assert contents("00FF010003", "04040101") == ["0001FF00", "3"]


def test_voltage_statistics_have_percentages_of_three_or_two_bytes() -> None:
    long = contents("100000 009900 001000 000000 000000 3522 01021503 1022 02021503", "03100000")
    short = contents("100000 9900 1000 000000 000000 3522 01021503 1022 02021503", "03100000")
    assert (long[1], short[1]) == ("99.00", "0.99")
    assert (len(long), len(short)) == (9, 9)
    assert long[6] == "03150201"


def test_records_of_other_lengths_are_passed_on_in_hex() -> None:
    assert len(contents("00" * 28, "03350001")) == 6
    assert contents("00" * 26, "03350001") == ["00" * 26]


def test_event_record_decodes_to_named_values_with_times() -> None:
    values = decode(bytes.fromhex("001122030424 000000000000"), spec_of("03110001"))
    assert [(value.name, value.at) for value in values] == [
        ("Power failure, record 1: start", datetime(2024, 4, 3, 22, 11, 0)),
        ("Power failure, record 1: end", None),
    ]


def test_programming_record_lists_the_items_written() -> None:
    wire = "301209150824" + "01020304" + "01010004" + "FFFFFFFF" * 9
    values = decode(bytes.fromhex(wire), spec_of("03300001"))
    assert [str(value.content) for value in values][:4] == ["240815091230", "01020304", "04000101", "FFFFFFFF"]


# Blocks


@pytest.mark.parametrize("separators", list(Separators))
@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_blocks_of_any_length_are_read_with_and_without_separators(count: int, separators: Separators) -> None:
    spec = spec_of("0001FF00")
    amounts = [Decimal(index) / 100 for index in range(count)]
    wire = encode(amounts, spec, separators=separators)
    assert [value.content for value in decode(wire, spec)] == amounts
    assert decode(wire, spec)[-1].obis == Obis(f"1-0:1.8.{count - 1}")


def test_relay_record_is_read_item_by_item() -> None:
    wire = "000522030424 AA 01020304 AA 78563412 AA 00000000 AA 01000000 AA 02000000 AA 03000000 AA 04000000 AA"
    values = decode(bytes.fromhex(wire), spec_of("1D00FF01"))
    assert values[0].at == datetime(2024, 4, 3, 22, 5)
    assert [str(value.content) for value in values[1:4]] == ["01020304", "123456.78", "0.00"]
    assert values[-1].name == "Relay trip, record 1: quadrant IV reactive energy"
    single_phase = decode(bytes.fromhex(wire.replace(" ", "").replace("AA", ""))[:18], spec_of("1D00FF01"))
    assert len(single_phase) == 4


@pytest.mark.parametrize("tariffs", [0, 4, 8])
@pytest.mark.parametrize("variables", [1, 8])
@pytest.mark.parametrize("separators", [Separators.NONE, Separators.EACH])
def test_freeze_block_is_read_with_all_its_items(tariffs: int, variables: int, separators: Separators) -> None:
    spec = spec_of("0506FF01")
    at = datetime(2024, 8, 15, 0, 0)
    energies = [Decimal(index) / 100 for index in range(8 * (tariffs + 1))]
    demands = [(Decimal(1), at)] * (2 * (tariffs + 1))
    wire = encode([at, *energies, *demands, *[Decimal("-0.5")] * variables], spec, separators=separators)
    values = decode(wire, spec)
    assert values[0].at == at
    assert [value.content for value in values[1 : 1 + len(energies)]] == energies
    assert {value.at for value in values[1 + len(energies) : -variables]} == {at}
    assert values[-1].content == Decimal("-0.5")


def test_freeze_block_with_items_missing_is_refused_since_nobody_can_tell_which() -> None:
    with pytest.raises(BadSize):
        decode(bytes(5 + 4 * 5 * 2), spec_of("0506FF01"))


def test_hourly_freeze_block_comes_with_or_without_separators() -> None:
    assert contents("0010150824 78563412 01000000", "0504FF01") == ["2408151000", "123456.78", "0.01"]
    assert contents("0010150824AA 78563412AA 01000000AA", "0504FF01") == ["2408151000", "123456.78", "0.01"]


def test_active_power_block_of_1997_ends_with_limits_of_two_bytes() -> None:
    assert contents("100000 200000 300000 400000 5000 6000", "B63F")[3:] == ["0.0040", "0.50", "0.60"]
    assert contents("100000 200000 300000 400000 AA", "B63F")[3:] == ["0.0040"]


def test_data_set_of_1997_is_cut_at_its_block_ends() -> None:
    wire = "01000000 02000000 AA 03000000 AA"
    values = decode(bytes.fromhex(wire), spec_of("90FF"))
    assert [(value.name, str(value.content)) for value in values] == [
        ("Forward active energy, total", "0.01"),
        ("Forward active energy, tariff 1", "0.02"),
        ("Reverse active energy, total", "0.03"),
    ]
    assert contents("AA 03000000 AA", "90FF") == ["0.03"]
    assert encode([[Decimal("0.01"), Decimal("0.02")], [Decimal("0.03")]], spec_of("90FF")) == bytes.fromhex(wire)
    with pytest.raises(BadSize):
        decode(bytes.fromhex("01000000"), spec_of("90FF"))
    with pytest.raises(BadSize):
        decode(bytes.fromhex("AA AA AA"), spec_of("90FF"))


# The way back


@pytest.mark.parametrize(
    ("value", "di"),
    [
        (Decimal("1000000"), "00010000"),
        (Decimal("0.001"), "00010000"),
        (Decimal(-1), "00010000"),
        (Decimal("-800000"), "00000000"),
        (Decimal("NaN"), "00010000"),
        (1.5, "00010000"),
        (True, "00010000"),
        ("x", "00010000"),
        ("1234567890123", "04000402"),
        ("12", "04000101"),
        ("7 characters", "04000404"),
        ("12", "04000503"),
        (datetime(1999, 1, 1), "05060001"),
        (datetime(2024, 1, 1), "040300FE"),
    ],
)
def test_values_the_wire_cannot_carry_are_refused(value: Any, di: str) -> None:
    with pytest.raises(EncodeError):
        encode(value, spec_of(di))


def test_a_number_of_values_that_makes_no_item_is_refused() -> None:
    with pytest.raises(EncodeError, match="0 values"):
        encode([], spec_of("0001FF00"))
    with pytest.raises(EncodeError):
        encode([Decimal(1)] * 2, spec_of("00010000"))


def test_bare_contents_are_written_as_a_simulator_has_them() -> None:
    assert encode(12345678, spec_of("04000402")).hex() == "785634120000"
    assert encode("123456.78", spec_of("00010000")).hex() == "78563412"
    assert encode(datetime(2025, 10, 31, 12, 6, 22), spec_of("0400010C")).hex() == "22061205311025"
    assert encode(None, spec_of("02010200")).hex() == "ffff"
    assert encode([("1.5", datetime(2024, 1, 2, 3, 4))], spec_of("01010000")).hex() == "0050010403020124"


def _contents_of(field: Field) -> st.SearchStrategy[ItemValue]:
    wire = field.wire
    top = 10 ** (2 * wire.size) - 1 if not wire.signed else 8 * 10 ** (2 * wire.size - 1) - 1
    times = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)).map(lambda t: t.replace(microsecond=0, second=0))
    blank = st.none()
    choices: dict[Kind, st.SearchStrategy[Any]] = {
        Kind.AMOUNT: blank
        | st.integers(-top if wire.signed else 0, top).map(lambda n: Decimal(n).scaleb(-wire.decimals)),
        Kind.DIGITS: blank | st.integers(0, top).map(lambda n: str(n).zfill(2 * wire.size)),
        Kind.TIME: blank | st.integers(0, top).map(lambda n: str(n).zfill(2 * wire.size)),
        Kind.ASCII: st.text("ABC019.-/", max_size=wire.size),
        Kind.RAW: st.binary(max_size=8).map(lambda data: data.hex().upper()),
    }
    hexes = st.binary(min_size=wire.size, max_size=wire.size).map(lambda data: data.hex().upper())
    amount_time = st.none() | times if wire.kind is Kind.AMOUNT and wire.picture else st.none()
    return st.builds(
        lambda content, at: ItemValue(
            name=field.label, obis=field.obis, content=content, unit=field.unit or Unit.NONE, at=at
        ),
        choices.get(wire.kind, hexes),
        amount_time,
    )


@st.composite
def _items(draw: st.DrawFn) -> tuple[ItemSpec, list[ItemValue]]:
    spec = draw(st.sampled_from(PLAIN))
    if not spec.members:
        layout = draw(st.sampled_from(parse_layout(spec.layout)))
        repetitions = draw(st.integers(layout.least, min(layout.most, 20))) if layout.repeated else 0
        count = layout.fixed_count + repetitions * layout.step_count
        fields = fields_of(spec) if layout == parse_layout(spec.layout)[0] else None
        if fields is None:  # another layout of the same item: its own names
            alone = ItemSpec(
                di=spec.di,
                name=spec.name,
                layout=spec.layout.split("|")[1],
                unit=spec.unit,
                signed=spec.signed,
                obis=spec.obis,
            )
            fields = fields_of(alone)
        return spec, [draw(_contents_of(field)) for field in fields[:count]]
    count = draw(st.integers(1, min(len(spec.members), 20))) if spec.partial else len(spec.members)
    members = spec.members[:count]
    values = []
    for member in members:
        layout = parse_layout(member.layout)[0]
        width = layout.fixed_count + 3 * layout.step_count  # all open lists of a block have the same length
        values += [draw(_contents_of(field)) for field in fields_of(member)[:width]]
    return spec, values


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(_items(), st.sampled_from(Separators))
def test_every_item_of_the_contracts_writes_and_reads_back_itself(
    item: tuple[ItemSpec, list[ItemValue]], separators: Separators
) -> None:
    spec, values = item
    if not spec.members or not all(field.wire.is_bcd for field in fields_of(spec)):
        separators = Separators.NONE
    wire = encode(list(values), spec, separators=separators)
    read = decode(wire, spec)
    assert [(value.name, value.obis, value.content, value.unit) for value in read] == [
        (value.name, value.obis, value.content, value.unit) for value in values
    ]
    for got, given_value in zip(read, values, strict=True):
        if isinstance(given_value.content, Decimal) and given_value.at is not None:
            assert got.at == given_value.at
        if isinstance(got.content, Decimal):
            assert str(got.content) == str(given_value.content)
    assert encode(list(read), spec, separators=separators) == wire


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SPECS), st.binary(max_size=80))
def test_any_bytes_give_values_or_an_item_error(spec: ItemSpec, data: bytes) -> None:
    try:
        decode(data, spec)
    except ItemError:
        pass
    except Exception as error:
        assert type(error).__name__ == "BadChecksum", error


def test_zeros_survive_the_way_there_and_back_in_every_item() -> None:
    for spec in PLAIN:
        fields = fields_of(spec)
        if fields[-1].wire.kind is not Kind.RAW:
            size = sum(field.wire.whole_size for field in fields)
            values = decode(bytes(size), spec)
            assert len(values) == len(fields), spec.di
            assert encode(list(values), spec) == bytes(size), spec.di


# Data identifiers and layouts


def test_data_identifiers_are_written_high_byte_first_and_sent_low_byte_first() -> None:
    assert Di("0400010c").wire == bytes.fromhex("0C010004")
    assert Di.from_wire(bytes.fromhex("1090")) == Di("9010")
    assert (Di("9010").dialect, Di("00010000").dialect) == ("1997", "2007")


@pytest.mark.parametrize("text", ["", "901", "90100", "0001000G", "000100000", "９０１０"])
def test_other_texts_are_no_data_identifiers(text: str) -> None:
    with pytest.raises(BadDi):
        Di(text)
    with pytest.raises(BadDi):
        Di.from_wire(bytes(3))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "XX,",
        "XX,,XX",
        "(XX",
        "0*XX",
        "3..2*XX",
        "Q",
        "XX[furlong]",
        "XX[kWh 1-0]",
        "BITS*201",
        "1..2*XX,RAW",
        "2*(1..2*XX)",
    ],
)
def test_layouts_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(BadLayout):
        parse_layout(text)
