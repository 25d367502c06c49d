"""`explain` on every vector, on damage, and on things that are no frames."""

import json
import os
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headend.explain.explain import Explanation, NotHex, explain, parse_hex
from protocols.dlt645.control import Dialect
from protocols.dlt645.items import Di
from protocols.dlt645.messages import (
    Message,
    Password,
    PasswordReply,
    PasswordRequest,
    ReadReply,
    WriteRequest,
    encode,
)
from tests.vectors import constructed_vectors, dlt645_vectors

HEADEND = Path(sys.executable).parent / "headend"
OLD = Password(4, bytes.fromhex("ABCDEF"))
NEW = Password(4, bytes.fromhex("FEDCBA"))

# Where the vector's `value` is right but written in another way than ours, or is no value of the frame.
OTHER_SPELLING: dict[str, tuple[str, list[str | None]]] = {
    "S032": ("six bytes in wire order; C032 is the meter number, high digit first", ["201708176934"]),
}


def spelled(vector: dict[str, Any]) -> list[str | None]:
    """The vector's value as our contents: one string per value, None for FF fill."""
    if vector["id"] in OTHER_SPELLING:
        return OTHER_SPELLING[vector["id"]][1]
    value = vector["value"]
    if isinstance(value, dict):
        return list(value.values())
    return [None if part is None else str(part) for part in (value if isinstance(value, list) else [value])]


def same(ours: str | None, given_value: str | None) -> bool:
    """Equal as text, or as a number: vectors write 0.0 for 0.00 and numbers without leading zeros."""
    if ours is None or given_value is None:
        return ours is given_value
    if ours.lower() == given_value.lower():
        return True
    try:
        return Decimal(ours) == Decimal(given_value)
    except ArithmeticError:
        return False


@pytest.mark.parametrize("vector", dlt645_vectors(), ids=lambda vector: vector["id"])
def test_vectors_are_explained_as_given(vector: dict[str, Any]) -> None:
    (found,) = explain(bytes.fromhex(vector["hex"]))
    assert found.valid is vector["valid"]
    assert (found.dir, found.addr, found.c, found.error, found.follow, found.len, found.payload) == (
        vector["dir"],
        vector["addr"],
        vector["c"],
        vector["error"],
        vector["follow"],
        vector["len"],
        vector["payload"],
    )
    if vector["ver"] != "vendor":
        assert found.protocol == f"dlt645-{vector['ver']}"
        assert found.fn == vector["fn"]
    if vector["di"] is not None:
        assert found.di == vector["di"]
    if not vector["valid"]:
        assert found.problem is not None
        assert f"expected {vector['expected_cs']}H" in found.problem
    if vector["value"] is not None:
        wanted = spelled(vector)
        ours = [item.value for item in found.items][: len(wanted)]
        assert len(ours) == len(wanted)
        assert all(same(mine, theirs) for mine, theirs in zip(ours, wanted, strict=True)), (ours, wanted)


@pytest.mark.parametrize("vector", [*dlt645_vectors(), *constructed_vectors()], ids=lambda vector: vector["id"])
def test_every_byte_is_accounted_for_in_order(vector: dict[str, Any]) -> None:
    stream = b"\x00\xfe\xfe" + bytes.fromhex(vector["hex"]) + b"\x00"
    pieces = [piece for found in explain(stream) for piece in found.bytes]
    assert bytes.fromhex("".join(piece.hex for piece in pieces)) == stream
    at = 0
    for piece in pieces:
        assert piece.offset == at
        at += len(bytes.fromhex(piece.hex))


def test_two_frames_in_one_line_are_two_explanations() -> None:
    hexes = [vector["hex"] for vector in dlt645_vectors()[:2]]
    assert [found.payload for found in explain(bytes.fromhex("".join(hexes)))] == ["0090", "1090"]


@pytest.mark.parametrize("text", ["68 01", "6801", "0x68,0x01", "68:01", "68-01", "[68, 1]", " 68\t01\n"])
def test_hex_in_any_common_spelling(text: str) -> None:
    assert parse_hex(text) == b"\x68\x01"


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "nothing to explain"), ("  ", "nothing to explain"), ("hello", "no hex digit"), ("680", "one is missing")],
)
def test_what_is_no_hex_says_what_was_expected(text: str, says: str) -> None:
    with pytest.raises(NotHex, match=says):
        parse_hex(text)


@given(st.binary(max_size=80))
def test_any_bytes_are_explained(wire: bytes) -> None:
    for found in explain(wire):
        assert found.valid or found.problem


def test_damaged_vectors_are_explained_without_a_crash() -> None:
    dice = random.Random(645)
    wires = [bytes.fromhex(vector["hex"]) for vector in dlt645_vectors()]
    for _ in range(3000):
        wire = bytearray(dice.choice(wires))
        for _ in range(dice.randint(1, 4)):
            wire[dice.randrange(len(wire))] = dice.randrange(256)
        for found in explain(bytes(wire[: dice.randint(0, len(wire))] if dice.random() < 0.3 else wire)):
            assert isinstance(found, Explanation)


def run(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [HEADEND, "explain", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (
            [
                "68",
                "12",
                "90",
                "78",
                "56",
                "34",
                "12",
                "68",
                "91",
                "08",
                "33",
                "33",
                "34",
                "33",
                "89",
                "67",
                "45",
                "33",
                "54",
                "16",
            ],
            0,
            "1234.56 kWh",
        ),
        (["6812907856341268910833333433896745335516"], 4, "checksum is 55H, expected 54H"),
        (["01 03 00 00 00 02 C4 0B"], 0, "modbus-rtu read holding registers  to meter 1"),
        (["deadbeef"], 2, "no 68H in these 4 bytes"),
        (["68 12 90"], 2, "the shortest DL/T 645 frame has 12"),
        ([""], 2, "nothing to explain"),
        ([], 2, "nothing to explain"),
        (["xyz"], 2, "no hex digit"),
    ],
)
def test_the_command_line_says_something_useful(arguments: list[str], code: int, says: str) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    done = run("--json", *arguments)
    assert done.returncode == code
    explained = json.loads(done.stdout)
    assert explained["valid"] is (code == 0)
    assert list(explained) == [
        "protocol",
        "valid",
        "problem",
        "dir",
        "addr",
        "c",
        "fn",
        "error",
        "follow",
        "len",
        "di",
        "payload",
        "items",
        "bytes",
    ]


def test_a_stream_on_standard_input_gives_one_object_a_frame() -> None:
    vectors = dlt645_vectors()
    stream = "".join(f"{vector['hex']}\n" for vector in vectors) + "not hex\n\n# a comment\n"
    done = run("--json", "-", stdin=stream)
    assert done.returncode == 0
    explained = [json.loads(line) for line in done.stdout.splitlines()]
    assert [found["valid"] for found in explained] == [vector["valid"] for vector in vectors] + [False]


def test_nothing_on_standard_input_is_said() -> None:
    done = run("-")
    assert done.returncode == 2
    assert "held no frame" in done.stderr


def test_passwords_and_operator_codes_are_not_shown_as_values() -> None:
    (found,) = explain(bytes.fromhex("68611001301215681C10356A3935343333334D333333336345CC2C16"))
    assert not any("370602" in str(item) for item in found.items)
    assert [item.value for item in found.items] == ["1A", "00", "2099-12-30 00:00:00"]


SECRET_FRAMES = [
    PasswordRequest(old=OLD, new=NEW, di=Di("04000C04")),
    PasswordRequest(old=OLD, new=NEW),
    PasswordReply(new=NEW),
    PasswordReply(new=NEW, dialect=Dialect.V1997),
    WriteRequest(di=Di("C032"), data=NEW.wire + bytes.fromhex("1234")),
    WriteRequest(di=Di("04000C04"), data=NEW.wire, password=OLD, operator=bytes.fromhex("99887766")),
    ReadReply(di=Di("04000C04"), data=NEW.wire),
    ReadReply(di=Di("C212"), data=NEW.wire),
]


@pytest.mark.parametrize("message", SECRET_FRAMES, ids=lambda message: f"{type(message).__name__}")
def test_no_password_is_told_in_items_or_meanings(message: Message) -> None:
    wire = encode(message, "123456789012").to_bytes(0)
    damaged = wire[:-2] + bytes([wire[-2] ^ 0xFF]) + wire[-1:]
    for given_wire in (wire, damaged, *(wire[:size] for size in range(8, len(wire)))):
        for found in explain(given_wire):
            told = [item.name + str(item.value) for item in found.items]
            told += [piece.meaning for piece in found.bytes] + [found.problem or ""]
            spelled = "".join(told).replace(" ", "").upper()
            for secret in ("ABCDEF", "EFCDAB", "FEDCBA", "BADCFE", "99887766"):
                assert secret not in spelled, found


def test_a_cut_frame_tells_what_its_first_bytes_say() -> None:
    wire = bytes.fromhex("6812907856341268D10133B416")
    (found,) = explain(wire[:10])
    assert (found.dir, found.fn, found.error, found.len, found.di) == ("s2m", "read data", True, 1, None)
    wire = bytes.fromhex("6812907856341268910833333433896745335416")
    (found,) = explain(wire[:9])
    assert (found.addr, found.c, found.dir, found.fn, found.len) == ("123456789012", "91", "s2m", "read data", None)
    (found,) = explain(wire[:13])
    assert found.di is None
    (found,) = explain(wire[:16])
    assert (found.valid, found.dir, found.fn, found.di) == (False, "s2m", "read data", "00010000")
    assert found.problem == "incomplete frame: 16 of 20 bytes"
    (found,) = explain(bytes.fromhex("6812907856341268010243C3"))
    assert (found.protocol, found.dir, found.di) == ("dlt645-1997", "m2s", "9010")


def test_a_right_frame_whose_data_do_not_fit_is_valid_and_still_a_finding() -> None:
    wire = encode(ReadReply(di=Di("00010000"), data=bytes.fromhex("1A3456")), "123456789012").to_bytes(0).hex()
    done = run("--json", wire)
    explained = json.loads(done.stdout)
    assert (explained["valid"], done.returncode) == (True, 4)
    assert "do not fit DI 00010000" in explained["problem"]


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "utf-8"])
def test_any_terminal_encoding_shows_a_frame_and_json_is_utf_8(encoding: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    wire = "68 12 90 78 56 34 12 68 14 02 33 33 " + "5C 16"
    for arguments in ([wire], ["--json", wire], ["\udcff zz é"], ["--json", "é"]):
        done = subprocess.run(
            [HEADEND, "explain", *arguments], env=environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode in (2, 4)
        assert b"Traceback" not in done.stderr, done.stderr
        assert (b"-33H" in done.stdout) == (arguments[-1] == wire)
        if arguments[0] == "--json":
            json.loads(done.stdout.decode("utf-8"))


def test_standard_input_may_begin_with_a_byte_order_mark_and_hold_anything() -> None:
    wire = b"6812907856341268910833333433896745335416"
    stdin = b"\xef\xbb\xbf" + wire + b"\r\n" + bytes(range(128, 256)) + b"\n\0\xff\xfe\n" + wire + b"\n"
    done = subprocess.run(
        [HEADEND, "explain", "--json", "-"], input=stdin, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["valid"] for line in done.stdout.splitlines()] == [True, False, False, True]
