"""Simulated concentrators of every family that has a contract: readings, commands and presence, without a broker."""

import json
from datetime import timedelta
from typing import Any

import pytest

from protocols.concentrator.messages import Op, Presence
from protocols.dlt645 import messages as m
from protocols.dlt645.items import Di
from protocols.errors import NotOffered
from protocols.values import Obis
from simulators.concentrator_faults import read_concentrator_plan
from simulators.dlt645_meter import Dlt645Meter
from simulators.load_curve import Quantity
from tests.simulators.concentrator_rig import METER, START, Rig, data, rig

FAMILIES = ("hes_v1", "neuron", "thingsboard", "tasmota_sml", "aliyun", "state_grid")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Rig:
    names = ["MT1"] if request.param == "tasmota_sml" else [METER]
    return rig(family=request.param, count=1, period_s=60, meter_names=names)


def only(one: Rig) -> tuple[str, Dlt645Meter]:
    return next(iter(one.concentrator.meters.items()))


def test_readings_of_every_family_come_back_as_the_same_quantities(family: Rig) -> None:
    found = data(family.told(31))
    energies = [
        (value.amount, value.unit.value) for each in found for value in each.values if value.obis == Obis("1-0:1.8.0")
    ]
    name, meter = only(family)
    assert energies == [(meter.model.energy(Quantity.FORWARD, 0, START + timedelta(seconds=30)), "kWh")]
    assert {(each.meter, each.at) for each in found} == {(name, START + timedelta(seconds=30))}


@pytest.mark.parametrize("op", list(Op))
def test_commands_of_every_family_are_done_and_answered(family: Rig, op: Op) -> None:
    contract = family.concentrator.contract
    name, meter = only(family)
    family.run(0)
    request = m.encode(m.ReadRequest(di=Di("00010000")), METER).to_bytes(4)
    params: dict[Op, dict[str, Any]] = {
        Op.READ: {"quantities": ["1-0:1.8.0"]},
        Op.SET_CLOCK: {"ts": int(START.timestamp() * 1000)},
        Op.FORWARD: {"frame": request.hex()},
    }
    command = family.command(op, id="77", meter=name, **params.get(op, {}))
    if op not in contract.offers:
        with pytest.raises(NotOffered):
            family.send(command)
        return
    family.send(command)
    (answer,) = [answer for answer in family.answers(20) if answer.is_final]
    assert answer.status == "done"
    assert contract.is_answer(command, answer)
    assert meter.model.relay_open(family.now) == (op is Op.OPEN)
    if op is Op.READ:
        amounts = {value.obis: value.amount for each in answer.values for value in each.values}
        assert amounts[Obis("1-0:1.8.0")] is not None


def test_every_family_says_something_final_of_a_command_whose_outcome_is_unknown(family: Rig) -> None:
    name, _ = only(family)
    family.concentrator.faults = read_concentrator_plan(
        {"faults": [{"kind": "stuck-relay"}, {"kind": "slow-commands"}]}, START
    )
    family.run(1)
    command = family.command(Op.OPEN, id="77", meter=name)
    family.send(command)
    answers = family.answers(20)
    contract = family.concentrator.contract
    if contract.name == "concentrator/tasmota_sml":
        return  # it has no word for that: POWER tells what the device thinks, or nothing
    assert [answer.status for answer in answers if answer.is_final] == [
        "unconfirmed" if contract.name == "concentrator/hes_v1" else "failed"
    ]
    assert {answer.status for answer in answers if not answer.is_final} <= {"accepted"}


def test_a_retained_command_of_every_family_moves_nothing(family: Rig) -> None:
    name, meter = only(family)
    family.run(0)
    family.send(family.command(Op.OPEN, id="77", meter=name), retained=True)
    family.run(10)
    assert not meter.model.relay_open(family.now)
    assert family.concentrator.retained_commands == 1


def test_presence_of_every_family_is_understood(family: Rig) -> None:
    found = family.told(0)
    assert not [one for one in found if isinstance(one, Presence) and not one.online]
    will = family.concentrator.will
    if will is not None:
        assert [one.online for one in family.read([will]) if isinstance(one, Presence)] == [False]


def test_a_family_without_retained_presence_repeats_it() -> None:
    one = rig(family="neuron", period_s=30)
    states = [message for message in one.run(65) if message.topic == "/neuron/C1/state/update"]
    assert len(states) == 3
    assert {state["node"] for state in json.loads(states[0].payload)["states"]} == {METER, "000000000002"}


def test_a_thingsboard_gateway_connects_and_disconnects_its_devices() -> None:
    one = rig(family="thingsboard")
    first = one.run(0)
    assert [(each.topic, json.loads(each.payload)["device"]) for each in first] == [
        ("v1/gateway/connect", METER),
        ("v1/gateway/connect", "000000000002"),
    ]
    assert {each.topic for each in one.concentrator.farewell(one.now)} == {"v1/gateway/disconnect"}


def test_what_a_concentrator_hears_of_itself_is_no_command() -> None:
    one = rig(family="thingsboard")
    one.run(0)
    one.send(one.command(Op.READ, id="7"))
    (answer,) = one.run(5)
    one.concentrator.receive(answer.topic, answer.payload, False, one.monotonic, one.now)
    assert one.run(5) == []
    assert not one.concentrator.refused


def test_tasmota_reads_all_sensors_whatever_is_asked_for() -> None:
    one = rig(family="tasmota_sml", meter_names=["MT1", "MT2"])
    one.run(0)
    one.send(one.command(Op.READ, meter="MT1"))
    (answer,) = one.answers()
    assert {each.meter for each in answer.values} == {"MT1", "MT2"}
