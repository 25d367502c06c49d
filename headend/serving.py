"""The service of one process: the head-end, its HTTP interface, prepaid supply where it is enabled, and the signals.

Only this module chooses the real clock, transports and store.
"""

import asyncio
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress

import structlog
from prometheus_client import CollectorRegistry

from headend.api.account_event_routes import account_event_routes
from headend.api.app import create_app
from headend.api.caller_routes import caller_routes
from headend.api.concentrator_routes import concentrator_routes
from headend.api.deps import ApiDeps
from headend.api.metrics import StoreCollector
from headend.api.schema_routes import asyncapi_document, event_schema, list_schemas, name_quantity
from headend.api.server import Listening, serve
from headend.app import HeadEnd
from headend.assembly.guarding import TruthCollector
from headend.assembly.upstream import Threads
from headend.clock import SystemClock
from headend.config import Config
from headend.database.postgresql import SILENCE_S
from headend.drivers.listener_connect import DialInConnect
from headend.errors import StoreInUse
from headend.observability import ConcentratorCollector, LineCollector, ListenerCollector
from headend.store.backup import is_on_server
from headend.store.lock import sole_owner
from headend.store.reserve import disk_of
from headend.store.server_hold import LOOK_S
from headend.store.store import open_store
from headend.store.tokens import Tokens

__all__ = ["run_service"]

log = structlog.get_logger(__name__)


async def run_service(
    config: Config, *, on_ready: Callable[[Listening], None], stop: asyncio.Event | None = None
) -> None:
    """The whole service of one process, until SIGTERM or SIGINT. Raises ConfigError, StoreError, ListenError."""
    end = stop or asyncio.Event()
    _stop_on_signals(end)
    loop, taken = asyncio.get_running_loop(), list[str]()

    def lost(problem: str) -> None:
        taken.append(problem)
        loop.call_soon_threadsafe(end.set)

    with ExitStack() as held:
        for url in (config.store, *((config.prepayment.store,) if config.prepayment.enabled else ())):
            if not await _hold(held, url, lost, end):
                return
        threads = held.enter_context(Threads.started())
        await _serve(config, threads, on_ready=on_ready, stop=end)
    if taken:
        raise StoreInUse(taken[0])


async def _hold(held: ExitStack, url: str, lost: Callable[[str], None], end: asyncio.Event) -> bool:
    """Whether the store is ours until `held` ends; not if `end` came first. Raises as `sole_owner`.

    On a server it is waited for: who seems to have it may be a head-end, or this one, whose machine has lost its power.
    """
    tries = int(SILENCE_S + LOOK_S) if is_on_server(url) else 0
    for left in range(tries, -1, -1):
        try:
            held.enter_context(sole_owner(url, lost))
        except StoreInUse as error:
            if not left:
                raise
            if left == tries:
                log.warning("somebody has the store, and may be gone; waiting", problem=str(error), for_s=tries)
            with suppress(TimeoutError):
                await asyncio.wait_for(end.wait(), 1)
                return False
        else:
            break
    return True


async def _serve(
    config: Config, threads: Threads, *, on_ready: Callable[[Listening], None], stop: asyncio.Event
) -> None:
    clock = SystemClock()
    disk = disk_of(config.store)
    store = open_store(config.store, config.name)
    dial_in = DialInConnect(config.listeners, clock=clock)
    tokens = Tokens(store, clock)
    prepaid = None
    try:
        _expect_callers(config, dial_in, store.adoptions())
        if config.prepayment.enabled:
            # What is not enabled is not in the process at all.
            from headend.assembly.prepaid_supply import PrepaidSupply

            prepaid = PrepaidSupply(config, store, tokens, clock=clock)
        head_end = HeadEnd(
            config,
            store,
            clock=clock,
            connect=dial_in,
            execute=threads.write,
            threads=threads,
            disk=disk,
            prepaid=prepaid,
        )
        head_end.signal.advance(store.last_sequence())
        registry = CollectorRegistry()
        registry.register(StoreCollector(head_end.writer, head_end.signal))
        registry.register(TruthCollector(head_end.guard))
        registry.register(LineCollector(head_end.line_owners))
        registry.register(ListenerCollector(dial_in))
        registry.register(ConcentratorCollector(head_end.parks))
        parts = (head_end.upstream, head_end.switchgear, *(() if prepaid is None else (prepaid,)))
        for part in parts:
            for collector in part.collectors():
                registry.register(collector)
        deps = ApiDeps(
            name=config.name,
            store=store,
            tokens=tokens,
            signal=head_end.signal,
            status=head_end,
            writer_health=head_end.writer.health,
            registry=registry,
            clock=clock,
            read_now=head_end.read_now,
        )
        host = f"[{config.host}]" if ":" in config.host else config.host
        # What the feed's events look like.
        schemas = (asyncapi_document, list_schemas, event_schema, name_quantity)
        routes = (
            *concentrator_routes(lambda: head_end.parks),
            *caller_routes(dial_in, store),
            *schemas,
            *account_event_routes(head_end.writer, clock),
            *(route for part in parts for route in part.routes()),
        )
        app = create_app(deps, routes=routes)
        if prepaid is not None:
            prepaid.attach(app)
        async with serve(app, f"{host}:{config.port}") as listening:
            log.info("head-end is running", api=listening.url, lines=len(config.lines), meters=len(config.meters))
            on_ready(listening)
            await head_end.run(stop)
            log.info("head-end has stopped", last_sequence=store.last_sequence())
    finally:
        if prepaid is not None:
            await prepaid.aclose()
        await dial_in.aclose()
        store.close()


def _expect_callers(config: Config, dial_in: DialInConnect, adopted: dict[str, str]) -> None:
    """adopted: DTU by line, in place of the one that the line's URL names."""
    urls = {line.name: line.url for line in config.lines}
    void = dial_in.expect_all(urls, adopted)
    for line_name, dtu in adopted.items():
        if line_name in void:
            log.warning("an adopted DTU is not its line's any more", line=line_name, dtu=dtu)
        elif urls[line_name].dtu != dtu:
            log.info("a line has an adopted DTU", line=line_name, dtu=dtu, instead_of=urls[line_name].dtu)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows: no loop support; a plain handler reaches the loop from the main thread
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
