"""What people type into the counter's fields."""

import pytest

from headend.pages.forms import Mistake, amount_minor, masked, receipt_number


@pytest.mark.parametrize(
    ("text", "minor"),
    [
        ("50", 5000),
        ("50.00", 5000),
        ("50.5", 5050),
        (" 0.01 ", 1),
        ("５０．５０", 5050),
        ("50。5", 5050),
        ("¥50", 5000),
        ("￥50", 5000),
        ("007", 700),
        ("50.", 5000),
        ("12.3400", 1234),
    ],
)
def test_an_amount_is_read_as_it_is_typed(text: str, minor: int) -> None:
    assert amount_minor(text, "CNY") == minor


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "error.amount_empty"),
        ("   ", "error.amount_empty"),
        ("0", "error.amount_none"),
        ("0.00", "error.amount_none"),
        ("-5", "error.amount_form"),
        ("+5", "error.amount_form"),
        ("1,000", "error.amount_form"),
        ("1e3", "error.amount_form"),
        ("NaN", "error.amount_form"),
        ("50 60", "error.amount_form"),
        ("٥٠", "error.amount_form"),
        ("五十", "error.amount_form"),
        ("12.345", "error.amount_digits"),
        ("99999999999", "error.amount_most"),
        ("9999999999999999", "error.amount_form"),
    ],
)
def test_what_is_no_amount_is_refused_with_its_reason(text: str, mistake: str) -> None:
    with pytest.raises(Mistake) as found:
        amount_minor(text, "CNY")
    assert found.value.name == mistake


def test_currencies_have_their_own_digits() -> None:
    assert amount_minor("50", "JPY") == 50
    assert amount_minor("1.234", "KWD") == 1234
    with pytest.raises(Mistake):
        amount_minor("50.5", "JPY")


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "x" * 65, "\x00"])
def test_a_receipt_number_is_short_and_printable(text: str) -> None:
    with pytest.raises(Mistake):
        receipt_number(text)
    assert receipt_number(" 2026/17 甲 ") == "2026/17 甲"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("王小明", "*小明"), ("李华", "*华"), ("欧阳建国", "欧**国"), ("Li Hua", "L*** H***"), ("", "")],
)
def test_a_name_is_shown_so_that_it_is_recognised_and_not_learnt(name: str, shown: str) -> None:
    assert masked(name) == shown
