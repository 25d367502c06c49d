"""A concentrator that speaks MQTT for the meters behind it, of any family that has a contract. No I/O, no clock.

It reads its meters at even moments of their own clocks, keeps what it has to say until the broker has acknowledged it,
and does what it is told: once for each command id, however often the command arrives. A shell (`concentrator_client`)
carries the messages; `monotonic` drives everything, `now` is true time.

What it never does: act on a retained message. The broker would repeat such a command at every reconnection; it is
reported as an event instead.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from heapq import heappop, heappush

import msgspec
from msgspec.structs import replace

from firmware_contracts.contract import load
from protocols.concentrator.codec import ConcentratorContract
from protocols.concentrator.messages import (
    Command,
    CommandAnswer,
    ListedMeter,
    MeterData,
    MeterEvent,
    MeterList,
    Outgoing,
    Presence,
    PushedValue,
    Retained,
    Status,
    Uplink,
)
from protocols.errors import BadEnvelope, EncodeError, Expired
from protocols.values import Obis
from simulators.concentrator_commands import CommandRunner
from simulators.concentrator_faults import ConcentratorFault, ConcentratorFaultKind, ConcentratorPlan
from simulators.concentrator_reader import USUAL_QUANTITIES
from simulators.concentrator_readings import AT_ONCE, MADE, Numbered, Readings
from simulators.concentrator_store import UnsentStore
from simulators.concentrator_traffic import Departing, Traffic
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.meter import MeterModel

__all__ = ["SimulatedConcentrator"]

K = ConcentratorFaultKind
REPLAYS_MAX = 1000
PAYLOAD_SHOWN = 200  # characters of a refused command that an event tells
LOOK_S = 1.0  # from look to look at what meters do by themselves, for a fleet costs time
PRESENCE_S = 60  # from presence to presence, where the broker does not keep it
SOFTWARE = "meter-sim"


class SimulatedConcentrator:
    """meters: behind one RS-485 line, all of the contract `meter_contract`. meter_names: what they are called in topics and
    payloads; their addresses when not given. period_s: of a reading; None: none by itself.

    quantities: what is read, as far as meter and contract have it. numbered: instead of readings. baud: of the line for
    forwarded frames that name no rate; None: bytes take no time. faults may be changed at any time.

    struck: how often each fault has struck. refused: messages on command topics that were no commands, by reason.
    retained_commands, repeated_commands: not acted on; answered again and not done again.
    """

    def __init__(
        self,
        name: str,
        contract: ConcentratorContract,
        meters: Sequence[MeterModel],
        *,
        meter_names: Sequence[str] | None = None,
        period_s: int | None = 60,
        quantities: Sequence[Obis] = USUAL_QUANTITIES,
        numbered: Numbered | None = None,
        store: UnsentStore | None = None,
        faults: ConcentratorPlan | None = None,
        meter_contract: str = "dlt645/base_2007",
        baud: int | None = None,
        report: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.name = name
        self.contract = contract
        self.store = UnsentStore() if store is None else store
        self.faults = ConcentratorPlan() if faults is None else faults
        self.struck: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.retained_commands = self.repeated_commands = 0
        self.report = report
        promised = load(meter_contract)
        names = [model.address.digits for model in meters] if meter_names is None else meter_names
        self.meters = {called: Dlt645Meter(model, promised) for called, model in zip(names, meters, strict=True)}
        self.bus = Dlt645Bus(list(self.meters.values()), faults=self.faults.meters)
        self.runner = CommandRunner(
            name, self.meters, self.bus, usual=tuple(quantities), own_clock=self.own_clock, baud=baud
        )
        self._period_s = period_s
        self._numbered = numbered
        self._readings = Readings(
            self.meters,
            self.bus,
            self.store,
            self._push,
            period_s=None if numbered is not None else period_s,
            quantities=tuple(quantities),
            numbered=numbered,
        )
        self._traffic = Traffic(self.struck)
        self._greetings: deque[Outgoing] = deque()
        self._replays: list[tuple[float, int, str, bytes]] = []
        self._heard = 0
        self._answered = 0
        self._working: set[str] = set()  # ids of commands that this process is doing
        self._offset_s = 0.0  # of the meters' clocks, as the fault wants it
        self._look_at = 0.0
        self._states = dict.fromkeys(self.meters, (0, 0, False))
        self._presence_at: float | None = None
        self._connected = False
        self._dropped_at: datetime | None = None
        self._deadline: float | None = 0.0

    def own_clock(self, now: datetime) -> datetime:
        """What the concentrator takes the time for."""
        fault = self.faults.of(K.CLOCK_WRONG, now)
        ahead_s = 0.0 if fault is None or fault.get("of") == "meters" else fault.get("offset_s")
        return now + timedelta(seconds=ahead_s)

    # ------------------------------------------------------------------------------------------ the connection

    @property
    def will(self) -> Outgoing | None:
        """What the broker says for it when it has gone without a word; None for a family without last will."""
        return next(iter(self._encoded(Presence(concentrator=self.name, online=False))), None)

    @property
    def subscriptions(self) -> tuple[str, ...]:
        return self.contract.topics_down(self.name)

    def connected(self, monotonic: float, now: datetime) -> None:
        self._connected = True
        self._greet(monotonic, now)

    def lost(self) -> None:
        """The connection is gone, and with it whatever was not acknowledged on it."""
        self._connected = False
        self._presence_at = None
        self._greetings.clear()
        self._traffic.forget()
        self.store.give_back()

    def farewell(self, now: datetime) -> tuple[Outgoing, ...]:
        """To publish before an orderly end: then the broker does not send the will."""
        gone = Presence(concentrator=self.name, online=False, at=self.own_clock(now))
        return (*self._meters_said("disconnected", now), *self._encoded(gone))

    def drop(self, now: datetime) -> ConcentratorFault | None:
        """The fault that makes it vanish now, once each time that it is due."""
        fault = self.faults.of(K.SILENT_DROP, now)
        if fault is None:
            self._dropped_at = None
            return None
        every_s = fault.get("every_s")
        if self._dropped_at is not None and (
            not every_s or now < self._dropped_at + timedelta(seconds=max(every_s, fault.get("for_s")))
        ):
            return None
        self._dropped_at = now
        self.struck[fault.title] += 1
        return fault

    def take_output(self, room: int, monotonic: float, now: datetime) -> list[Departing]:
        """What to publish, about `room` messages."""
        leaving = [Departing(None, self._greetings.popleft()) for _ in range(min(room, len(self._greetings)))]
        leaving += self._traffic.tick(monotonic)
        while len(leaving) < room:
            kept = self.store.take(min(room - len(leaving), AT_ONCE))
            if not kept:
                break
            for one in kept:
                leaving += self._traffic.pass_on(one, self.faults, monotonic, now)
        return leaving

    @property
    def has_output(self) -> bool:
        return bool(self._greetings) or self.store.has_more()

    def acknowledged(self, key: int) -> None:
        self.store.acknowledged(key)

    @property
    def is_finished(self) -> bool:
        """All numbered readings that were wanted are made and acknowledged."""
        numbered = self._numbered
        wanted = None if numbered is None else numbered.most
        return wanted is not None and self.store.number(MADE) >= wanted and not len(self.store)

    # ------------------------------------------------------------------------------------------ time

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds at which `tick` or `take_output` has something to do."""
        moments = (self._deadline, self.runner.deadline, self._traffic.deadline, self._presence_at)
        return min((moment for moment in moments if moment is not None), default=None)

    def tick(self, monotonic: float, now: datetime) -> None:
        self._settle(now)
        while self._replays and self._replays[0][0] <= monotonic:
            _, _, topic, payload = heappop(self._replays)
            self._command(topic, payload, monotonic, now)
        answers = self.runner.tick(monotonic, now)
        if answers or self.runner.is_busy or monotonic >= self._look_at:
            self._tell_changes(now)
            self._look_at = monotonic + LOOK_S
        self._answer(answers, now)
        if self._connected and self._presence_at is not None and self._presence_at <= monotonic:
            self._greet(monotonic, now, again=True)
        deadlines = [self._readings.tick(monotonic, now)]
        deadlines.append(self._replays[0][0] if self._replays else None)
        deadlines += [monotonic + (change - now).total_seconds() for change in self._changes(now)]
        self._deadline = min((moment for moment in deadlines if moment is not None), default=None)

    def _changes(self, now: datetime) -> list[datetime]:
        """When faults begin and end."""
        moments = [moment for fault in self.faults.faults for moment in (fault.start, fault.until)]
        drop = self.faults.of(K.SILENT_DROP, now)
        if drop is not None and drop.get("every_s") and self._dropped_at is not None:
            moments.append(self._dropped_at + timedelta(seconds=max(drop.get("every_s"), drop.get("for_s"))))
        return [moment for moment in moments if moment is not None and moment > now]

    def _settle(self, now: datetime) -> None:
        """Put the meters' clocks wrong, or right again, and give the meters their own faults."""
        if self.bus.faults is not self.faults.meters:
            self.bus.faults = self.faults.meters
        fault = self.faults.of(K.CLOCK_WRONG, now)
        wanted_s = 0.0 if fault is None or fault.get("of") == "concentrator" else float(fault.get("offset_s"))
        if wanted_s != self._offset_s:
            for meter in self.meters.values():
                meter.model.step_clock(timedelta(seconds=wanted_s - self._offset_s), now)
            self._offset_s = wanted_s
            self._readings.reschedule()
            if fault is not None:
                self.struck[fault.title] += 1

    def _push(self, address: str, at: datetime, values: tuple[PushedValue, ...]) -> None:
        sequence = self.store.number(f"sequence of {address}") + 1
        self.store.set_number(f"sequence of {address}", sequence)
        data = MeterData(concentrator=self.name, meter=address, at=at, sequence=sequence, values=values)
        for message in self._encoded(data):
            self.store.add(message, is_data=True)

    # ------------------------------------------------------------------------------------------ presence and events

    def _greet(self, monotonic: float, now: datetime, *, again: bool = False) -> None:
        """Tell that it is there, and its meters. again: only what the broker does not keep."""
        at = self.own_clock(now)
        listed = tuple(
            ListedMeter(
                address=called,
                protocol="dlt645",
                contract=meter.contract.name,
                reachable=not meter.model.power_off(now),
            )
            for called, meter in self.meters.items()
        )
        status = Presence(concentrator=self.name, online=True, at=at, software=SOFTWARE, meters=len(self.meters))
        # Where both are one message, the list tells more.
        said = (*self._encoded(status), *self._encoded(MeterList(self.name, listed)))
        messages = list({message.topic: message for message in said}.values())
        passing = [message for message in messages if not isinstance(message, Retained)]
        self._presence_at = monotonic + (self._period_s or PRESENCE_S) if passing else None
        self._greetings.extend(passing if again else [*messages, *self._meters_said("connected", now)])

    def _meters_said(self, event: str, now: datetime) -> list[Outgoing]:
        """Some families have no other events than that a meter connects or disconnects: they want these."""
        at = self.own_clock(now)
        if any(self._encoded(self._made_event(self.name, at, "relay-opened", {}))):
            return []
        return [one for called in self.meters for one in self._encoded(self._made_event(called, at, event, {}))]

    def _tell_changes(self, now: datetime) -> None:
        """A relay that has moved, whoever made it move, is an event, and so is power that fails or returns."""
        for called, meter in self.meters.items():
            model = self.bus.device(meter).model
            is_off = model.power_off(now)
            before, state = self._states[called], (model.trip_count, model.close_count, is_off)
            if before == state:
                continue
            self._states[called] = state
            shown = model.clock(now).replace(tzinfo=model.timezone).astimezone(UTC)
            if before[2] != is_off:
                self._event(called, shown, "power-failed" if is_off else "power-restored", {})
            if before[:2] != state[:2]:
                name = "relay-opened" if state[0] > before[0] else "relay-closed"
                self._event(called, shown, name, {"open": model.relay.shows_open})

    def _event(self, meter: str, at: datetime, name: str, detail: dict[str, object]) -> None:
        for message in self._encoded(self._made_event(meter, at, name, detail)):
            self.store.add(message)

    def _made_event(self, meter: str, at: datetime, name: str, detail: dict[str, object]) -> MeterEvent:
        return MeterEvent(concentrator=self.name, meter=meter, at=_to_ms(at), name=name, detail=detail)

    def _encoded_answer(self, answer: CommandAnswer) -> tuple[Outgoing, ...]:
        """Families that know only success and failure call it failure when nobody knows, and do not say `accepted`."""
        for status in (answer.status, Status.FAILED):
            try:
                messages = self.contract.encode_uplink(replace(answer, status=status))
            except EncodeError as error:
                problem = str(error)
            else:
                if messages:
                    return messages
                problem = f"{self.contract.name} cannot say {status}"
            if not answer.is_final:
                return ()
        self._refuse("unsaid", problem)
        return ()

    def _encoded(self, uplink: Uplink) -> tuple[Outgoing, ...]:
        """Nothing where the family has no words for it. What it cannot say although it has words is counted."""
        try:
            return self.contract.encode_uplink(uplink)
        except EncodeError as error:
            self._refuse("unsaid", str(error))
            return ()

    # ------------------------------------------------------------------------------------------ commands

    def receive(self, topic: str, payload: bytes, retained: bool, monotonic: float, now: datetime) -> None:
        """A message from the broker; retained: it came with the flag."""
        if retained:
            self._report_retained(topic, payload, now)
            return
        self._command(topic, payload, monotonic, now)
        self._heard += 1
        struck = self.faults.strike(K.REPLAYED_COMMANDS, self._heard, now)
        if struck is not None:
            fault = struck[0]
            self.struck[fault.title] += 1
            for copy in range(1, fault.get("copies") + 1):
                if len(self._replays) < REPLAYS_MAX:
                    entry = (monotonic + copy * fault.get("delay_s"), self._heard * 128 + copy, topic, payload)
                    heappush(self._replays, entry)
            self._deadline = monotonic if self._deadline is None else min(self._deadline, monotonic)

    def _command(self, topic: str, payload: bytes, monotonic: float, now: datetime) -> None:
        try:
            command = self.contract.decode_command(topic, payload, now=self.own_clock(now))
        except Expired as expired:
            self._refuse("expired", str(expired))
            self._answer(
                [CommandAnswer.to(self.name, expired.command, Status.FAILED, code="expired")], now, is_kept=False
            )
            return
        except BadEnvelope as error:
            if not self._is_own(topic, payload, now):
                self._refuse("bad-command", str(error))
            return
        if self._is_repeated(command, now):
            return
        longer = self.faults.strike(K.SLOW_COMMANDS, self._heard, now)
        if longer is not None:
            self.struck[longer[0].title] += 1
        longer_s = 0.0 if longer is None else longer[0].get("delay_s")
        self._answer(self.runner.start(command, monotonic, now, longer_s=longer_s), now)

    def _refuse(self, reason: str, problem: str) -> None:
        """Told less and less often: somebody may send rubbish all day."""
        self.refused[reason] += 1
        count = self.refused[reason]
        if count <= 4 or count & (count - 1) == 0:
            self.report(f"{self.name}: {problem}" + (f" ({count} of this kind)" if count > 4 else ""))

    def _is_own(self, topic: str, payload: bytes, now: datetime) -> bool:
        """Some families use one topic for both directions, and MQTT 3.1.1 brings back what one has published."""
        try:
            return bool(self.contract.decode(topic, payload, now=now))
        except BadEnvelope:
            return False

    def _is_repeated(self, command: Command, now: datetime) -> bool:
        """Answered, if there is an answer, and never done again."""
        if not command.id:
            return False  # a family without ids: each message is a command of its own
        content = msgspec.json.encode((command.op.value, command.meter, command.params), order="deterministic")
        digest = blake2b(content, digest_size=16).digest()
        known = self.store.find(command.id)
        if known is None:
            self.store.begin(command.id, digest)
            self._working.add(command.id)
            return False
        self.repeated_commands += 1
        before, answer = known
        if before != digest:
            reused = CommandAnswer.to(self.name, command, Status.FAILED, code="id-reused")
            self._answer([reused], now, is_kept=False)
        elif answer is not None:
            for topic, payload, qos in msgspec.msgpack.decode(answer, type=list[tuple[str, bytes, int]]):
                self.store.add(Outgoing(topic=topic, payload=payload, qos=qos), urgent=True)
        elif command.id not in self._working:
            # It was begun before a restart: whether the meter was reached, nobody knows.
            self._answer([CommandAnswer.to(self.name, command, Status.UNCONFIRMED, code="restarted")], now)
        return True

    def _answer(self, answers: Sequence[CommandAnswer], now: datetime, *, is_kept: bool = True) -> None:
        """is_kept: a final one answers every repetition of the command."""
        for answer in answers:
            answer = replace(answer, at=_to_ms(self.own_clock(now)))
            messages = self._encoded_answer(answer)
            if is_kept and answer.is_final and answer.id:
                packed = [(message.topic, message.payload, message.qos) for message in messages]
                self.store.finish(answer.id, msgspec.msgpack.encode(packed))
                self._working.discard(answer.id)
            self._answered += 1
            lost = self.faults.strike(K.LOST_ANSWERS, self._answered, now)
            if lost is not None:
                self.struck[lost[0].title] += 1
                continue
            for message in messages:
                self.store.add(message, urgent=True)

    def _report_retained(self, topic: str, payload: bytes, now: datetime) -> None:
        if not payload:
            return  # somebody clears what was retained
        self.retained_commands += 1
        at = self.own_clock(now)
        try:
            meter = self.contract.decode_command(topic, payload, now=at).meter
        except Expired as expired:
            meter = expired.command.meter
        except BadEnvelope:
            meter = ""
        shown = payload[:PAYLOAD_SHOWN].decode("utf-8", "replace")
        self.report(f"{self.name}: a retained message on the command topic {topic} was not acted on: {shown}")
        self._event(meter or self.name, at, "retained-command", {"topic": topic, "payload": shown})


def _to_ms(at: datetime) -> datetime:
    return at - timedelta(microseconds=at.microsecond % 1000)
