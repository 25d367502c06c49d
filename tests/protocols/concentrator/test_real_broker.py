"""Our subscription filters against a real broker: mosquitto's own clients bring every message of every family, and no
command of ours comes back but where a family sends both ways on one topic."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.brokers import Broker, mosquitto
from tests.protocols.concentrator.examples import DOWN, UP
from tests.protocols.concentrator.support import NOW, contract

END = ("end-of-test", b"end")
ECHOED = {"thingsboard": ["v1/gateway/rpc"], "neuron": ["/neuron/C1/write/req"]}
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="mosquitto's clients are not installed"),
]


def publish(broker: Broker, topic: str, payload: bytes) -> None:
    subprocess.run(
        ["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-t", topic, "-s"],
        input=payload,
        check=True,
        timeout=20,
    )


def test_every_filter_brings_what_it_is_for_and_commands_reach_the_concentrator(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        for family in UP:
            codec = contract(family)
            concentrator = codec.concentrator or codec.concentrator_of(UP[family][0][0]) or ""
            filters = [*codec.topics_up, END[0]]
            assert concentrator
            up = heard(broker, filters, [*UP[family], *DOWN[family], END])
            echoed = ECHOED.get(family, [])
            assert [topic for topic, _ in up] == [topic for topic, _ in UP[family]] + echoed
            for topic, payload in up[: len(UP[family])]:
                assert codec.decode(topic, payload, now=NOW)
            for topic, payload in up[len(UP[family]) :]:
                assert codec.decode(topic, payload, now=NOW) == ()
            down = heard(broker, [*codec.topics_down(concentrator), END[0]], [*DOWN[family], END])
            assert down == DOWN[family]


def heard(broker: Broker, filters: list[str], messages: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """What a subscriber to `filters` gets of the messages, in order; the last message is the end and is not returned."""
    options = [option for text in filters for option in ("-t", text)]
    since = len(broker.log)
    subscriber = subprocess.Popen(
        ["mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-F", "%t %x", *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        broker.wait_for(f"1 {END[0]}", since=since)  # the last of its filters is in force
        for topic, payload in messages:
            publish(broker, topic, payload)
        assert subscriber.stdout is not None
        found: list[tuple[str, bytes]] = []
        for line in subscriber.stdout:
            topic, _, content = line.rstrip("\n").partition(" ")
            if topic == END[0]:
                return found
            found.append((topic, bytes.fromhex(content)))
        raise AssertionError("the subscriber ended early")
    finally:
        subscriber.kill()
        subscriber.wait()
