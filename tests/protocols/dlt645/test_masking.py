"""What of a wire may be shown: every function with a password, both editions, whole and damaged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dlt645.control import Dialect, Function2007
from protocols.dlt645.items import Di
from protocols.dlt645.masking import carries_secrets, mask, mask_heard
from protocols.dlt645.messages import (
    ClearRequest,
    Message,
    Password,
    PasswordReply,
    PasswordRequest,
    ReadReply,
    ReadRequest,
    RelayRequest,
    SecurityRequest,
    WriteRequest,
    encode,
)
from tests.vectors import dlt645_vectors

F07 = Function2007
METER = "123456789012"
HEAD = "68 12 90 78 56 34 12 68"
PW = Password(0x02, b"\xc5\x3a\x9e")
OP = b"\x7d\xe1\x4b\x92"
SECRETS = [bytes((byte + 0x33) & 0xFF for byte in secret).hex(" ").upper() for secret in (PW.secret, OP)]

SHOWN: list[tuple[Message, str]] = [
    (
        WriteRequest(di=Di("04000302"), password=PW, operator=OP, data=b"\x07"),
        f"{HEAD} 14 0D 35 36 33 37 35 ** ** ** ** ** ** ** 3A ** 16",
    ),
    (
        WriteRequest(di=Di("04000C05"), password=PW, operator=OP, data=PW.wire),
        f"{HEAD} 14 10 38 3F 33 37 35 ** ** ** ** ** ** ** ** ** ** ** ** 16",
    ),
    (
        PasswordRequest(di=Di("04000C03"), old=PW, new=PW),
        f"{HEAD} 18 0C 36 3F 33 37 35 ** ** ** 35 ** ** ** ** 16",
    ),
    (PasswordReply(new=PW), f"{HEAD} 98 04 35 ** ** ** ** 16"),
    (
        ClearRequest(function=F07.CLEAR_DEMAND, password=PW, operator=OP),
        f"{HEAD} 19 08 35 ** ** ** ** ** ** ** ** 16",
    ),
    (
        ClearRequest(function=F07.CLEAR_EVENTS, password=PW, operator=OP, events=Di("FFFFFFFF")),
        f"{HEAD} 1B 0C 35 ** ** ** ** ** ** ** 32 32 32 32 ** 16",
    ),
    (
        RelayRequest(password=PW, operator=OP, order=0x1A, delay=None),
        f"{HEAD} 1C 09 35 ** ** ** ** ** ** ** 4D ** 16",
    ),
    (SecurityRequest(di=Di("070002FF"), operator=OP), f"{HEAD} 03 08 32 35 33 3A ** ** ** ** ** 16"),
    (
        WriteRequest(di=Di("C117"), password=PW, data=b"\x01\x00"),
        f"{HEAD} 04 08 4A F4 35 ** ** ** 34 33 ** 16",
    ),
    (PasswordRequest(old=PW, new=PW), f"{HEAD} 0F 08 35 ** ** ** 35 ** ** ** ** 16"),
    (PasswordReply(new=PW, dialect=Dialect.V1997), f"{HEAD} 8F 04 35 ** ** ** ** 16"),
    (ReadReply(di=Di("04000C05"), data=PW.wire), f"{HEAD} 91 08 38 3F 33 37 ** ** ** ** ** 16"),
]


@pytest.mark.parametrize(("message", "shown"), SHOWN)
def test_passwords_and_operators_are_stars(message: Message, shown: str) -> None:
    wire = encode(message, METER).to_bytes()
    assert mask(wire) == shown
    assert carries_secrets(wire)


def test_everything_else_is_shown_as_it_is() -> None:
    wire = encode(ReadRequest(di=Di("00010000")), METER).to_bytes(4)
    assert mask(wire) == wire.hex(" ").upper()
    assert not carries_secrets(wire)
    assert mask(b"") == ""


@pytest.mark.parametrize(("message", "_shown"), SHOWN)
@given(before=st.binary(max_size=12), after=st.binary(max_size=12), cut=st.integers(0, 40))
def test_secrets_stay_hidden_in_noise_and_in_halves(
    message: Message, _shown: str, before: bytes, after: bytes, cut: int
) -> None:
    whole = encode(message, METER).to_bytes()
    text = mask(before + whole[: len(whole) - cut] + after)
    for secret in SECRETS:
        assert secret not in text


def test_what_came_after_a_request_with_a_password_is_told_by_its_size_only() -> None:
    sent = encode(SHOWN[0][0], METER).to_bytes(4)
    echo = bytearray(sent)
    echo[11] ^= 1  # the second 68H: no header is left
    assert mask_heard(bytes(echo), sent) == "29 bytes (not shown, because the request carried a password)"
    assert mask_heard(b"", sent) == ""
    assert mask_heard(b"\x01", encode(ReadRequest(di=Di("9010")), METER).to_bytes()) == "01"


def test_published_frames_lose_nothing_but_secrets() -> None:
    """Masked places are shown as stars, and all else is the frame."""
    masked = 0
    for vector in dlt645_vectors():
        wire = bytes.fromhex(str(vector["hex"]))
        shown = mask(wire).split()
        assert len(shown) == len(wire)
        assert all(text in ("**", f"{byte:02X}") for text, byte in zip(shown, wire, strict=True))
        masked += "**" in shown
    assert masked > 20
