"""The connection to one broker, kept for ever, and nothing acknowledged before it is durable.

Messages wait in one bounded queue; batch after batch is given to `take`, and what `take` has returned for is acknowledged, in the
order in which it came (MQTT wants that). Several batches may be under way, so that they share commits. When too much is held,
reading stops and the broker waits: with MQTT 5 it sends no more than `in_flight_max` ahead anyway, but messages of QoS 0 and brokers
of 3.1.1 know no such limit.

After a crash or a lost connection the broker sends again whatever was not acknowledged; telling what was stored already is the
store's affair.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog
from msgspec import Struct
from paho.mqtt.client import MQTTMessage

from headend.clock import Clock
from headend.concentrators.client import NO_SUBSCRIBERS, REFUSED_FROM, MqttClient, MqttError, NotSent, why
from headend.concentrators.errors import BadBrokerUrl, BrokerDown, CommandNotTaken
from headend.concentrators.settings import BrokerSettings
from headend.errors import StoreError
from headend.secrets import BadSecret
from protocols.concentrator.messages import Outgoing

__all__ = ["BrokerConnection", "BrokerCounters", "Incoming", "MaybeLeft"]

BACKOFF_S = (
    0.2,
    3.0,
)  # first and longest pause; with a connection attempt it makes less than 5 s after the broker's return
REAL_STAY_S = 10.0  # less does not reset the back-off: two head-ends may be throwing each other out
SHORT_STAYS_MAX = 3  # in a row; not every broker says why it ends a connection
BATCH_MAX = 100  # messages decoded in one turn
BATCH_BYTES_MAX = 256 * 1024  # and that much of them: some milliseconds
BATCHES_MAX = 8  # under way at once
HELD_MAX = 2000  # messages received and not yet acknowledged; beyond it reading stops until half of them are gone
HELD_BYTES_MAX = 16 * 1024 * 1024
# What waited at the broker comes in one go: so long a silence ends it, and on a broker that is never silent so much time does.
CAUGHT_UP_QUIET_S = 1.0
CAUGHT_UP_S_MAX = 60.0


class Incoming(Struct, frozen=True, kw_only=True):
    """A message as it came.

    topic: "" when it was no text. payload: empty when it was larger than we take; `size` is what came. is_retained: it lay at the
    broker, nobody said it now. is_repeated: the broker says that it may have been sent before. has_waited: it came in the rush
    after we had been away, or had not been reading, so that nobody knows when it was said.
    """

    topic: str
    payload: bytes
    size: int
    is_retained: bool
    is_repeated: bool
    received_at: datetime
    has_waited: bool = False


Take = Callable[[Sequence[Incoming]], Awaitable[None]]


class MaybeLeft(Exception):
    """A message was given to the broker, and whether it has it is not known."""


class BrokerCounters(Struct):
    """Since the start. lost_sessions: the broker had forgotten us although we had been there, so what it held for us is gone."""

    messages: int = 0
    bytes: int = 0
    acknowledged: int = 0
    repeated: int = 0
    published: int = 0
    connects: int = 0
    failed_connects: int = 0
    lost_sessions: int = 0
    pauses: int = 0


class _Held(Struct):
    message: Incoming
    client: MqttClient
    mid: int
    qos: int


class BrokerConnection:
    """Run `run()` in a task; it connects, reconnects and ends when cancelled.

    topics: filters to subscribe to. commands: filters of our own command topics, watched for what should not be there.
    take: decodes a batch and returns when all of it is durable, or may be forgotten. secret: what is behind a reference.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        topics: Sequence[str],
        commands: Sequence[str],
        clock: Clock,
        secret: Callable[[str], str],
        take: Take,
    ) -> None:
        self.settings = settings
        self.counters = BrokerCounters()
        self.problem = "not connected yet"  # empty while all is well
        self.since: datetime = clock.now()  # of the present state, up or down
        self._topics = topics
        self._commands = commands
        self._clock = clock
        self._secret = secret
        self._take = take
        self._client: MqttClient | None = None
        self._up = asyncio.Event()
        self._queue: deque[_Held] = deque()
        self._arrived = asyncio.Event()
        self._under_way: asyncio.Queue[tuple[asyncio.Task[None], list[_Held]]] = asyncio.Queue(BATCHES_MAX)
        self._held = self._held_bytes = 0
        self._paused: MqttClient | None = None  # whose reading was paused last
        self._roomy = asyncio.Event()  # not set while reading is paused
        self._roomy.set()
        self._was_there = False
        self._catching_up_since: float | None = None  # monotonic
        self._last_came_at = 0.0
        self._log = structlog.get_logger(__name__).bind(broker=settings.name, url=settings.url.text)

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    async def wait_up(self) -> None:
        await self._up.wait()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_connected())
                group.create_task(self._hand_over())
                group.create_task(self._acknowledge())
        finally:
            while not self._under_way.empty():
                self._under_way.get_nowait()[0].cancel()
            self._queue.clear()
            self._held = self._held_bytes = 0
            self._roomy.set()  # nothing is held any more: who starts this again must not wait for what is gone
            self._set_state(False, "the head-end is stopping")

    async def publish(self, message: Outgoing) -> None:
        """Returns when the broker has it. Raises BrokerDown and CommandNotTaken, then it has not left, and MaybeLeft.

        It never leaves as a retained message, and never twice: a new connection knows nothing of it.
        """
        client = self._client
        if client is None or not self.is_up:
            raise BrokerDown(self.settings.name, self.problem)
        try:
            code = await client.send(message.topic, message.payload, qos=message.qos, expiry_s=message.expiry_s)
        except ValueError as error:  # a topic that MQTT forbids; nothing was sent
            raise CommandNotTaken(self.settings.name, message.topic, str(error)) from error
        except NotSent as error:
            raise BrokerDown(self.settings.name, str(error)) from error
        except MqttError as error:
            raise MaybeLeft(f"broker {self.settings.name}: {error}") from error
        self.counters.published += 1
        if code.value >= REFUSED_FROM:
            raise CommandNotTaken(
                self.settings.name, message.topic, f"it answered {code}; is this user allowed to publish?"
            )
        if code.value == NO_SUBSCRIBERS:
            raise CommandNotTaken(self.settings.name, message.topic, "nobody is subscribed to it")

    async def room(self) -> None:
        """Returns when what is published next, in the same step of the loop, leaves at once. Raises BrokerDown."""
        client = self._client
        if client is None or not self.is_up:
            raise BrokerDown(self.settings.name, self.problem)
        try:
            await client.room()
        except NotSent as error:
            raise BrokerDown(self.settings.name, str(error)) from error

    async def clear_retained(self, topic: str) -> None:
        """Delete what lies at the broker under this topic. Does nothing when there is no connection."""
        if self._client is not None:
            try:
                await self._client.send(topic, b"", qos=1, retain=True, expiry_s=None)
            except (MqttError, ValueError) as error:
                self._log.warning("a retained message could not be cleared", topic=topic, problem=str(error))

    # -------------------------------------------------------------------------------------------- connecting

    async def _keep_connected(self) -> None:
        pause_s = 0.0
        short_stays = 0
        while True:
            if not self._roomy.is_set():
                # A new connection would bring all of it again.
                self._went_down(
                    f"{self._held} messages wait for the store; it is connected again when they are durable"
                )
                await self._roomy.wait()
            began = self._clock.monotonic()
            try:
                reason = await self._stay()
                short_stays = short_stays + 1 if self._clock.monotonic() - began < REAL_STAY_S else 0
                if short_stays >= SHORT_STAYS_MAX:
                    reason = (
                        f"{reason}, {short_stays} times within seconds of connecting; is another client connected with our client id "
                        f"{self.settings.client_id!r}? Every head-end needs one of its own"
                    )
            except (MqttError, BadBrokerUrl, BadSecret) as error:
                reason = why(error)
                self.counters.failed_connects += 1
            self._went_down(reason)
            if self._clock.monotonic() - began > REAL_STAY_S:
                pause_s = 0.0
            await asyncio.sleep(pause_s)
            pause_s = min(max(2 * pause_s, BACKOFF_S[0]), BACKOFF_S[1])

    async def _stay(self) -> str:
        """Connect, and stay until the connection is lost; why it was. Raises MqttError, BadBrokerUrl, BadSecret."""
        settings = self.settings
        client = MqttClient(
            settings,
            password=self._secret(settings.password) if settings.password else None,
            tls=await asyncio.to_thread(settings.tls),
            take=lambda message: self._received(client, message),
        )
        await client.connect()
        self._catching_up_since = None
        if client.session_present:
            self._begin_to_catch_up()
        self._client = client  # at once: what the broker kept for us comes before our subscriptions are through
        try:
            self.counters.connects += 1
            if self._was_there and not client.session_present:
                self.counters.lost_sessions += 1
                self._log.warning("the broker has forgotten our session; what it still held for us is gone")
            self._was_there = True
            refused = await client.subscribe_to(self._topics, self._commands)
            problem = f"the broker does not let us subscribe to {', '.join(refused[:5])}" if refused else ""
            self._set_state(True, problem)
            self._log.info("broker up", session_kept=client.session_present, problem=problem)
            reason = await client.wait_lost()
            self._went_down(reason)
            return reason
        finally:
            self._client = None
            await client.aclose()

    def _went_down(self, reason: str) -> None:
        if reason != self.problem:
            self._log.warning("broker down", problem=reason)
        self._set_state(False, reason)

    def _set_state(self, is_up: bool, problem: str) -> None:
        if is_up != self.is_up or (not is_up and not self.problem):
            self.since = self._clock.now()
        self.problem = problem
        if is_up:
            self._up.set()
        else:
            self._up.clear()

    # -------------------------------------------------------------------------------------------- messages

    def _received(self, client: MqttClient, message: MQTTMessage) -> None:
        size = len(message.payload)
        self.counters.messages += 1
        self.counters.bytes += size
        self.counters.repeated += message.dup
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        incoming = Incoming(
            topic=topic,
            payload=bytes(message.payload) if size <= self.settings.packet_bytes_max else b"",
            size=size,
            is_retained=message.retain,
            is_repeated=message.dup,
            received_at=self._clock.now(),
            has_waited=self._has_waited(client),
        )
        self._queue.append(_Held(incoming, client, message.mid, message.qos))
        self._held += 1
        self._held_bytes += len(incoming.payload)
        if self._held >= HELD_MAX or self._held_bytes >= HELD_BYTES_MAX:
            self._roomy.clear()
            self.counters.pauses += 1
            self._paused = client
            client.pause_reading()
        self._arrived.set()

    def _begin_to_catch_up(self) -> None:
        self._catching_up_since = self._last_came_at = self._clock.monotonic()

    def _has_waited(self, client: MqttClient) -> bool:
        """Asked once for each message that comes; the first ones may come before `connect` has returned."""
        if client is not self._client:
            return client.session_present
        if self._catching_up_since is None:
            return False
        now = self._clock.monotonic()
        quiet_s, self._last_came_at = now - self._last_came_at, now
        if quiet_s >= CAUGHT_UP_QUIET_S or now - self._catching_up_since >= CAUGHT_UP_S_MAX:
            self._catching_up_since = None
        return self._catching_up_since is not None

    async def _hand_over(self) -> None:
        while True:
            self._arrived.clear()
            while self._queue:
                batch: list[_Held] = []
                size = 0
                while self._queue and len(batch) < BATCH_MAX and size < BATCH_BYTES_MAX:
                    held = self._queue.popleft()
                    size += len(held.message.payload)
                    batch.append(held)
                task = asyncio.ensure_future(self._taken([held.message for held in batch]))
                try:
                    await self._under_way.put((task, batch))
                except asyncio.CancelledError:
                    task.cancel()
                    raise
                await asyncio.sleep(0)
            await self._arrived.wait()

    async def _taken(self, messages: list[Incoming]) -> None:
        await self._take(messages)

    async def _acknowledge(self) -> None:
        while True:
            task, batch = await self._under_way.get()
            try:
                await task
            except StoreError as error:
                # It is being closed: the broker keeps them, and sends them again when we are back.
                self._log.error("messages were not stored and not acknowledged", count=len(batch), problem=str(error))
            else:
                for held in batch:
                    # Not to another connection than it came by: numbers are given anew there. That one may still be on its way to
                    # being `self._client`: messages come before `connect` has returned.
                    if held.qos and held.client.acknowledge(held.mid):
                        self.counters.acknowledged += 1
            self._held -= len(batch)
            self._held_bytes -= sum(len(held.message.payload) for held in batch)
            is_roomy = self._held <= HELD_MAX // 2 and self._held_bytes <= HELD_BYTES_MAX // 2
            if is_roomy and not self._roomy.is_set():
                self._roomy.set()
                self._begin_to_catch_up()
                if self._paused is not None:
                    self._paused.resume_reading()
