"""What the pages say: both languages say the same things, and every template asks only for what there is."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from headend.pages import words as words_module
from headend.pages.words import LANGUAGES, fields_of, language_of, load_words
from headend.prepayment.books.autopay import Debit
from headend.prepayment.model import CHANNELS, Cause, PaymentState
from headend.prepayment.notices.notice import NoticeState
from headend.prepayment.trouble import kinds
from tests.headend.prepayment.fleet import SHANGHAI

_PAGES = Path(words_module.__file__).parent
_NAMED = [getattr(kinds, name) for name in kinds.__all__]
_FLAGS = {kind for kind in _NAMED if isinstance(kind, str)}


def test_both_languages_have_the_same_texts_and_these_the_same_figures() -> None:
    chinese, english = (load_words(language, SHANGHAI).texts for language in LANGUAGES)
    assert chinese.keys() == english.keys()
    for name in chinese:
        assert fields_of(chinese[name]) == fields_of(english[name]), name


def test_every_text_that_templates_and_modules_name_is_there() -> None:
    texts = load_words("en", SHANGHAI).texts
    named = set()
    for path in [*(_PAGES / "templates").glob("*.html"), *_PAGES.glob("*.py")]:
        named |= set(re.findall(r"\bt\(\s*['\"]([a-z_]+\.[a-z_-]+)['\"]", path.read_text("utf-8")))
        named |= set(re.findall(r"\bt\.count\(\s*['\"]([a-z_]+\.[a-z_-]+)['\"]", path.read_text("utf-8")))
    assert len(named) > 120
    assert named - texts.keys() == set()


def test_every_word_of_the_books_has_its_text() -> None:
    texts = load_words("zh", SHANGHAI).texts
    wanted = [f"channel.{one}" for one in CHANNELS]
    wanted += [f"cause.{one.value}" for one in Cause]
    wanted += [f"letters.{one.value}" for one in NoticeState]
    wanted += [f"counter.{one.value}" for one in PaymentState]
    wanted += [f"flag.{one}" for one in _FLAGS]
    wanted += [f"debits.{one}" for one in re.findall(r'"(\w+)"', Debit.__doc__ or "")]
    assert [name for name in wanted if name not in texts] == []


@pytest.mark.parametrize(
    ("wishes", "language"),
    [
        (("en",), "en"),
        (("", "zh"), "zh"),
        (("", "", "de-DE,de;q=0.9,en-GB;q=0.8,zh;q=0.7"), "en"),
        (("fr",), "zh"),
        ((), "zh"),
        (("../../etc/passwd",), "zh"),
    ],
)
def test_the_first_wish_that_we_speak_is_the_language(wishes: tuple[str, ...], language: str) -> None:
    assert language_of(*wishes) == language


def test_figures_are_written_as_people_of_the_language_do() -> None:
    zh, en = (load_words(language, SHANGHAI) for language in LANGUAGES)
    late = datetime(2026, 3, 1, 16, 5, tzinfo=UTC)
    assert (zh.moment(late), en.moment(late)) == ("2026年3月2日 00:05", "2 Mar 2026 00:05")
    assert (zh.month("2026-03"), en.month("2026-03")) == ("2026年3月", "Mar 2026")
    assert (zh.short_day(date(2026, 3, 2)), en.short_day(date(2026, 3, 2))) == ("3月2日", "2 Mar")
    assert (zh.money(-1205, "CNY"), en.money(1205, "CNY")) == ("−12.05 元", "12.05 yuan")
    assert en.money(5, "KWD") == "0.005 KWD"
    assert (en.exact(Decimal("1204.5"), "CNY"), en.exact(Decimal("-0.4"), "CNY")) == ("12.05", "0.00")
    assert en.kwh(Decimal("3.005")) == "3.01"
    assert (en.count("my.days", 1), en.count("my.days", 2)) == ("1 day", "2 days")
