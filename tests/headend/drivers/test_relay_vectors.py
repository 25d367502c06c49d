"""Orders as the switch sends them, byte by byte against frames of others: captured ones, and constants in foreign programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from firmware_contracts.contract import load
from headend.commands.model import Kind
from headend.secrets import Authority
from protocols.dlt645.fields import Password
from protocols.dlt645.frame import Frame
from protocols.values import MeterAddress
from simulators.dlt645_meter import Dlt645Meter
from simulators.load_curve import Kind as Household
from simulators.meter import MeterModel
from simulators.virtual_time import START
from tests.headend.drivers.dlt645_relay_support import on_site
from tests.headend.drivers.relay_support import Site

VECTORS = Path(__file__).parents[2] / "vectors" / "dlt645_vectors.jsonl"
KINDS = {0x1A: Kind.OPEN, 0x1B: Kind.PERMIT_CLOSE, 0x1C: Kind.CLOSE}
EXPIRES_AT, EXPIRES_END = 10, 16  # of DATA


def foreign_orders() -> list[dict[str, Any]]:
    found = [json.loads(line) for line in VECTORS.read_text(encoding="utf-8").splitlines()]
    return [
        one
        for one in found
        if one["c"] == "1C" and one["valid"] and one["ver"] == "2007" and "A" not in one["addr"] and one["len"] == 16
    ]


def test_there_are_captured_orders_to_compare_with() -> None:
    origins = [one["origin"] for one in foreign_orders()]
    assert origins.count("capture") >= 2
    assert len(origins) >= 9


@pytest.mark.parametrize("foreign", foreign_orders(), ids=lambda one: one["id"])
def test_but_for_its_end_the_frame_is_the_foreign_one(foreign: dict[str, Any]) -> None:
    """Same meter, password, operator and order: everything but N3..N8 must be equal, and with theirs the whole wire."""
    wire = bytes.fromhex(foreign["hex"])
    theirs = bytes.fromhex(foreign["payload"])
    address = foreign["addr"]
    password = Password.from_wire(theirs[:4])
    model = MeterModel(MeterAddress(address), seed=1, kind=Household.SHOP, clock_set_at=START, clock_offset_s=0)

    async def story(site: Site) -> None:
        meter: Dlt645Meter = site.bus.meters[0]
        meter.passwords = dict.fromkeys(range(10), password.secret)
        await site.order(KINDS[theirs[8]], operator=theirs[4:8])
        [(_, frame)] = site.wire.orders
        ours = frame.payload
        assert (frame.address, frame.control) == (address, 0x1C)
        assert ours[:EXPIRES_AT] == theirs[:EXPIRES_AT]
        assert len(ours) == len(theirs)
        assert ours[EXPIRES_AT:] != theirs[EXPIRES_AT:]  # none of theirs is near
        same = Frame(frame.address, frame.control, ours[:EXPIRES_AT] + theirs[EXPIRES_AT:EXPIRES_END])
        assert same.to_bytes() == wire

    on_site(
        story,
        meter=Dlt645Meter(model, load("dlt645/base_2007"), reply_delay_s=0.02),
        contract="dlt645/base_2007",
        address=address,
        authority=lambda _: Authority(password, bytes(4)),
    )
