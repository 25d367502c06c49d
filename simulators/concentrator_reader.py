"""What a concentrator reads from the meters behind it: quantities by OBIS, through the meters' own DL/T 645 items.

A real concentrator asks its meters over RS-485. Here the same items are encoded and decoded without the wire, so that a
pushed reading and a forwarded frame of the same moment tell the same digits.
"""

from datetime import datetime
from decimal import Decimal
from functools import lru_cache

from firmware_contracts.contract import Contract
from firmware_contracts.errors import ContractError
from protocols.dlt645.items import ItemSpec, decode
from protocols.errors import ProtocolError
from protocols.values import Obis, Unit
from simulators.dlt645_meter import Dlt645Meter
from simulators.dlt645_values import NoSuchItem, Refusal

__all__ = ["USUAL_QUANTITIES", "NoQuantity", "read_quantity"]

USUAL_QUANTITIES = tuple(map(Obis, ("1-0:1.8.0", "1-0:2.8.0", "1-0:32.7.0", "1-0:31.7.0", "1-0:16.7.0", "1-0:14.7.0")))


class NoQuantity(LookupError):
    """The meter has no such quantity."""


def read_quantity(meter: Dlt645Meter, obis: Obis, at: datetime) -> tuple[Decimal | None, Unit]:
    """As the meter tells it at the true time `at`; None: marked as not measured. Raises NoQuantity."""
    spec = _spec(meter.contract, obis)
    try:
        items = decode(b"".join(meter.items.read(spec.di, at)), spec)
    except (ContractError, ProtocolError, NoSuchItem, Refusal) as error:
        raise NoQuantity(obis.text) from error
    for item in items:
        if item.obis == obis and (item.content is None or isinstance(item.content, Decimal)):
            return item.content, item.unit
    raise NoQuantity(obis.text)


@lru_cache(maxsize=4096)
def _spec(contract: Contract, obis: Obis) -> ItemSpec:
    try:
        return contract.find_obis(obis)
    except ContractError as error:
        raise NoQuantity(obis.text) from error
