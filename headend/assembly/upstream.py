"""All that stands between the store and billing: pushing, retention, intervals and their ledger. It follows the feed and adds to it."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from litestar.handlers import HTTPRouteHandler
from msgspec import Struct
from prometheus_client.registry import Collector

from headend.api.ledger_routes import ledger_routes
from headend.api.sink_routes import sink_routes
from headend.assembly.interval_keeping import Intervals
from headend.clock import Clock
from headend.config import Config
from headend.errors import ConfigError, HeadendError
from headend.feed.live import FeedSignal
from headend.feed.pusher_deliveries import Deliveries
from headend.feed.pusher_retention import RetentionKeeper, RetentionPolicy
from headend.feed.pusher_status import DeliveryCollector
from headend.intervals.guard import Guard
from headend.ledger.duties import duties_of
from headend.ledger.keeper import LedgerKeeper
from headend.ledger.metrics import LedgerCollector
from headend.ledger.signing import SigningKey
from headend.ledger.view import LedgerView
from headend.secrets import SecretStore
from headend.store.cursors import Cursors
from headend.store.cursors_retention import Retention
from headend.store.ledger import LedgerBook
from headend.store.store import Store
from headend.store.writer import Execute, Writer, own_thread

__all__ = ["Threads", "Upstream", "signing_key_of"]


class Threads(Struct, frozen=True):
    """Where blocking work runs, so that none waits for another's. write: also the store's writer. files: writes days into folders.
    count: of the ledger, which goes through a day. reckon: of intervals."""

    write: Execute
    read: Execute
    files: Execute
    count: Execute
    reckon: Execute

    @classmethod
    def all_in(cls, execute: Execute) -> "Threads":
        """For virtual time."""
        return cls(execute, execute, execute, execute, execute)

    @classmethod
    @contextmanager
    def started(cls) -> "Iterator[Threads]":
        """For the real service; they end with the `with` block."""
        with ExitStack() as stack:
            names = ("store-writer", "feed-reader", "day-files", "ledger", "intervals")
            yield cls(*(stack.enter_context(own_thread(name)) for name in names))


def signing_key_of(config: Config) -> SigningKey | None:
    """Of manifests; None when none is configured. Raises ConfigError."""
    if not config.ledger.signing_key:
        return None
    secrets = SecretStore(config.secrets, base=config.path.resolve().parent)
    try:
        return SigningKey.from_pem(secrets.resolve(config.ledger.signing_key))
    except HeadendError as error:
        raise ConfigError(
            f"[ledger] signing_key: {error}; put the key back, or take `signing_key` out: manifests are not signed then"
        ) from error


class Upstream:
    """Raises ConfigError when the signing key cannot be used."""

    def __init__(
        self,
        config: Config,
        store: Store,
        writer: Writer,
        *,
        guard: Guard,
        signal: FeedSignal,
        clock: Clock,
        threads: Threads,
        needed: Callable[[], int] | None = None,
    ) -> None:
        """needed: the first event that another part of this process has yet to look at."""
        cursors, self._book = Cursors(store.engine), LedgerBook(store.engine)
        key = signing_key_of(config)
        self.deliveries = Deliveries(
            config.sinks,
            cursors,
            name=config.name,
            signal=signal,
            clock=clock,
            read=threads.read,
            write=threads.write,
            files=threads.files,
            secret=SecretStore(config.secrets, base=config.path.resolve().parent).resolve,
        )
        self.retention = RetentionKeeper(
            RetentionPolicy(
                keep_s=config.feed_retention_s,
                protect_s={sink.name: sink.push.protect_s for sink in config.sinks},
            ),
            name=config.name,
            cursors=cursors,
            retention=Retention(store.engine),
            clock=clock,
            execute=threads.read,
            write=threads.write,
            tell=writer.put,
            needed=self._needed,
        )
        self._needed_beside = needed
        self.intervals = Intervals(
            config, store, writer, signal=signal, clock=clock, execute=threads.reckon, baselines=guard
        )
        self.ledger = LedgerKeeper(
            self._book,
            writer,
            duties_of(config),
            zone=config.zone,
            source=config.source,
            clock=clock,
            execute=threads.count,
            key=key,
            close_after_s=config.ledger.close_after_s,
            target=config.ledger.target,
        )
        self._view = LedgerView(
            self._book,
            zone=config.zone,
            clock=clock,
            key=None if key is None else key.public,
            target=config.ledger.target,
        )

    def _needed(self) -> int:
        """The first event whose day is not closed, or whose intervals are not told yet."""
        newest = self._book.newest()
        unclosed = 1 if newest is None else newest.through + 1
        beside = () if self._needed_beside is None else (self._needed_beside(),)
        return min(unclosed, self.intervals.keeper.needed, *beside)

    def tasks(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """What runs as long as the head-end, by name."""
        for name, pusher in self.deliveries.pushers.items():
            yield f"sink {name}", pusher.run
        yield "retention", self.retention.run
        yield "intervals", self.intervals.keeper.run
        yield "ledger", self.ledger.run

    def stop(self) -> None:
        """End after the step in hand; retention is to be cancelled."""
        self.deliveries.stop()
        self.intervals.keeper.stop()
        self.ledger.stop()

    def problems(self) -> Sequence[str]:
        """For /healthz, which anybody may ask: no meter and no address in it."""
        return (*self.intervals.keeper.problems, *self.ledger.problems, *self.retention.problems())

    def collectors(self) -> Sequence[Collector]:
        return (
            DeliveryCollector(self.deliveries.statuses, lambda: self.retention.capacity),
            LedgerCollector(self.ledger),
        )

    def routes(self) -> Sequence[HTTPRouteHandler]:
        return (
            *sink_routes(self.deliveries, self.retention),
            *ledger_routes(self._view),
            *self.intervals.routes(),
        )
