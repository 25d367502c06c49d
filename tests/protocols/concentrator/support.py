"""What the tests of the codec share."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from firmware_contracts.concentrator_contract import concentrator_names, load_concentrator
from protocols.concentrator.codec import ConcentratorContract
from protocols.concentrator.messages import PushedValue
from protocols.errors import BadEnvelope
from protocols.values import Obis, Unit

NOW = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)  # 10:00 in Shanghai
MS = 1_767_578_400_000  # the same in milliseconds
NAMES = concentrator_names()


def contract(name: str, **given: Any) -> ConcentratorContract:
    """A contract as a site in China would configure it."""
    return load_concentrator(f"concentrator/{name}", **{"timezone": "Asia/Shanghai"} | given)


def value(name: str, obis: str | None, amount: str | None, unit: Unit, problem: str = "") -> PushedValue:
    return PushedValue(
        name=name,
        obis=Obis(obis) if obis else None,
        amount=Decimal(amount) if amount is not None else None,
        unit=unit,
        problem=problem,
    )


def refusal(codec: ConcentratorContract, topic: str, payload: bytes) -> BadEnvelope:
    with pytest.raises(BadEnvelope) as caught:
        codec.decode(topic, payload, now=NOW)
    return caught.value
