"""One DTU that has dialled in: who it is, and its bytes on their way to the line that owns it.

A caller is unowned until its id is that of a line that waits for it. Unowned, it costs at most HEARD_MAX bytes of what it says, is
read at most that much in LOOK_AGAIN_S, and nothing is sent to it. Owned, its bytes go to the line's protocol, without its
registration packet and its heartbeats, and the loss of its connection is told once.
"""

import asyncio
from typing import Protocol, cast

from headend.clock import Clock
from headend.drivers.dtu import HEARD_MAX, PacketSieve, Registered, Registration
from headend.drivers.listener_settings import ListenerSettings
from headend.drivers.listener_unknown import UnknownCaller
from headend.drivers.transport import notice_a_dead_peer

__all__ = ["Caller", "Reception"]

LOOK_AGAIN_S = 10.0  # a caller that talks much while nobody listens is heard again after so long
UNSENT_MAX = 65_536  # a DTU that takes no heartbeat replies is hung up on rather than remembered


class Reception(Protocol):
    """Where callers come in."""

    def knows(self, dtu: str) -> bool: ...
    def came(self, caller: "Caller") -> None: ...
    def registered(self, caller: "Caller") -> None: ...
    def beat(self, caller: "Caller", heartbeats: int) -> None: ...
    def timed_out(self, caller: "Caller") -> None: ...
    def left(self, caller: "Caller") -> None: ...


class Caller(asyncio.Protocol):
    """dtu: its id; empty until it has registered. heard, bytes: of the time before a line owned it.

    entry: its place in the quarantine list, if it has one.
    """

    __slots__ = (
        "_allowance",
        "_clock",
        "_is_paused",
        "_kept",
        "_last_at",
        "_look_again_at",
        "_reception",
        "_register_by",
        "_registration",
        "_settings",
        "_sieve",
        "_timer",
        "_timer_at",
        "bytes",
        "dtu",
        "entry",
        "heard",
        "host",
        "owner",
        "port",
        "transport",
    )

    def __init__(self, reception: Reception, settings: ListenerSettings, clock: Clock, host: str, port: int) -> None:
        self.dtu = ""
        self.host = host
        self.port = port
        self.heard = b""
        self.bytes = 0
        self.owner: asyncio.Protocol | None = None
        self.transport: asyncio.Transport | None = None
        self.entry: UnknownCaller | None = None
        self._reception = reception
        self._settings = settings
        self._clock = clock
        self._registration: Registration | None = Registration(settings.registration, settings.heartbeat)
        self._sieve: PacketSieve | None = None
        self._kept = b""
        self._allowance = HEARD_MAX
        self._is_paused = False
        self._last_at = clock.monotonic()
        self._register_by = self._last_at + settings.register_within_s
        self._look_again_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # -------------------------------------------------------------------------------------------- for the listener

    @property
    def is_here(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def give_to(self, owner: asyncio.Protocol) -> None:
        """From now on this is the owner's connection; what came before and is no packet of the DTU comes first."""
        assert self.transport is not None
        assert self.owner is None
        self.owner = owner
        self._last_at = self._clock.monotonic()
        self._look_again_at = None
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        if self.dtu and self._settings.registration_reply:
            self.transport.write(self._settings.registration_reply)
        owner.connection_made(self.transport)
        kept, self._kept = self._kept, b""
        if kept and self.owner is owner:
            owner.data_received(kept)
        self._arm()

    def take_away(self, why: Exception) -> None:
        """Hang up; the owner hears of it now, and of nothing that this connection does later."""
        owner, self.owner = self.owner, None
        self.hang_up()
        if owner is not None:
            owner.connection_lost(why)

    def forsake(self) -> None:
        """Hang up; the owner has turned away by itself and hears nothing more."""
        self.owner = None
        self.hang_up()

    def hang_up(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()

    # -------------------------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        notice_a_dead_peer(transport.get_extra_info("socket"), self._settings.dead_peer_s)
        self._reception.came(self)
        self._arm()

    def data_received(self, data: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        now = self._last_at = self._clock.monotonic()
        if self.owner is None:
            data = self._note_unowned(data, now)
        if self._registration is not None:
            self._look_for_registration(self._registration, data, now)
        else:
            self._sift(data, now)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._registration is not None:
            self.heard = (self._registration.heard + self._registration.pending)[:HEARD_MAX]
        self._registration = self._sieve = None
        owner, self.owner = self.owner, None
        self._reception.left(self)
        if owner is not None:
            owner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self.owner is not None:
            self.owner.pause_writing()

    def resume_writing(self) -> None:
        if self.owner is not None:
            self.owner.resume_writing()

    # -------------------------------------------------------------------------------------------- inside

    def _note_unowned(self, data: bytes, now: float) -> bytes:
        """What is looked at of it: reading much costs time, which is the other callers'."""
        looked_at = data[: max(0, self._allowance)]
        self.bytes += len(data)
        if self.entry is not None:
            self.entry.bytes += len(data)
            self.entry.last_seen = self._clock.now()
        self._allowance -= len(data)
        if self._allowance <= 0 and not self._is_paused:
            # For a while only: a connection that is not read from does not tell either that it has ended.
            assert self.transport is not None
            self._is_paused = True
            self.transport.pause_reading()
            self._look_again_at = now + LOOK_AGAIN_S
        return looked_at

    def _look_for_registration(self, registration: Registration, data: bytes, now: float) -> None:
        found = registration.receive(data, now, self._reception.knows)
        if found is not None:
            self._found(found, now)
        elif self.owner is not None and registration.is_hopeless:
            self._give_up_registration(registration.pending, now)

    def _give_up_registration(self, pending: bytes, now: float) -> None:
        """The line that takes any caller has one that says no id: everything is the line's."""
        self._registration = None
        self._sieve = PacketSieve(self._settings.heartbeat)
        self._sift(pending, now)

    def _found(self, found: Registered, now: float) -> None:
        registration, self._registration = self._registration, None
        if registration is not None:
            self.heard = (registration.heard + found.packet)[:HEARD_MAX]
        self.dtu = found.dtu
        repeats = (found.packet, found.id_wire) if self._settings.repeats_are_heartbeats else ()
        self._sieve = PacketSieve(self._settings.heartbeat, repeats)
        if found.rest:
            self._sift(found.rest, now)
        self._reception.registered(self)

    def _sift(self, data: bytes, now: float) -> None:
        if self._sieve is not None:
            self._hand_on(*self._sieve.receive(data, now))

    def _hand_on(self, passed: bytes, heartbeats: int) -> None:
        if heartbeats:
            self._reception.beat(self, heartbeats)
            reply = self._settings.heartbeat_reply
            if reply and self.owner is not None and self.transport is not None:
                self.transport.write(reply * heartbeats)
                if self.transport.get_write_buffer_size() > UNSENT_MAX:
                    self.hang_up()
        if not passed:
            return
        if self.owner is not None:
            self.owner.data_received(passed)
        else:
            self._kept = (self._kept + passed)[:HEARD_MAX]

    def _deadline(self) -> float | None:
        settings = self._settings
        moments = [
            self._registration.deadline if self._registration is not None else None,
            self._sieve.deadline if self._sieve is not None else None,
            self._register_by if not self.dtu and self.owner is None else None,
            self._look_again_at,
            self._last_at + settings.heartbeat_timeout_s
            if settings.heartbeat_timeout_s and not self._is_paused
            else None,
        ]
        return min((moment for moment in moments if moment is not None), default=None)

    def _arm(self) -> None:
        deadline = self._deadline()
        if deadline is None or self.transport is None or self.transport.is_closing():
            return
        # One that rings too early is let ring: it sees what is due, and arms anew.
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        wait_s = max(0.0, deadline - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        settings, registration = self._settings, self._registration
        if registration is not None and registration.deadline is not None and now >= registration.deadline:
            pending = registration.pending
            found = registration.tick(now, self._reception.knows)
            if found is not None:
                self._found(found, now)
            elif self.owner is not None:
                self._give_up_registration(pending, now)
        if self._sieve is not None:
            self._hand_on(*self._sieve.tick(now))
        if self._look_again_at is not None and now >= self._look_again_at:
            self._look_again_at, self._allowance, self._is_paused = None, HEARD_MAX, False
            self._last_at = now
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()
        is_nameless = not self.dtu and self.owner is None and now >= self._register_by
        is_mute = bool(settings.heartbeat_timeout_s) and now >= self._last_at + settings.heartbeat_timeout_s
        if is_nameless or (is_mute and not self._is_paused):
            self._reception.timed_out(self)
            self.hang_up()
            return
        self._arm()
