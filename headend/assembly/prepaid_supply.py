"""Prepaid supply as a part of the service: its office, the threads it works on, its routes, and what it tells of itself.

It reads this head-end's feed and orders by its command interface as any billing system does, under a token that lives in memory
only, so that it can be taken out and replaced. Its duties have a thread of their own; what HTTP asks of it runs on a few others,
because a call that held one of asyncio's own threads while it waits for this process to answer it could wait for ever.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import Any, ParamSpec, TypeVar

import httpx
import structlog
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from prometheus_client.registry import Collector

from headend.api.account_changes import account_changes
from headend.api.account_routes import account_routes
from headend.api.payment_routes import payment_routes
from headend.api.tariff_routes import tariff_routes
from headend.assembly.prepaid_metrics import PrepaidCollector
from headend.assembly.prepaid_settings import PERSON, bank_of, channels_of, settings_of
from headend.clock import Clock
from headend.config import Config
from headend.database.engine import writing
from headend.pages.routes import page_routes
from headend.prepayment.days import LocalDays
from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.notices.mailroom import MAIL_THREADS
from headend.prepayment.office.office import Office, Outside
from headend.prepayment.office.service import Duty, PrepaymentService
from headend.prepayment.outside.calling import Asked, CallOverLoop, NoAnswer
from headend.prepayment.outside.feed_http import HttpFeed
from headend.prepayment.outside.outbox_http import HttpOutbox
from headend.prepayment.outside.switchboard_http import HttpSwitchboard
from headend.prepayment.storage.database import open_database
from headend.prepayment.views.figures import Figures, figures_of
from headend.store.governor_protections import set_person
from headend.store.store import Store
from headend.store.tokens import INSIDE_PREFIX, Role, Tokens

__all__ = ["InsideCaller", "PrepaidSupply"]

DESKS = 4  # HTTP calls at once
TILLS = 4  # beside them payments and credits, which wait for the switch: while it is slow, whoever only looks does not wait with them
PAYING_MAX = 100  # payments and credits that are booked or wait for their turn; more are told again
FIGURES_EVERY_S = 60.0
STOP_S = 20.0  # an answer of a channel or of the bank, and what is written down about it
TIMEOUT_S = 60.0  # of a call inside the process; CallOverLoop gives up before

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[[], Awaitable[None]]
Keep = Callable[[str, Work], Coroutine[Any, Any, None]]

log = structlog.get_logger(__name__)


class InsideCaller:
    """Requests to the application of this process. Before `attach` and after `aclose` nobody answers. Called on threads only."""

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        self._client: httpx.AsyncClient | None = None
        self._call: CallOverLoop | None = None

    def attach(self, app: Litestar) -> None:
        """On the event loop that the application runs on."""
        asgi: Any = app  # the same interface, in other words
        transport = httpx.ASGITransport(app=asgi, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://inside", headers=self._headers, timeout=TIMEOUT_S
        )
        self._call = CallOverLoop(self._client, asyncio.get_running_loop())

    async def aclose(self) -> None:
        self._call = None
        if self._client is not None:
            await self._client.aclose()

    def __call__(self, method: str, path: str, *, query: dict[str, str] | None = None, body: object = None) -> Asked:
        call = self._call
        if call is None:
            raise NoAnswer(f"{method} {path}: the head-end is starting or stopping")
        return call(method, path, query=query, body=body)


class PrepaidSupply:
    """office: whole and blocking; never called on the event loop. zone: whose days are meant.

    tokens: those that the HTTP interface knows. Raises ConfigError, BadSecret, StoreError.
    """

    def __init__(self, config: Config, store: Store, tokens: Tokens, *, clock: Clock) -> None:
        self.zone = config.zone
        self._tokens = tokens
        self._clock = clock
        self._days = LocalDays(config.zone)
        self._figures = Figures()
        self._told: Sequence[str] = ()
        with ExitStack() as closing:
            settings = settings_of(config)
            channels, bank = channels_of(config, closing), bank_of(config, closing)
            self._database = open_database(config.prepayment.store)
            closing.callback(self._database.dispose)
            plain = tokens.issue_inside(PERSON, (Role.READ, Role.OPERATE, Role.DISCONNECT, Role.ACCOUNT_EVENTS))
            with writing(store.engine, "naming who orders for prepaid supply") as connection:
                set_person(connection, INSIDE_PREFIX + PERSON, PERSON)
            self._call = InsideCaller(plain)
            meters = frozenset(meter.id for meter in config.meters)
            self._senders = ThreadPoolExecutor(MAIL_THREADS, thread_name_prefix="prepaid-mail")
            self.office = Office(
                self._database,
                settings,
                Outside(
                    feed=HttpFeed(self._call),
                    switch=HttpSwitchboard(self._call),
                    outbox=HttpOutbox(self._call),
                    channels=channels,
                    bank=bank,
                    our_meters=lambda: meters,
                    senders=self._senders,
                ),
                days=self._days,
                clock=clock,
            )
            self._desks = ThreadPoolExecutor(DESKS, thread_name_prefix="prepaid-desk")
            self._tills = ThreadPoolExecutor(TILLS, thread_name_prefix="prepaid-till")
            self._paying = 0
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="prepaid-duties")
            self.look = Duty(name="figures", tick=self._look, every_s=FIGURES_EVERY_S)
            self._service = PrepaymentService([*self.office.duties(), self.look], clock=clock, execute=self._execute)
            self._closing = closing.pop_all()

    def attach(self, app: Litestar) -> None:
        """Through this application feed and switch are reached; on its event loop, before `run`."""
        self._call.attach(app)

    async def ask(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`work` on one of the threads for HTTP calls; raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._desks, partial(work, *args, **kwargs))

    async def pay(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`work` on one of the threads for payments and credits; raises what it raises. One that finds too many before it raises
        SwitchboardUnavailable: it is told again."""
        if self._paying >= PAYING_MAX:
            raise SwitchboardUnavailable(
                f"{PAYING_MAX} payments and credits are being booked; tell this one again in a minute"
            )
        self._paying += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._tills, partial(work, *args, **kwargs))
        finally:
            self._paying -= 1

    # -------------------------------------------------------------------------------------------- running

    async def run(self, keep: Keep) -> None:
        """The duties, until `stop`; the piece under way is brought to its end. keep: of a Supervisor."""
        await keep("prepaid supply", self._service.run)

    def stop(self) -> None:
        """No duty is begun any more. What HTTP asks is answered until `aclose`."""
        self._service.stop()

    async def aclose(self) -> None:
        """Once nobody asks any more. What waits for an answer of this process is given none."""
        await self._call.aclose()
        ended = asyncio.gather(
            asyncio.to_thread(self._desks.shutdown, wait=True, cancel_futures=True),
            asyncio.to_thread(self._tills.shutdown, wait=True, cancel_futures=True),
            asyncio.to_thread(self._end_duties),
        )
        try:
            async with asyncio.timeout(STOP_S):
                await asyncio.shield(ended)
        except TimeoutError:
            # Messages to a channel that does not answer. Those not sent are sent after the next start.
            log.warning("prepaid supply does not end, its connections are closed")
        self._closing.close()
        await ended

    def _end_duties(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._senders.shutdown(wait=True, cancel_futures=True)  # they are given work by the duties

    async def _execute(self, work: Callable[[], int], /) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _look(self, now: datetime) -> int:
        with self._database.reading("counting accounts") as connection:
            self._figures = figures_of(connection, now, self._days, self._figures)
        self._told = tuple(self.office.problems())
        return 0

    # -------------------------------------------------------------------------------------------- for the rest of the head-end

    def problems(self) -> Sequence[str]:
        """For /healthz, which anybody may ask: no customer in it."""
        failing = [name for name, state in self._service.states.items() if state.problem]
        return (
            *(f"Prepaid supply: {name} fails and is tried again; the log says why." for name in failing),
            *self._told,
        )

    def needed(self) -> int:
        """The first event of the feed that was not taken in yet, as counted last."""
        return self._figures.heard_through + 1

    def collectors(self) -> Sequence[Collector]:
        return (PrepaidCollector(lambda: self._figures, self._service.states),)

    def routes(self) -> Sequence[HTTPRouteHandler]:
        return (
            *account_routes(self),
            *account_changes(self),
            *payment_routes(self),
            *tariff_routes(self),
            *page_routes(self, self._tokens, self._clock),
        )
