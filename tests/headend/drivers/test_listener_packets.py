"""What a DTU says by itself, told apart from its meters: patterns on a stream, registration packets, heartbeats. No sockets."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headend.drivers.dtu import HEARD_MAX, SETTLE_S, PacketSieve, Registered, Registration, id_text
from headend.drivers.dtu_pattern import BadPattern, PacketPattern
from headend.drivers.listener_settings import HEARTBEAT, REGISTRATION

IMEI = b"860000000000001"
REPLY = bytes.fromhex("fefefefe68010000000000689108333334339c8967 45 16".replace(" ", ""))
USUAL = PacketPattern(REGISTRATION, group="id")
BEAT = PacketPattern(HEARTBEAT)


def nobody(_: str) -> bool:
    return False


def only(*known: str) -> "type[bool] | object":
    return lambda dtu: dtu in known


# ------------------------------------------------------------------------------------------------ patterns


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(?P<id>[0-9", "no regular expression"),
        ("[0-9]{15}", "has no group 'id'"),
        ("(?P<id>[0-9]+)(?=x)", "cannot be followed on a stream"),
        (r"(?P<id>[0-9]+)-(?P=id)", "cannot be followed on a stream"),
        (r"\b(?P<id>[0-9]+)", "cannot be followed on a stream"),
        ("(?i:a)(?P<id>b)", "cannot be followed on a stream"),
        ("(?P<id>[0-9]*)", "matches nothing at all"),
        ("(?P<id>[0-9]{500})", "500 repeats"),
        ("(?P<id>(?:[0-9]{250}){250})", "too large"),
        ("注册(?P<id>[0-9]+)", "expected ASCII"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_with_its_reason(text: str, problem: str) -> None:
    with pytest.raises(BadPattern, match=re.escape(problem)):
        PacketPattern(text, what="registration", group="id")


def test_a_pattern_says_whether_more_bytes_could_make_a_match() -> None:
    pattern = PacketPattern(r"LOGIN:(?P<id>\d{4,6})\r\n")
    assert pattern.ends(b"LOG") == ([], True)
    assert pattern.ends(b"LOGIN:1001") == ([], True)
    assert pattern.ends(b"LOGIN:1001\r\n") == ([12], False)
    assert pattern.ends(b"LOGIN:1001\r\nabc") == ([12], False)
    assert pattern.ends(b"LOGOUT") == ([], False)
    assert pattern.group(b"LOGIN:1001\r\n", "id") == b"1001"


ATOMS = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\d", r"\w", "(?:ab|b)", "(b|a.)", r"\x00"])
REPEATS = st.sampled_from(["", "", "?", "*", "+", "{2}", "{1,3}", "{2,}", "*?", "+?"])
EXPRESSIONS = st.lists(st.tuples(ATOMS, REPEATS), min_size=1, max_size=5).map(
    lambda parts: "".join(atom + repeat for atom, repeat in parts)
)


@given(EXPRESSIONS, st.binary(max_size=6).map(lambda wire: bytes(b"ab0\x00\n z"[byte % 7] for byte in wire)))
@settings(max_examples=400, deadline=None)
def test_a_pattern_ends_where_the_standard_library_says_a_whole_match_ends(text: str, buffer: bytes) -> None:
    expression = re.compile(text.encode(), re.DOTALL)
    try:
        pattern = PacketPattern(text)
    except BadPattern:
        assert expression.fullmatch(b"")
        return
    ends, may_grow = pattern.ends(buffer)
    assert ends == [end for end in range(1, len(buffer) + 1) if expression.fullmatch(buffer[:end])]
    if may_grow:
        return
    # Nothing that begins with all of the buffer matches then: no byte more makes a match.
    for more in (b"a", b"b", b"ab", b"0", b"bb", b"\x00", b"aba"):
        assert expression.fullmatch(buffer + more) is None


def test_a_pattern_that_would_hold_up_the_standard_library_costs_no_time() -> None:
    pattern = PacketPattern("(a+)+b")
    began = time.perf_counter()
    assert pattern.ends(b"a" * 250) == ([], True)
    assert time.perf_counter() - began < 1.0


# ------------------------------------------------------------------------------------------------ registration

FEEDINGS = [
    lambda wire: [wire],
    lambda wire: [wire[i : i + 1] for i in range(len(wire))],
    lambda wire: [wire[:5], wire[5:]],
]


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize(
    ("pattern", "packet", "dtu"),
    [
        (REGISTRATION, IMEI, "860000000000001"),
        (REGISTRATION, b"89860012345678901234\r\n", "89860012345678901234"),
        (REGISTRATION, b"LOGIN:1001", "LOGIN:1001"),
        (r"LOGIN:(?P<id>\d+)\r\n", b"LOGIN:1001\r\n", "1001"),
        (r"(?P<id>[\x00-\xff]{6})", bytes.fromhex("D8B04CA1B2C3"), "D8B04CA1B2C3"),  # a MAC address
        # 宏电-like: id, phone number, 0, address, 0, as the DTU documentation at bbs.gongkong.com/d/201712/738791 shows it
        (
            r"[\x00-\xff]{4}(?P<id>\d{11})\x00[\x00-\xff]{4}\x00",
            bytes.fromhex("78563412 31333036363636 38383838 00 c0a80142 00".replace(" ", "")),
            "13066668888",
        ),
    ],
)
def test_a_registration_is_found_however_it_is_cut(pattern: str, packet: bytes, dtu: str, feed: object) -> None:
    registration = Registration(PacketPattern(pattern, group="id"), BEAT)
    found = None
    for at, chunk in enumerate(feed(packet)):  # type: ignore[operator]
        assert found is None
        found = registration.receive(chunk, 100.0 + at * 0.01, nobody)
    if found is None:
        assert registration.deadline is not None
        assert registration.tick(registration.deadline - 0.001, nobody) is None
        found = registration.tick(registration.deadline, nobody)
    assert found is not None
    assert (found.dtu, found.packet, found.rest) == (dtu, packet, b"")


def registered(wire: bytes, knows: object = nobody) -> Registered | None:
    registration = Registration(USUAL, BEAT)
    return registration.receive(wire, 0.0, knows) or registration.tick(SETTLE_S, knows)  # type: ignore[arg-type]


def test_heartbeats_glued_to_the_registration_are_no_part_of_the_id() -> None:
    for glued in (b"ping", b"www.usr.cn\r\n", IMEI, IMEI + IMEI, b"pingPING\r\n"):
        found = registered(IMEI + glued)
        assert found is not None
        assert (found.dtu, found.rest) == (IMEI.decode(), b"")


def test_an_id_that_repeats_itself_is_not_taken_for_half_of_it_unless_a_line_waits_for_the_half() -> None:
    found = registered(b"1234567812345678")
    assert found is not None
    assert found.dtu == "1234567812345678"
    found = registered(b"1234567812345678", only("12345678"))
    assert found is not None
    assert found.dtu == "12345678"


def test_a_reply_glued_to_a_known_id_is_kept_and_to_an_unknown_one_makes_it_no_registration() -> None:
    found = registered(IMEI + b"\r\n" + REPLY, only(IMEI.decode()))
    assert found is not None
    assert found.rest == REPLY
    assert registered(IMEI + b"\r\n" + REPLY) is None


def test_a_longer_id_is_not_taken_for_a_known_one_that_it_begins_with() -> None:
    found = registered(b"123456789", only("12345678"))
    assert found is not None
    assert found.dtu == "123456789"
    assert registered(b"123456789" + b"\xff\xff", only("12345678")) is None


def test_what_comes_before_a_registration_in_its_own_burst_does_not_hide_it() -> None:
    registration = Registration(USUAL, BEAT)
    assert registration.receive(b"\x00\xffboot", 0.0, nobody) is None
    assert registration.tick(SETTLE_S, nobody) is None
    registration.receive(IMEI, 1.0, nobody)
    found = registration.tick(1.0 + SETTLE_S, nobody)
    assert found is not None
    assert found.dtu == IMEI.decode()
    assert registration.heard == b"\x00\xffboot"


def test_a_caller_that_never_registers_costs_bounded_memory() -> None:
    registration = Registration(USUAL, BEAT)
    for at in range(1000):
        assert registration.receive(b"\xa5" * 4096, at * 0.01, nobody) is None
        assert len(registration.pending) + len(registration.heard) <= 2 * HEARD_MAX


def test_an_id_that_cannot_be_printed_is_shown_as_hex() -> None:
    assert id_text(b"\x00\x12\xff") == "0012FF"
    assert id_text(b"ab\r\n") == "ab"
    assert id_text(b"\x1b[2J") == "1B5B324A"


# ------------------------------------------------------------------------------------------------ heartbeats


def through(sieve: PacketSieve, *bursts: bytes, step: int = 0) -> tuple[bytes, int]:
    """Bursts a second apart; within one, chunks of `step` bytes 10 ms apart, 0 for one chunk."""
    passed, count = b"", 0
    for second, burst in enumerate(bursts):
        for index in range(0, len(burst), step or max(1, len(burst))):
            now = 10.0 + second + 0.01 * index
            if sieve.deadline is not None and sieve.deadline <= now:
                some, times = sieve.tick(sieve.deadline)
                passed, count = passed + some, count + times
            some, times = sieve.receive(burst[index : index + (step or len(burst))], now)
            passed, count = passed + some, count + times
    while sieve.deadline is not None:
        some, times = sieve.tick(sieve.deadline)
        passed, count = passed + some, count + times
    return passed, count


@pytest.mark.parametrize("step", [0, 1, 3, 7])
@pytest.mark.parametrize("beat", [b"ping", b"PING\r\n", b"www.usr.cn", b"heartbeat", IMEI, IMEI + b"\r\n"])
def test_a_heartbeat_is_taken_out_wherever_it_stands(beat: bytes, step: int) -> None:
    def sieve() -> PacketSieve:
        return PacketSieve(BEAT, (IMEI + b"\r\n", IMEI))

    assert through(sieve(), beat, step=step) == (b"", 1)
    assert through(sieve(), beat, REPLY, beat, step=step) == (REPLY, 2)
    assert through(sieve(), beat + REPLY, step=step) == (REPLY, 1)
    assert through(sieve(), REPLY + beat, step=step) == (REPLY, 1)
    assert through(sieve(), REPLY[:9] + beat + REPLY[9:], step=step) == (REPLY, 1)
    assert through(sieve(), beat + beat + REPLY + beat, step=step) == (REPLY, 3)


def test_a_short_heartbeat_counts_only_when_it_stands_alone() -> None:
    def sieve() -> PacketSieve:
        return PacketSieve(PacketPattern(r"\xfe|OK"))

    assert through(sieve(), b"\xfe") == (b"", 1)
    assert through(sieve(), b"\xfe\xfe", b"OK", b"OKOK") == (b"", 5)
    assert through(sieve(), REPLY) == (REPLY, 0)  # its wake-up bytes are FEH, too
    assert through(sieve(), b"OK" + REPLY + b"OK") == (b"OK" + REPLY + b"OK", 0)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_what_only_begins_like_a_heartbeat_reaches_the_line(step: int) -> None:
    assert through(PacketSieve(BEAT), b"pin", b"www.usr.c", b"p", step=step) == (b"pinwww.usr.cp", 0)
    assert through(PacketSieve(BEAT), REPLY + b"p", step=step) == (REPLY + b"p", 0)


def test_a_beginning_is_held_back_only_until_it_is_decided() -> None:
    sieve = PacketSieve(BEAT)
    assert sieve.receive(REPLY + b"pi", 5.0) == (REPLY, 0)
    assert sieve.deadline == 5.0 + SETTLE_S
    assert sieve.tick(5.0 + SETTLE_S) == (b"pi", 0)
    assert sieve.deadline is None
    assert sieve.receive(b"pi", 6.0) == (b"", 0)
    assert sieve.receive(b"nX", 6.1) == (b"pinX", 0)


def test_without_anything_to_take_out_everything_passes_at_once() -> None:
    assert PacketSieve(None).receive(b"ping", 0.0) == (b"ping", 0)


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b"ping", b"www.usr.cn", b"pi", b"p"])), max_size=8))
@settings(max_examples=300, deadline=None)
def test_nothing_but_heartbeats_is_ever_lost(chunks: list[bytes]) -> None:
    sieve, passed, beats = PacketSieve(PacketPattern(r"ping|www\.usr\.cn")), b"", 0
    for index, chunk in enumerate(chunks):
        some, times = sieve.receive(chunk, index * 0.01)
        passed, beats = passed + some, beats + times
    while sieve.deadline is not None:
        some, times = sieve.tick(sieve.deadline)
        passed, beats = passed + some, beats + times
    whole = b"".join(chunks)
    assert passed == re.sub(rb"ping|www\.usr\.cn", b"", whole)
    assert beats == len(re.findall(rb"ping|www\.usr\.cn", whole))
