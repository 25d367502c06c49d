"""When the disk is full, reads wait, what is urgent is written into the reserve, and all goes on by itself once there is room."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from headend.errors import StoreFull
from headend.model import Item
from headend.store.reserve import DiskWatch, Reserve, disk_of
from headend.store.store import Store, open_store
from headend.store.writer import Writer, inline
from tests.headend.support import StillClock, a_read, an_event
from tests.small_disk import SmallDisk, small_disk

MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 32) as found:
        yield found


def opened(disk: SmallDisk) -> tuple[Store, DiskWatch]:
    url = f"sqlite:///{disk.folder}/store.db"
    watch = disk_of(url)
    assert watch is not None
    return open_store(url, "luoyang-west"), watch


def urgent(_: Connection) -> tuple[str, list[Item]]:
    return "closed", [an_event()]


def test_the_reserve_takes_real_room_and_gives_it_back(disk: SmallDisk) -> None:
    reserve = Reserve(disk.folder / "reserve")
    assert reserve.size == 2 * MEGABYTE  # a sixteenth of a small disk
    before = disk.free
    assert not reserve.is_held
    assert reserve.restore()
    assert reserve.is_held
    assert disk.free == before - reserve.size
    assert reserve.release()
    assert disk.free == before
    assert not reserve.release()


def test_a_reserve_that_does_not_fit_takes_nothing(disk: SmallDisk) -> None:
    disk.fill(leave=MEGABYTE)
    before = disk.free
    assert not Reserve(disk.folder / "reserve").restore()
    assert disk.free == before


def test_on_a_full_disk_reads_wait_and_what_is_urgent_is_written(disk: SmallDisk) -> None:
    store, watch = opened(disk)

    async def scenario() -> None:
        async with Writer(
            store, inline, clock=StillClock(), disk=watch, queue_max=50, backoff_s=(0.001, 0.01)
        ) as writer:
            assert await writer.submit(a_read()) == 1
            disk.fill()
            waiting = [asyncio.create_task(writer.submit(a_read(slot=slot))) for slot in range(1, 60)]
            async with asyncio.timeout(5):
                while writer.healthy:  # noqa: ASYNC110 -- the writer rings no bell for it
                    await asyncio.sleep(0.001)
            assert "full" in writer.health().last_error
            # The room in memory is used up: who would ask a meter waits, and the lines rest.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await writer.room()
            with pytest.raises(StoreFull):
                await writer.transact(urgent, "opening a supply")
            assert watch.reserve_bytes == 2 * MEGABYTE
            for _ in range(20):
                assert await writer.transact(urgent, "closing a supply", urgent=True) == "closed"
                disk.fill(leave=MEGABYTE)  # somebody else takes what he finds
            assert watch.reserve_bytes == 0
            assert watch.is_full
            assert store.last_sequence() == 21
            assert not any(task.done() for task in waiting), "a read took the room of the reserve"
            disk.empty()
            async with asyncio.timeout(5):
                numbers = await asyncio.gather(*waiting)
            assert numbers == list(range(22, 22 + 59))
            assert watch.reserve_bytes == 2 * MEGABYTE
            assert writer.healthy

    asyncio.run(scenario())
    store.close()


def test_a_start_on_a_full_disk_uses_the_reserve_until_there_is_room(disk: SmallDisk) -> None:
    store, _ = opened(disk)
    store.commit([a_read()])
    store.close()
    disk.fill()
    store, watch = opened(disk)
    assert watch.is_full
    assert watch.reserve_bytes == 0
    store.set_cursor("billing", 1)  # what a start has to write
    with pytest.raises(StoreFull, match=r"make room there"):
        watch.check()
    disk.empty()
    watch.check()
    assert watch.reserve_bytes == 2 * MEGABYTE
    store.close()


def test_a_commit_that_finds_no_room_in_its_middle_stores_nothing_and_the_next_goes_on(disk: SmallDisk) -> None:
    store, _ = opened(disk)
    store.commit([a_read()])
    for leave in (0, 8192, 40_000, 100_000):
        disk.fill(leave=leave)
        before = store.last_sequence()
        with pytest.raises(StoreFull, match="nothing was stored"):
            store.commit([a_read(f"M{meter:06d}", leave + 1) for meter in range(3000)])
        assert store.last_sequence() == before
        disk.empty()
        assert store.commit([a_read("M000001", leave + 1)]) == [before + 1]
    store.close()
