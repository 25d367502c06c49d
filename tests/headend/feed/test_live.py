"""The bell wakes waiting readers, all of them, and stays bounded."""

import asyncio

import pytest

from headend.errors import TooManySubscribers
from headend.feed.live import FeedSignal


async def test_a_waiting_reader_wakes_when_the_feed_advances() -> None:
    signal = FeedSignal()
    with signal.subscribe() as first, signal.subscribe() as second:
        waits = [asyncio.ensure_future(one.wait(0, timeout_s=30)) for one in (first, second)]
        await asyncio.sleep(0)
        signal.advance(1)
        assert await asyncio.gather(*waits) == [True, True]
        assert await first.wait(0, timeout_s=30)  # what is past is past
        assert not await first.wait(1, timeout_s=0)


async def test_closing_ends_every_wait() -> None:
    signal = FeedSignal()
    with signal.subscribe() as subscription:
        wait = asyncio.ensure_future(subscription.wait(0, timeout_s=30))
        await asyncio.sleep(0)
        signal.close()
        assert await wait
        assert await subscription.wait(0, timeout_s=30)


async def test_places_are_limited_and_given_back() -> None:
    signal = FeedSignal(subscribers_max=1)
    with signal.subscribe(), pytest.raises(TooManySubscribers, match="at most 1"):
        signal.subscribe()
    with signal.subscribe():
        assert signal.subscribers == 1
