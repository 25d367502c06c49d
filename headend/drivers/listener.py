"""Lines that are dialled in to: DTUs behind mobile networks have no address of their own, so they call us.

    listen://0.0.0.0:9001?dtu=ID      listens://… over TLS      listen://0.0.0.0:9001 takes whoever comes first

`DialIn` owns one HOST:PORT. It lets callers in (allow list, rate, TLS), finds out who they are (`dtu`), and hands each to the line that
waits for it. `DialIn.connect` is the `Connect` of such lines: to connect is to wait until the DTU dials in. A DTU
that dials in again replaces its older connection: mobile networks drop connections without a word to either side.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
import struct
from typing import Any

import structlog
from msgspec import Struct

from headend.clock import Clock
from headend.drivers.errors import LineDown
from headend.drivers.listener_caller import Caller
from headend.drivers.listener_limits import ConnectLimits
from headend.drivers.listener_settings import BadListener, ListenerSettings, tls_context
from headend.drivers.listener_unknown import Quarantine, UnknownCaller, printable
from headend.drivers.transport import LineUrl

__all__ = ["DialIn", "ListenerCounters"]

BACKLOG = 1024  # callers that wait in the system while we are busy; a restart brings all of them back at once
HANDSHAKE_TIMEOUT_S = 10.0
HANDSHAKE_LOG_S = 1.0  # failures are counted, and one a second is written down: callers must not be able to fill a disk
# Replies have some hundred bytes. What a caller sends beyond this waits on its side, not in this machine's memory.
SOCKET_BUFFER = 16_384
ACCEPT_PAUSE_S = 1.0  # out of file descriptors: hammering does not bring any back
_HANG_UP_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT for callers that are turned away

log = structlog.get_logger(__name__)


class ListenerCounters(Struct):
    """Since start. accepted: callers let in; of those, registered said an id, and unknown said none that a line waits for.

    crowded_out: unowned callers hung up on because too many were. timed_out: no registration, or no heartbeat, in time.
    """

    accepted: int = 0
    registered: int = 0
    unknown: int = 0
    refused_by_allow_list: int = 0
    refused_by_rate: int = 0
    tls_failed: int = 0
    replaced: int = 0
    timed_out: int = 0
    crowded_out: int = 0
    heartbeats: int = 0


class _Claim(Struct, eq=False):
    """A line's right to a DTU. dtu: empty for any. last: the id it last had. wanted: set while the line waits."""

    line: str
    dtu: str
    last: str = ""
    caller: Caller | None = None
    protocol: asyncio.Protocol | None = None
    wanted: "asyncio.Future[asyncio.Transport] | None" = None


class DialIn:
    """One listening port. Starts to listen with the first `connect` or with `start`; ends with `aclose`."""

    def __init__(
        self, host: str, port: int, settings: ListenerSettings | None = None, *, clock: Clock, is_tls: bool = False
    ) -> None:
        """is_tls: `settings.tls` is needed then. port 0: a free one, see `port` once started. Raises BadListener."""
        self.host = host
        self.port = port
        self.settings = settings or ListenerSettings()
        self.is_tls = is_tls or self.settings.tls is not None
        self.counters = ListenerCounters()
        self._clock = clock
        if self.is_tls and self.settings.tls is None:
            raise BadListener(f"{self.name}: listens:// needs a certificate and its key")
        self._tls: ssl.SSLContext | None = tls_context(self.settings.tls) if self.settings.tls is not None else None
        self._limits = ConnectLimits(
            self.settings.allow,
            per_s=self.settings.connects_per_s_max,
            peer_per_s=self.settings.peer_connects_per_s_max,
        )
        self._quarantine = Quarantine(self.settings.unknown_max)
        self._claims: dict[str, _Claim] = {}  # by the id in the line's URL
        self._by_dtu: dict[str, _Claim] = {}
        self._nameless: dict[Caller, None] = {}  # not registered and not owned, the first to come first
        self._waiting: dict[str, Caller] = {}  # registered and not owned
        self._callers: set[Caller] = set()
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes = 0
        self._handshake_logged_at = float("-inf")
        self._starting = asyncio.Lock()
        self._is_closed = False

    # -------------------------------------------------------------------------------------------- for lines

    @property
    def name(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def expect(self, line: str, url: LineUrl, dtu: str = "") -> None:
        """A line will want this DTU: callers with its id wait for it, and are not unknown. dtu: adopted earlier, instead of that of the
        URL. Raises BadListener."""
        self._claim(url, line, dtu)

    async def connect(
        self, url: LineUrl, protocol: asyncio.Protocol, *, wait_s: float | None = None
    ) -> asyncio.Transport:
        """Wait until the DTU has dialled in, and hand its connection over. Raises LineDown: cannot listen, or nobody came.

        wait_s: None waits for ever, as a line of the service does.
        """
        try:
            claim = self._claim(url)
            await self.start()
        except BadListener as error:
            raise LineDown(url.text, str(error)) from error
        if claim.caller is not None:
            if claim.caller.owner is not protocol and claim.caller.owner is not None:
                raise LineDown(url.text, "its DTU is connected to another line; a DTU has one owner")
            claim.caller.forsake()
            claim.caller = None
        if claim.wanted is not None:
            raise LineDown(url.text, "another line waits for its DTU already; a DTU has one owner")
        claim.protocol = protocol
        wanted: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        claim.wanted = wanted
        try:
            caller = self._present(claim)
            if caller is not None:
                self._hand_over(claim, caller)
            async with asyncio.timeout(wait_s):
                transport = await wanted
            if claim.caller is None or claim.caller.transport is not transport:
                # Gone before its line has taken a turn: the line has been told, and would wait for that connection for ever.
                raise LineDown(url.text, "its DTU has dialled in and was gone at once")
            return transport
        except TimeoutError as error:
            raise LineDown(url.text, f"no DTU has dialled in within {wait_s:g} s; {self._who_came()}") from error
        finally:
            if claim.wanted is wanted:
                claim.wanted = claim.protocol = None

    async def start(self) -> None:
        """Listen. Raises BadListener when the address cannot be listened on."""
        async with self._starting:
            if self._sockets:
                return
            if self._is_closed:
                raise BadListener(f"{self.name} is closed")
            self._sockets = await _listen(self.host, self.port)
            self.port = self._sockets[0].getsockname()[1]
            for listening in self._sockets:
                self._spawn(self._accept(listening))
        log.info("listening for DTUs", at=self.name, tls=self.is_tls)

    async def aclose(self) -> None:
        """Stop listening and hang up on everybody; lines that wait or are connected are told."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        self._sockets = []
        for claim in self._claims.values():
            if claim.wanted is not None and not claim.wanted.done():
                claim.wanted.set_exception(LineDown(f"listen://{self.name}", "nobody listens any more"))
        for caller in list(self._callers):
            caller.take_away(ConnectionAbortedError("nobody listens any more"))

    # -------------------------------------------------------------------------------------------- for operators

    @property
    def connected(self) -> int:
        """Callers that are there, with a line or without."""
        return len(self._callers)

    @property
    def unowned(self) -> int:
        return len(self._nameless) + len(self._waiting)

    @property
    def forgotten(self) -> int:
        """Unknown callers dropped from the list to make room."""
        return self._quarantine.forgotten

    def unknown(self) -> list[UnknownCaller]:
        """The quarantine list, the one heard of last first."""
        return self._quarantine.entries()

    def serves(self, line: str) -> bool:
        return any(claim.line == line for claim in self._claims.values())

    def adopt(self, dtu: str, line: str) -> bool:
        """From now on this DTU is the line's, instead of the one it had; True when it is here, and connected at once.

        Not remembered beyond this process. Raises BadListener: no such line here, or the DTU has a line already.
        """
        claim = next((claim for claim in self._claims.values() if claim.line == line), None)
        if claim is None:
            raise BadListener(f"no line {line!r} is dialled in to on {self.name}")
        if claim.dtu == dtu:
            return claim.caller is not None or dtu in self._waiting
        if dtu in self._by_dtu:
            raise BadListener(f"DTU {dtu} is that of line {self._by_dtu[dtu].line!r}; a DTU has one owner")
        if not dtu:
            raise BadListener("expected the id of a DTU")
        self._by_dtu.pop(claim.dtu, None)
        claim.dtu = dtu
        self._by_dtu[dtu] = claim
        self._quarantine.strike(dtu)
        log.info("DTU adopted", dtu=dtu, line=line, at=self.name)
        former, claim.caller = claim.caller, None
        if former is not None and former.dtu != dtu:
            former.take_away(ConnectionResetError(f"the line has another DTU now, {dtu}"))
        elif former is not None:
            claim.caller = former  # a line that takes any caller has had this one already
            return True
        caller = self._present(claim)
        if caller is not None:
            caller.entry = None
            if claim.wanted is not None and not claim.wanted.done():
                self._hand_over(claim, caller)
        return caller is not None

    # -------------------------------------------------------------------------------------------- claims

    def _claim(self, url: LineUrl, line: str = "", adopted: str = "") -> _Claim:
        claim = self._claims.get(url.dtu)
        if claim is not None:
            claim.line = line or claim.line
            return claim
        if url.is_tls != self.is_tls:
            raise BadListener(f"{self.name} is listened on {'with' if self.is_tls else 'without'} TLS by another line")
        if self._claims and not (url.dtu and "" not in self._claims):
            raise BadListener(f"several lines are dialled in to on {self.name}: each needs its ?dtu=ID")
        dtu = adopted or url.dtu
        if dtu in self._by_dtu:
            raise BadListener(f"DTU {dtu} was adopted by line {self._by_dtu[dtu].line!r}")
        claim = self._claims[url.dtu] = _Claim(line=line, dtu=dtu)
        if dtu:
            self._by_dtu[dtu] = claim
            self._quarantine.strike(dtu)
            early = self._waiting.get(dtu)
            if early is not None:
                early.entry = None
        return claim

    def _claim_of(self, dtu: str) -> _Claim | None:
        """Whose DTU this is; a line that takes any caller owns this one if it has, or waits for one."""
        claim = self._by_dtu.get(dtu)
        anyone = self._claims.get("")
        if claim is not None or anyone is None or anyone.dtu:
            return claim
        is_its_own = anyone.caller is not None and anyone.caller.dtu == dtu
        return anyone if is_its_own or (anyone.caller is None and anyone.wanted is not None) else None

    def _present(self, claim: _Claim) -> Caller | None:
        """Who is here already for a line that has just begun to wait."""
        own = self._waiting.get(claim.dtu or claim.last)
        if claim.dtu or (own is not None and own.is_here):
            return own if own is not None and own.is_here else None
        return next((caller for caller in [*self._waiting.values(), *self._nameless] if caller.is_here), None)

    def _hand_over(self, claim: _Claim, caller: Caller) -> None:
        wanted, protocol = claim.wanted, claim.protocol
        assert wanted is not None
        assert protocol is not None
        assert caller.transport is not None
        self._nameless.pop(caller, None)
        if self._waiting.get(caller.dtu) is caller:
            del self._waiting[caller.dtu]
        if caller.entry is not None:
            self._quarantine.strike(caller.dtu)
            caller.entry = None
        claim.caller, claim.last = caller, caller.dtu
        claim.wanted = claim.protocol = None
        caller.give_to(protocol)
        if not wanted.done():
            wanted.set_result(caller.transport)

    def _who_came(self) -> str:
        entries = self.unknown()
        if not entries:
            refused = self.counters.refused_by_allow_list + self.counters.refused_by_rate + self.counters.tls_failed
            turned_away = f"; {refused} callers were turned away" if refused else ""
            return f"is {self.name} of this machine reachable, and set in the DTU as its server{turned_away}?"
        names = ", ".join(entry.dtu or f"{entry.address} (no id, said {entry.heard!r})" for entry in entries[:3])
        return f"callers that nobody waits for: {names}"

    # -------------------------------------------------------------------------------------------- Reception

    def knows(self, dtu: str) -> bool:
        return dtu in self._by_dtu

    def came(self, caller: Caller) -> None:
        self._callers.add(caller)
        self._nameless[caller] = None
        anyone = self._claims.get("")
        if anyone is not None and not anyone.dtu:
            former = anyone.caller
            if former is not None and not former.dtu and former.host == caller.host:
                self._replace(anyone, former)
            if anyone.wanted is not None and not anyone.wanted.done():
                self._hand_over(anyone, caller)
                return
        self._make_room()

    def registered(self, caller: Caller) -> None:
        self.counters.registered += 1
        anyone = self._claims.get("")
        if anyone is not None and anyone.caller is caller:  # it has its line already, which takes any caller
            anyone.last = caller.dtu
            return
        self._nameless.pop(caller, None)
        older = self._waiting.pop(caller.dtu, None)
        if older is not None:
            self.counters.replaced += 1
            older.hang_up()
        claim = self._claim_of(caller.dtu)
        self._waiting[caller.dtu] = caller
        if claim is None:
            self._quarantine_it(caller)
            return
        if claim.caller is not None:
            self._replace(claim, claim.caller)
        if claim.wanted is not None and not claim.wanted.done():
            self._hand_over(claim, caller)

    def beat(self, caller: Caller, heartbeats: int) -> None:
        self.counters.heartbeats += heartbeats

    def timed_out(self, caller: Caller) -> None:
        self.counters.timed_out += 1
        if caller.owner is not None:
            log.warning("DTU gone silent", dtu=caller.dtu, address=caller.host, at=self.name)

    def left(self, caller: Caller) -> None:
        self._callers.discard(caller)
        is_nameless = caller in self._nameless
        self._nameless.pop(caller, None)
        if self._waiting.get(caller.dtu) is caller:
            del self._waiting[caller.dtu]
            if caller.entry is not None:
                caller.entry.is_connected = False
        for claim in (self._by_dtu.get(caller.dtu), self._claims.get("")):
            if claim is not None and claim.caller is caller:
                claim.caller = None
        if is_nameless and not self._is_closed:
            self._quarantine_it(caller)

    def _replace(self, claim: _Claim, former: Caller) -> None:
        """The DTU has dialled in anew: it knows better than we whether its older connection is alive."""
        self.counters.replaced += 1
        log.info("DTU dialled in anew", dtu=former.dtu, line=claim.line, at=self.name)
        claim.caller = None
        former.take_away(ConnectionResetError("the DTU has dialled in anew"))

    def _quarantine_it(self, caller: Caller) -> None:
        self.counters.unknown += 1
        entry = self._quarantine.enter(
            caller.dtu, caller.host, caller.port, self._clock.now(), is_connected=bool(caller.dtu)
        )
        entry.bytes += caller.bytes
        entry.heard = printable(caller.heard)
        caller.entry = entry
        if entry.connects == 1:
            log.info("unknown caller", dtu=caller.dtu, address=entry.address, heard=entry.heard, at=self.name)
        self._make_room()

    def _make_room(self) -> None:
        """Those that nobody knows go first, then those that have not said who they are: they call again."""
        if self.unowned <= self.settings.callers_max:
            return
        self.counters.crowded_out += 1
        parked = next((caller for caller in self._waiting.values() if caller.entry is not None), None)
        gone = parked or next(iter([*self._nameless, *self._waiting.values()]))
        self._nameless.pop(gone, None)
        if self._waiting.get(gone.dtu) is gone:
            del self._waiting[gone.dtu]
        if gone.entry is not None:
            gone.entry.is_connected = False
        gone.hang_up()

    # -------------------------------------------------------------------------------------------- letting callers in

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:
                    log.error("DTUs cannot be let in", at=self.name, problem=error.strerror or str(error))
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            refusal = self._limits.judge(address[0], self._clock.monotonic())
            if not refusal and self._tls is not None and self._handshakes >= self.settings.handshakes_max:
                refusal = "refused_by_rate"
            if refusal:
                setattr(self.counters, refusal, getattr(self.counters, refusal) + 1)
                with contextlib.suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HANG_UP_AT_ONCE)
                connection.close()
                await asyncio.sleep(0)  # a storm of callers must not keep the loop from everything else
            elif self._tls is not None:
                self._handshakes += 1
                self._spawn(self._shake_hands(connection, address))
            else:
                await self._let_in(connection, address)

    async def _shake_hands(self, connection: socket.socket, address: Any) -> None:
        try:
            await self._let_in(connection, address)
        finally:
            self._handshakes -= 1

    async def _let_in(self, connection: socket.socket, address: Any) -> None:
        caller = Caller(self, self.settings, self._clock, address[0], address[1])
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S}
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: caller, connection, **options)
        except (
            OSError,
            ssl.SSLError,
        ) as error:  # also the time-out of the handshake, which is a ConnectionAbortedError
            connection.close()
            if self._tls is None:
                return  # it has hung up already
            self.counters.tls_failed += 1
            self._log_handshake(address[0], error)
            return
        self.counters.accepted += 1

    def _log_handshake(self, address: str, error: Exception) -> None:
        now = self._clock.monotonic()
        if now < self._handshake_logged_at + HANDSHAKE_LOG_S:
            return
        self._handshake_logged_at = now
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
        hung_up = "the caller hung up; does it trust this certificate's authority?"
        log.warning("TLS handshake failed", address=address, problem=reason or hung_up, at=self.name)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("letting a DTU in failed", at=self.name, exc_info=task.exception())


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Raises BadListener."""
    listening: list[socket.socket] = []
    try:
        places = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, address in dict.fromkeys((place[0], place[4]) for place in places):
            each = socket.socket(family, socket.SOCK_STREAM)
            listening.append(each)
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # those accepted take them over
                each.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(address)
            each.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        for each in listening:
            each.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise BadListener(
            f"cannot listen on {host}:{port}: {reason}; expected a free port and an address of this machine, 0.0.0.0 for all"
        ) from error
    return listening
