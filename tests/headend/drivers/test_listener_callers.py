"""Callers that nobody knows, that come too often, or that have fallen silent: what they may cost, over real sockets."""

import asyncio
import contextlib
import socket
import tracemalloc

import pytest

from headend.drivers.dtu import HEARD_MAX
from headend.drivers.errors import LineDown
from headend.drivers.listener import DialIn
from headend.drivers.listener_limits import NOT_ALLOWED, PEERS_MAX, TOO_OFTEN, ConnectLimits
from headend.drivers.listener_settings import BadListener, ListenerSettings, networks
from headend.drivers.listener_unknown import Quarantine, printable
from tests.headend.drivers.listener_support import (
    CLOCK,
    WAIT_S,
    A,
    B,
    C,
    Modem,
    Owner,
    listening,
    modem,
    owned,
    until,
    url,
)

PROMPT = ListenerSettings(register_within_s=0.3)


# ------------------------------------------------------------------------------------------------ unknown callers


async def test_unknown_callers_are_listed_and_nothing_is_ever_sent_to_them() -> None:
    settings = ListenerSettings(registration_reply=b"OK", heartbeat_reply=b"pong", register_within_s=0.3)
    async with (
        listening(settings) as dial_in,
        modem(dial_in, A.encode()) as named,
        modem(dial_in, b"GET /") as nameless,
    ):
        assert await nameless.is_hung_up_on()
        await named.say(b"ping")
        await until(lambda: len(dial_in.unknown()) == 2)
        entries = {entry.dtu: entry for entry in dial_in.unknown()}
        assert entries[""].heard == "GET /"
        assert not entries[""].is_connected
        assert entries[A].is_connected
        assert entries[A].address.startswith("127.0.0.1:")
        await until(lambda: entries[A].bytes == len(A) + 4)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(named.reader.read(1), 0.05)
        assert (dial_in.counters.unknown, dial_in.counters.timed_out) == (2, 1)
        named.hang_up()
        await until(lambda: not entries[A].is_connected)


async def test_an_adopted_dtu_is_connected_at_once_and_leaves_the_list() -> None:
    async with listening() as dial_in, modem(dial_in, B.encode()) as caller:
        owner = Owner()
        dial_in.expect("street-1", url(dial_in, A))
        waits = asyncio.create_task(owned(dial_in, A, owner))
        await until(dial_in.unknown)
        await caller.say(b"\x68kept\x16")
        await until(lambda: dial_in.unknown()[0].bytes == len(B) + 6)
        assert dial_in.adopt(B, "street-1")
        await waits
        assert dial_in.unknown() == []
        await until(lambda: owner.received == b"\x68kept\x16")
        caller.hang_up()
        await until(lambda: owner.events == ["made", "lost"])
        async with modem(dial_in, A.encode()), modem(dial_in, B.encode()):
            await owned(dial_in, A, owner)  # the line's URL still says A
            await until(lambda: [entry.dtu for entry in dial_in.unknown()] == [A])


async def test_adopting_for_a_line_that_has_a_dtu_replaces_it() -> None:
    async with listening() as dial_in:
        owner = Owner()
        dial_in.expect("street-1", url(dial_in, A))
        dial_in.expect("street-2", url(dial_in, C))
        waits = asyncio.create_task(owned(dial_in, A, owner))
        async with modem(dial_in, A.encode()) as former, modem(dial_in, B.encode()):
            await waits
            await until(dial_in.unknown)
            assert dial_in.adopt(B, "street-1")
            assert await former.is_hung_up_on()
            await owned(dial_in, A, owner)
            assert owner.events == ["made", "lost", "made"]
        with pytest.raises(BadListener, match="no line 'nowhere'"):
            dial_in.adopt(B, "nowhere")
        with pytest.raises(BadListener, match="is that of line 'street-2'"):
            dial_in.adopt(C, "street-1")


async def test_unknown_callers_that_talk_without_end_cost_bounded_memory_and_do_not_stop_the_others() -> None:
    """50 callers send 4 MB each as fast as they can, half of them with a registration; a DTU is served meanwhile."""
    async with listening(ListenerSettings(register_within_s=60)) as dial_in:
        flood = b"\xa5" * 65_536

        async def shout(caller: Modem) -> None:
            for _ in range(64):
                await caller.say(flood)

        tracemalloc.start()
        callers = [await asyncio.open_connection("127.0.0.1", dial_in.port, limit=1) for _ in range(50)]
        modems = [Modem(*caller) for caller in callers]
        for number, caller in enumerate(modems[:25]):
            await caller.say(f"87{number:013}".encode())
        await until(lambda: len(dial_in.unknown()) >= 25)
        shouts = [asyncio.create_task(shout(caller)) for caller in modems]
        try:
            owner = Owner()
            waits = asyncio.create_task(owned(dial_in, A, owner))
            async with modem(dial_in, A.encode()) as known:
                await waits
                await known.say(b"served")
                await until(lambda: owner.received == b"served")
            held = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/headend/drivers/*")])
            assert sum(stat.size for stat in held.statistics("filename")) < 50 * (4 * HEARD_MAX + 8192)
            assert all(entry.bytes < 600_000 for entry in dial_in.unknown())  # read from once, and then no more
        finally:
            tracemalloc.stop()
            for task in shouts:
                task.cancel()
            await asyncio.gather(*shouts, return_exceptions=True)
            for caller in modems:
                caller.hang_up()


async def test_more_unowned_callers_than_may_be_crowd_out_the_oldest_unknown_one() -> None:
    async with (
        listening(ListenerSettings(callers_max=2, unknown_max=3)) as dial_in,
        modem(dial_in, A.encode()) as oldest,
    ):
        await until(lambda: len(dial_in.unknown()) == 1)
        async with modem(dial_in, B.encode()), modem(dial_in, C.encode()):
            assert await oldest.is_hung_up_on()
            await until(lambda: len(dial_in.unknown()) == 3)
            assert dial_in.unowned == 2
            assert dial_in.counters.crowded_out == 1


def test_the_quarantine_list_forgets_the_oldest_that_is_gone() -> None:
    quarantine, now = Quarantine(2), CLOCK.now()
    for dtu, is_connected in (("A", True), ("B", False), ("C", False)):
        quarantine.enter(dtu, "10.0.0.1", 1, now, is_connected=is_connected)
    assert [entry.dtu for entry in quarantine.entries()] == ["C", "A"]
    assert quarantine.forgotten == 1
    assert quarantine.enter("A", "::1", 7, now, is_connected=True).connects == 2
    assert quarantine.entries()[0].address == "[::1]:7"


def test_what_a_caller_said_is_shown_safely() -> None:
    assert printable(b"a\x1b[2J\\\xff") == "a\\x1b[2J\\x5c\\xff"
    assert len(printable(b"x" * 500)) == 65


# ------------------------------------------------------------------------------------------------ limits


async def test_callers_from_outside_the_allow_list_are_hung_up_on_before_anything_is_read() -> None:
    async with listening(ListenerSettings(allow=networks(["127.0.0.2/32", "10.0.0.0/8"]))) as dial_in:
        with contextlib.suppress(ConnectionResetError):  # it may be told already while it connects
            async with modem(dial_in, source="127.0.0.3") as stranger:
                assert await stranger.is_hung_up_on()
        await until(lambda: dial_in.counters.refused_by_allow_list)
        owner = Owner()
        waits = asyncio.create_task(owned(dial_in, A, owner))
        async with modem(dial_in, A.encode(), source="127.0.0.2"):
            await waits
        assert (dial_in.counters.refused_by_allow_list, dial_in.counters.accepted) == (1, 1)
        assert dial_in.unknown() == []


async def test_a_storm_of_connects_is_cut_off_and_the_dtus_of_other_addresses_get_through() -> None:
    settings = ListenerSettings(connects_per_s_max=100, peer_connects_per_s_max=5, register_within_s=60)
    async with listening(settings) as dial_in:
        owner = Owner()
        waits = asyncio.create_task(owned(dial_in, A, owner))
        storm = [socket.create_connection(("127.0.0.1", dial_in.port)) for _ in range(200)]
        try:
            async with modem(dial_in, A.encode(), source="127.0.0.2"):
                await asyncio.wait_for(waits, WAIT_S)
            await until(lambda: dial_in.counters.refused_by_rate + dial_in.counters.accepted >= 201)
            assert dial_in.counters.accepted <= 10 + 5 + 1
        finally:
            for each in storm:
                each.close()


def test_the_limits_of_one_address_and_of_all_fill_up_again() -> None:
    limits = ConnectLimits(networks(["10.0.0.0/8"]), per_s=4, peer_per_s=2)
    assert limits.judge("192.168.0.1", 0.0) == NOT_ALLOWED
    assert limits.judge("no address", 0.0) == NOT_ALLOWED
    assert limits.judge("::ffff:10.0.0.9", 0.0) == ""
    assert [limits.judge("10.0.0.1", 0.0) for _ in range(5)] == ["", "", "", "", TOO_OFTEN]
    assert [limits.judge("10.0.0.2", 0.0) for _ in range(4)] == ["", "", "", TOO_OFTEN]  # what all share is used up
    assert limits.judge("10.0.0.1", 0.4) == TOO_OFTEN
    assert limits.judge("10.0.0.1", 0.6) == ""
    for number in range(2 * PEERS_MAX):
        limits.judge(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1.0)
    assert len(limits._peers) == PEERS_MAX


# ------------------------------------------------------------------------------------------------ time


async def test_a_caller_that_says_nothing_is_hung_up_on() -> None:
    async with listening(PROMPT) as dial_in, modem(dial_in) as mute:
        assert await mute.is_hung_up_on()
        assert dial_in.counters.timed_out == 1
        await until(lambda: dial_in.connected == 0)


async def test_a_dtu_without_heartbeats_is_hung_up_on_and_its_line_told() -> None:
    async with listening(ListenerSettings(heartbeat_timeout_s=0.4)) as dial_in:
        owner = Owner()
        waits = asyncio.create_task(owned(dial_in, A, owner))
        async with modem(dial_in, A.encode()) as caller:
            await waits
            for _ in range(4):  # longer than the time-out altogether
                await asyncio.sleep(0.15)
                await caller.say(b"ping")
            assert owner.events == ["made"]
            assert await caller.is_hung_up_on()
            await until(lambda: owner.events == ["made", "lost"])
            assert dial_in.counters.timed_out == 1


async def test_closing_tells_everybody() -> None:
    dial_in = DialIn("127.0.0.1", 0, clock=CLOCK)
    await dial_in.start()
    owner = Owner()
    waits = asyncio.create_task(owned(dial_in, A, owner))
    never = asyncio.create_task(owned(dial_in, B, Owner()))
    async with modem(dial_in, A.encode()) as caller:
        await waits
        await dial_in.aclose()
        assert await caller.is_hung_up_on()
        with pytest.raises(LineDown, match="nobody listens any more"):
            await never
    assert owner.events == ["made", "lost"]
