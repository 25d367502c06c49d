"""An MQTT client that acknowledges when told, on aiomqtt.

aiomqtt acknowledges a message before anybody has seen it, drops messages when its queue is full, and waits ten seconds for a broker
that has hung up on us during the handshake. This one leaves acknowledging to its owner, hands every message over as it comes, can
stop reading so that the broker has to wait (TCP does the rest), and says why a connection was refused or lost. It is used once: each
connection has its own, so an acknowledgement can never go to another connection than its message came from.

What is published leaves at once or never. Nothing waits in a queue of paho's: what a broker does not take, or does not acknowledge in
time, is thrown away with the connection, because an order that gets through later than it was looked at is nobody's order.
"""

import asyncio
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, TypeVar

import paho.mqtt.client as paho
from aiomqtt import Client, MqttCodeError, MqttError, ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from headend.concentrators.settings import BrokerSettings

__all__ = ["MqttClient", "MqttError", "NotSent", "ReasonCode", "why"]

CONNECT_TIMEOUT_S = 3.0  # of TCP and TLS; "back within 5 s of the broker's return" has to hold for one try that hangs
ANSWER_TIMEOUT_S = 5.0  # of the broker, to a connect, subscribe or publish
PACKETS_AT_ONCE = 32  # read in one turn of the loop, so that a flood does not starve what else runs
# Published and not yet acknowledged. So many short messages fit into what a socket takes without waiting.
UNDER_WAY_MAX = 100
REFUSED_FROM = 128  # reason codes: what is not a success
NO_SUBSCRIBERS = 16
THROWN_AWAY = "the broker did not take a message in time; what was left of it is thrown away"
UNREAD = "too much waits for the store, so what the broker says is not read in time: also whether it has the message"
HUNG_UP = "the broker hung up before it accepted us; is this port for mqtt://, or for TLS (mqtts://)?"
T = TypeVar("T")


class NotSent(MqttError):
    """A message was not published: nothing of it has left, or ever will."""


class MqttClient(Client):
    """take: gets every message on the loop, in order; must not raise. tls, password: resolved already.

    answer_timeout_s: what the broker is given to acknowledge a message.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        password: str | None,
        tls: ssl.SSLContext | None,
        take: Callable[[paho.MQTTMessage], None],
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        is_v5 = settings.version == 5
        self._words = _LastWords()
        super().__init__(
            settings.url.host,
            settings.url.port,
            username=settings.username or None,
            password=password,
            logger=self._words.logger,
            identifier=settings.client_id,
            protocol=ProtocolVersion.V5 if is_v5 else ProtocolVersion.V311,
            clean_session=None if is_v5 else False,
            clean_start=False if is_v5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
            timeout=ANSWER_TIMEOUT_S,
            keepalive=settings.keep_alive_s,
            properties=_connect_properties(settings) if is_v5 else None,
            tls_context=tls,
        )
        self.session_present = False
        self._is_v5 = is_v5
        self._take = take
        self._taken = 0
        self._is_paused = False
        self._pauses_over = 0
        self._attached: Any = None  # the socket that the loop watches
        self._thread_id = threading.get_ident()
        self._answers: dict[int, asyncio.Future[ReasonCode]] = {}
        self._answer_timeout_s = answer_timeout_s
        self._under_way_max = UNDER_WAY_MAX
        self._under_way: set[int] = set()  # published by `send`, and not acknowledged
        self._freed = asyncio.Event()  # something was acknowledged, or the connection was lost
        self._client.max_inflight_messages = 65535  # the window is ours: paho would queue what is beyond its own
        self._client.connect_timeout = CONNECT_TIMEOUT_S
        self._client.manual_ack_set(True)

    # -------------------------------------------------------------------------------------------- for its owner

    async def connect(self) -> None:
        """Raises MqttError; nothing stays open then."""
        entering = asyncio.ensure_future(self.__aenter__())
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            # The thread that connects cannot be stopped; what it opens must not stay open behind us.
            with suppress(MqttError):
                await entering
            self._abandon()
            raise
        except MqttError as error:
            self._abandon()
            if self._words.last and self._words.last not in str(error):
                raise MqttError(f"{error} ({self._words.last})") from error
            raise

    async def aclose(self) -> None:
        """Say good-bye, so that the broker knows that we come back for our session."""
        try:
            with suppress(MqttError):
                await self.__aexit__(None, None, None)
        finally:
            self._abandon()

    async def wait_lost(self) -> str:
        """Until the connection is gone; why."""
        await asyncio.wait([self._disconnected])
        error = self._disconnected.exception()
        if error is None:
            return "the connection was closed"
        return f"connection lost: {self._words.last}" if self._words.last else why(error)

    async def subscribe_to(self, topics: Sequence[str], commands: Sequence[str]) -> list[str]:
        """commands: topics that we watch for what should not be there. Gives the filters that the broker refused.

        Raises MqttError.
        """
        refused: list[str] = []
        wanted: list[tuple[str, Any]] = []
        for filters, watched in ((topics, False), (commands, True)):
            # retainAsPublished: a retained command is seen as one also when it is published while we listen.
            wanted += [
                (one, SubscribeOptions(qos=1, noLocal=True, retainAsPublished=watched) if self._is_v5 else 1)
                for one in filters
            ]
        for start in range(0, len(wanted), 50):
            some = wanted[start : start + 50]
            codes = await self.subscribe(some)
            for (one, _), code in zip(some, codes, strict=False):
                if _number(code) >= REFUSED_FROM:
                    refused.append(one)
        return refused

    async def send(
        self, topic: str, payload: bytes, *, qos: int, retain: bool = False, expiry_s: int | None
    ) -> ReasonCode:
        """Publish once, and wait for the broker's acknowledgement. Raises NotSent, and MqttError when it is not known whether it has
        left; what of it has not, never will.

        It leaves in the same step of the loop when there is `room`, as there is if one has just waited for it. A broker that is
        silent for too long is no good, and its connection ends; not one that was not read meanwhile. Of a caller that is cancelled
        the message is timed all the same.
        """
        await self.room()
        properties = None
        if self._is_v5 and expiry_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        info = self._client.publish(topic, payload, qos, retain, properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise MqttCodeError(info.rc, "could not publish")
        answer: asyncio.Future[ReasonCode] = self._loop.create_future()
        self._answers[info.mid] = answer
        if qos:
            self._under_way.add(info.mid)
        pauses_over = self._pauses_over
        has_left = False
        try:
            self._write()
            has_left = not self._client.want_write()
            if has_left:
                await asyncio.wait(
                    (answer, self._disconnected), timeout=self._answer_timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
        except asyncio.CancelledError:
            self._loop.call_later(self._answer_timeout_s, self._end_waiting, info.mid, pauses_over)
            raise
        finally:
            self._answers.pop(info.mid, None)
        if answer.done():
            return answer.result()
        if not has_left:
            self._throw_away()
        else:
            self._end_waiting(info.mid, pauses_over)
        raise MqttError(await self.wait_lost() if self._disconnected.done() else UNREAD)

    async def room(self) -> None:
        """Until a message that is published next leaves at once: the broker allows one more to be under way. Raises NotSent.

        Every message that is under way is acknowledged, given up or thrown away within the time for its answer, so this ends.
        """
        while not self._disconnected.done() and len(self._under_way) >= self._under_way_max:
            self._freed.clear()
            await self._freed.wait()
        if self._disconnected.done():
            raise NotSent(await self.wait_lost())

    def acknowledge(self, mid: int) -> bool:
        """Only for a message that this client handed over. False when the connection is gone: nothing happens then."""
        if self._attached is None:
            return False
        self._client.ack(mid, 1)
        return True

    def pause_reading(self) -> None:
        """Keep the socket unread until `resume_reading`. The broker waits, or gives us up after a while and keeps our session."""
        self._is_paused = True
        if self._attached is not None:
            self._loop.remove_reader(self._attached.fileno())

    def resume_reading(self) -> None:
        if self._is_paused:
            self._pauses_over += 1
        self._is_paused = False
        if self._attached is not None:
            self._loop.add_reader(self._attached.fileno(), self._read)
            self._loop.call_soon(self._read)  # TLS may hold what it has decrypted already

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:
        """As aiomqtt's, which lets asyncio.wait_for swallow a cancellation that comes together with the answer (Python 3.11): who is
        to stop would go on."""
        limit = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(None if limit == inf else limit):
                return await fut
        except TimeoutError:
            raise MqttError("Operation timed out") from None

    # -------------------------------------------------------------------------------------------- from paho

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        self.session_present = bool(flags.session_present)
        with suppress(AttributeError):  # a broker that names no limit allows 65,535
            self._under_way_max = max(1, min(UNDER_WAY_MAX, properties.ReceiveMaximum))
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        if not self._connected.done():
            self._connected.set_exception(MqttError(HUNG_UP))
            return
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        self._freed.set()

    def _on_message(self, client: Any, userdata: Any, message: paho.MQTTMessage) -> None:
        self._taken += 1
        self._take(message)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        self._under_way.discard(mid)
        self._freed.set()
        answer = self._answers.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result(reason_code)

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        self._on_the_loop(self._attach, sock)

    def _on_socket_close(self, client: Any, userdata: Any, sock: Any) -> None:
        if threading.get_ident() == self._thread_id:
            self._detach()
        else:
            self._loop.call_soon_threadsafe(self._detach)

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        self._on_the_loop(self._watch_writing, sock)

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: Any) -> None:
        if self._attached is not None:
            self._on_the_loop(self._unwatch_writing, sock)

    # -------------------------------------------------------------------------------------------- on the loop

    def _on_the_loop(self, work: Callable[[Any], None], sock: Any) -> None:
        """paho connects in a thread; everything later happens here."""
        if threading.get_ident() == self._thread_id:
            work(sock)
        else:
            self._loop.call_soon_threadsafe(work, sock)

    def _attach(self, sock: Any) -> None:
        # Gone again before the loop heard of it? Its number may be somebody else's by now.
        number: int = sock.fileno()
        if self._client.socket() is not sock:
            return
        self._attached = sock
        if not self._is_paused:
            self._loop.add_reader(number, self._read)
        if self._client.want_write():
            self._loop.add_writer(number, self._write)
        self._misc_task = self._loop.create_task(self._misc_loop())

    def _detach(self) -> None:
        sock, self._attached = self._attached, None
        if sock is not None and sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
        if self._misc_task is not None:
            self._misc_task.cancel()
            self._misc_task = None

    def _watch_writing(self, sock: Any) -> None:
        if self._attached is sock and sock.fileno() >= 0:
            self._loop.add_writer(sock.fileno(), self._write)

    def _unwatch_writing(self, sock: Any) -> None:
        if self._attached is sock and sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())

    def _read(self) -> None:
        try:
            for _ in range(PACKETS_AT_ONCE):
                if self._is_paused or self._attached is None:
                    return
                before = self._taken
                self._client.loop_read()
                if self._taken == before and not _has_decrypted(self._attached):
                    return
            if _has_decrypted(self._attached):
                self._loop.call_soon(self._read)
        except Exception as error:  # aiomqtt does the same: whatever paho stumbled over, this connection is no good
            self._fail(error)

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        lost = MqttError(f"{type(error).__name__}: {error}")
        for future in (self._connected, self._disconnected):
            if not future.done():
                future.set_exception(lost)
                break
        self._freed.set()

    def _end_waiting(self, mid: int, pauses_over: int) -> None:
        """What has left whole and should be acknowledged by now. pauses_over: how many there had been when it left."""
        if mid not in self._under_way or self._disconnected.done():
            return
        if self._is_paused or self._pauses_over != pauses_over:
            # It may well be acknowledged, and lie in a socket that is not read. No new connection would come before the pause is
            # over, and what is urgent has to get through meanwhile.
            self._under_way.discard(mid)
            self._freed.set()
        else:
            self._throw_away()

    def _throw_away(self) -> None:
        """End the connection, also for what the operating system has still to send: it must not leave later."""
        if not self._disconnected.done():
            self._disconnected.set_exception(MqttError(THROWN_AWAY))
        self._freed.set()
        sock: Any = self._client.socket()
        self._detach()
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()

    def _abandon(self) -> None:
        """Whatever state it is in, nothing of it stays."""
        sock = self._client.socket()
        self._detach()
        if sock is not None:
            with suppress(OSError):
                sock.close()
        for future in (self._connected, self._disconnected):
            if future.done() and not future.cancelled():
                future.exception()  # seen


class _LastWords(logging.Handler):
    """paho tells what happened to a socket only in its log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        self.logger = logging.Logger("mqtt", logging.WARNING)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()[:300].removeprefix("failed to receive on socket: ")


def _number(code: Any) -> int:
    return int(code.value if isinstance(code, ReasonCode) else code)


def _has_decrypted(sock: Any) -> bool:
    return sock is not None and hasattr(sock, "pending") and sock.pending() > 0


def _connect_properties(settings: BrokerSettings) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = settings.session_expiry_s
    properties.ReceiveMaximum = settings.in_flight_max
    properties.MaximumPacketSize = settings.packet_bytes_max
    return properties


# By reason code of MQTT 5; paho gives those of 3.1.1 the same numbers.
_REFUSALS = {
    128: "the connection broke off",
    132: "the broker does not speak this version of MQTT; set `version` to 4 (3.1.1) or 5",
    133: "the broker does not accept our client id; set another `client_id`",
    134: "the broker does not accept user name or password; compare `username` and `password` with the broker's",
    135: "not authorised: the broker does not accept user name or password, or gives this user no rights; compare `username` and "
    "`password` with the broker's",
    136: "the broker says that it is not available",
    137: "the broker says that it is busy",
    138: "the broker has banned us",
    140: "the broker expects another way to authenticate",
    142: "another client has connected with the same client id; every head-end needs a `client_id` of its own",
    149: "the broker would have to send more than we accept at once",
    151: "the broker's quota is used up",
    159: "the broker allows no more connections at the moment",
}


def why(error: BaseException) -> str:
    """What to look at, in a sentence."""
    code = getattr(error, "rc", None)
    if isinstance(code, ReasonCode):
        return _REFUSALS.get(code.value, f"the broker said: {code}")
    cause = _cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate is not accepted: {cause.verify_message}; is `ca` the authority that signed it, and does it "
            f"name the host in `url`?"
        )
    text = str(error)
    if "CERTIFICATE_REQUIRED" in text.upper().replace(" ", "_"):
        return "the broker wants a certificate from us; set `certificate` and `key`"
    if "ALERT" in text.upper():
        return f"the broker does not accept our certificate, or this kind of TLS ({text})"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS with the broker: {cause.reason or cause}; does this port speak TLS (mqtts://)?"
    if isinstance(cause, ConnectionRefusedError):
        return "nothing listens there; does the broker run, and is the port right?"
    if isinstance(cause, TimeoutError) or text == "Operation timed out":
        return (
            "it does not answer in time; is it switched on and reachable, and is this port the right one (TLS or not)?"
        )
    if isinstance(cause, OSError) and type(cause).__name__ == "gaierror":
        return f"its name cannot be resolved: {cause.strerror}"
    return text or type(error).__name__


def _cause(error: BaseException) -> BaseException:
    """The operating system's own error, if one is behind it: aiomqtt keeps only its text."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return error if seen is None else seen
