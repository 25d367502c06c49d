"""What people type: bounded forms, amounts of money, and the names that are shown of them."""

import re
import unicodedata
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

from litestar import Request
from msgspec import Struct

from headend.prepayment.books.payments import receipt_of
from headend.prepayment.model import AMOUNT_MAX
from headend.prepayment.money import MINOR_DIGITS, exact_minor

__all__ = ["BadForm", "Mistake", "Said", "amount_minor", "masked", "read_form", "receipt_number"]

FORM_MAX = 16_384  # bytes; the largest form has six short fields
FIELDS_MAX = 20
RECEIPT_MAX = 64
_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{0,12})?")


class BadForm(Exception):
    """status: 400, 413 or 415. Nothing was done."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a form that cannot be read: {status}")
        self.status = status


class Mistake(Exception):
    """Of what was typed into a field. name: of the text that says so; figures: of that text."""

    def __init__(self, name: str, **figures: object) -> None:
        super().__init__(name)
        self.name = name
        self.figures = figures


class Said(Struct, frozen=True, kw_only=True):
    """A mistake in words, beside its field."""

    field: str
    text: str


async def read_form(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Fields by name, the last of each. Raises BadForm."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadForm(415)
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > FORM_MAX:
            raise BadForm(413)
    try:
        return dict(parse_qsl(content.decode(), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX))
    except ValueError as error:
        raise BadForm(400) from error


def amount_minor(text: str, currency: str) -> int:
    """Minor units of what was typed, such as 50 or 50.00; full-width digits of a Chinese keyboard, too. Raises Mistake."""
    bare = unicodedata.normalize("NFKC", text).replace("。", ".").strip().removeprefix("¥").strip()
    if not bare:
        raise Mistake("error.amount_empty")
    if not _AMOUNT.fullmatch(bare):
        raise Mistake("error.amount_form", text=text.strip()[:40])
    digits, exact = MINOR_DIGITS[currency], exact_minor(Decimal(bare), currency)
    if exact % 1:
        raise Mistake("error.amount_digits", text=bare[:40], digits=digits)
    minor = int(exact)
    if minor == 0:
        raise Mistake("error.amount_none")
    if minor > AMOUNT_MAX:
        raise Mistake("error.amount_most", most=AMOUNT_MAX // 10**digits)
    return minor


def receipt_number(text: str) -> str:
    """As the books spell it. Raises Mistake."""
    bare = receipt_of(text)
    if not bare:
        raise Mistake("error.receipt_empty")
    if len(bare) > RECEIPT_MAX or not bare.isprintable():
        raise Mistake("error.receipt_form")
    return bare


def masked(name: str) -> str:
    """Enough to recognise, too little to learn: *华, 欧**明, L*** H***."""
    return " ".join(_masked_word(word) for word in name.split())


def _masked_word(word: str) -> str:
    if any("CJK" in unicodedata.name(letter, "") for letter in word):
        if len(word) <= 3:
            return "*" + word[1:]
        return word[0] + "*" * (len(word) - 2) + word[-1]
    return word[0] + "***"
