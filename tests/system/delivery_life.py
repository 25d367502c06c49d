"""A life of a head-end's delivering half, as a process that can be killed: it stores reads and pushes them to a webhook.

python delivery_life.py STORE_FOLDER URL SECRET
"""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from headend.clock import SystemClock
from headend.feed.live import FeedSignal
from headend.feed.pusher import Pusher
from headend.feed.pusher_book import CursorBook
from headend.feed.sinks.settings import PushSettings, WebhookSettings
from headend.feed.sinks.webhook import WebhookSink
from headend.store.cursors import Cursors
from headend.store.store import open_store
from headend.store.writer import own_thread
from tests.headend.support import START, a_read, store_url

METERS = 50


async def main(folder: Path, url: str, secret: str) -> None:
    store = open_store(store_url(folder), "west")
    signal, clock = FeedSignal(), SystemClock()
    signal.advance(store.last_sequence())
    with own_thread() as write, own_thread() as read:
        sink = WebhookSink(
            WebhookSettings(url=url, secret="env:S", timeout_s=5.0), clock=clock, resolve=lambda _: secret
        )
        # Little is "far", so that both lanes are at work in most lives.
        settings = PushSettings(
            name="billing", kind="webhook", url=url, batch_max=40, live_within=200, back_fill_per_s=0
        )
        book = CursorBook(Cursors(store.engine), write)
        pusher = Pusher(settings, sink, book=book, signal=signal, clock=clock, execute=read, seed=1)
        asyncio.get_running_loop().create_task(pusher.run())
        print("ready", flush=True)
        while True:
            slot = store.last_sequence() // METERS
            reads = [a_read(f"M{meter:06d}", slot, f"{slot}.{meter}") for meter in range(METERS)]
            assert reads[0].interval_end == START + slot * timedelta(minutes=15)
            await write(lambda reads=reads: store.commit(reads))  # type: ignore[misc]
            signal.advance(store.last_sequence())
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
