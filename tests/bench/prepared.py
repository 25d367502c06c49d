"""The conversation that all measured clients have with the far end: meters 1, 2, 3 …, two registers each.

The amounts follow from the meter's number, so that whatever came out at the other end can be checked.
"""

from decimal import Decimal

from firmware_contracts.contract import Contract, load
from protocols.dlt645 import items
from protocols.dlt645.frame import PREAMBLE_DEFAULT
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadReply, ReadRequest, encode

__all__ = ["CONTRACT", "DIS", "ENERGY", "HOST", "address_of", "amount_of", "contract", "reply_of", "request_of"]

HOST = "127.0.0.1"
CONTRACT = "dlt645/base_2007"
ENERGY, VOLTAGE = Di("00010000"), Di("02010100")  # total import, voltage of phase A: what a residential plan asks
DIS = (ENERGY, VOLTAGE)


def contract() -> Contract:
    return load(CONTRACT)


def address_of(number: int) -> str:
    return f"{number:012}"


def amount_of(number: int, di: Di) -> Decimal:
    """kWh with two decimals, V with one; different for neighbours on a line."""
    return Decimal(number % 10**8).scaleb(-2) if di == ENERGY else Decimal(2200 + number % 100).scaleb(-1)


def request_of(number: int, di: Di) -> bytes:
    """With the four wake-up bytes that both clients send."""
    return encode(ReadRequest(di=di), address_of(number)).to_bytes(PREAMBLE_DEFAULT)


def reply_of(number: int, di: Di) -> bytes:
    data = items.encode(amount_of(number, di), contract().find(di))
    return encode(ReadReply(di=di, data=data), address_of(number)).to_bytes(PREAMBLE_DEFAULT)
