"""Commands and answers of each family, both directions: the bytes literal on one side, the values on the other."""

import json
from datetime import timedelta
from typing import Any

import pytest

from protocols.concentrator.messages import Command, CommandAnswer, MeterData, Op, Outgoing, Retained, Status
from protocols.errors import BadEnvelope, EncodeError, Expired, NotOffered
from protocols.values import Unit
from tests.protocols.concentrator.support import MS, NAMES, NOW, contract, value

ID = "42"
METERS = {"tasmota_sml": "MT1"}
CONCENTRATORS = {"thingsboard": "thingsboard", "state_grid": "terminal"}
READ = {"quantities": ["1-0:1.8.0", "1-0:32.7.0"]}
CLOCK = {"ts": MS}
FRAME = {"frame": "68AA", "timeout_ms": 3000}
STAMP = "2026-01-05T10:00:00.000+0800"
SET = {"id": ID, "version": "1.0", "method": "thing.service.property.set"}
SERVICE = {"id": ID, "version": "1.0"}

# What the wire carries, by family and operation: topic and payload, with id 42, for meter M1 of concentrator C1.
WIRE: dict[str, dict[Op, tuple[str, Any]]] = {
    "hes_v1": {
        op: (
            "hes/v1/C1/cmd/req",
            {"id": ID, "meter": "M1", "op": word, "params": params, "ttl_ms": 15000, "ts": MS},
        )
        for op, word, params in (
            (Op.OPEN, "open", {}),
            (Op.PERMIT_CLOSE, "permit-close", {}),
            (Op.CLOSE, "close", {}),
            (Op.READ, "read", READ),
            (Op.SET_CLOCK, "set_clock", CLOCK),
            (Op.FORWARD, "forward", FRAME),
        )
    },
    "neuron": {
        Op.OPEN: (
            "/neuron/C1/write/req",
            {"uuid": ID, "node": "M1", "group": "grp", "tag": "relay", "value": 0},
        ),
        Op.CLOSE: (
            "/neuron/C1/write/req",
            {"uuid": ID, "node": "M1", "group": "grp", "tag": "relay", "value": 1},
        ),
        Op.READ: ("/neuron/C1/read/req", {"uuid": ID, "node": "M1", "group": "grp"}),
    },
    "thingsboard": {
        op: ("v1/gateway/rpc", {"device": "M1", "data": {"id": 42, "method": op.value, "params": params}})
        for op, params in (
            (Op.OPEN, {}),
            (Op.PERMIT_CLOSE, {}),
            (Op.CLOSE, {}),
            (Op.READ, READ),
            (Op.SET_CLOCK, CLOCK),
            (Op.FORWARD, FRAME),
        )
    },
    "tasmota_sml": {
        Op.OPEN: ("cmnd/C1/POWER", b"OFF"),
        Op.CLOSE: ("cmnd/C1/POWER", b"ON"),
        Op.READ: ("cmnd/C1/STATUS", b"10"),
    },
    "aliyun": {
        Op.OPEN: ("/sys/C1/M1/thing/service/property/set", SET | {"params": {"RelayState": 0}}),
        Op.CLOSE: ("/sys/C1/M1/thing/service/property/set", SET | {"params": {"RelayState": 1}}),
    }
    | {
        op: (
            f"/sys/C1/M1/thing/service/{word}",
            SERVICE | {"params": params, "method": f"thing.service.{word}"},
        )
        for op, word, params in (
            (Op.PERMIT_CLOSE, "permit_close", {}),
            (Op.READ, "read", READ),
            (Op.SET_CLOCK, "set_clock", CLOCK),
            (Op.FORWARD, "forward", FRAME),
        )
    },
    "state_grid": {
        Op.OPEN: (
            "hes/action/request/ADC/relay",
            {"token": ID, "timestamp": STAMP, "body": [{"dev": "M1", "name": "relay", "val": "0"}]},
        ),
        Op.CLOSE: (
            "hes/action/request/ADC/relay",
            {"token": ID, "timestamp": STAMP, "body": [{"dev": "M1", "name": "relay", "val": "1"}]},
        ),
        Op.READ: (
            "hes/get/request/database/realtime",
            {
                "token": ID,
                "timestamp": STAMP,
                "body": [{"dev": "M1", "totalcall": "0", "body": ["SupWh", "PhV_phsA"]}],
            },
        ),
    },
}
CASES = [(family, op) for family, wires in WIRE.items() for op in wires]
# Answers that say "done" and "failed" with nothing else to tell, as the wire carries them.
ANSWERS: dict[str, tuple[str, Any, Any]] = {
    "hes_v1": ("hes/v1/C1/cmd/resp", {"id": ID, "status": "done"}, {"id": ID, "status": "failed", "code": "12"}),
    "neuron": ("/neuron/C1/write/resp", {"uuid": ID, "error": 0}, {"uuid": ID, "error": 12}),
    "thingsboard": (
        "v1/gateway/rpc",
        {"device": "M1", "id": 42, "data": {"ok": True}},
        {"device": "M1", "id": 42, "data": {"ok": False, "error": "12"}},
    ),
    "tasmota_sml": ("stat/C1/RESULT", {"POWER": "OFF"}, {"Command": "12"}),
    "aliyun": (
        "/sys/C1/M1/thing/service/property/set_reply",
        {"id": ID, "code": 200},
        {"id": ID, "code": 12},
    ),
    "state_grid": (
        "ADC/action/response/hes/relay",
        {"token": ID, "status": "OK"},
        {"token": ID, "status": "FAILURE", "reason": "12"},
    ),
}


def command(family: str, op: Op, **given: Any) -> Command:
    params: dict[Op, dict[str, Any]] = {Op.READ: READ, Op.SET_CLOCK: CLOCK, Op.FORWARD: FRAME}
    fields: dict[str, Any] = {"id": ID, "meter": METERS.get(family, "M1"), "op": op, "params": params.get(op, {})}
    return Command(**fields | {"expires_at": NOW + timedelta(seconds=15)} | given)


def concentrator_of(family: str) -> str:
    return CONCENTRATORS.get(family, "C1")


@pytest.mark.parametrize(("family", "op"), CASES)
def test_command_on_the_wire(family: str, op: Op) -> None:
    codec = contract(family)
    topic, payload = WIRE[family][op]
    sent = codec.encode_command(concentrator_of(family), command(family, op), now=NOW)
    assert (sent.topic, sent.qos, sent.retain, sent.expiry_s) == (topic, 1, False, 15)
    if isinstance(payload, bytes):
        assert sent.payload == payload
    else:
        assert json.loads(sent.payload) == payload


@pytest.mark.parametrize(("family", "op"), CASES)
def test_command_from_the_wire(family: str, op: Op) -> None:
    codec = contract(family)
    topic, payload = WIRE[family][op]
    wire = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    got = codec.decode_command(topic, wire, now=NOW)
    assert got.op is op
    assert got.expires_at == NOW + timedelta(seconds=codec.rules.ttl_s)
    assert codec.concentrator_of(topic) == concentrator_of(family)
    expected = command(family, op)
    if family != "tasmota_sml":
        assert (got.id, got.meter) == (ID, "M1")
        if not (family == "neuron" and op is Op.READ):  # a group is read as a whole
            assert got.params == expected.params
    assert codec.decode(topic, wire, now=NOW) == () if topic == "v1/gateway/rpc" else True


@pytest.mark.parametrize("family", list(WIRE))
def test_answers_on_the_wire_both_directions(family: str) -> None:
    codec = contract(family)
    topic, done, failed = ANSWERS[family]
    asked = command(family, Op.OPEN)
    for status, code, wire in ((Status.DONE, "", done), (Status.FAILED, "12", failed)):
        (told,) = codec.encode_uplink(CommandAnswer.to(concentrator_of(family), asked, status, code=code))
        assert (told.topic, json.loads(told.payload), told.retain) == (topic, wire, False)
        (answer,) = codec.decode(topic, json.dumps(wire).encode(), now=NOW)
        assert isinstance(answer, CommandAnswer)
        assert answer.status == status
        assert answer.is_final
        assert codec.is_answer(asked, answer)
        assert code in ("", answer.code)


@pytest.mark.parametrize("family", list(WIRE))
def test_a_command_read_by_the_concentrator_and_answered_comes_back_to_the_command(family: str) -> None:
    """With an id that not every family can carry."""
    codec = contract(family)
    concentrator = concentrator_of(family)
    for op in WIRE[family]:
        asked = command(family, op, id="5d4b1c0e-3a8e-4a5e-9f0e-1f2d3c4b5a69")
        sent = codec.encode_command(concentrator, asked, now=NOW)
        heard = codec.decode_command(sent.topic, sent.payload, now=NOW)
        assert heard.id == codec.answer_id(asked)
        data = MeterData(
            concentrator=concentrator,
            meter=asked.meter,
            at=NOW,
            values=(value("1-0:1.8.0", "1-0:1.8.0", "123.40", Unit.KWH),),
        )
        values = (data,) if op is Op.READ else ()
        (told,) = codec.encode_uplink(CommandAnswer.to(concentrator, heard, Status.DONE, values=values))
        (answer,) = codec.decode(told.topic, told.payload, now=NOW)
        assert isinstance(answer, CommandAnswer)
        assert codec.is_answer(asked, answer)
        assert [(one.obis, one.amount, one.unit) for each in answer.values for one in each.values] == [
            (one.obis, one.amount, one.unit) for each in values for one in each.values
        ]
        other = command(family, Op.CLOSE if op is not Op.CLOSE else Op.OPEN, id="another")
        assert not codec.is_answer(other, answer)


@pytest.mark.parametrize("family", [family.removeprefix("concentrator/") for family in NAMES])
def test_what_a_family_has_no_message_for_is_refused_by_name(family: str) -> None:
    codec = contract(family)
    assert set(WIRE[family]) == codec.offers
    for op in set(Op) - codec.offers:
        with pytest.raises(NotOffered, match=op.value):
            codec.encode_command(concentrator_of(family), command(family, op), now=NOW)


@pytest.mark.parametrize("family", ["neuron", "thingsboard", "tasmota_sml", "aliyun", "state_grid"])
@pytest.mark.parametrize("status", [Status.ACCEPTED, Status.UNCONFIRMED])
def test_what_a_family_cannot_answer_is_not_said_as_something_else(family: str, status: str) -> None:
    codec = contract(family)
    answer = CommandAnswer.to(concentrator_of(family), command(family, Op.OPEN), status, code="12")
    assert codec.encode_uplink(answer) == ()


def test_the_id_of_an_answer_is_a_number_where_the_family_wants_one() -> None:
    asked = command("thingsboard", Op.OPEN, id="5d4b1c0e-3a8e-4a5e-9f0e-1f2d3c4b5a69")
    assert contract("hes_v1").answer_id(asked) == asked.id
    assert 0 <= int(contract("thingsboard").answer_id(asked)) < 2**31
    assert 0 <= int(contract("aliyun").answer_id(asked)) < 2**32
    assert contract("tasmota_sml").answer_id(asked) == ""
    assert contract("tasmota_sml").one_at_a_time
    for plain in ("0", "7", "2147483647"):
        assert contract("thingsboard").answer_id(command("thingsboard", Op.OPEN, id=plain)) == plain
    for odd in ("007", "٣", "4294967296"):
        assert contract("aliyun").answer_id(command("aliyun", Op.OPEN, id=odd)) != odd


def test_an_expired_command_is_neither_sent_nor_carried_out() -> None:
    codec = contract("hes_v1")
    late = NOW + timedelta(seconds=15)
    sent = codec.encode_command("C1", command("hes_v1", Op.OPEN), now=NOW)
    assert codec.decode_command(sent.topic, sent.payload, now=late - timedelta(milliseconds=1)).op is Op.OPEN
    with pytest.raises(Expired) as caught:
        codec.decode_command(sent.topic, sent.payload, now=late)
    assert caught.value.command.id == ID
    assert caught.value.fault == "expired"
    with pytest.raises(EncodeError, match="expired"):
        codec.encode_command("C1", command("hes_v1", Op.OPEN), now=late)


def test_without_the_time_of_sending_a_command_is_dated_back_from_its_expiry() -> None:
    codec = contract("hes_v1")
    sent = codec.encode_command("C1", command("hes_v1", Op.OPEN, expires_at=NOW + timedelta(seconds=60)))
    told = json.loads(sent.payload)
    assert told["ts"] + told["ttl_ms"] == MS + 60_000
    assert told["ttl_ms"] == 15_000


def test_the_expiry_of_the_message_never_outlives_the_command() -> None:
    codec = contract("hes_v1")
    for milliseconds, expected in ((900, 1), (1000, 1), (1999, 1), (2000, 2), (15_000, 15)):
        expires_at = NOW + timedelta(milliseconds=milliseconds)
        sent = codec.encode_command("C1", command("hes_v1", Op.OPEN, expires_at=expires_at), now=NOW)
        assert sent.expiry_s == expected
        assert json.loads(sent.payload)["ttl_ms"] == milliseconds


def test_a_command_for_another_concentrator_than_the_topics_speak_for_is_not_sent() -> None:
    with pytest.raises(EncodeError, match="prefix"):
        contract("thingsboard").encode_command("C2", command("thingsboard", Op.OPEN), now=NOW)
    codec = contract("thingsboard", prefix="{concentrator}/", concentrator="")
    assert codec.encode_command("C2", command("thingsboard", Op.OPEN), now=NOW).topic == "C2/v1/gateway/rpc"
    assert codec.topics_up[0] == "+/v1/gateway/telemetry"
    assert codec.topics_down("C2") == ("C2/v1/gateway/rpc",)


def test_tasmota_switches_only_the_meter_whose_relay_it_is() -> None:
    with pytest.raises(EncodeError, match="meter MT1"):
        contract("tasmota_sml").encode_command("C1", command("tasmota_sml", Op.OPEN, meter="MT2"), now=NOW)
    codec = contract("tasmota_sml", settings={"relay_meter": "MT2"})
    assert codec.encode_command("C1", command("tasmota_sml", Op.OPEN, meter="MT2"), now=NOW).payload == b"OFF"


@pytest.mark.parametrize("name", ["C1/x", "+", "#", "C1/+", "a#", "", "a\x00b", "x" * 129, "\ud800"])
def test_no_name_reaches_another_topic(name: str) -> None:
    for family in ("hes_v1", "aliyun", "neuron"):
        codec = contract(family)
        with pytest.raises(EncodeError):
            codec.encode_command(name, command(family, Op.OPEN), now=NOW)
        with pytest.raises(EncodeError):
            codec.topics_down(name)
    with pytest.raises(EncodeError):
        contract("aliyun").encode_command("C1", command("aliyun", Op.OPEN, meter=name), now=NOW)


@pytest.mark.parametrize(
    ("op", "params"),
    [
        ("read", {"quantities": "1-0:1.8.0"}),
        ("read", {"quantities": [1]}),
        ("read", {"quantities": ["x"] * 2001}),
        ("set_clock", {}),
        ("set_clock", {"ts": "1767578400000"}),
        ("set_clock", {"ts": 1}),
        ("forward", {}),
        ("forward", {"frame": "6"}),
        ("forward", {"frame": "zz"}),
        ("forward", {"frame": "00" * 1025}),
        ("forward", {"frame": "68", "timeout_ms": 10**9}),
        ("forward", {"frame": "68", "baud": True}),
        ("open", []),
        ("trip", {}),
    ],
)
def test_parameters_that_cannot_be_are_refused_on_arrival(op: str, params: Any) -> None:
    told = {"id": "1", "meter": "M1", "op": op, "params": params, "ttl_ms": 15000, "ts": MS}
    with pytest.raises(BadEnvelope):
        contract("hes_v1").decode_command("hes/v1/C1/cmd/req", json.dumps(told).encode(), now=NOW)
    if op != "trip" and isinstance(params, dict):
        with pytest.raises(EncodeError):
            contract("hes_v1").encode_command("C1", command("hes_v1", Op(op), params=params), now=NOW)


@pytest.mark.parametrize("ttl_ms", [0, -1, 10**12, 1.5, None])
def test_a_command_without_a_sensible_time_to_live_is_refused(ttl_ms: Any) -> None:
    told = {"id": "1", "meter": "M1", "op": "open", "ttl_ms": ttl_ms, "ts": MS}
    with pytest.raises(BadEnvelope):
        contract("hes_v1").decode_command("hes/v1/C1/cmd/req", json.dumps(told).encode(), now=NOW)


def test_nothing_that_is_sent_down_can_be_retained() -> None:
    assert Outgoing(topic="t", payload=b"", qos=1).retain is False
    assert Retained(topic="t", payload=b"", qos=1).retain is True
    with pytest.raises(TypeError):
        Outgoing(topic="t", payload=b"", qos=1, retain=True)  # type: ignore[call-arg]
    for family, op in CASES:
        sent = contract(family).encode_command(concentrator_of(family), command(family, op), now=NOW)
        assert type(sent) is Outgoing
