"""Mutated topics and payloads of every family: BadEnvelope (of commands: Expired, too) and nothing else, each in bounded
time. A tenth of `--mutations N`, both directions."""

import copy
import json
import random
import time
from typing import Any

import pytest

from protocols.concentrator.codec import ConcentratorContract
from protocols.errors import BadEnvelope, Expired
from tests.protocols.concentrator.examples import DOWN, UP
from tests.protocols.concentrator.support import MS, NOW, contract

SECONDS_MAX = 0.25  # for one message of at most some kilobytes, on a busy machine
PIECES = [
    b"NaN", b"-Infinity", b"1e999", b"9" * 40, b"null", b"true", b"[]", b"{}", b'""', b'"\\ud800"', b'"\\u0000"', b"\xff",
    b"[" * 40, b"]" * 40, b'{"a":' * 20, b"-", b".", b"e", b",", b":", b'"', b"\x00", b"\xc0\xaf", b"0", b"1.0", b"-1", b"\\",
    b'{"value":1,"unit":"W"}', b'{"value":1,"unit":"furlong"}', b"1767578400000", b'"2026-01-05T10:00:00"', b'"+"',
]  # fmt: skip
TOPIC_PIECES = ["/", "+", "#", "", "//", "\x00", "é", "\ud800", "x" * 300, "a/" * 20, "cmd", "req", "{meter}", ".", "$"]


def mutated(chance: random.Random, payload: bytes) -> bytes:
    wire = bytearray(payload)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(wire) + 1)
        match chance.randrange(5):
            case 0 if wire:
                wire[at % len(wire)] = chance.randrange(256)
            case 1:
                del wire[at : at + chance.randrange(1, 9)]
            case 2:
                wire[at:at] = chance.choice(PIECES)
            case 3:
                wire[at : at + chance.randrange(1, 20)] = chance.choice(PIECES)
            case _:
                wire[at:at] = wire[chance.randrange(len(wire) + 1) :][: chance.randrange(200)]
    return bytes(wire)


THINGS: list[Any] = [
    None, True, 0, -1, 1, 2**31, 10**29, 10**30, MS, str(MS), 1.5, 1e300, "", "1", "NaN", "x" * 200, "a\x00", "1-0:1.8.0", "ON",
    "2026-01-05T10:00:00", "2026-02-30T10:00:00", "0001-01-01T00:00:00+2359", [], {}, [[]], {"a": 1}, [1] * 50, ["suspect", "late"],
    {"value": 1, "unit": "W"}, {"value": 1, "unit": "furlong"}, {"value": {"a": 1}}, {"ts": MS, "values": {}}, {"quantities": [1]},
]  # fmt: skip


def rearranged(chance: random.Random, payload: bytes) -> bytes:
    """Still JSON: one or two things in it replaced, moved, renamed or left out."""
    try:
        whole = [json.loads(payload)]
    except ValueError:
        return mutated(chance, payload)
    for _ in range(chance.choice((1, 1, 2))):
        places: list[tuple[Any, Any]] = []
        queue: list[Any] = [whole]
        while queue:
            thing = queue.pop()
            keys = list(thing) if isinstance(thing, dict) else range(len(thing))
            places += [(thing, key) for key in keys]
            queue += [thing[key] for key in keys if isinstance(thing[key], dict | list)]
        if not places:
            break
        thing, key = chance.choice(places)
        match chance.randrange(4):
            case 0 if isinstance(thing, dict):
                thing[chance.choice(["", "ts", "value", "x" * 200, "1-0:2.8.0", "a\x00b", "{name}"])] = thing.pop(key)
            case 1 if isinstance(thing, dict):
                del thing[key]
            case _:
                thing[key] = copy.deepcopy(chance.choice(THINGS))
    return json.dumps(whole[0] if whole else None).encode()


def mutated_topic(chance: random.Random, topic: str) -> str:
    if chance.random() < 0.8:
        return topic
    levels = topic.split("/")
    at = chance.randrange(len(levels))
    levels[at] = chance.choice((chance.choice(TOPIC_PIECES), levels[at] + chance.choice(TOPIC_PIECES), levels[at][1:]))
    return "/".join(levels)


def outcome(codec: ConcentratorContract, down: bool, topic: str, payload: bytes) -> str:
    """What became of it; an error that is not documented leaves."""
    try:
        if down:
            codec.decode_command(topic, payload, now=NOW)
        else:
            codec.acknowledgements(topic, payload, now=NOW)
            codec.decode(topic, payload, now=NOW)
    except BadEnvelope as error:
        assert str(error).isprintable()
        assert len(str(error)) < 600
        return error.fault
    except Expired:
        return "expired"
    return "taken"


@pytest.mark.parametrize("family", list(UP))
def test_only_documented_errors_leave_the_codec_and_soon(request: pytest.FixtureRequest, family: str) -> None:
    count = request.config.getoption("--mutations") // 10 // len(UP)
    chance = random.Random(f"{family} 20260105")
    codec = contract(family)
    cases = [(False, *case) for case in UP[family]] + [(True, *case) for case in DOWN[family]]
    for down, topic, payload in cases:
        assert outcome(codec, down, topic, payload) == "taken"
    outcomes: dict[str, int] = {}
    slowest = 0.0
    for _ in range(count):
        down, topic, payload = chance.choice(cases)
        topic, payload = mutated_topic(chance, topic), chance.choice((mutated, rearranged))(chance, payload)
        began = time.perf_counter()
        try:
            became = outcome(codec, down, topic, payload)
        except Exception as error:
            raise AssertionError(f"{topic!r} {payload!r}") from error
        slowest = max(slowest, time.perf_counter() - began)
        outcomes[became] = outcomes.get(became, 0) + 1
    print(f"{family}: {outcomes}, slowest {slowest * 1000:.1f} ms")
    assert slowest < SECONDS_MAX
    assert {"taken", "topic", "json", "shape"} <= set(outcomes)
