"""What a concentrator does with commands for its meters, one after the other: its RS-485 line can carry only one.

A relay order is followed by a look at the relay: `done` means that the meter shows what was ordered. A frame to be
forwarded goes to the meters' bus, byte for byte. Whatever lasts longer than two seconds is answered `accepted` first.
No I/O: `monotonic` drives it, `now` is true time for the meters.
"""

from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct

from protocols.concentrator.messages import Command, CommandAnswer, MeterData, Op, PushedValue, Status
from protocols.dlt645.framer import Framer, Heard
from protocols.errors import BadObis
from protocols.values import Obis, Unit
from simulators.concentrator_reader import NoQuantity, read_quantity
from simulators.dlt645_bus import BITS_PER_BYTE, Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.meter import RelayRefused

__all__ = ["CommandRunner"]

ACCEPTED_AFTER_S = 2.0  # hes/v1: `accepted` comes first when the operation takes longer
SILENCE_S = 1.5  # what a concentrator waits for a meter that does not answer
SETTLE_S = 0.5  # of a relay contact, before it is looked at
WAITING_MAX = 64
FORWARD_TIMEOUT_MS = 2000
TIMEOUT_MS_MAX = 60_000
HEARD_MAX = 1024  # bytes told of a reply that nobody understood
FRAME_MAX = 512  # bytes; the longest of DL/T 645 is below 300

Quantities = tuple[Obis, ...]


class _Failed(Exception):
    """Answered with this code and detail. `status` is `failed` only where nothing can have been changed."""

    def __init__(self, code: str, detail: object = None, *, status: str = Status.FAILED) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.status = status


class _Job(Struct, kw_only=True):
    """One command. longer_s: what a fault adds. until: when the step that runs now is over; None: it waits its turn."""

    command: Command
    arrived: float
    longer_s: float
    accepted: bool = False
    until: float | None = None
    heard: bytearray = bytearray()
    reply: bytes | None = None


class CommandRunner:
    """meters: by the name they have in messages. usual: what a read without quantities reads.
    own_clock: the concentrator's, from true time.

    executed: commands that were begun on a meter, for tests that count.
    """

    def __init__(
        self,
        concentrator: str,
        meters: Mapping[str, Dlt645Meter],
        bus: Dlt645Bus,
        *,
        usual: Quantities,
        own_clock: Callable[[datetime], datetime],
        baud: int | None = None,
    ) -> None:
        self.executed = 0
        self._concentrator = concentrator
        self._meters = meters
        self._bus = bus
        self._usual = usual
        self._own_clock = own_clock
        self._baud = baud
        self._job: _Job | None = None
        self._waiting: deque[_Job] = deque()
        self._framer = Framer()

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds at which `tick` has something to do."""
        moments = [job.arrived + ACCEPTED_AFTER_S for job in self._jobs() if not job.accepted]
        if self._job is not None and self._job.until is not None:
            moments.append(self._job.until)
        moments += [moment for moment in (self._bus.deadline, self._framer.deadline) if moment is not None]
        return min(moments, default=None)

    @property
    def is_busy(self) -> bool:
        return self._job is not None or bool(self._waiting)

    def start(self, command: Command, monotonic: float, now: datetime, *, longer_s: float = 0.0) -> list[CommandAnswer]:
        """Answers that are due at once; the rest comes from `tick`."""
        if len(self._waiting) >= WAITING_MAX:
            return [self._failed(command, _Failed("busy", f"{WAITING_MAX} commands are waiting"))]
        self._waiting.append(_Job(command=command, arrived=monotonic, longer_s=longer_s, heard=bytearray()))
        return self.tick(monotonic, now)

    def tick(self, monotonic: float, now: datetime) -> list[CommandAnswer]:
        answers: list[CommandAnswer] = []
        self._listen(monotonic, now)
        while True:
            job = self._job
            if job is not None and job.until is not None and job.until <= monotonic:
                answers.append(self._finish(job, now))
                self._job = None
            if self._job is not None or not self._waiting:
                break
            self._job = job = self._waiting.popleft()
            try:
                job.until = monotonic + self._begin(job, monotonic, now) + job.longer_s
            except _Failed as failed:
                answers.append(self._failed(job.command, failed))
                self._job = None
        for job in self._jobs():
            if not job.accepted and job.arrived + ACCEPTED_AFTER_S <= monotonic:
                job.accepted = True
                answers.append(CommandAnswer.to(self._concentrator, job.command, Status.ACCEPTED))
        return answers

    def _jobs(self) -> list[_Job]:
        return [*([] if self._job is None else [self._job]), *self._waiting]

    def _failed(self, command: Command, failed: _Failed) -> CommandAnswer:
        return CommandAnswer.to(self._concentrator, command, failed.status, code=failed.code, detail=failed.detail)

    # ------------------------------------------------------------------------------------------ beginning

    def _begin(self, job: _Job, monotonic: float, now: datetime) -> float:
        """Do what is done at once; how long the command takes. Raises _Failed."""
        command = job.command
        if self._own_clock(now) >= command.expires_at:
            raise _Failed("expired")  # it waited too long behind others
        if command.op is Op.FORWARD:
            return self._begin_forward(job, monotonic, now)
        if command.op is Op.READ:
            return sum(meter.reply_delay_s for meter in self._read_from(command).values()) * len(
                self._quantities(command)
            )
        meter = self._meter(command)
        if meter.model.power_off(now):
            return SILENCE_S
        if command.op is Op.SET_CLOCK:
            self._set_clock(meter, command, now)
            self.executed += 1
            return 2 * meter.reply_delay_s
        try:
            _ORDERS[command.op](meter, now)
        except RelayRefused as refused:
            raise _Failed("refused", str(refused)) from refused
        self.executed += 1
        return 2 * meter.reply_delay_s + SETTLE_S

    def _begin_forward(self, job: _Job, monotonic: float, now: datetime) -> float:
        params = job.command.params
        wire = _frame_of(params.get("frame"))
        timeout_ms = _whole(params, "timeout_ms", FORWARD_TIMEOUT_MS, most=TIMEOUT_MS_MAX)
        baud = _whole(params, "baud", self._baud or 0, most=115_200)
        byte_s = BITS_PER_BYTE / baud if baud else 0.0
        self._framer = Framer()  # what was left of an older reply is not the beginning of this one
        self.executed += 1
        self._bus.byte_s = byte_s
        self._bus.receive(wire, monotonic + len(wire) * byte_s, now)
        return len(wire) * byte_s + timeout_ms / 1000

    def _set_clock(self, meter: Dlt645Meter, command: Command, now: datetime) -> None:
        at = command.params.get("ts")
        if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at < 4_102_444_800_000:
            raise _Failed("bad-params", "expected ts, milliseconds since 1970, before 2100")
        local = datetime.fromtimestamp(at / 1000, UTC).astimezone(meter.model.timezone).replace(tzinfo=None)
        meter.model.set_clock(local, now)

    def _meter(self, command: Command) -> Dlt645Meter:
        """Whatever answers under the address now. Raises _Failed."""
        meter = self._meters.get(command.meter)
        if meter is None:
            raise _Failed("unknown-meter", f"no meter {command.meter!r} here")
        return self._bus.device(meter)

    def _read_from(self, command: Command) -> dict[str, Dlt645Meter]:
        """All of them, where the family's command names none. Raises _Failed."""
        if command.meter:
            return {command.meter: self._meter(command)}
        return {called: self._bus.device(meter) for called, meter in self._meters.items()}

    def _quantities(self, command: Command) -> Quantities:
        given = command.params.get("quantities") or []
        if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
            raise _Failed("bad-params", "expected quantities, a list of OBIS codes")
        try:
            return tuple(map(Obis, given)) or self._usual
        except BadObis as error:
            raise _Failed("bad-params", str(error)) from error

    # ------------------------------------------------------------------------------------------ in between

    def _listen(self, monotonic: float, now: datetime) -> None:
        """Let the bus go on; what it says while no frame was forwarded is heard by nobody."""
        bus, job = self._bus, self._job
        found = list(self._framer.tick(monotonic))
        if bus.deadline is not None and bus.deadline <= monotonic:
            bus.tick(monotonic, now)
            for chunk in bus.take_output():
                if job is not None and len(job.heard) < HEARD_MAX:
                    job.heard += chunk
                found += self._framer.receive(chunk, monotonic)
        replies = [one.wire for one in found if isinstance(one, Heard)]
        if replies and job is not None and job.command.op is Op.FORWARD and job.reply is None:
            job.reply = replies[0]
            job.until = monotonic + len(job.reply) * bus.byte_s + job.longer_s

    # ------------------------------------------------------------------------------------------ finishing

    def _finish(self, job: _Job, now: datetime) -> CommandAnswer:
        command = job.command
        try:
            if command.op is Op.FORWARD:
                return self._done(command, detail=_reply_of(job))
            if command.op is Op.READ:
                return self._done(command, values=self._read(command, now))
            meter = self._meter(command)
            if meter.model.power_off(now):
                raise _Failed("silent", status=Status.UNCONFIRMED)
        except _Failed as failed:
            return self._failed(command, failed)
        if command.op is Op.SET_CLOCK or _SHOWN[command.op](meter, now):
            return self._done(command)
        return CommandAnswer.to(self._concentrator, command, Status.UNCONFIRMED, code="relay-differs")

    def _done(self, command: Command, *, detail: Any = None, values: tuple[MeterData, ...] = ()) -> CommandAnswer:
        return CommandAnswer.to(self._concentrator, command, Status.DONE, detail=detail, values=values)

    def _read(self, command: Command, now: datetime) -> tuple[MeterData, ...]:
        there = {called: meter for called, meter in self._read_from(command).items() if not meter.model.power_off(now)}
        if not there:
            raise _Failed("silent")
        self.executed += 1
        quantities = self._quantities(command)
        return tuple(self._read_one(called, meter, quantities, now) for called, meter in there.items())

    def _read_one(self, called: str, meter: Dlt645Meter, quantities: Quantities, now: datetime) -> MeterData:
        values = []
        for obis in quantities:
            try:
                amount, unit = read_quantity(meter, obis, now)
                problem = "" if amount is not None else "not-measured"
            except NoQuantity:
                amount, unit, problem = None, Unit.NONE, "not-offered"
            values.append(PushedValue(name=obis.text, obis=obis, amount=amount, unit=unit, problem=problem))
        shown = meter.model.clock(now).replace(tzinfo=meter.model.timezone).astimezone(UTC)
        at = shown - timedelta(microseconds=shown.microsecond % 1000)
        return MeterData(concentrator=self._concentrator, meter=called, at=at, values=tuple(values))


def _frame_of(given: object) -> bytes:
    try:
        wire = bytes.fromhex(given) if isinstance(given, str) else b""
    except ValueError:
        wire = b""
    if not 0 < len(wire) <= FRAME_MAX:
        raise _Failed("bad-params", f"expected frame, 1 to {FRAME_MAX} bytes in hex")
    return wire


def _whole(params: Mapping[str, Any], name: str, default: int, *, most: int) -> int:
    given = params.get(name, default)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= most:
        raise _Failed("bad-params", f"expected {name}, a whole number up to {most}")
    return given


def _reply_of(job: _Job) -> dict[str, str]:
    if job.reply is not None:
        return {"frame": job.reply.hex()}
    if job.heard:
        raise _Failed("corrupt", {"heard": job.heard.hex()}, status=Status.UNCONFIRMED)
    raise _Failed("silent", status=Status.UNCONFIRMED)


_ORDERS: dict[Op, Callable[[Dlt645Meter, datetime], None]] = {
    Op.OPEN: lambda meter, now: meter.model.open_relay(now),
    Op.PERMIT_CLOSE: lambda meter, now: meter.model.permit_close(now),
    Op.CLOSE: lambda meter, now: meter.model.close_relay(now),
}
# What the meter must show before `done` is said.
_SHOWN: dict[Op, Callable[[Dlt645Meter, datetime], bool]] = {
    Op.OPEN: lambda meter, now: meter.model.relay.shows_open,
    Op.PERMIT_CLOSE: lambda meter, now: meter.model.relay.close_permitted or not meter.model.relay.shows_open,
    Op.CLOSE: lambda meter, now: not meter.model.relay.shows_open,
}
