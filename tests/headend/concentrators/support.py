"""What tests of the MQTT side share: a park over a real store and a real broker, and somebody who publishes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiomqtt import Client, ProtocolVersion

from headend.clock import SystemClock
from headend.concentrators.park import ConcentratorPark
from headend.concentrators.settings import BrokerSettings, BrokerUrl, ConcentratorSettings
from headend.model import MeterRecord
from headend.store import Store, Writer
from headend.store.writer import own_thread
from tests.brokers import Broker
from tests.headend.support import a_guard

__all__ = [
    "HES",
    "broker_settings",
    "data",
    "events_of",
    "eventually",
    "meter",
    "publisher",
    "running_park",
    "topic",
]

HES = "concentrator/hes_v1"
CONCENTRATOR = "C1"


def meter(number: int, line: str = CONCENTRATOR) -> MeterRecord:
    return MeterRecord(
        id=f"M{number:06d}",
        line=line,
        address=f"{number:012d}",
        contract="dlt645/base_2007",
        plan="pushed",
        protocol="mqtt",
    )


def broker_settings(url: str, **others: Any) -> BrokerSettings:
    return BrokerSettings(**{"name": "b1", "url": BrokerUrl.parse(url), "client_id": "headend-test", **others})


def topic(number: int = 1, what: str = "data", concentrator: str = CONCENTRATOR) -> str:
    return f"hes/v1/{concentrator}/meter/{number:012d}/{what}"


def data(ms: int, value: str | float, *, sequence: int | None = None, obis: str = "1-0:1.8.0") -> bytes:
    body: dict[str, Any] = {"ts": ms, "values": {obis: value}}
    if sequence is not None:
        body["seq"] = sequence
    return json.dumps(body).encode()


@asynccontextmanager
async def running_park(
    settings: BrokerSettings,
    store: Store,
    *,
    concentrators: Sequence[ConcentratorSettings] | None = None,
    meters: Iterable[MeterRecord] = (meter(1), meter(2), meter(3)),
    linger_s: float = 0.0,
) -> AsyncIterator[ConcentratorPark]:
    with own_thread() as execute:
        async with Writer(store, execute, clock=SystemClock(), linger_s=linger_s) as writer:
            park = ConcentratorPark(
                settings,
                [ConcentratorSettings(name=CONCENTRATOR, broker="b1", contract=HES)]
                if concentrators is None
                else concentrators,
                meters,
                writer=writer,
                clock=SystemClock(),
                secret=lambda reference: reference.removeprefix("env:"),
                guard=a_guard(SystemClock()),
            )
            task = asyncio.create_task(park.run())
            try:
                yield park
                assert not task.done(), task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def publisher(broker: Broker, **options: Any) -> AsyncIterator[Client]:
    async with Client(
        broker.host, broker.port, protocol=ProtocolVersion.V5, max_inflight_messages=500, **options
    ) as client:
        client.pending_calls_threshold = 10_000
        yield client


async def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for what another process or the network does; fails when it does not happen."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        await asyncio.sleep(0.01)


def events_of(store: Store, kind: str = "headend.read.v1") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = 0
    while page := store.events_after(after, 1000):
        after += len(page)
        found += [event for event in map(json.loads, page) if event["type"] == kind]
    return found


def new_folder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made
