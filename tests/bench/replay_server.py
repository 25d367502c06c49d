"""The HTTP interface over a prepared store, as a process of its own; and, beside the feed, a plain file with the same bytes.

python -m tests.bench.replay_server FOLDER EVENTS
> {"url": "http://127.0.0.1:40123", "token": "hdt_…", "file": 46000000}
"""

import asyncio
import json
import sys
from pathlib import Path

from litestar import get
from litestar.response import File
from prometheus_client import CollectorRegistry

from headend.api import ApiDeps, Health, create_app, serve
from headend.clock import SystemClock
from headend.feed.live import FeedSignal
from headend.store.store import Store, open_store
from headend.store.tokens import Tokens
from headend.store.writer import Writer, inline
from tests.headend.support import day_of_reads

METERS = 500
GROUP = 1000  # what a writer commits at once under load


class _Idle:
    """A StatusProvider of a head-end without lines."""

    def lines(self) -> tuple[()]:
        return ()

    def meters(self) -> dict[str, object]:
        return {}

    def health(self) -> Health:
        return Health()


def fill(store: Store, file: Path, events: int) -> None:
    """The store, and the same events as lines of a file."""
    reads = list(day_of_reads(meters=METERS, slots=-(-events // (2 * METERS)), seed=1))[:events]
    for start in range(0, len(reads), GROUP):
        store.commit(reads[start : start + GROUP])
    with file.open("wb") as lines:
        for start in range(0, len(reads), GROUP):
            lines.writelines(event + b"\n" for event in store.events_after(start, GROUP))


async def main(folder: Path, events: int) -> None:
    store, clock, signal = open_store(f"sqlite:///{folder}/headend.db", "bench"), SystemClock(), FeedSignal()
    file = folder / "feed.ndjson"
    fill(store, file, events)
    signal.advance(store.last_sequence())
    tokens = Tokens(store, clock)
    writer = Writer(store, inline, clock=clock)
    deps = ApiDeps(
        name="bench",
        store=store,
        tokens=tokens,
        signal=signal,
        status=_Idle(),  # type: ignore[arg-type]
        writer_health=writer.health,
        registry=CollectorRegistry(),
        clock=clock,
    )

    @get("/file", media_type="application/x-ndjson")
    async def plain_file() -> File:
        return File(path=file, filename=file.name)

    token = tokens.create_token("bench", ("read",))
    async with serve(create_app(deps, routes=(plain_file,)), "127.0.0.1:0") as listening:
        print(json.dumps({"url": listening.url, "token": token, "file": file.stat().st_size}), flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the caller goes


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
