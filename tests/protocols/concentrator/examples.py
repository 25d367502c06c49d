"""One right message of each kind and family, as topic and payload; published shapes, see test_published_examples."""

from tests.protocols.concentrator.support import MS

__all__ = ["DOWN", "UP"]

UP = {
    "hes_v1": [
        ("hes/v1/C1/status", b'{"online":true,"ts":1767578400000,"sw":"2.4.1","meters":12}'),
        ("hes/v1/C1/meters", b'[{"address":"000000000001","protocol":"dlt645-2007"}]'),
        ("hes/v1/C1/meter/M1/data", b'{"ts":1767578400000,"seq":7,"values":{"1-0:1.8.0":1.5},"quality":{"x":["late"]}}'),
        ("hes/v1/C1/meter/M1/event", b'{"ts":1767578400000,"event":"relay-opened","detail":{"by":"command"}}'),
        ("hes/v1/C1/cmd/resp", b'{"id":"1","status":"done","detail":{"ts":1767578400000,"values":{"1-0:1.8.0":1}}}'),
    ],
    "neuron": [
        ("/neuron/C1", b'{"timestamp":1650006388943,"node":"m","group":"g","values":{"a":1},"errors":{"b":2014}}'),
        ("/neuron/C1/m/g", b'{"timestamp":1650006388943,"node":"m","tags":[{"name":"a","value":1},{"name":"b","error":1}]}'),
        ("/neuron/C1/state/update", b'{"timestamp":1658134132237,"states":[{"node":"m","link":1,"running":3}]}'),
        ("/neuron/C1/write/resp", b'{"uuid":"cd32","error":0}'),
    ],
    "thingsboard": [
        ("v1/gateway/telemetry", b'{"Meter A":[{"ts":1700000000000,"values":{"U_a":230.1}}],"Meter B":[{"U_a":1}]}'),
        ("v1/gateway/rpc", b'{"device":"Meter A","id":7,"data":{"ok":true}}'),
    ],
    "tasmota_sml": [
        ("tele/C1/SENSOR", b'{"Time":"2026-01-05T10:00:00","MT1":{"Total_in":1234.567,"Power":321}}'),
        ("tele/C1/LWT", b"Online"),
        ("stat/C1/RESULT", b'{"POWER":"ON"}'),
    ],
    "aliyun": [
        ("/sys/p/d/thing/event/property/post", b'{"id":"1","params":{"Ua":{"value":230.1,"time":1700000000000},"Ub":1}}'),
        ("/sys/p/d/thing/event/e/post", b'{"id":"1","params":{"value":{"a":1},"time":1700000000000}}'),
        ("/sys/p/d/thing/service/property/set_reply", b'{"id":"123","code":200,"data":{}}'),
    ],
    "state_grid": [
        (
            "ADC/notify/event/database/ADC/ADC_1",
            b'{"token":"1","timestamp":"2026-01-05T10:00:00.000+0800","body":[{"name":"TotW","val":"1","unit":"W","quality":"0"}]}',
        ),
        ("ADC/action/response/hes/relay", b'{"token":"123","status":"OK"}'),
    ],
}  # fmt: skip
DOWN = {
    "hes_v1": [("hes/v1/C1/cmd/req", b'{"id":"1","meter":"M","op":"forward","params":{"frame":"68"},"ttl_ms":9000,"ts":%d}' % MS)],
    "neuron": [("/neuron/C1/write/req", b'{"uuid":"1","node":"m","group":"grp","tag":"relay","value":0}')],
    "thingsboard": [("v1/gateway/rpc", b'{"device":"M","data":{"id":7,"method":"read","params":{"quantities":["U_a"]}}}')],
    "tasmota_sml": [("cmnd/C1/POWER", b"ON")],
    "aliyun": [("/sys/p/d/thing/service/property/set", b'{"id":"1","version":"1.0","params":{"RelayState":0}}')],
    "state_grid": [
        (
            "hes/get/request/database/realtime",
            b'{"token":"1","timestamp":"2026-01-05T10:00:00.000+0800","body":[{"dev":"A_1","totalcall":"0","body":["TotW"]}]}',
        )
    ],
}  # fmt: skip
