"""A head-end that has brokers and no lines, as a process: store, writer, park and HTTP interface, put together as `app.py` does.

    python -m tests.system.mqtt_runner '{"url": "mqtt://127.0.0.1:1883", "store": "sqlite:////tmp/x.db", "meters": 3}'

Prints {"api": URL, "token": TOKEN} when it answers.
"""

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from headend.api import ApiDeps, Health, LineStatus, MeterStatus, create_app, serve
from headend.api.concentrator_routes import concentrator_routes
from headend.clock import SystemClock
from headend.concentrators.park import ConcentratorPark
from headend.concentrators.settings import BrokerSettings, BrokerUrl, ConcentratorSettings
from headend.feed.live import FeedSignal
from headend.model import MeterRecord
from headend.observability import configure_logs
from headend.store.store import open_store
from headend.store.tokens import Role, Tokens
from headend.store.writer import Writer, own_thread

COMMIT_LINGER_S = 0.2  # as the service has it


class NoLines:
    def lines(self) -> Sequence[LineStatus]:
        return ()

    def meters(self) -> Mapping[str, MeterStatus]:
        return {}

    def health(self) -> Health:
        return Health()


async def main(wanted: dict[str, Any]) -> None:
    configure_logs(level=logging.INFO)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    clock = SystemClock()
    store = open_store(wanted["store"], "under-test")
    feed = FeedSignal()
    tokens = Tokens(store, clock)
    meters = [
        MeterRecord(
            id=f"M{n:06d}", line="C1", address=f"{n:012d}", contract="dlt645/base_2007", plan="", protocol="mqtt"
        )
        for n in range(1, wanted["meters"] + 1)
    ]
    with own_thread() as execute:
        async with Writer(store, execute, clock=clock, linger_s=COMMIT_LINGER_S, on_commit=feed.advance) as writer:
            park = ConcentratorPark(
                BrokerSettings(name="b1", url=BrokerUrl.parse(wanted["url"]), client_id="headend-under-test"),
                [ConcentratorSettings(name="C1", broker="b1", contract="concentrator/hes_v1")],
                meters,
                writer=writer,
                clock=clock,
                secret=str,
            )
            deps = ApiDeps(
                name="under-test",
                store=store,
                tokens=tokens,
                signal=feed,
                status=NoLines(),
                writer_health=writer.health,
                registry=CollectorRegistry(),
                clock=clock,
            )
            async with serve(create_app(deps, routes=concentrator_routes(lambda: [park])), "127.0.0.1:0") as listening:
                running = asyncio.create_task(park.run())
                token = tokens.create_token(f"test-{clock.now():%H%M%S.%f}", [Role.READ])
                sys.stdout.write(json.dumps({"api": listening.url, "token": token}) + "\n")
                sys.stdout.flush()
                await stop.wait()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
    store.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
