"""Faults of orders to the relay and of the relay itself, at the meter's end of the wire; and the secure class of the stub."""

from datetime import timedelta
from typing import Any

import pytest

from protocols.dlt645 import messages as m
from protocols.dlt645.control import RelayOrder
from protocols.dlt645.items import Di, decode
from simulators.dlt645_bus import Dlt645Bus
from simulators.faults import BadFaults, Fault, FaultKind, FaultPlan
from simulators.modbus_bus import ModbusBus
from simulators.relay import Relay
from tests.simulators.bench import NOW, meter, relay
from tests.simulators.test_meter_faults import Bench

K = FaultKind
SECOND = timedelta(seconds=1)


def word_3(bench: Bench, at: Any) -> int:
    return int(bench.read("04000503", at)[0], 16)


def test_a_lost_acknowledgement_is_lost_and_the_order_is_done_or_was_not_heard() -> None:
    for obeys in (True, False):
        bench = Bench(Fault(kind=K.LOST_ACKNOWLEDGEMENT, parameters={"obeys": obeys}))
        assert bench.ask(relay(RelayOrder.TRIP)) is None
        assert bench.device.model.relay_open(NOW) is obeys
        assert bench.read("00010000", NOW + 2 * SECOND)  # reads are answered
        assert bench.bus.struck == {"lost-acknowledgement": 1}


def test_after_an_order_a_meter_may_be_silent_for_a_while() -> None:
    bench = Bench(Fault(kind=K.SILENT_AFTER_ORDER, parameters={"for_s": 30.0}))
    assert bench.ask(relay(RelayOrder.TRIP)) is None
    assert bench.ask(m.ReadRequest(di=Di("00010000")), NOW + 20 * SECOND) is None
    assert bench.device.model.relay_open(NOW)
    assert word_3(bench, NOW + 31 * SECOND) == 0x0050


def test_a_slow_contact_shows_the_order_at_once_and_records_the_operation_when_it_has_moved() -> None:
    bench = Bench(Fault(kind=K.SLOW_CONTACT, parameters={"after_s": 10.0}))
    assert bench.ask(relay(RelayOrder.TRIP)) == m.RelayReply()
    assert word_3(bench, NOW + 5 * SECOND) == 0x0040
    assert bench.read("1D000001", NOW + 6 * SECOND) == [0]
    assert bench.read("04000501", NOW + 7 * SECOND) == ["0002"]  # on its way is no malfunction
    assert word_3(bench, NOW + 11 * SECOND) == 0x0050
    assert bench.read("1D000001", NOW + 12 * SECOND) == [1]


def test_an_order_that_is_taken_back_before_a_slow_contact_has_moved_moves_nothing() -> None:
    moved: list[bool] = []
    slow = Relay(lambda at, to_open, operator: moved.append(to_open), press_after_s=None)
    slow.follows_after_s = 10.0
    slow.open(NOW, bytes(4))
    slow.close(NOW + 5 * SECOND, bytes(4))
    assert not slow.is_open(NOW + 60 * SECOND)
    assert not slow.is_contrary
    assert True not in moved


def test_a_protected_meter_refuses_to_open_while_the_fault_is_on() -> None:
    bench = Bench(Fault(kind=K.PROTECTED_METER, until=NOW + 60 * SECOND))
    reply = bench.ask(relay(RelayOrder.TRIP))
    assert isinstance(reply, m.Refused)
    assert word_3(bench, NOW + 5 * SECOND) == 0x1000
    assert bench.ask(relay(RelayOrder.TRIP), NOW + 61 * SECOND) == m.RelayReply()


def test_only_one_operator_is_obeyed() -> None:
    bench = Bench(Fault(kind=K.WRONG_OPERATOR, parameters={"code": "0A0B0C0D"}))
    reply = bench.ask(relay(RelayOrder.TRIP))
    assert isinstance(reply, m.Refused)
    assert reply.word == 0x04
    own = m.RelayRequest(
        password=m.Password(4, bytes(3)),
        operator=bytes.fromhex("0A0B0C0D"),
        order=RelayOrder.TRIP,
        expires="991231235959",
    )
    assert bench.ask(own, NOW + 5 * SECOND) == m.RelayReply()


def test_a_customer_presses_the_button_some_time_after_the_permission() -> None:
    bench = Bench(Fault(kind=K.CUSTOMERS_BUTTON, parameters={"after_s": 30.0}))
    bench.ask(relay(RelayOrder.TRIP))
    bench.ask(relay(RelayOrder.PERMIT_CLOSE), NOW + 5 * SECOND)
    assert word_3(bench, NOW + 20 * SECOND) == 0x0010
    assert word_3(bench, NOW + 40 * SECOND) == 0x0000


def test_a_swapped_meter_has_a_number_of_its_own() -> None:
    bench = Bench()
    own = bench.read("04000402")
    bench.bus.faults = FaultPlan(seed=1, faults=(Fault(kind=K.METER_SWAP, parameters={"seed": 7}),))
    assert bench.read("04000401", NOW + 2 * SECOND) == own
    assert bench.read("04000402", NOW + 4 * SECOND) == ["900000000007"]
    reply = bench.ask(m.ReadRequest(di=Di("04000403")), NOW + 6 * SECOND)
    assert isinstance(reply, m.ReadReply)
    [asset] = decode(reply.data, bench.device.contract.find(Di("04000403")))
    assert str(asset.content).strip() == "SIM-900000000007"


def test_an_operator_that_is_no_code_is_no_fault() -> None:
    with pytest.raises(BadFaults, match="8 hex digits"):
        Dlt645Bus([meter()], faults=FaultPlan(faults=(Fault(kind=K.WRONG_OPERATOR, parameters={"code": "x"}),)))


@pytest.mark.parametrize("kind", [K.WRONG_OPERATOR, K.CUSTOMERS_BUTTON])
def test_what_modbus_has_no_word_for_cannot_go_wrong_there(kind: FaultKind) -> None:
    with pytest.raises(BadFaults, match="cannot happen here"):
        ModbusBus([], faults=FaultPlan(faults=(Fault(kind=kind),)))
