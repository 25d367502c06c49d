"""Tariff files: every mistake with its place, all at once; and what they mean in words."""

from pathlib import Path

import pytest

from headend.errors import ConfigError
from headend.prepayment.tariffs.tariff_file import TARIFFS, check_tariff, load_tariff, load_tariffs
from headend.prepayment.tariffs.words import explain

GOOD = (TARIFFS / "commercial-tou.toml").read_text(encoding="utf-8")
STEPPED = (TARIFFS / "residential-step.toml").read_text(encoding="utf-8")


def problems(tmp_path: Path, text: str) -> str:
    path = tmp_path / "tariff.toml"
    path.write_text(text, encoding="utf-8")
    return "\n".join(str(problem) for problem in check_tariff(path)[1])


@pytest.mark.parametrize("path", sorted(TARIFFS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_good_and_can_be_told_in_both_languages(path: Path) -> None:
    tariff = load_tariff(path)
    assert tariff.name == path.stem
    for language in ("en", "zh"):
        told = explain(tariff, language)
        assert tariff.version in told[0]
        assert any("0.9850" in line or "0.59" in line or "0.56" in line for line in told)
        assert (tariff.steps is None) or any("2160" in line for line in told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('start = "08:00"', 'start = "08:15"'), "nothing from 08:00 to 08:15; expected no gap"),
        (('end = "08:00"', 'end = "08:30"'), "two windows from 08:00 to 08:30; expected one"),
        (('last = "08-31"', 'last = "08-30"'), "08-31 belongs to no season"),
        (('last = "08-31"', 'last = "09-02"'), "09-01 belongs to summer and rest"),
        (('seasons = ["summer"]', 'seasons = ["sumer"]'), "'sumer'; expected of rest, summer"),
        (('sharp = "1.1820"', ""), "'sharp' has no price"),
        (('flat = "0.6120"', 'flat = "-0.6120"'), "prices.flat: '-0.6120'; expected a decimal number"),
        (('flat = "0.6120"', "flat = 0.6120"), "prices.flat: expected a valid string"),
        (('flat = "0.6120"', 'flat = "0.6120"\nall = "1"'), "there are prices for bands too"),
        (('currency = "CNY"', 'currency = "RMB"'), "'RMB'; expected one of CNY"),
        (('minimum = "20.00"', 'minimum = "20.005"'), "whole minor units of CNY"),
        (("applies_from = 2026-01-01", ""), "applies_from: missing"),
        (("[prices]", "[price]"), "unknown key; expected one of tariff, prices"),
        (('end = "24:00"', 'end = "23:60"'), "expected a time of day"),
        (('first = "06-01"', 'first = "02-30"'), "expected month and day"),
        (("[[taxes]]", "[[taxes"), "is not TOML"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1][:20],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    assert change[0] in GOOD
    assert told in problems(tmp_path, GOOD.replace(*change, 1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('above_kwh = "3120"', 'above_kwh = "2160"'), "steps.step[2].above_kwh: 2160 is not above the step before"),
        (('above_kwh = "0"', 'above_kwh = "10"'), "expected it to begin at 0"),
        (('addition = "0.30"', 'addition = "0.30"\ncolor = "red"'), "unknown key"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1][:20],
)  # fmt: skip
def test_a_mistake_in_the_steps_is_told(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    assert change[0] in STEPPED
    assert told in problems(tmp_path, STEPPED.replace(*change, 1))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace('start = "08:00"', 'start = "08:15"').replace('sharp = "1.1820"', "")
    told = problems(tmp_path, text)
    assert "no price" in told
    assert "expected no gap" in told


def test_versions_of_one_tariff_follow_each_other(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a.toml", "b.toml", "c.toml"))
    first.write_text(STEPPED)
    second.write_text(STEPPED.replace("2012-07-01", "2026-05-15").replace('"2012-07"', '"2026-05"'))
    loaded = load_tariffs([second, first])
    assert [tariff.version for tariff in loaded["residential-step"]] == ["2012-07", "2026-05"]
    third.write_text(STEPPED.replace('"2012-07"', '"other"').replace('"CNY"', '"EUR"'))
    with pytest.raises(ConfigError, match="cannot both be"):
        load_tariffs([first, third])
