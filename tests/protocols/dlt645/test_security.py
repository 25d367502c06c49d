"""The layouts of 03H: bytes on one side, fields on the other. Constructed: no public capture of a successful exchange exists."""

import pytest

from protocols.dlt645.frame import Frame
from protocols.dlt645.messages import SecurityReply, SecurityRequest, decode, encode
from protocols.dlt645.security import AUTHENTICATE, SET_VALIDITY, Authenticated, Challenge, Validity
from protocols.errors import BadMessage, EncodeError

METER = "123456789012"
OPERATOR = bytes.fromhex("01020304")
CHALLENGE = Challenge(
    cipher=bytes.fromhex("1122334455667788"),
    random=bytes.fromhex("A1A2A3A4A5A6A7A8"),
    factor=bytes.fromhex("0000123456789012"),
)
AUTHENTICATED = Authenticated(random=bytes.fromhex("0A0B0C0D"), chip_number=bytes.fromhex("5001020304050607"))


def test_identity_authentication_both_ways() -> None:
    data = "1122334455667788A1A2A3A4A5A6A7A80000123456789012"
    assert CHALLENGE.to_data().hex().upper() == data
    assert Challenge.from_data(bytes.fromhex(data)) == CHALLENGE
    request = SecurityRequest(di=AUTHENTICATE, operator=OPERATOR, data=CHALLENGE.to_data())
    frame = Frame(METER, 0x03, bytes.fromhex("FF00000701020304" + data))
    assert encode(request, METER) == frame
    assert decode(frame) == request


def test_its_reply_both_ways() -> None:
    data = "0A0B0C0D5001020304050607"
    assert AUTHENTICATED.to_data().hex().upper() == data
    assert Authenticated.from_data(bytes.fromhex(data)) == AUTHENTICATED
    frame = Frame(METER, 0x83, bytes.fromhex("FF000007" + data))
    assert decode(frame) == SecurityReply(di=AUTHENTICATE, data=bytes.fromhex(data))


def test_validity_is_minutes_low_byte_first_and_a_mac() -> None:
    validity = Validity(minutes=300, mac=bytes.fromhex("DEADBEEF"))
    assert validity.to_data().hex().upper() == "2C01DEADBEEF"
    assert Validity.from_data(bytes.fromhex("2C01DEADBEEF")) == validity
    assert SET_VALIDITY.wire.hex().upper() == "FF010007"


def test_wrong_sizes_are_refused_both_ways() -> None:
    for kind, size in ((Challenge, 24), (Authenticated, 12), (Validity, 6)):
        for wrong in (0, size - 1, size + 1):
            with pytest.raises(BadMessage, match=f"expected {size}"):
                kind.from_data(bytes(wrong))
    with pytest.raises(EncodeError, match="MAC of 3 bytes, expected 4"):
        Validity(minutes=1, mac=bytes(3)).to_data()
    with pytest.raises(EncodeError, match="0 to 65535"):
        Validity(minutes=65536, mac=bytes(4)).to_data()
