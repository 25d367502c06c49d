"""Sessions end by themselves, with their token, and when the table is full; failed sign-ins are slowed down, in bounded memory."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headend.pages import sessions
from headend.pages.sessions import IDLE_S, LIFE_S, TRIES, TRY_S, Attempts, Sessions
from headend.store import Tokens
from tests.headend.support import new_store


class MovingClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock()


@pytest.fixture
def tokens(tmp_path: Path, clock: MovingClock) -> Iterator[Tokens]:
    store = new_store(tmp_path)
    yield Tokens(store, clock)
    store.close()


async def test_a_session_lives_while_it_is_used_and_not_for_ever(tokens: Tokens, clock: MovingClock) -> None:
    held = Sessions(tokens, clock)
    begun = await held.begin(tokens.create_token("till", ["cashier"]))
    assert begun is not None
    key, token = begun
    assert token.name == "till"
    end = clock.seconds + LIFE_S
    while clock.seconds + IDLE_S < end:
        clock.seconds += IDLE_S
        assert await held.find(key) is not None
    clock.seconds = end + 1
    assert await held.find(key) is None


async def test_a_session_that_nobody_uses_ends(tokens: Tokens, clock: MovingClock) -> None:
    held = Sessions(tokens, clock)
    begun = await held.begin(tokens.create_token("till", ["cashier"]))
    assert begun is not None
    clock.seconds += IDLE_S + 1
    assert await held.find(begun[0]) is None


async def test_a_revoked_token_ends_its_sessions_at_once(tokens: Tokens, clock: MovingClock) -> None:
    held = Sessions(tokens, clock)
    begun = await held.begin(tokens.create_token("till", ["cashier"]))
    assert begun is not None
    tokens.revoke_token("till")
    assert await held.find(begun[0]) is None


async def test_neither_the_token_nor_a_wrong_key_is_a_session(tokens: Tokens, clock: MovingClock) -> None:
    held = Sessions(tokens, clock)
    plain = tokens.create_token("till", ["cashier"])
    begun = await held.begin(plain)
    assert begun is not None
    assert plain not in begun[0]
    assert await held.find(plain) is None
    assert await held.find("") is None
    assert await held.begin("hdt_wrong") is None


async def test_the_session_used_longest_ago_makes_room(tokens: Tokens, clock: MovingClock) -> None:
    held, plain = Sessions(tokens, clock, most=3), tokens.create_token("till", ["cashier"])
    keys = []
    for _ in range(3):
        begun = await held.begin(plain)
        assert begun is not None
        keys.append(begun[0])
    assert await held.find(keys[0]) is not None
    await held.begin(plain)
    assert await held.find(keys[1]) is None
    assert await held.find(keys[0]) is not None


def test_failed_sign_ins_of_an_address_are_slowed_down_and_those_of_others_not(clock: MovingClock) -> None:
    attempts = Attempts(clock)
    for _ in range(TRIES):
        assert attempts.wait_s("192.0.2.1") == 0
        attempts.count("192.0.2.1")
    assert 0 < attempts.wait_s("192.0.2.1") <= TRY_S
    assert attempts.wait_s("192.0.2.2") == 0
    clock.seconds += TRY_S
    assert attempts.wait_s("192.0.2.1") == 0
    attempts.count("192.0.2.1")
    assert attempts.wait_s("192.0.2.1") > 0
    attempts.forgive("192.0.2.1")
    assert attempts.wait_s("192.0.2.1") == 0


def test_addresses_of_one_ipv6_site_count_as_one(clock: MovingClock) -> None:
    attempts = Attempts(clock)
    for number in range(TRIES):
        attempts.count(f"2001:db8:0:1::{number:x}")
    assert attempts.wait_s("2001:db8:0:1:ffff::1") > 0
    assert attempts.wait_s("2001:db8:0:2::1") == 0


def test_the_table_of_failed_sign_ins_is_bounded(clock: MovingClock) -> None:
    attempts = Attempts(clock)
    for number in range(sessions.CLIENTS_MAX + 500):
        attempts.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(attempts._held) == sessions.CLIENTS_MAX
