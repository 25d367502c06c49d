"""What a message of DL/T 645 holds, in words: its values, and the pieces of its DATA.

Passwords and operator codes are named and not told.
"""

from firmware_contracts.contract import load
from firmware_contracts.errors import ContractError
from headend.explain.explanation import ExplainedItem
from protocols.dlt645.control import RATES, Dialect, RelayOrder, error_phrases
from protocols.dlt645.items import Di, ItemValue, decode
from protocols.dlt645.masking import HIDDEN
from protocols.dlt645.messages import (
    AddressReply,
    ClearRequest,
    FollowUpReply,
    FollowUpRequest,
    FreezeRequest,
    Message,
    PasswordReply,
    PasswordRequest,
    RateReply,
    RateRequest,
    ReadReply,
    ReadRequest,
    Refused,
    RelayReply,
    RelayRequest,
    SecurityRequest,
    TerminalReply,
    TerminalRequest,
    TimeSync,
    WriteAddressRequest,
    WriteRequest,
)
from protocols.errors import ProtocolError
from protocols.values import Unit

__all__ = ["item_name", "items_of", "pieces_of"]

_CONTRACTS = {Dialect.V2007: "dlt645/base_2007", Dialect.V1997: "dlt645/base_1997"}

RELAY_ORDERS = {
    RelayOrder.TRIP: "trip",
    RelayOrder.PERMIT_CLOSE: "close permitted",
    RelayOrder.CLOSE: "direct close",
    RelayOrder.TRIP_THEN_CLOSE: "trip, then direct close after N2 × 5 min",
    RelayOrder.TRIP_THEN_PERMIT: "trip, then close permitted after N2 × 5 min",
    RelayOrder.ALARM_ON: "alarm on",
    RelayOrder.ALARM_OFF: "alarm off",
    RelayOrder.PROTECT: "protect supply",
    RelayOrder.PROTECT_OFF: "protect off",
}
OUTPUTS = {0: "clock second pulse", 1: "demand period pulse", 2: "tariff slot switching pulse"}


def items_of(message: Message, shown: list[str]) -> tuple[list[ExplainedItem], str | None]:
    """The values in a message; the second part says why a reply's data could not be read.

    shown: DATA after −33H, two hex digits a byte, ** where a password or an operator code may stand.
    """
    if isinstance(message, ReadReply | FollowUpReply):
        items, problem = _reply_items(message)
        if HIDDEN in shown:  # a meter that tells its passwords
            items = [_item(item.name, "(not shown)") for item in items]
            problem = problem and f"the frame is right, but its data do not fit DI {message.di}"
        return items, problem
    if isinstance(message, Refused):
        phrases = ", ".join(error_phrases(message.dialect, message.function, message.word, message.size))
        word = f"{message.word:0{2 * message.size}X}"
        return [_item(f"error word {word}H: {phrases}", word)], None
    if isinstance(message, AddressReply):
        return [_item("communication address", message.address)], None
    if isinstance(message, WriteAddressRequest):
        return [_item("new communication address", message.address)], None
    if isinstance(message, TimeSync):
        return [ExplainedItem("time", None, _picture(message.at), "", None)], None
    if isinstance(message, FreezeRequest):
        return [_item("freeze moment MMDDhhmm, 99 = any", message.moment)], None
    if isinstance(message, RateRequest | RateReply):
        rates = RATES[message.dialect]
        name = f"rate {rates[message.word]} baud" if message.word in rates else "rate word that is no standard rate"
        return [_item(name, f"{message.word:02X}")], None
    if isinstance(message, RelayRequest):
        return _relay_items(message), None
    if isinstance(message, RelayReply) and message.state_word is not None:
        return [_item("relay state word", f"{message.state_word:04X}")], None
    if isinstance(message, TerminalRequest | TerminalReply):
        return [_item(OUTPUTS.get(message.output, "unknown output"), f"{message.output:02X}")], None
    if isinstance(message, FollowUpRequest) and message.sequence is not None:
        return [_item("SEQ", f"{message.sequence:02X}")], None
    if isinstance(message, WriteRequest):
        told = "".join(shown[len(shown) - len(message.data) :])
        return [_item(f"data to write ({item_name(message.di) or 'private DI'}), low byte first", told)], None
    return [], None


def _order_name(order: int) -> str:
    return RELAY_ORDERS[RelayOrder(order)] if order in RelayOrder.__members__.values() else "unknown order"


def _relay_items(message: RelayRequest) -> list[ExplainedItem]:
    items = [_item(f"N1 {_order_name(message.order)}", f"{message.order:02X}")]
    if message.delay is not None:
        items.append(_item("N2", f"{message.delay:02X}"))
    if message.expires is not None:
        items.append(_item("expires", _picture(message.expires)))
    return items


def _reply_items(message: ReadReply | FollowUpReply) -> tuple[list[ExplainedItem], str | None]:
    contract = load(_CONTRACTS[Dialect(message.di.dialect)])
    try:
        spec = contract.find(message.di)
    except ContractError:
        return [], None  # a private DI: bytes are shown, nothing is claimed
    if not message.data:
        return [], None
    try:
        values = decode(message.data, spec)
    except ProtocolError as error:
        if message.follow or isinstance(message, FollowUpReply):
            return [], None  # one part of a longer reply cannot be read by itself
        return [], f"the frame is right, but its data do not fit DI {message.di}: {error}"
    return [_explained(value) for value in values], None


def _explained(value: ItemValue) -> ExplainedItem:
    return ExplainedItem(
        value.name,
        str(value.obis) if value.obis else None,
        None if value.content is None else str(value.content),
        "" if value.unit is Unit.BITS else value.unit.value,
        value.at.isoformat() if value.at else None,
    )


def _item(name: str, value: str) -> ExplainedItem:
    return ExplainedItem(name, None, value, "", None)


def item_name(di: object) -> str:
    if not isinstance(di, Di):
        return ""
    try:
        return load(_CONTRACTS[Dialect(di.dialect)]).find(di).name
    except ContractError:
        return ""


def _picture(digits: str) -> str:
    """YYMMDDhhmmss or YYMMDDhhmm as a person writes it; digits that are no date are shown all the same."""
    date = f"20{digits[0:2]}-{digits[2:4]}-{digits[4:6]} {digits[6:8]}:{digits[8:10]}"
    return date + (f":{digits[10:12]}" if len(digits) == 12 else "")


def pieces_of(data: bytes, message: Message | None, items: list[ExplainedItem]) -> list[tuple[int, str]]:
    if isinstance(message, WriteRequest) and message.password:
        return [
            (4, f"password level {message.password.level:02X}H and password (not shown)"),
            (4, "operator code (not shown)"),
        ]
    if isinstance(message, ClearRequest) and message.password:
        return [
            (4, f"password level {message.password.level:02X}H and password (not shown)"),
            (4, "operator code (not shown)"),
        ]
    if isinstance(message, RelayRequest):
        return [
            (4, f"password level {message.password.level:02X}H and password (not shown)"),
            (4, "operator code (not shown)"),
            *([(1, f"{item.name}: {item.value}") for item in items[:2]]),
            (6, "N3..N8: expiry of the order"),
        ]
    if isinstance(message, PasswordReply):
        return [(4, f"password level {message.new.level:02X}H and new password (not shown)")]
    if isinstance(message, SecurityRequest):
        return [(4, "operator code (not shown)")]
    if isinstance(message, PasswordRequest):
        return [(4, "old password (not shown)"), (4, "new password (not shown)")]
    if isinstance(message, ReadRequest) and message.count is not None:
        pieces = [(1, f"number of blocks N = {message.count:02X}H")]
        return pieces + ([(5, f"from {_picture(message.start)}")] if message.start else [])
    if isinstance(message, Refused):
        return [(message.size, items[0].name)]
    if items and len(data) % len(items) == 0:
        size = len(data) // len(items)
        return [(size, _item_meaning(item)) for item in items]
    return []


def _item_meaning(item: ExplainedItem) -> str:
    value = "not measured (FF fill)" if item.value is None else f"{item.value} {item.unit}".rstrip()
    return f"{item.name}: {value}" + (f" at {item.at}" if item.at and item.value is not None else "")
