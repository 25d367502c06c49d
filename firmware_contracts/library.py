"""All contracts that come with the package, whatever their protocol, and loading any of them by name."""

from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from firmware_contracts import contract as dlt645
from firmware_contracts.errors import BadContract
from firmware_contracts.files import layers, merged, names, stamp
from firmware_contracts.modbus_contract import ModbusContract, load_modbus

if TYPE_CHECKING:
    from protocols.concentrator.codec import ConcentratorContract

__all__ = ["CONCENTRATORS", "AnyContract", "contract_names", "load_any", "protocol_of"]

AnyContract: TypeAlias = "dlt645.Contract | ModbusContract | ConcentratorContract"
CONCENTRATORS = ("mqtt", "concentrator")  # protocols of contracts that describe messages of a concentrator, not a meter
PROTOCOLS = (*dlt645.PROTOCOLS, "modbus", *CONCENTRATORS)


def contract_names() -> list[str]:
    """Names of all contracts that come with the package."""
    return names()


def protocol_of(name: str) -> str:
    """What the file says in `[contract] protocol`, itself or through the one that it extends: one of PROTOCOLS.

    Raises UnknownContract, BadContract.
    """
    return _protocol_of(name, stamp(name))


@lru_cache(maxsize=256)
def _protocol_of(name: str, changed: int) -> str:
    protocol = merged(layers(name), "contract").get("protocol")
    if protocol not in PROTOCOLS:
        raise BadContract(name, "contract", f"protocol: {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    return str(protocol)


def load_any(name: str) -> AnyContract:
    """A contract by its name or by the path of a .toml file, with the loader of its protocol. Kept once loaded.

    Raises UnknownContract, BadContract.
    """
    protocol = protocol_of(name)
    if protocol == "modbus":
        return load_modbus(name)
    if protocol in CONCENTRATORS:  # imported when one is asked for: most processes have none
        from firmware_contracts.concentrator_contract import load_concentrator

        return load_concentrator(name)
    return dlt645.load(name)
