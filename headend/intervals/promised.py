"""What a meter's contract promises of one register, looked up by the contract's name."""

from decimal import Decimal
from functools import lru_cache

from firmware_contracts.contract import Contract
from firmware_contracts.errors import ContractError
from headend.intervals.promises import pushed_register, register_of
from headend.intervals.registers import Connection, Register
from headend.quantities import BadQuantity, load_contract, resolve
from protocols.values import Unit

__all__ = ["promised_register"]


@lru_cache(maxsize=16384)  # as many as a fleet has contract rows, times its kinds of connection
def promised_register(
    contract_name: str, obis: str, unit: Unit, connection: Connection | None, *, step: Decimal = Decimal("0.01")
) -> Register:
    """A quantity that the contract does not name is known by its code alone, and has `step`. contract_name: "" for no contract."""
    try:
        if not contract_name:
            return pushed_register(obis, unit, step, connection)
        contract = load_contract(contract_name)
        found = resolve(contract, obis)
    except (ContractError, BadQuantity):
        return pushed_register(obis, unit, step, connection)
    tariffs = contract.limits.tariffs if isinstance(contract, Contract) else 0
    return register_of(found, obis, unit, tariffs=tariffs, connection=connection)
