"""An account's charges, day after day: each begins where the one before it ended. Pure.

Steps and minimum charges make a day's charge depend on the days before it in its month or year. So when a day says something else than
before, everything from that day on is reckoned again, and the difference is booked once, today, as a correction: what was booked stays.
What rounding leaves over goes on in `carried`, so that all that was ever booked is all that was ever charged, rounded once.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal, localcontext

import msgspec
from msgspec import Struct

from headend.prepayment.days import day_of
from headend.prepayment.money import EXACT, Rounded, Rounding, rounded
from headend.prepayment.tariffs.tariff import Household, Line, Position, charge_day, closing_charge
from headend.prepayment.usage.pieces import Piece

__all__ = [
    "Amount",
    "ChargeBody",
    "Charged",
    "Reckoned",
    "decode_body",
    "decode_position",
    "encode_body",
    "encode_position",
    "reckon",
]

_DAY = timedelta(days=1)


class ChargeBody(Struct, frozen=True, array_like=True):
    """used: kWh by the number of the band. position: after the day, `carried` left out. lines: what, kWh, price, minor units."""

    tariff: str
    version: str
    used: dict[int, Decimal]
    lines: list[tuple[str, Decimal | None, Decimal, Decimal]]
    period: str
    used_kwh: Decimal
    month: str
    month_exact: Decimal

    def position(self) -> Position:
        return Position(period=self.period, used_kwh=self.used_kwh, month=self.month, month_exact=self.month_exact)


class Charged(Struct, frozen=True, kw_only=True):
    """A charge as it is kept. since, day: numbers of local days. exact: as it is known now; minor: as booked with the day.

    is_withdrawn: it was charged, and its energy is not known any more.
    """

    day: int
    since: int
    exact: Decimal
    minor: int
    revision: int
    body: ChargeBody
    is_withdrawn: bool = False


class Amount(Struct, frozen=True):
    """Booked for a day that was never charged before. Of a minimum apart from its day, which it tops up."""

    day: int
    since: int
    minor: int
    is_minimum: bool


class Reckoned(Struct, frozen=True, kw_only=True):
    """What is new. charges: in place of those of the same day. correction_minor: to pay more (or less) for `corrected` days.

    position, carried: after the last day; position is the one given where nothing was charged.
    """

    charges: list[Charged]
    amounts: list[Amount]
    correction_minor: int
    corrected: list[int]
    position: Position
    carried: Decimal


def reckon(
    pieces: Sequence[Piece],
    before: Sequence[Charged],
    position: Position,
    carried: Decimal,
    home: Household,
    *,
    closes_on: int | None = None,
) -> Reckoned:
    """pieces: all that are known from some day on. before: what was charged from that day on. position: at its begin.

    closes_on: the account's last day, on which its last month ends.
    """
    old = {charge.day: charge for charge in before}
    covered = {day for charge in before for day in range(charge.since, charge.day + 1)}
    charges: list[Charged] = []
    amounts: list[Amount] = []
    corrected: list[int] = []
    difference = Decimal(0)
    with localcontext() as context:
        context.prec = EXACT
        for piece in pieces:
            on = day_of(piece.last)
            charge = charge_day(piece.tariff, on, piece.usage, position, home)
            exact, lines, position = charge.exact, charge.lines, charge.position
            lacking = None
            if _ends_month(on) or piece.last == closes_on:
                lacking = closing_charge(piece.tariff, on, position)
            if lacking is not None:
                lines, position = (*lines, *lacking.lines), lacking.position
            total = exact if lacking is None else exact + lacking.exact
            body = _body(piece, lines, position)
            was = old.pop(piece.last, None)
            if was is None and not (covered and covered.intersection(range(piece.first, piece.last + 1))):
                minor = 0
                for part, is_minimum in ((exact, False), (None if lacking is None else lacking.exact, True)):
                    if part is not None:
                        booked = rounded(part, carried, piece.tariff.rounding)
                        if booked.minor < 0:
                            # A tariff that rounds down, behind one that had rounded up: no day pays anything back, it is carried on.
                            booked = Rounded(0, part + carried)
                        carried, minor = booked.carried, minor + booked.minor
                        amounts.append(Amount(piece.last, piece.first, booked.minor, is_minimum))
                charges.append(
                    Charged(day=piece.last, since=piece.first, exact=total, minor=minor, revision=0, body=body)
                )
                continue
            if (
                was is not None
                and not was.is_withdrawn  # a day of nothing comes back with nothing
                and was.exact == total
                and was.since == piece.first
                and was.body == body
            ):
                continue
            if was is None or was.exact != total:
                corrected.append(piece.last)
            difference += total - (was.exact if was is not None else 0)
            charges.append(
                Charged(
                    day=piece.last,
                    since=piece.first,
                    exact=total,
                    minor=0 if was is None else was.minor,
                    revision=0 if was is None else was.revision + 1,
                    body=body,
                )
            )
        for was in old.values():
            if not was.is_withdrawn:
                difference -= was.exact
                corrected.append(was.day)
                charges.append(
                    Charged(
                        day=was.day,
                        since=was.since,
                        exact=Decimal(0),
                        minor=was.minor,
                        revision=was.revision + 1,
                        body=was.body,
                        is_withdrawn=True,
                    )
                )
        correction = 0
        if difference:
            booked = rounded(difference, carried, pieces[-1].tariff.rounding if pieces else Rounding.HALF_UP)
            correction, carried = booked.minor, booked.carried
    return Reckoned(
        charges=charges,
        amounts=amounts,
        correction_minor=correction,
        corrected=sorted(corrected),
        position=position,
        carried=carried,
    )


_BODIES = msgspec.msgpack.Encoder()
_BODY = msgspec.msgpack.Decoder(ChargeBody)
_POSITION = msgspec.msgpack.Decoder(tuple[str, Decimal, str, Decimal])


def encode_body(body: ChargeBody) -> bytes:
    return _BODIES.encode(body)


def decode_body(body: bytes) -> ChargeBody:
    return _BODY.decode(body)


def encode_position(position: Position) -> bytes:
    """Without `carried`, which has a column of its own."""
    return _BODIES.encode((position.period, position.used_kwh, position.month, position.month_exact))


def decode_position(body: bytes) -> Position:
    period, used_kwh, month, month_exact = _POSITION.decode(body)
    return Position(period=period, used_kwh=used_kwh, month=month, month_exact=month_exact)


def _body(piece: Piece, lines: Sequence[Line], position: Position) -> ChargeBody:
    return ChargeBody(
        piece.tariff.name,
        piece.tariff.version,
        {band.value: kwh for band, kwh in piece.usage.items()},
        [(line.what, line.kwh, line.price, line.exact) for line in lines],
        position.period,
        position.used_kwh,
        position.month,
        position.month_exact,
    )


def _ends_month(day: date) -> bool:
    return (day + _DAY).month != day.month
