"""A read as its table row and its feed event, both at once. Pure, but for what it remembers.

Here goes most of the writer's time, so what reads share is made once: the texts of seconds, sources and qualities. The event is
put together from such texts; `headend.feed.envelope.encode_read` says what it must be, byte for byte, and a test compares.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct

from headend.feed.envelope import READ_TYPE, plain, quality_words
from headend.model import Finding, Quality, Read
from headend.ratios import other_side
from headend.store.rows import quality_bits, ratio_to_row
from protocols.values import Unit

__all__ = ["Channel", "ReadPacker", "channel_of", "is_plain"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MEASURED = (Quality.MEASURED,)
_REMEMBERED_MAX = 4096  # texts of each kind: an hour of seconds, and many times the sources of a fleet
_FRACTIONS = ("Z", *(f".{ms:03}Z" for ms in range(1, 1000)))
_PLAIN = re.compile(r"[ !#-\[\]-~]*")  # printable ASCII without quote and backslash: JSON text as it is


def is_plain(text: str) -> bool:
    """Whether the text stands in JSON as it is. Asset numbers and OBIS codes do."""
    return _PLAIN.fullmatch(text) is not None


class Channel(Struct, gc=False):
    """What the writer knows of a stored series. Not frozen: `newest` moves with every read.

    unit: of its first read, and its JSON text; None when this program does not know it. newest: no row has a later slot, in
    epoch milliseconds. plain: meter and quantity are (see `is_plain`).
    """

    id: int
    unit: Unit | None
    unit_text: str
    newest: int
    plain: bool


def channel_of(identity: int, meter: str, obis: str, unit: str, newest: int = -1) -> Channel:
    known = _UNITS.get(unit)
    return Channel(identity, known, _UNIT_TEXTS.get(unit, ""), newest, is_plain(meter) and is_plain(obis))


class ReadPacker:
    """Packs the reads of one head-end. Not for several threads at once. source: "/headend/NAME"."""

    def __init__(self, source: str) -> None:
        self._type = f'","source":{_json(source)},"type":"{READ_TYPE}","subject":"'
        self._seconds: dict[int, str] = {}
        self._texts: dict[str, str] = {}
        self._qualities: dict[tuple[Quality, ...], tuple[int, str]] = {}

    def pack(self, read: Read, channel: Channel, slot: int, source: int, sequence: int) -> tuple[tuple[Any, ...], str]:
        """Columns in the order of `tables.reads`, and the JSON text of the event.

        slot: the interval end in epoch milliseconds. source: its id. Raises TypeError, ValueError, OverflowError.
        """
        meter, obis, revision, reason = read.meter, read.obis, read.revision, read.reason
        if not channel.plain:
            meter, obis = _json(meter)[1:-1], _json(obis)[1:-1]
        second, ms = divmod(slot, 1000)
        end = (self._seconds.get(second) or self._spell(second)) + _FRACTIONS[ms]
        received_at, received = self._moment(read.received_at)
        if read.unit is channel.unit:
            unit, unit_text = None, channel.unit_text
        else:
            unit = read.unit.value
            unit_text = self._text(unit)
        if read.read_at is None:
            read_at, captured = None, "null"
        else:
            read_at, captured = self._moment(read.read_at)
            captured = f'"{captured}"'
        if read.amount is None:
            amount, value = None, "null"
        else:
            amount = str(read.amount)
            value = f'"{plain(read.amount)}"' if "E" in amount else f'"{amount}"'
        bits, words = _MEASURED_TEXT if read.quality == _MEASURED else self._quality(read.quality)
        occurred_at, tail = None, ""
        if reason:
            tail = f',"reason":{self._text(reason)}'
        if read.occurred_at is not None:
            occurred_at, occurred = self._moment(read.occurred_at)
            tail = f'{tail},"occurred_at":"{occurred}"'
        ratio = None
        if read.ratio is not None and read.amount is not None:
            ratio, sides = _ratio_texts(read.amount, read.ratio, is_primary=read.is_primary)
            tail += sides
        findings = None
        if read.findings:
            findings = _json(read.findings)
            tail += f',"findings":{findings}'
        # In two: beyond thirty parts Python 3.11 goes through a list.
        event = (
            f'{{"specversion":"1.0","id":"read:{meter}:{obis}:{end}:{revision}{self._type}{meter}","time":"{received}",'
            f'"sequence":"{sequence}","data":{{"meter":"{meter}","obis":"{obis}","value":{value},"unit":{unit_text}'
        ) + (
            f',"interval_end":"{end}","read_at":{captured},"received_at":"{received}","quality":{words},'
            f'"source":{self._texts.get(read.source) or self._text(read.source)},"revision":{revision}{tail}}}}}'
        )
        row = (
            channel.id,
            slot,
            revision,
            amount,
            unit,
            read_at,
            received_at,
            bits,
            reason or None,
            source,
            sequence,
            occurred_at,
            ratio,
            findings,
        )
        return row, event

    def _moment(self, moment: datetime) -> tuple[int, str]:
        """In epoch milliseconds, and as `iso_utc` spells it."""
        since = moment - _EPOCH
        second = since.days * 86400 + since.seconds
        ms = since.microseconds // 1000
        try:
            return second * 1000 + ms, self._seconds[second] + _FRACTIONS[ms]
        except KeyError:
            return second * 1000 + ms, self._spell(second) + _FRACTIONS[ms]

    def _spell(self, second: int) -> str:
        """Without the zone."""
        if len(self._seconds) >= _REMEMBERED_MAX:
            self._seconds.clear()
        text = self._seconds[second] = (_EPOCH + timedelta(seconds=second)).isoformat()[:-6]
        return text

    def _text(self, text: str) -> str:
        """As JSON, quotes included."""
        written = self._texts.get(text)
        if written is None:
            if len(self._texts) >= _REMEMBERED_MAX:
                self._texts.clear()
            written = self._texts[text] = _json(text)
        return written

    def _quality(self, quality: tuple[Quality, ...]) -> tuple[int, str]:
        """As stored, and as JSON. As many are remembered as there are combinations in use: a handful."""
        written = self._qualities.get(quality)
        if written is None:
            written = self._qualities[quality] = (quality_bits(quality), _json(quality_words(quality)))
        return written


def _ratio_texts(amount: Decimal, ratio: Decimal, *, is_primary: bool) -> tuple[str, str]:
    """As stored, and as JSON fields."""
    side, other = ("primary", "secondary") if is_primary else ("secondary", "primary")
    told = plain(other_side(amount, ratio, is_primary=is_primary))
    return ratio_to_row(ratio, is_primary), f',"side":"{side}","ratio":"{plain(ratio)}","{other}":"{told}"'


def _json(value: str | list[str] | tuple[Finding, ...]) -> str:
    return msgspec.json.encode(value).decode()


_UNITS = {unit.value: unit for unit in Unit}
_UNIT_TEXTS = {unit.value: _json(unit.value) for unit in Unit}
_MEASURED_TEXT = (quality_bits(_MEASURED), _json(quality_words(_MEASURED)))
