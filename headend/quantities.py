"""What a person may ask of a meter: an OBIS code, `di:00010000`, or (with Modbus, later) `reg:…`."""

from pathlib import Path

from firmware_contracts.contract import Contract, load
from firmware_contracts.errors import BadContract, ContractError
from headend.errors import HeadendError
from protocols.dlt645.items import Di, ItemSpec, fields_of
from protocols.dlt645.layout import Kind
from protocols.errors import BadText
from protocols.values import Obis

__all__ = ["BadQuantity", "channel_of", "load_contract", "resolve", "resolve_register"]


_NO_MODBUS = "reg: names a Modbus register; this meter speaks DL/T 645: give an OBIS code or di:00010000"


class BadQuantity(HeadendError):
    """A quantity that cannot be read with this contract; the message says what can."""


def load_contract(name: str, folder: Path | None = None) -> Contract:
    """A contract by name or .toml file; relative paths start from `folder`. Raises ContractError, whatever the file holds."""
    if folder is not None and name.endswith(".toml"):
        name = str(folder / name)
    try:
        return load(name)
    except ContractError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # also text that is no UTF-8
        raise BadContract(
            name, "", f"is no contract: {error}; compare it with a contract that came with headend"
        ) from error


def channel_of(quantity: str) -> str:
    """The one spelling under which a quantity is stored: "1-0:1.8.0", "di:0280000A". Raises BadQuantity."""
    try:
        if quantity.startswith("di:"):
            return f"di:{Di(quantity.removeprefix('di:').strip())}"
        if quantity.startswith("reg:"):
            raise BadQuantity(_NO_MODBUS)
        return str(Obis(quantity))
    except BadText as error:
        raise BadQuantity(str(error)) from error


def resolve(contract: Contract, quantity: str) -> ItemSpec:
    """The item behind a quantity's text. Raises BadQuantity."""
    try:
        if quantity.startswith("di:"):
            spec = contract.find(Di(quantity.removeprefix("di:").strip()))
        elif quantity.startswith("reg:"):
            raise BadQuantity(_NO_MODBUS)
        else:
            spec = contract.find_obis(Obis(quantity))
    except (BadText, ContractError) as error:
        raise BadQuantity(str(error)) from error
    if "r" not in spec.access:
        raise BadQuantity(f"DI {spec.di} ({spec.name}) can be written but not read")
    return spec


def resolve_register(contract: Contract, quantity: str) -> ItemSpec:
    """The item behind a quantity that a plan can read at every interval: one amount, one channel. Raises BadQuantity."""
    spec = resolve(contract, quantity)
    if spec.members:
        raise BadQuantity(
            f"DI {spec.di} ({spec.name}) is a block of several registers; a plan names each register by itself"
        )
    fields = fields_of(spec)
    if spec.series or len(fields) != 1 or fields[0].wire.kind is not Kind.AMOUNT:
        raise BadQuantity(
            f"DI {spec.di} ({spec.name}) is no amount; a plan reads registers such as 1-0:1.8.0 or di:00010000"
        )
    return spec
