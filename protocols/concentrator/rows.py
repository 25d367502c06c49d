"""Between rows (fields of a payload, see `shapes`) and messages, both directions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from protocols.concentrator.fields import NotANumber
from protocols.concentrator.json_text import Mismatch
from protocols.concentrator.messages import (
    CommandAnswer,
    ListedMeter,
    MeterData,
    MeterEvent,
    MeterList,
    Op,
    Presence,
    PushedValue,
    Status,
    Uplink,
)
from protocols.concentrator.quantities import Quantities
from protocols.concentrator.shapes import Row
from protocols.values import Unit

__all__ = ["FIELDS", "KINDS", "rows_of", "uplinks_of"]

# By kind: fields that a payload or topic of it may have, and those that one must have.
_ABOUT_VALUES = {"meter", "at", "sequence", "name", "amount", "unit", "problem"}
FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "data": (_ABOUT_VALUES, {"meter"}),
    "presence": ({"online", "at", "software", "meters"}, {"online"}),
    "meters": ({"meter", "protocol", "contract", "reachable", "at"}, set()),
    "event": ({"meter", "at", "event", "detail"}, {"meter", "event"}),
    "answer": (_ABOUT_VALUES | {"id", "op", "status", "code", "detail", "answered_at"}, {"status"}),
    "ignored": (set(), set()),
}


def uplinks_of(kind: str, rows: Sequence[Row], quantities: Quantities) -> tuple[Uplink, ...]:
    """Raises Mismatch."""
    return _BUILDERS[kind](rows, quantities)


def rows_of(uplink: Uplink, quantities: Quantities, *, several_marks: bool) -> tuple[str, list[Row]]:
    """The kind of the message, and its rows. Fields that say nothing are left out. Raises EncodeError.

    several_marks: a row for each word of a problem.
    """
    match uplink:
        case MeterData():
            return "data", list(_value_rows(uplink, quantities, several_marks))
        case Presence():
            row = {"online": uplink.online, "at": uplink.at, "software": uplink.software, "meters": uplink.meters}
            return "presence", [_said(uplink.concentrator, row)]
        case MeterList():
            rows = [
                _said(
                    uplink.concentrator,
                    {
                        "meter": meter.address,
                        "protocol": meter.protocol,
                        "contract": meter.contract,
                        "reachable": meter.reachable,
                    },
                )
                for meter in uplink.meters
            ]
            return "meters", rows or [{"concentrator": uplink.concentrator}]
        case MeterEvent():
            detail = dict(uplink.detail) or None
            event = {"meter": uplink.meter, "at": uplink.at, "event": uplink.name, "detail": detail}
            return "event", [_said(uplink.concentrator, event)]
        case CommandAnswer():
            answer = {
                "meter": uplink.meter,
                "id": uplink.id,
                "op": uplink.op.value if uplink.op else None,
                "status": uplink.status,
                "code": uplink.code,
                "detail": uplink.detail,
                "answered_at": uplink.at,
            }
            about = _said(uplink.concentrator, answer)
            values = [row for data in uplink.values for row in _value_rows(data, quantities, several_marks)]
            return "answer", [about | row for row in values] or [about]


def _said(concentrator: str, row: Mapping[str, Any]) -> Row:
    return {"concentrator": concentrator} | {
        key: value for key, value in row.items() if value is not None and value != ""
    }


def _value_rows(data: MeterData, quantities: Quantities, several_marks: bool) -> Iterator[Row]:
    about = _said(data.concentrator, {"meter": data.meter, "at": data.at, "sequence": data.sequence})
    if not data.values:
        yield about
    for value in data.values:
        name, amount, unit = quantities.wire(value)
        row = about | {"name": name}
        if amount is not None:
            row["amount"] = amount
            if unit is not None:
                row["unit"] = unit
        for problem in value.problem.split(",") if several_marks else (value.problem,):
            yield row | {"problem": problem}


# ---------------------------------------------------------------------------------------------------- rows to messages


def _data(rows: Sequence[Row], quantities: Quantities) -> tuple[Uplink, ...]:
    return _meter_data([row for row in rows if "meter" in row], quantities)


def _meter_data(rows: Sequence[Row], quantities: Quantities) -> tuple[MeterData, ...]:
    """Rows of one meter and time make one MeterData; rows of one name in it make one value."""
    grouped: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in rows:
        key = (row["concentrator"], row.get("meter", ""), row.get("at"), row.get("sequence"))
        values = grouped.setdefault(key, {})
        if "name" in row:
            values.setdefault(row["name"], []).append(row)
    return tuple(
        MeterData(
            concentrator=concentrator,
            meter=meter,
            at=at,
            sequence=sequence,
            values=tuple(_value(name, said, quantities) for name, said in values.items()),
        )
        for (concentrator, meter, at, sequence), values in grouped.items()
    )


def _value(name: str, rows: Sequence[Row], quantities: Quantities) -> PushedValue:
    said: Row = {}
    for row in rows:
        said |= row
    problems = list(dict.fromkeys(row["problem"] for row in rows if row.get("problem")))
    amounts = [row["amount"] for row in rows if "amount" in row]
    if any(amount != amounts[0] for amount in amounts):
        raise Mismatch("one number for each name and time", f"{amounts[0]} and {amounts[-1]}").under(name)
    amount = said.get("amount")
    if isinstance(amount, bool):  # a contact as 1 and 0; but true is not 1 kWh
        contact = quantities.value(name, Decimal(int(amount)), said.get("unit"), ",".join(problems))
        if contact.unit is Unit.NONE:
            return contact
        amount = NotANumber("true" if amount else "false")
    if isinstance(amount, NotANumber):
        problems.append(f"not a number: {amount.text}".replace(",", " "))
        amount = None
    return quantities.value(name, amount, said.get("unit"), ",".join(problems))


def _presence(rows: Sequence[Row], _: Quantities) -> tuple[Uplink, ...]:
    row = rows[0]
    return (
        Presence(
            concentrator=row["concentrator"],
            online=row["online"],
            at=row.get("at"),
            software=row.get("software", ""),
            meters=row.get("meters"),
        ),
    )


def _meters(rows: Sequence[Row], _: Quantities) -> tuple[Uplink, ...]:
    if not rows:
        return ()
    meters = tuple(
        ListedMeter(
            address=row["meter"],
            protocol=row.get("protocol", ""),
            contract=row.get("contract", ""),
            reachable=row.get("reachable"),
        )
        for row in rows
        if "meter" in row
    )
    return (MeterList(rows[0]["concentrator"], meters),)


def _events(rows: Sequence[Row], _: Quantities) -> tuple[Uplink, ...]:
    return tuple(
        MeterEvent(
            concentrator=row["concentrator"],
            meter=row["meter"],
            at=row.get("at"),
            name=row["event"],
            detail=_object(row.get("detail")),
        )
        for row in rows
        if "meter" in row and "event" in row
    )


def _object(detail: Any) -> dict[str, Any]:
    if isinstance(detail, dict):
        return detail
    return {} if detail is None else {"value": detail}


def _answer(rows: Sequence[Row], quantities: Quantities) -> tuple[Uplink, ...]:
    row = rows[0]
    if row["status"] not in Status.ALL:
        raise Mismatch(f"one of {', '.join(Status.ALL)}", row["status"]).under("status")
    named = [one for one in rows if "name" in one]
    return (
        CommandAnswer(
            concentrator=row["concentrator"],
            id=row.get("id", ""),
            status=row["status"],
            code=row.get("code", ""),
            detail=row.get("detail"),
            values=_meter_data(named, quantities),
            op=_op(row["op"]) if "op" in row else None,
            meter=row.get("meter", "") if len({one.get("meter") for one in rows}) == 1 else "",
            at=row.get("answered_at"),
        ),
    )


def _op(word: Any) -> Op:
    try:
        return Op(word)
    except ValueError:
        raise Mismatch(f"one of {', '.join(op.value for op in Op)}", word).under("op") from None


_BUILDERS: dict[str, Callable[[Sequence[Row], Quantities], tuple[Uplink, ...]]] = {
    "data": _data,
    "presence": _presence,
    "meters": _meters,
    "event": _events,
    "answer": _answer,
    "ignored": lambda _rows, _quantities: (),
}
KINDS = tuple(_BUILDERS)
