"""The simulated concentrator without a broker: what it has to say, and what it does when told. Time is an argument."""

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from firmware_contracts.concentrator_contract import load_concentrator
from protocols.concentrator.messages import CommandAnswer, MeterData, MeterEvent, Op
from protocols.dlt645 import messages as m
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di
from simulators.concentrator import SimulatedConcentrator
from simulators.concentrator_faults import read_concentrator_plan
from simulators.concentrator_readings import Numbered
from simulators.concentrator_store import UnsentStore
from simulators.load_curve import Quantity
from tests.simulators.concentrator_rig import METER, START, Rig, data, models, rig

HES = load_concentrator("concentrator/hes_v1")


def relay_open(one: Rig) -> bool:
    return one.concentrator.meters[METER].model.relay_open(one.now)


# ---------------------------------------------------------------------------------------------------- what it says


def test_status_and_meters_are_left_at_the_broker_when_it_connects() -> None:
    one = rig()
    status, meters = one.run(0)
    assert (status.topic, status.qos, status.retain) == ("hes/v1/C1/status", 1, True)
    assert json.loads(status.payload)["online"] is True
    assert (meters.topic, meters.retain) == ("hes/v1/C1/meters", True)
    assert METER in meters.payload.decode()
    will = one.concentrator.will
    assert will is not None
    assert (will.topic, will.qos, will.retain) == ("hes/v1/C1/status", 1, True)
    assert json.loads(will.payload) == {"online": False}


def test_readings_come_at_even_moments_with_the_digits_of_the_meter() -> None:
    one = rig(period_s=60)
    found = data(one.told(150))
    assert [each.at for each in found] == [START + timedelta(seconds=s) for s in (30, 30, 90, 90, 150, 150)]
    assert [(each.meter, each.sequence) for each in found[1::2]] == [(found[1].meter, n) for n in (1, 2, 3)]
    first = {value.obis.text: value.amount for value in found[0].values if value.obis}
    meter = one.concentrator.meters[found[0].meter]
    assert first["1-0:1.8.0"] == meter.model.energy(Quantity.FORWARD, 0, START + timedelta(seconds=30))
    assert first["1-0:32.7.0"] == meter.model.instant(START + timedelta(seconds=30)).voltage_v[0]


def test_a_meter_whose_clock_is_wrong_is_read_by_its_own_clock() -> None:
    concentrator = SimulatedConcentrator("C1", HES, models(1, clock_offset_s=20, drift_ppm=0), period_s=60)
    one = Rig(concentrator)
    found = data(one.told(10.5))
    assert [each.at for each in found] == [START + timedelta(seconds=30)]  # it shows the full minute 20 s early


def test_the_clock_fault_moves_the_meters_and_goes_away_again() -> None:
    faults = {"faults": [{"kind": "clock-wrong", "offset_s": 7200, "from": "1m", "until": "3m"}]}
    one = rig(period_s=60, count=1, faults=read_concentrator_plan(faults, START))
    seconds = [(each.at - START).total_seconds() for each in data(one.told(300)) if each.at]
    assert seconds[0] == 30
    assert [second - 7200 for second in seconds if second > 7000] == [90, 150]
    assert seconds[-2:] == [210, 270]
    assert one.concentrator.struck["clock-wrong"] == 1


def test_what_nobody_acknowledged_is_published_again_after_the_connection_was_lost() -> None:
    one = rig(period_s=60, count=1)
    one.run(0)
    one.connected = False
    one.concentrator.lost()
    assert one.run(180) == []
    one.connected = True
    one.concentrator.connected(one.monotonic, one.now)
    (taken,) = one.concentrator.take_output(3, one.monotonic, one.now)[2:]
    one.concentrator.lost()  # before it was acknowledged
    one.concentrator.connected(one.monotonic, one.now)
    found = data(one.told(0))
    assert [each.sequence for each in found] == [1, 2, 3]
    assert taken.message in one.sent


def test_numbered_readings_count_up_without_a_gap_and_go_on_after_a_restart(tmp_path: Path) -> None:
    seen: list[MeterData] = []
    for most in (40, 100):
        store = UnsentStore(tmp_path / "c.db")
        one = rig(numbered=Numbered(rate=100, most=most), store=store)
        seen += data(one.told(1.0))
        assert one.concentrator.is_finished
        store.close()
    assert [each.values[0].amount for each in seen] == [Decimal(number) for number in range(1, 101)]
    times = [(each.meter, each.at) for each in seen]
    assert len(set(times)) == 100


def test_a_full_store_makes_numbered_readings_wait() -> None:
    one = rig(numbered=Numbered(rate=1000), store=UnsentStore(capacity=50))
    one.connected = False
    one.run(1.0)
    assert len(one.concentrator.store) == 50
    assert one.concentrator.store.dropped == 0


def test_a_meter_without_power_is_not_read() -> None:
    faults = {"faults": [{"kind": "power-cut", "meters": [METER]}]}
    one = rig(period_s=60, faults=read_concentrator_plan(faults, START))
    assert {each.meter for each in data(one.told(90))} == {"000000000002"}


# ---------------------------------------------------------------------------------------------------- what it does


def test_open_permit_close_and_close_are_done_when_the_meter_shows_it() -> None:
    one = rig()
    one.run(0)
    one.send(one.command(Op.OPEN, id="1"))
    found = one.told(5)
    assert [(each.id, each.status) for each in found if isinstance(each, CommandAnswer)] == [("1", "done")]
    assert [(each.meter, each.name) for each in found if isinstance(each, MeterEvent)] == [(METER, "relay-opened")]
    assert relay_open(one)
    one.send(one.command(Op.PERMIT_CLOSE, id="2"))
    assert [answer.status for answer in one.answers()] == ["done"]
    assert relay_open(one)  # the customer has not pressed the key
    one.send(one.command(Op.CLOSE, id="3"))
    assert [answer.status for answer in one.answers()] == ["done"]
    assert not relay_open(one)


def test_a_stuck_relay_is_unconfirmed_and_a_protected_supply_refused() -> None:
    faults = {"faults": [{"kind": "stuck-relay", "meters": [METER]}]}
    one = rig(faults=read_concentrator_plan(faults, START))
    one.run(0)
    one.send(one.command(Op.OPEN, id="1"))
    one.concentrator.meters["000000000002"].model.protect(one.now)
    one.send(one.command(Op.OPEN, id="2", meter="000000000002"))
    assert [(answer.id, answer.status, answer.code) for answer in one.answers()] == [
        ("1", "unconfirmed", "relay-differs"),
        ("2", "failed", "refused"),
    ]


def test_read_answers_what_was_asked_and_names_what_the_meter_lacks() -> None:
    one = rig()
    one.run(0)
    one.send(one.command(Op.READ, quantities=["1-0:1.8.0", "1-0:52.7.0", "1-0:99.99.99"]))
    (answer,) = one.answers()
    (told,) = answer.values
    amounts = {value.name: (value.amount is None, value.problem) for value in told.values}
    assert amounts["1-0:1.8.0"] == (False, "")
    assert amounts["1-0:52.7.0"][0]  # a single-phase meter has no phase B
    assert "not-offered" in amounts["1-0:99.99.99"][1]


def test_set_clock_sets_it() -> None:
    one = rig()
    one.run(0)
    wanted = START + timedelta(hours=5)
    one.send(one.command(Op.SET_CLOCK, ts=int(wanted.timestamp() * 1000)))
    assert [answer.status for answer in one.answers(1)] == ["done"]
    shown = one.concentrator.meters[METER].model.clock(one.now)
    assert abs(shown - (wanted + timedelta(hours=8)).replace(tzinfo=None)) < timedelta(seconds=2)


def test_a_forwarded_frame_brings_the_meters_own_reply_frame() -> None:
    one = rig()
    one.run(0)
    request = m.encode(m.ReadRequest(di=Di("00010000")), METER).to_bytes(4)
    one.send(one.command(Op.FORWARD, frame=request.hex(), timeout_ms=2000, baud=2400))
    (answer,) = one.answers()
    assert answer.status == "done"
    reply = m.decode(Frame.from_bytes(bytes.fromhex(answer.detail["frame"])))
    assert isinstance(reply, m.ReadReply)
    expected = one.concentrator.meters[METER].items.read(Di("00010000"), START)
    assert reply.data == b"".join(expected)


def test_a_frame_for_a_meter_that_is_silent_brings_no_reply() -> None:
    one = rig()
    one.run(0)
    request = m.encode(m.ReadRequest(di=Di("00010000")), "000000000099").to_bytes(4)
    one.send(one.command(Op.FORWARD, frame=request.hex(), timeout_ms=500))
    assert [(answer.status, answer.code) for answer in one.answers()] == [("unconfirmed", "silent")]


def test_a_damaged_reply_frame_is_told_as_it_was_heard() -> None:
    faults = {"faults": [{"kind": "bad-checksum"}]}
    one = rig(faults=read_concentrator_plan(faults, START))
    one.run(0)
    request = m.encode(m.ReadRequest(di=Di("00010000")), METER).to_bytes(4)
    one.send(one.command(Op.FORWARD, frame=request.hex(), timeout_ms=1000))
    (answer,) = one.answers()
    assert (answer.status, answer.code) == ("unconfirmed", "corrupt")
    assert "68" in answer.detail["heard"]


@pytest.mark.parametrize(
    ("op", "meter", "code"), [(Op.OPEN, "000000000077", "unknown-meter"), (Op.READ, "x", "unknown-meter")]
)
def test_a_meter_that_is_not_there_is_said(op: Op, meter: str, code: str) -> None:
    one = rig()
    one.run(0)
    one.send(one.command(op, meter=meter))
    assert [(answer.status, answer.code) for answer in one.answers()] == [("failed", code)]


def test_what_a_silent_meter_was_told_is_unconfirmed_and_what_it_was_asked_has_failed() -> None:
    faults = {"faults": [{"kind": "power-cut", "meters": [METER], "until": "1m"}]}
    one = rig(faults=read_concentrator_plan(faults, START))
    assert [each.name for each in one.told(0.1) if isinstance(each, MeterEvent)] == ["power-failed"]
    one.send(one.command(Op.OPEN, id="1"))
    one.send(one.command(Op.READ, id="2"))
    assert [(answer.id, answer.status, answer.code) for answer in one.answers()] == [
        ("1", "unconfirmed", "silent"),
        ("2", "failed", "silent"),
    ]
    assert [each.name for each in one.told(90) if isinstance(each, MeterEvent)] == ["power-restored"]


def test_one_final_answer_for_each_id_however_often_the_command_comes() -> None:
    one = rig()
    one.run(0)
    command = one.command(Op.OPEN)
    one.send(command)
    one.send(command)  # while it works
    first = one.run(5)
    answers = [message for message in first if message.topic.endswith("/cmd/resp")]
    assert len(answers) == 1
    one.send(one.command(Op.CLOSE, id="a-2"))
    one.run(5)
    one.send(command)
    assert one.run(5) == answers  # the same bytes from the cache
    assert not relay_open(one)  # and it was not opened again
    assert one.concentrator.runner.executed == 2
    assert one.concentrator.repeated_commands == 2


def test_another_command_under_a_used_id_is_not_done() -> None:
    one = rig()
    one.run(0)
    one.send(one.command(Op.READ))
    one.run(5)
    one.send(one.command(Op.OPEN))
    assert [(answer.status, answer.code) for answer in one.answers()] == [("failed", "id-reused")]
    assert not relay_open(one)


def test_a_command_begun_before_a_restart_is_unconfirmed_and_not_done_again(tmp_path: Path) -> None:
    store = UnsentStore(tmp_path / "c.db")
    one = rig(store=store)
    one.run(0)
    command = one.command(Op.OPEN)
    one.send(command)
    store.close()  # killed before it was finished
    again = rig(store=UnsentStore(tmp_path / "c.db"))
    again.run(0)
    again.send(command)
    assert [(answer.status, answer.code) for answer in again.answers()] == [("unconfirmed", "restarted")]
    assert again.concentrator.runner.executed == 0
    again.concentrator.store.close()


def test_what_takes_longer_than_two_seconds_is_accepted_first() -> None:
    one = rig("slow-commands=3")
    one.run(0)
    one.send(one.command(Op.CLOSE))
    assert [answer.status for answer in one.answers(1.9)] == []
    assert [answer.status for answer in one.answers(0.2)] == ["accepted"]
    assert [answer.status for answer in one.answers(5)] == ["done"]


def test_an_expired_command_moves_nothing_on_arrival_or_after_waiting() -> None:
    one = rig("slow-commands=10")
    one.run(0)
    late = one.command(Op.OPEN, id="1", ttl_s=5)
    message = HES.encode_command("C1", late, now=one.now)
    one.run(6)
    one.concentrator.receive(message.topic, message.payload, False, one.monotonic, one.now)
    assert [(answer.id, answer.status, answer.code) for answer in one.answers(1)] == [("1", "failed", "expired")]
    one.send(one.command(Op.CLOSE, id="2"))
    one.send(one.command(Op.OPEN, id="3", ttl_s=8))  # stands behind the slow one
    finals = [(answer.id, answer.status) for answer in one.answers(60) if answer.is_final]
    assert finals == [("2", "done"), ("3", "failed")]
    assert not relay_open(one)


def test_a_concentrator_whose_clock_is_ahead_takes_commands_for_expired() -> None:
    one = rig("clock-wrong=3600")
    one.run(0)
    one.send(one.command(Op.OPEN))
    assert [(answer.status, answer.code) for answer in one.answers()] == [("failed", "expired")]


def test_a_retained_command_moves_nothing_and_is_reported() -> None:
    one = rig()
    one.run(0)
    one.send(one.command(Op.OPEN), retained=True)
    found = one.told(10)
    (event,) = found
    assert isinstance(event, MeterEvent)
    assert (event.meter, event.name) == (METER, "retained-command")
    assert "cmd/req" in event.detail["topic"]
    assert not relay_open(one)
    assert one.concentrator.retained_commands == 1
    one.concentrator.receive("hes/v1/C1/cmd/req", b"rubbish", True, one.monotonic, one.now)
    assert [each.name for each in one.told(1)] == ["retained-command"]
    one.concentrator.receive("hes/v1/C1/cmd/req", b"", True, one.monotonic, one.now)
    assert one.told(1) == []  # somebody cleared it


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[]", b'{"id":"1"}', b"[" * 50_000, b'{"op":"explode"}'])
def test_what_is_no_command_is_counted_and_nothing_else(payload: bytes) -> None:
    one = rig()
    one.run(0)
    one.concentrator.receive("hes/v1/C1/cmd/req", payload, False, one.monotonic, one.now)
    assert one.told(5) == []
    assert sum(one.concentrator.refused.values()) == 1


def test_too_many_commands_at_once_are_refused_as_busy() -> None:
    one = rig()
    one.run(0)
    for number in range(100):
        one.send(one.command(Op.READ, id=str(number), ttl_s=10_000))
    answers = one.answers(1000)
    finals = {answer.id: answer.code for answer in answers if answer.is_final}
    assert len(finals) == 100
    assert 20 < list(finals.values()).count("busy") < 60


# ---------------------------------------------------------------------------------------------------- faults of commands


def test_replayed_commands_are_answered_again_and_done_once() -> None:
    one = rig("replayed-commands=1")
    one.run(0)
    one.send(one.command(Op.OPEN))
    answers = one.answers(20)
    assert [answer.status for answer in answers] == ["done", "done"]
    assert one.concentrator.runner.executed == 1
    assert one.concentrator.struck["replayed-commands"] == 1


def test_a_lost_answer_leaves_the_command_done() -> None:
    one = rig("lost-answers=1")
    one.run(0)
    one.send(one.command(Op.OPEN))
    assert one.answers() == []
    assert relay_open(one)
