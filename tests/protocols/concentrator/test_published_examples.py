"""Messages as each family's documents show them, bytes on one side and values on the other.

Origins: hes/v1: docs/concentrators.md. Neuron: documentation 2.3 to 2.7, MQTT API. ThingsBoard, Aliyun, Tasmota, State
Grid: mqtt_conventions fact sheet, sections 4, 7, 8, 10 (the values of State Grid are those of the sheet, with a time).
"""

from datetime import UTC, datetime
from pathlib import Path

from firmware_contracts.concentrator_contract import load_concentrator
from protocols.concentrator.messages import (
    CommandAnswer,
    ListedMeter,
    MeterData,
    MeterEvent,
    MeterList,
    Op,
    Outgoing,
    Presence,
)
from protocols.values import Unit
from tests.protocols.concentrator.support import NOW, contract, value


def test_hes_v1_values_are_numbers_texts_and_objects_with_units() -> None:
    payload = (
        b'{"ts":1767578400000,"seq":7,"values":{"1-0:1.8.0":123.40,"1-0:32.7.0":"230.1",'
        b'"1-0:1.7.0":{"value":321,"unit":"W"}},"quality":{"1-0:1.8.0":["measured"],"1-0:32.7.0":["suspect","late"],'
        b'"1-0:2.8.0":["missing"]}}'
    )
    assert contract("hes_v1").decode("hes/v1/C1/meter/000000000001/data", payload, now=NOW) == (
        MeterData(
            concentrator="C1",
            meter="000000000001",
            at=NOW,
            sequence=7,
            values=(
                value("1-0:1.8.0", "1-0:1.8.0", "123.40", Unit.KWH),
                value("1-0:32.7.0", "1-0:32.7.0", "230.1", Unit.V, "suspect,late"),
                value("1-0:1.7.0", "1-0:1.7.0", "0.321", Unit.KW),
                value("1-0:2.8.0", "1-0:2.8.0", None, Unit.KWH, "missing"),
            ),
        ),
    )


def test_neuron_values_format(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        '[contract]\nprotocol = "mqtt"\nextends = "concentrator/neuron"\n\n[names]\n'
        'tag0 = { obis = "1-0:1.8.0", unit = "Wh", scale = 100, source = "test" }\n'
        'tag1 = { obis = "1-0:32.7.0", unit = "V", source = "test" }\n'
    )
    payload = b'{"timestamp":1650006388943,"node":"modbus1","group":"grp","values":{"tag0":123},"errors":{"tag1":2014},"metas":{}}'
    expected = MeterData(
        concentrator="mqtt",
        meter="modbus1",
        at=datetime(2022, 4, 15, 7, 6, 28, 943000, tzinfo=UTC),
        values=(
            value("tag0", "1-0:1.8.0", "12.300", Unit.KWH),
            value("tag1", "1-0:32.7.0", None, Unit.V, "error 2014"),
        ),
    )
    codec = load_concentrator(str(site))
    assert codec.decode("/neuron/mqtt", payload, now=NOW) == (expected,)
    assert codec.decode("/neuron/mqtt/upload", payload, now=NOW) == (expected,)
    assert codec.decode("/neuron/mqtt/modbus1/grp", payload, now=NOW) == (expected,)


def test_neuron_tags_format_and_its_answers() -> None:
    codec = contract("neuron")
    upload = (
        b'{"node":"modbus","group":"grp","timestamp":1647497389075,"tags":[{"name":"tag0","value":123},'
        b'{"name":"tag1","error":2014}]}'
    )
    (found,) = codec.decode("/neuron/mqtt", upload, now=NOW)
    values = (
        value("tag0", None, "123", Unit.NONE, "unit unknown"),
        value("tag1", None, None, Unit.NONE, "error 2014"),
    )
    at = datetime(2022, 3, 17, 6, 9, 49, 75000, tzinfo=UTC)
    assert found == MeterData(concentrator="mqtt", meter="modbus", at=at, values=values)
    uuid = "bca54fe7-a2b1-43e2-a4b4-1da715d28eab"
    answer = f'{{"uuid":"{uuid}","tags":[{{"name":"tag0","value":123}},{{"name":"tag1","error":2014}}]}}'.encode()
    assert codec.decode("/neuron/mqtt/read/resp", answer, now=NOW) == (
        CommandAnswer(
            concentrator="mqtt",
            id=uuid,
            status="done",
            op=Op.READ,
            values=(MeterData(concentrator="mqtt", meter="", at=None, values=values),),
        ),
    )
    (written,) = codec.decode("/neuron/mqtt/write/resp", b'{"uuid":"cd32","error":0}', now=NOW)
    assert written == CommandAnswer(concentrator="mqtt", id="cd32", status="done", code="0")
    (failed,) = codec.decode("/neuron/mqtt/write/resp", b'{"uuid":"cd32","error":2014}', now=NOW)
    assert failed == CommandAnswer(concentrator="mqtt", id="cd32", status="failed", code="2014")


def test_neuron_states_say_that_the_app_and_its_nodes_are_there() -> None:
    payload = b'{"timestamp":1658134132237,"states":[{"node":"modbus","link":1,"running":3},{"node":"m2","link":0}]}'
    assert contract("neuron").decode("/neuron/mqtt/state/update", payload, now=NOW) == (
        Presence(concentrator="mqtt", online=True, at=datetime(2022, 7, 18, 8, 48, 52, 237000, tzinfo=UTC)),
        MeterList("mqtt", (ListedMeter(address="modbus", reachable=True), ListedMeter(address="m2", reachable=False))),
    )


def test_thingsboard_telemetry_of_several_meters() -> None:
    payload = b'{"Meter A":[{"ts":1700000000000,"values":{"U_a":230.1}}],"Meter B":[{"1-0:1.8.0":7.50}]}'
    at = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert contract("thingsboard", concentrator="C1").decode("v1/gateway/telemetry", payload, now=NOW) == (
        MeterData(concentrator="C1", meter="Meter A", at=at, values=(value("U_a", "1-0:32.7.0", "230.1", Unit.V),)),
        MeterData(
            concentrator="C1", meter="Meter B", at=None, values=(value("1-0:1.8.0", "1-0:1.8.0", "7.50", Unit.KWH),)
        ),
    )


def test_thingsboard_rpc_and_presence_of_meters() -> None:
    codec = contract("thingsboard")
    answer = b'{"device":"Meter A","id":7,"data":{"ok":true}}'
    expected = CommandAnswer(concentrator="thingsboard", id="7", status="done", meter="Meter A")
    assert codec.decode("v1/gateway/rpc", answer, now=NOW) == (expected,)
    assert codec.decode("v1/gateway/rpc", answer.replace(b"ok", b"success"), now=NOW) == (expected,)
    down = b'{"device":"Meter A","data":{"id":7,"method":"open","params":{}}}'
    assert codec.decode("v1/gateway/rpc", down, now=NOW) == ()  # our own: both directions share the topic
    assert codec.decode("v1/gateway/connect", b'{"device":"Meter A"}', now=NOW) == (
        MeterEvent(concentrator="thingsboard", meter="Meter A", at=None, name="connected", detail={}),
    )


def test_tasmota_sensor_in_local_time_without_zone() -> None:
    codec = contract("tasmota_sml")
    payload = (
        b'{"Time":"2026-01-05T10:00:00","MT1":{"Total_in":1234.567,"Power":321,"Meter_id":"0a014c"},"TempUnit":"C"}'
    )
    assert codec.decode("tele/house7/SENSOR", payload, now=NOW) == (
        MeterData(
            concentrator="house7",
            meter="MT1",
            at=NOW,
            values=(
                value("Total_in", "1-0:1.8.0", "1234.567", Unit.KWH),
                value("Power", "1-0:16.7.0", "0.321", Unit.KW),
                value("Meter_id", None, None, Unit.NONE, "not a number: 0a014c"),
            ),
        ),
    )


def test_tasmota_presence_and_results() -> None:
    codec = contract("tasmota_sml")
    assert codec.decode("tele/house7/LWT", b"Online", now=NOW) == (Presence(concentrator="house7", online=True),)
    assert codec.decode("tele/house7/LWT", b"Offline", now=NOW) == (Presence(concentrator="house7", online=False),)
    assert codec.decode("stat/house7/RESULT", b'{"POWER":"OFF"}', now=NOW) == (
        CommandAnswer(concentrator="house7", id="", status="done", op=Op.OPEN, meter="MT1"),
    )
    assert codec.decode("stat/house7/RESULT", b'{"TelePeriod":300}', now=NOW) == ()  # of somebody else's command


def test_aliyun_property_post_is_acknowledged() -> None:
    codec = contract("aliyun")
    topic = "/sys/a1Pk/meter-7/thing/event/property/post"
    payload = (
        b'{"id":"123","version":"1.0","params":{"Ua":{"value":230.1,"time":1700000000000},"Ub":229.80},'
        b'"method":"thing.event.property.post"}'
    )
    assert codec.decode(topic, payload, now=NOW) == (
        MeterData(
            concentrator="a1Pk",
            meter="meter-7",
            at=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
            values=(value("Ua", "1-0:32.7.0", "230.1", Unit.V),),
        ),
        MeterData(concentrator="a1Pk", meter="meter-7", at=None, values=(value("Ub", "1-0:52.7.0", "229.80", Unit.V),)),
    )
    assert codec.acknowledgements(topic, payload, now=NOW) == (
        Outgoing(
            topic=topic + "_reply",
            payload=b'{"id":"123","code":200,"data":{},"method":"thing.event.property.post"}',
            qos=1,
        ),
    )


def test_aliyun_event_post_is_acknowledged() -> None:
    codec = contract("aliyun")
    topic = "/sys/a1Pk/meter-7/thing/event/cover_opened/post"
    payload = (
        b'{"id":"5","version":"1.0","params":{"value":{"side":"front"},"time":1767578400000},'
        b'"method":"thing.event.cover_opened.post"}'
    )
    assert codec.decode(topic, payload, now=NOW) == (
        MeterEvent(concentrator="a1Pk", meter="meter-7", at=NOW, name="cover_opened", detail={"side": "front"}),
    )
    (reply,) = codec.acknowledgements(topic, payload, now=NOW)
    assert reply.topic == topic + "_reply"
    assert reply.payload == b'{"id":"5","code":200,"data":{},"method":"thing.event.cover_opened.post"}'
    (answer,) = codec.decode(
        "/sys/a1Pk/meter-7/thing/service/property/set_reply",
        b'{"id":"123","code":200,"data":{},"method":"thing.service.property.set"}',
        now=NOW,
    )
    assert answer == CommandAnswer(concentrator="a1Pk", id="123", status="done", code="200", detail={}, meter="meter-7")


def test_state_grid_notification_has_texts_quality_and_a_zone_in_its_times() -> None:
    codec = contract("state_grid", prefix="huawei/{concentrator}/", concentrator="")
    payload = (
        b'{"token":"123","timestamp":"2026-01-05T10:00:00.000+0800","body":['
        b'{"name":"PhV_phsA","val":"230.1","unit":"","quality":"0","timestamp":""},'
        b'{"name":"A_phsA","val":"1.50","unit":"","quality":"1","timestamp":"2026-01-05T10:00:00.000+0800"},'
        b'{"name":"TotW","val":"321","unit":"W","quality":"0","timestamp":""},'
        b'{"name":"SupWh","val":"77.1","unit":"","quality":"0","timestamp":""}]}'
    )
    topic = "huawei/0001/DaqoJc/notify/event/database/ADC/ADC_6536107f849fb0a4"
    assert codec.decode(topic, payload, now=NOW) == (
        MeterData(
            concentrator="0001",
            meter="ADC_6536107f849fb0a4",
            at=NOW,
            values=(
                value("PhV_phsA", "1-0:32.7.0", "230.1", Unit.V),
                value("A_phsA", "1-0:31.7.0", "1.50", Unit.A, "quality 1"),
                value("TotW", "1-0:16.7.0", "0.321", Unit.KW),
                value("SupWh", "1-0:1.8.0", "77.1", Unit.NONE, "unit unknown"),
            ),
        ),
    )


def test_state_grid_realtime_answer() -> None:
    payload = (
        b'{"token":"123","timestamp":"2026-01-05T10:00:01.000+0800","body":[{"dev":"ADC_65","body":['
        b'{"name":"PhV_phsA","val":"230.1","quality":"0","timestamp":"2026-01-05T10:00:00.000+0800"}]}]}'
    )
    (answer,) = contract("state_grid").decode("database/get/response/hes/realtime", payload, now=NOW)
    assert isinstance(answer, CommandAnswer)
    assert (answer.id, answer.status, answer.meter, answer.op) == ("123", "done", "ADC_65", Op.READ)
    assert answer.at == datetime(2026, 1, 5, 2, 0, 1, tzinfo=UTC)
    assert answer.values == (
        MeterData(
            concentrator="terminal",
            meter="ADC_65",
            at=NOW,
            values=(value("PhV_phsA", "1-0:32.7.0", "230.1", Unit.V),),
        ),
    )
