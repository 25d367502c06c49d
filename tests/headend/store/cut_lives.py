"""Lives of a store that each end with a power cut, and the look at what is left of it.

A life runs the real writer with its group commit, transactions with rows of their own, cursors and the ledger's index on a
`TornDisk`. Whatever was acknowledged is noted outside. After the cut the survivors are opened and compared with the notes.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from sqlalchemy import Connection, event, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from headend.errors import HeadendError, StoreUnavailable
from headend.feed.pusher_progress import Progress
from headend.model import Event, Item, Read
from headend.store.cursors import Cursors, Saved
from headend.store.ledger import Issued, LedgerBook
from headend.store.store import Store, open_store
from headend.store.tables import channels, cursors, feed_batches, reads
from headend.store.writer import Writer, own_thread
from tests.headend.store.torn_disk import TornDisk
from tests.headend.support import START, StillClock, a_read

__all__ = ["Lost", "Notes", "check", "live"]

METERS = 40
EVENTS_MAX = 1_000_000


class Lost(AssertionError):
    """Something that was acknowledged is not there, or is not what it was."""


class Notes(Struct):
    """What must be there after any number of cuts.

    acknowledged: feed number to what the item was. seen: the feed as it was found after the last cut. slot: reads so far.
    cursor: of `billing`, acknowledged; cursor_asked: the newest that was asked for. The same for `mine`, rows of a transaction.
    """

    acknowledged: dict[int, str] = field(default_factory=dict)
    seen: list[bytes] = field(default_factory=list)
    slot: int = 0
    cursor: int = 0
    cursor_asked: int = 0
    ahead: Progress = Progress()
    manifests: list[Issued] = field(default_factory=list)
    transacted: int = 0
    transacted_asked: int = 0
    commits: int = 0


def live(folder: Path, notes: Notes, dice: random.Random, *, cut_at: int | None, pragma: str = "") -> TornDisk:
    """Until the power is off. pragma: one more for every connection, "synchronous=OFF"."""
    with TornDisk(folder, seed=dice.randrange(2**32), cut_at=cut_at) as disk:
        try:
            store = open_store(disk.url, "cut")
        except HeadendError:
            disk.cut()
            return disk
        pages = dice.choice((8, 40, 200, 4000))

        @event.listens_for(store.engine, "connect")
        def on_connect(connection: Any, record: object) -> None:
            # Often, so that cuts fall into checkpoints, too; the service makes one every 4,000 pages.
            connection.execute(f"PRAGMA wal_autocheckpoint={pages}")
            if pragma:
                connection.execute(f"PRAGMA {pragma}")

        try:
            asyncio.run(_work(store, notes, dice, disk))
        finally:
            disk.cut()
            store.close()
        return disk


async def _work(store: Store, notes: Notes, dice: random.Random, disk: TornDisk) -> None:
    with own_thread() as execute:
        writer = Writer(
            store, execute, clock=StillClock(), group_max=dice.choice((5, 50, 1000)), backoff_s=(0.001, 0.001)
        )
        tasks = [asyncio.create_task(_produce(writer, notes, dice)) for _ in range(3)]
        tasks.append(asyncio.create_task(_keep_books(store, writer, notes, dice, execute)))
        while not disk.is_off:
            done, _ = await asyncio.wait(tasks, timeout=0.001)
            for task in done:
                task.result()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):  # nobody hears it: the power is off
            await writer.aclose(flush_s=0.0)


async def _produce(writer: Writer, notes: Notes, dice: random.Random) -> None:
    while True:
        items: list[Item] = []
        for _ in range(dice.choice((1, 1, 3, 20, 150))):
            notes.slot += 1
            meter, slot = f"M{notes.slot % METERS:06d}", notes.slot // METERS
            if dice.random() < 0.1:
                items.append(
                    Event(
                        type="headend.meter-event.v1",
                        subject=meter,
                        id=f"event:{notes.slot}",
                        data={"n": notes.slot},
                        time=START,
                    )
                )
            else:
                items.append(a_read(meter, slot, f"{notes.slot}.25" if dice.random() < 0.9 else None))
        numbers = await writer.submit_all(items)
        for item, number in zip(items, numbers, strict=True):
            if number is None:
                raise Lost(f"{item} was stored already, and nobody has put it before")
            notes.acknowledged[number] = _name(item)
        notes.commits += 1


async def _keep_books(
    store: Store, writer: Writer, notes: Notes, dice: random.Random, execute: Callable[..., Any]
) -> None:
    """Cursors that move, ahead and behind; a manifest; rows and events of one transaction."""
    book, deliveries = LedgerBook(store.engine), Cursors(store.engine)
    while True:
        await asyncio.sleep(0)
        kind = dice.randrange(3)
        end = max(notes.acknowledged, default=0)
        try:
            if kind == 0 and end > notes.cursor:
                notes.cursor_asked = dice.randint(notes.cursor + 1, end)
                progress = Progress(notes.cursor_asked).settled(notes.cursor_asked + 2, notes.cursor_asked + 5)
                await execute(partial(deliveries.save, {"billing": Saved(progress=progress)}))
                notes.cursor, notes.ahead = progress.low, progress
            elif kind == 1 and end:
                number = len(notes.manifests)
                issued = Issued(
                    day=(START.date() + timedelta(days=number)).isoformat(),
                    revision=0,
                    sequence=end * 1000 + number,  # any that is unique
                    through=end,
                    is_final=True,
                    sha256=f"{dice.getrandbits(256):064x}",
                )
                if await execute(book.mark) is None:
                    await execute(lambda: book.begin(0))
                await execute(partial(book.record, issued, b"{}", [b"{}"]))
                notes.manifests.append(issued)
            elif kind == 2:
                notes.transacted_asked = wanted = notes.transacted + 1
                await writer.transact(partial(_transacted, count=wanted), "testing")
                notes.transacted = wanted
        except StoreUnavailable:
            await asyncio.sleep(0.001)


def _transacted(connection: Connection, count: int) -> tuple[None, list[Item]]:
    """A row that counts, and an event that tells of it."""
    move = update(cursors).where(cursors.c.destination == "mine").values(sequence=count)
    if connection.execute(move).rowcount == 0:
        connection.execute(insert(cursors).values(destination="mine", sequence=count))
    return None, [
        Event(type="headend.meter-event.v1", subject="mine", id=f"mine:{count}", data={"n": count}, time=START)
    ]


def _name(item: Item) -> str:
    if isinstance(item, Read):
        return f"{item.meter} {item.interval_end:%dT%H:%M} {'' if item.amount is None else item.amount}"
    assert isinstance(item, Event)
    return item.id


def check(url: str, notes: Notes) -> None:
    """Open what is left, and compare. Raises Lost."""
    try:
        store = open_store(url, "cut")
    except HeadendError as error:
        raise Lost(f"the store does not open: {error}") from error
    try:
        _check(store, notes)
    except (HeadendError, SQLAlchemyError) as error:
        raise Lost(f"the store cannot be read: {error}") from error
    finally:
        store.close()


def _check(store: Store, notes: Notes) -> None:
    feed = store.events_after(0, EVENTS_MAX)
    events = [json.loads(text) for text in feed]
    _same([int(one["sequence"]) for one in events], list(range(1, len(events) + 1)), "sequences")
    _same(feed[: len(notes.seen)], notes.seen, "events that were there before")
    for number, name in notes.acknowledged.items():
        if number > len(events):
            raise Lost(f"event {number}, {name}, was acknowledged; the feed ends at {len(events)}")
        _same(_name_of(events[number - 1]), name, f"event {number}")
    with store.engine.connect() as connection:
        _same(connection.exec_driver_sql("PRAGMA integrity_check").scalar(), "ok", "integrity")
        rows = connection.execute(
            select(channels.c.meter, reads.c.sequence, reads.c.amount).join_from(
                reads, channels, reads.c.channel == channels.c.id
            )
        ).all()
        counts = connection.execute(
            select(feed_batches.c.first, feed_batches.c.count).order_by(feed_batches.c.first)
        ).all()
    _same(
        sorted((row[1], row[0], row[2]) for row in rows),
        [
            (int(one["sequence"]), one["subject"], one["data"]["value"])
            for one in events
            if one["type"] == "headend.read.v1"
        ],
        "reads beside their events",
    )
    _same(sum(row[1] for row in counts), len(events), "events by batch")
    progress = Cursors(store.engine).progress("billing") or Progress()
    if not notes.cursor <= progress.low <= notes.cursor_asked or progress.low > len(events):
        raise Lost(f"cursor is {progress}, acknowledged was {notes.cursor}, the feed ends at {len(events)}")
    if progress.low == notes.cursor:
        _same(progress, notes.ahead, "stretches ahead of the cursor")
    notes.cursor, notes.cursor_asked, notes.ahead = progress.low, progress.low, progress
    issued = LedgerBook(store.engine).issued()
    _same(issued[: len(notes.manifests)], notes.manifests, "manifests")
    notes.manifests = issued
    mine = store.cursor("mine")
    if not notes.transacted <= mine <= notes.transacted_asked:
        raise Lost(f"{mine} transactions are there, acknowledged were {notes.transacted}")
    _same(
        [one["id"] for one in events if one["subject"] == "mine"],
        [f"mine:{n}" for n in range(1, mine + 1)],
        "rows beside events",
    )
    notes.transacted = notes.transacted_asked = mine
    notes.seen = feed


def _name_of(found: dict[str, Any]) -> str:
    data = found["data"]
    if found["type"] != "headend.read.v1":
        return str(found["id"])
    return f"{data['meter']} {data['interval_end'][8:16]} {data['value'] or ''}"


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise Lost(f"{what}: expected {str(expected)[:300]}, found {str(found)[:300]}")
