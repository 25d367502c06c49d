"""What the HTTP interface needs of the rest of the head-end; `app.py` brings it together."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct
from prometheus_client import CollectorRegistry

from headend.clock import Clock
from headend.feed.live import FeedSignal
from headend.model import MeterClock
from headend.on_demand import OnDemandRead
from headend.scheduling.budget import LineBudget
from headend.store.store import Store
from headend.store.tokens import Tokens
from headend.store.writer import WriterHealth

__all__ = ["ApiDeps", "Health", "LineStatus", "MeterStatus", "ReadNow", "StatusProvider"]


class LineStatus(Struct, frozen=True, kw_only=True):
    """One line as its owner sees it now.

    state: "up" | "down" | "connecting" | …, the line's own words. problem: why it is not up; "" when nothing is wrong.
    diagnosis: what is odd about it although it is up, such as a babbling device; "" when nothing is.
    since: when `state` began. last_reply_at: None before the first. counters: since the start, by name.
    budget: what its plans take of its time, with the reply delays learnt so far.
    """

    name: str
    protocol: str
    state: str
    meters: int
    problem: str = ""
    diagnosis: str = ""
    since: datetime | None = None
    last_reply_at: datetime | None = None
    queued: int = 0
    counters: dict[str, int] = {}
    budget: LineBudget | None = None


class MeterStatus(Struct, frozen=True, kw_only=True):
    """One meter as the poller sees it now. None and "" where nothing is known since the start; `clock` as measured last."""

    last_read_at: datetime | None = None
    last_problem: str = ""
    last_problem_at: datetime | None = None
    clock: MeterClock | None = None


class Health(Struct, frozen=True, kw_only=True):
    """problems: what keeps the service from its work, one sentence each, empty when healthy.

    Shown without a token: no meter, no address, no secret in it. One dead meter or line is no problem of the service.
    """

    problems: tuple[str, ...] = ()


class StatusProvider(Protocol):
    """The running part of the head-end, asked on the event loop; must not block."""

    def lines(self) -> Sequence[LineStatus]: ...

    def meters(self) -> Mapping[str, MeterStatus]:
        """By asset number; meters never polled yet may be absent."""
        ...

    def health(self) -> Health: ...


class ReadNow(Protocol):
    """Reads quantities of one meter at once, ahead of the plan.

    quantities: as on the command line (OBIS, `di:…`, `reg:…`); empty means those of the meter's plan. A quantity that
    could not be read comes back with its problem. Raises UnknownMeter, BadQuantity; may raise HeadendError.
    """

    def __call__(self, meter_id: str, quantities: Sequence[str], /) -> Awaitable[Sequence[OnDemandRead]]: ...


class ApiDeps(Struct, frozen=True, kw_only=True):
    """read_now: None when this process owns no lines.

    heartbeat_s: how often a silent stream says that it lives; proxies give up silent connections after 30 to 60 s.
    """

    name: str
    store: Store
    tokens: Tokens
    signal: FeedSignal
    status: StatusProvider
    writer_health: Callable[[], WriterHealth]
    registry: CollectorRegistry
    clock: Clock
    read_now: ReadNow | None = None
    heartbeat_s: float = 15.0
