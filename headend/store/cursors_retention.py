"""What the store holds and what of it may go: pruning in small bites, since the one writer waits meanwhile."""

import shutil
from datetime import datetime
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Engine, delete, func, select

from headend.database.engine import reading, writing
from headend.store.restores import runs, voids
from headend.store.rows import epoch_ms
from headend.store.tables import channels, feed_batches, reads

__all__ = ["Retention", "Usage"]

BATCHES_PER_BITE = 200  # some megabytes: a commit waits some hundredths of a second for it
CHANNELS_PER_BITE = 50


class Usage(Struct, frozen=True, kw_only=True):
    """used_bytes: what the data takes, without pages that were freed. free_bytes: what may still be written, freed pages included;
    None where the database does not tell. events: how many the feed holds; last: number of the newest."""

    used_bytes: int
    free_bytes: int | None
    events: int
    last: int


class Retention:
    """Any thread may call any method. Every method may raise StoreUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def usage(self) -> Usage:
        batch = feed_batches.c
        with reading(self._engine, "measuring the store") as connection:
            first = connection.execute(select(func.min(batch.first))).scalar() or 0
            newest = connection.execute(select(batch.first, batch.count).order_by(batch.first.desc()).limit(1)).first()
            last = 0 if newest is None else newest[0] + newest[1] - 1
            events = sum(end - begin + 1 for begin, end in runs(voids(connection), first, last)) if last else 0
            if self._engine.dialect.name != "sqlite":
                used = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar() or 0
                return Usage(used_bytes=int(used), free_bytes=None, events=events, last=last)
            page, pages, freed = (
                int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
                for name in ("page_size", "page_count", "freelist_count")
            )
        return Usage(
            used_bytes=(pages - freed) * page, free_bytes=self._disk_free() + freed * page, events=events, last=last
        )

    def prune_feed(self, before: int) -> int:
        """Delete the oldest batches that end before event number `before`, one bite; how many batches there were.

        The newest batch stays, whatever is asked: numbering goes on from it.
        """
        batch = feed_batches.c
        with writing(self._engine, "pruning the feed") as connection:
            newest = connection.execute(select(func.max(batch.first))).scalar() or 0
            found = connection.scalars(
                select(batch.first)
                .where(batch.first < before, batch.first + batch.count <= before, batch.first < newest)
                .order_by(batch.first)
                .limit(BATCHES_PER_BITE)
            ).all()
            if found:
                connection.execute(delete(feed_batches).where(batch.first <= found[-1]))
        return len(found)

    def channels(self) -> int:
        """Channels have the ids 1 to this."""
        with reading(self._engine, "counting channels") as connection:
            return connection.execute(select(func.max(channels.c.id))).scalar() or 0

    def prune_reads(self, first_channel: int, before: int, until: datetime) -> int:
        """Delete reads of the bite of channels that begins with this id: interval end before `until`, event before number `before`.

        The newest row of each channel stays, so that the poller knows what it has. Gives the id after the bite's last.
        """
        after = first_channel + CHANNELS_PER_BITE
        newest = select(func.max(reads.c.slot)).where(reads.c.channel == channels.c.id)
        with writing(self._engine, "pruning reads") as connection:
            for channel, last in connection.execute(
                select(channels.c.id, newest.scalar_subquery()).where(
                    channels.c.id >= first_channel, channels.c.id < after
                )
            ).all():
                if last is not None:
                    connection.execute(
                        delete(reads).where(
                            reads.c.channel == channel,
                            reads.c.slot < min(epoch_ms(until), last),
                            reads.c.sequence < before,
                        )
                    )
        return after

    def _disk_free(self) -> int:
        return shutil.disk_usage(Path(self._engine.url.database or ".").resolve().parent).free
