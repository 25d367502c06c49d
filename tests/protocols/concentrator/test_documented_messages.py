"""Every message shown in docs/concentrators.md is read as the page says, and written as it shows."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from firmware_contracts.concentrator_contract import load_concentrator
from protocols.concentrator.messages import (
    CommandAnswer,
    MeterData,
    MeterEvent,
    MeterList,
    Op,
    Presence,
    Retained,
    Status,
)
from protocols.dlt645.frame import Frame
from protocols.values import Unit
from tests.protocols.concentrator.support import NAMES, NOW, contract, value

PAGE = (Path(__file__).parents[3] / "docs" / "concentrators.md").read_text(encoding="utf-8")
MESSAGES = [(topic, payload) for topic, payload in re.findall(r"```hes\n(\S+)\n(.*?)\n```", PAGE, re.DOTALL)]
COMMANDS = [(topic, payload) for topic, payload in MESSAGES if topic.endswith("/cmd/req")]
UPLINKS = [(topic, payload) for topic, payload in MESSAGES if not topic.endswith("/cmd/req")]
HES = contract("hes_v1")


def plain(payload: str | bytes) -> Any:
    """With values without their spelling: a documented "230.1" or 321 W is written as 230.1 and 0.321."""
    return json.loads(payload)


def test_the_page_shows_every_kind_of_message_and_every_operation() -> None:
    found = [uplink for topic, payload in UPLINKS for uplink in HES.decode(topic, payload.encode(), now=NOW)]
    assert {type(uplink) for uplink in found} == {Presence, MeterList, MeterData, MeterEvent, CommandAnswer}
    assert {uplink.status for uplink in found if isinstance(uplink, CommandAnswer)} == set(Status.ALL)
    commands = [HES.decode_command(topic, payload.encode(), now=NOW) for topic, payload in COMMANDS]
    assert {command.op for command in commands} == set(Op)


@pytest.mark.parametrize(("topic", "payload"), UPLINKS)
def test_what_concentrators_say_is_read_and_written_as_shown(topic: str, payload: str) -> None:
    (uplink,) = HES.decode(topic, payload.encode(), now=NOW)
    (told,) = HES.encode_uplink(uplink)
    assert told.topic == topic
    assert (told.qos, told.expiry_s) == (1, None)
    assert isinstance(told, Retained) == topic.endswith(("/status", "/meters"))
    if '"unit"' not in payload:
        assert plain(told.payload) == plain(payload)
    assert HES.decode(told.topic, told.payload, now=NOW) == (uplink,)


@pytest.mark.parametrize(("topic", "payload"), COMMANDS)
def test_commands_are_read_and_written_as_shown(topic: str, payload: str) -> None:
    command = HES.decode_command(topic, payload.encode(), now=NOW)
    assert command.meter == "000000000001"
    assert command.expires_at == NOW + timedelta(seconds=15)
    sent = HES.encode_command("C1", command, now=NOW)
    assert (sent.topic, sent.qos, sent.retain, sent.expiry_s) == (topic, 1, False, 15)
    assert plain(sent.payload) == plain(payload)


def test_values_and_qualities_of_the_page() -> None:
    topic = "hes/v1/C1/meter/000000000001/data"
    first, second = (payload for shown, payload in UPLINKS if shown == topic)
    (data,) = HES.decode(topic, first.encode(), now=NOW)
    assert isinstance(data, MeterData)
    assert data.sequence == 7
    assert data.values == (
        value("1-0:1.8.0", "1-0:1.8.0", "123.40", Unit.KWH),
        value("1-0:32.7.0", "1-0:32.7.0", "230.1", Unit.V),
        value("1-0:1.7.0", "1-0:1.7.0", "0.321", Unit.KW),
    )
    (data,) = HES.decode(topic, second.encode(), now=NOW)
    assert isinstance(data, MeterData)
    assert data.values == (
        value("1-0:1.8.0", "1-0:1.8.0", "123.40", Unit.KWH, "clock-invalid"),
        value("1-0:2.8.0", "1-0:2.8.0", None, Unit.KWH, "missing,meter-silent"),
    )


def test_forwarded_frames_of_the_page_are_frames() -> None:
    frames = re.findall(r'"frame": "(\w+)"', PAGE)
    assert [Frame.from_bytes(bytes.fromhex(frame)).control for frame in frames] == [0x11, 0x91]


def test_the_contract_of_the_page_loads(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    text = re.search(r"```toml\n(\[contract\].*?)```", PAGE, re.DOTALL)
    assert text is not None
    site.write_text(text[1])
    codec = load_concentrator(str(site))
    payload = b'{"timestamp":1767578400000,"node":"m7","values":{"u_a":2301,"p_total":321}}'
    (data,) = codec.decode("/neuron/app", payload, now=NOW)
    assert isinstance(data, MeterData)
    assert data.values == (
        value("u_a", "1-0:32.7.0", "230.1", Unit.V),
        value("p_total", "1-0:16.7.0", "0.321", Unit.KW),
    )


def test_every_contract_is_on_the_page_with_what_it_can() -> None:
    for name in NAMES:
        assert f"| `{name}` |" in PAGE
    for section in ("settings", "commands", "marks", "maps", "names"):
        assert f"`[{section}]`" in PAGE
