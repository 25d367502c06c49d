"""What people write and choose, looked at before anything is done with it. Every function raises BadInput."""

import re
from collections.abc import Mapping
from datetime import date, timedelta

from headend.prepayment.accounts.enrolment import Enrolment
from headend.prepayment.errors import BadInput
from headend.prepayment.notices.texts import LANGUAGES

__all__ = ["WORDS_MAX", "check_enrolment", "check_language", "check_limit", "check_texts", "not_far", "words"]

LISTED_MAX = 1000
WORDS_MAX = 500  # characters of what a person writes into books and flags
AHEAD = timedelta(days=366)
# Control characters, line separators, and halves of a character that no database can hold.
_STRAY = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def words(name: str, text: str) -> str:
    """What a person wrote, with single spaces."""
    found = " ".join(text.split())
    if not found or len(found) > WORDS_MAX or not found.isprintable():
        raise BadInput(f"{name} {text[:40]!r}; expected 1 to {WORDS_MAX} printable characters")
    return found


def check_texts(texts: Mapping[str, str]) -> None:
    """By name; may be empty, and is kept as it is."""
    for name, text in texts.items():
        if len(text) > WORDS_MAX or _STRAY.search(text):
            raise BadInput(f"{name} {text[:40]!r}; expected at most {WORDS_MAX} printable characters, in one line")


def check_enrolment(wanted: Enrolment) -> None:
    check_language(wanted.language)
    check_texts(
        {
            "name": wanted.name,
            "identity": wanted.identity,
            "premises": wanted.premises.id,
            "address": wanted.premises.address,
            "bank": wanted.bank,
        }
    )


def check_language(language: str) -> None:
    if language not in LANGUAGES:
        raise BadInput(f"language {language!r}; expected one of {', '.join(LANGUAGES)}")


def check_limit(limit: int) -> None:
    if not 1 <= limit <= LISTED_MAX:
        raise BadInput(f"limit {limit}; expected 1 to {LISTED_MAX}")


def not_far(name: str, day: date, today: date) -> None:
    """A slip of the keyboard would hold an account up for years."""
    if day > today + AHEAD:
        raise BadInput(f"{name} {day}; expected a local day until {today + AHEAD}, a year ahead at most")
