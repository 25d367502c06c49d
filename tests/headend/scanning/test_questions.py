"""What one exchange means."""

import pytest

from headend.scanning.ear import Heed
from headend.scanning.questions import is_meter_address, late_addresses, outcome_of, question_for
from protocols.dlt645.control import Dialect
from protocols.dlt645.frame import BROADCAST, WILDCARD, Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import AddressReply, ReadReply, Refused, encode
from protocols.dlt645.narrowing import QUESTIONS_MAX, Ask, Clean, Damaged, Several, Silent

A, B = "000000000178", "000000000278"
LOW_78 = "AAAAAAAAAA78"
V07, V97 = Dialect.V2007, Dialect.V1997


def energy(address: str, di: str = "00010000") -> Frame:
    return encode(ReadReply(di=Di(di), data=bytes(4)), address)


def heed(*frames: Frame, stray: int = 0) -> Heed:
    return Heed(frames=frames, stray=stray)


def test_every_question_of_both_dialects_is_a_read_in_a_frame_of_its_own() -> None:
    for dialect in Dialect:
        for pattern, count in ((WILDCARD, QUESTIONS_MAX), (LOW_78, 2)):
            questions = [question_for(dialect, Ask(pattern, number)) for number in range(count)]
            wires = [question.frame(pattern).to_bytes() for question in questions]
            assert len(set(wires)) == count
            assert {question.message.control.function for question in questions} <= {0x01, 0x11, 0x13}


def test_the_first_questions_are_those_of_the_standard() -> None:
    assert question_for(V07, Ask(WILDCARD, 0)).frame(WILDCARD).to_bytes().hex(" ").upper() == (
        "68 AA AA AA AA AA AA 68 13 00 DF 16"
    )
    assert question_for(V97, Ask(WILDCARD, 0)).frame(WILDCARD).address == BROADCAST
    assert question_for(V07, Ask(LOW_78, 0)).frame(LOW_78).address == LOW_78


@pytest.mark.parametrize(
    ("heard", "outcome"),
    [
        (heed(), Silent()),
        (heed(stray=3), Silent()),
        (heed(stray=4), Damaged()),
        (heed(energy(A)), Clean(A)),
        (heed(energy(A), stray=11), Clean(A)),
        (heed(energy(A), stray=12), Damaged()),
        (heed(energy(A), energy(A)), Clean(A)),
        (heed(energy(A), energy(B)), Several((A, B))),
        (heed(energy("000000000199")), Silent()),
        (heed(energy("000000000199"), energy(A)), Clean(A)),
        (heed(energy(A, "9010")), Silent()),
        (heed(energy(BROADCAST)), Silent()),
        (heed(encode(Refused(dialect=V07, function=0x11, word=2), A)), Clean(A)),
        (heed(encode(AddressReply(A), A)), Clean(A)),
        (heed(encode(AddressReply(B), A)), Damaged()),
        (heed(encode(ReadReply(di=Di("04000401"), data=bytes.fromhex("780100000000")), A)), Clean(A)),
        (heed(encode(ReadReply(di=Di("04000401"), data=bytes.fromhex("780200000000")), A)), Damaged()),
    ],
)
def test_what_was_heard_becomes_one_outcome(heard: Heed, outcome: object) -> None:
    assert outcome_of(heard, LOW_78, V07) == outcome


def test_noise_beside_the_reply_of_a_full_address_hides_nobody() -> None:
    assert outcome_of(heed(energy(A), stray=40), A, V07) == Clean(A)


def test_only_right_frames_from_outside_the_pattern_are_late() -> None:
    heard = heed(energy("000000000199"), energy(A), energy("000000000177", "9010"), stray=9)
    assert late_addresses(heard, LOW_78, V07) == ["000000000199"]
    assert late_addresses(heard, LOW_78, V97) == ["000000000177"]


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        (A, True),
        ("AAAAAA345678", True),
        (WILDCARD, False),
        (BROADCAST, False),
        ("00000000AA78", False),
        ("F" * 12, False),
    ],
)
def test_addresses_are_decimal_with_aa_only_at_the_high_end(address: str, is_one: bool) -> None:
    assert is_meter_address(address) is is_one
