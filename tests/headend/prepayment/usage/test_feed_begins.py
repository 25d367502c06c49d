"""A head-end that ran for years before it had prepaid accounts: its oldest events are gone, and nobody here ever had them."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from headend.prepayment.errors import FeedPruned
from headend.store.cursors_retention import Retention
from tests.headend.assembly.test_prepaid_supply import Here, here
from tests.headend.support import a_read

AT = datetime(2026, 1, 31, 16, 0, tzinfo=UTC)


def pruned(one: Here, first: int) -> None:
    """Events 1 to first - 1 are gone, first to 300 are there."""
    for start in range(0, 300, 100):
        one.store.commit([a_read(slot=slot) for slot in range(start, start + 100)])
    assert Retention(one.store.engine).prune_feed(first) == (first - 1) // 100


async def taken(one: Here, name: str) -> int:
    duty = next(duty for duty in one.supply.office.duties() if duty.name == name)
    return await asyncio.to_thread(duty.tick, AT)


async def test_a_fresh_database_begins_with_the_oldest_event_that_there_is_and_says_so_once(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        pruned(one, 201)
        with capture_logs() as told:
            assert await taken(one, "intake") == 100
            assert await taken(one, "supply-switches") == 100
            assert await taken(one, "intake") == 0
        assert [entry for entry in told if entry["event"] == "feed_begins"] == [
            {"event": "feed_begins", "first": 201, "log_level": "info"}
        ]
        assert list(one.supply.office.problems()) == []
        one.store.commit([a_read(slot=300)])
        assert (await taken(one, "intake"), await taken(one, "supply-switches")) == (1, 1)


async def test_events_that_were_lost_on_the_way_are_a_broken_feed(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        one.store.commit([a_read(slot=slot) for slot in range(400, 450)])
        assert (await taken(one, "intake"), await taken(one, "supply-switches")) == (50, 50)
        one.store.commit([a_read(slot=slot) for slot in range(450, 500)])
        one.store.commit([a_read(slot=slot) for slot in range(500, 600)])
        assert Retention(one.store.engine).prune_feed(101) == 2
        for name in ("intake", "supply-switches"):
            with pytest.raises(FeedPruned, match=r"docs/operation\.md"):
                await taken(one, name)
