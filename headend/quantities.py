"""What a person may ask of a meter: an OBIS code, `di:00010000` of DL/T 645, or `reg:4:0x0048:float32` of Modbus."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from firmware_contracts.blocks import Block
from firmware_contracts.contract import Contract
from firmware_contracts.errors import BadContract, ContractError
from firmware_contracts.library import load_any
from firmware_contracts.modbus_contract import ModbusContract, register_point
from headend.drivers.dlt645 import ItemQuestion
from headend.drivers.modbus import BlockQuestion, point_text
from headend.drivers.reading import Question
from headend.errors import HeadendError
from protocols.dlt645.items import Di, ItemSpec, fields_of
from protocols.dlt645.layout import Kind
from protocols.errors import BadAddress, BadText
from protocols.modbus.points import Point
from protocols.values import MeterAddress, Obis

__all__ = [
    "AnyContract",
    "BadQuantity",
    "Found",
    "channel_of",
    "check_address",
    "load_contract",
    "place_of",
    "plan_questions",
    "plannable",
    "question_of",
    "resolve",
    "resolve_register",
]

NAME_MAX = 64
UNITS_MAX = 247  # Modbus over Serial Line V1.02, 2.2; 0 is broadcast, 248 to 255 are reserved

AnyContract: TypeAlias = Contract | ModbusContract
Found: TypeAlias = ItemSpec | Point  # what a quantity is for a contract


class BadQuantity(HeadendError):
    """A quantity that cannot be read with this contract; the message says what can."""


def load_contract(name: str, folder: Path | None = None) -> AnyContract:
    """A meter's contract by name or .toml file; relative paths start from `folder`. Raises ContractError, whatever the file holds."""
    if folder is not None and name.endswith(".toml"):
        name = str(folder / name)
    try:
        found = load_any(name)
    except ContractError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # also text that is no UTF-8
        raise BadContract(
            name, "", f"is no contract: {error}; compare it with a contract that came with headend"
        ) from error
    if not isinstance(found, Contract | ModbusContract):
        raise BadContract(
            name, "contract", "describes a concentrator; expected a meter's contract, dlt645/… or modbus/…"
        )
    return found


def check_address(address: str, protocol: str) -> None:
    """Whether a meter can have this address on a line of this protocol. Raises BadAddress."""
    if protocol == "mqtt":  # whatever its concentrator calls it
        if not 0 < len(address) <= NAME_MAX or not address.isprintable() or any(sign in address for sign in "/+#"):
            raise BadAddress(
                address, expected=f"1 to {NAME_MAX} printable characters without / + and #, as in the topics"
            )
        return
    if not protocol.startswith("modbus"):
        MeterAddress(address)
    elif not address.isdecimal() or address != str(int(address)) or not 1 <= int(address) <= UNITS_MAX:
        raise BadAddress(address, expected=f"a Modbus unit, 1 to {UNITS_MAX}")


def channel_of(quantity: str) -> str:
    """The one spelling under which a quantity is stored: "1-0:1.8.0", "di:0280000A", "reg:4:0x0048:float32". Raises BadQuantity."""
    try:
        if quantity.startswith("di:"):
            return f"di:{Di(quantity.removeprefix('di:').strip())}"
        if quantity.startswith("reg:"):
            return point_text(register_point(quantity))
        return str(Obis(quantity))
    except BadText as error:
        raise BadQuantity(str(error)) from error


def resolve(contract: AnyContract, quantity: str) -> Found:
    """The item or point behind a quantity's text. Raises BadQuantity."""
    try:
        return _point(contract, quantity) if isinstance(contract, ModbusContract) else _item(contract, quantity)
    except (BadText, ContractError) as error:
        raise BadQuantity(str(error)) from error


def resolve_register(contract: AnyContract, quantity: str) -> Found:
    """What a plan can read at every interval behind a quantity: one amount, one channel. Raises BadQuantity."""
    found = resolve(contract, quantity)
    if isinstance(found, Point):
        return found
    if found.members:
        raise BadQuantity(
            f"DI {found.di} ({found.name}) is a block of several registers; a plan names each register by itself"
        )
    fields = fields_of(found)
    if found.series or len(fields) != 1 or fields[0].wire.kind is not Kind.AMOUNT:
        raise BadQuantity(
            f"DI {found.di} ({found.name}) is no amount; a plan reads registers such as 1-0:1.8.0 or di:00010000"
        )
    return found


def place_of(found: Found) -> str:
    """Where in the meter it is, in words."""
    return point_text(found) if isinstance(found, Point) else f"DI {found.di}"


def question_of(found: Found) -> Question:
    """What a driver is given to have one quantity by itself."""
    if isinstance(found, Point):
        return BlockQuestion(Block(function=found.function, start=found.address, count=found.width, points=(found,)))
    return ItemQuestion(found)


def plannable(contract: AnyContract, quantities: Sequence[str]) -> dict[str, Found]:
    """Those of a plan's quantities that the contract gives, each register under the first name that it has there.

    The others were reported when the configuration was read, and cost nothing.
    """
    known: dict[str, Found] = {}
    for quantity in quantities:
        try:
            found = resolve_register(contract, quantity)
        except BadQuantity:
            continue
        if found not in known.values():
            known[quantity] = found
    return known


def plan_questions(contract: AnyContract, quantities: Sequence[str]) -> tuple[Question, ...]:
    """What a plan asks of every meter of a contract, at every interval: items one by one, registers in blocks."""
    found = list(plannable(contract, quantities).values())
    if isinstance(contract, ModbusContract):
        points = [point for point in found if isinstance(point, Point)]
        return tuple(BlockQuestion(block) for block in contract.plan(points))
    return tuple(question_of(item) for item in found)


def _item(contract: Contract, quantity: str) -> ItemSpec:
    if quantity.startswith("reg:"):
        raise BadQuantity("reg: names a Modbus register; this meter speaks DL/T 645: give an OBIS code or di:00010000")
    if quantity.startswith("di:"):
        spec = contract.find(Di(quantity.removeprefix("di:").strip()))
    else:
        spec = contract.find_obis(Obis(quantity))
    if "r" not in spec.access:
        raise BadQuantity(f"DI {spec.di} ({spec.name}) can be written but not read")
    return spec


def _point(contract: ModbusContract, quantity: str) -> Point:
    """Raises BadQuantity, BadText, ContractError; the last also for a point that no request can reach."""
    if quantity.startswith("di:"):
        raise BadQuantity(
            "di: names a DL/T 645 item; this meter speaks Modbus: give an OBIS code or reg:4:0x0048:float32"
        )
    point = contract.find_register(quantity) if quantity.startswith("reg:") else contract.find_obis(Obis(quantity))
    if "r" not in point.access:
        raise BadQuantity(f"{place_of(point)} ({point.name}) can be written but not read")
    contract.plan((point,))
    return point
