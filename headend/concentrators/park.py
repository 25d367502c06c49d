"""All concentrators behind one broker: what they push goes into the store, what they are told goes out, who is there is known.

`app.py` runs one of these per broker; the HTTP interface asks it for its state.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime

import structlog
from msgspec import Struct
from msgspec.structs import asdict

from firmware_contracts.concentrator_contract import load_concentrator
from headend.clock import Clock
from headend.concentrators.broker import BrokerConnection, Incoming, MaybeLeft
from headend.concentrators.commands import ConcentratorCommands
from headend.concentrators.concentrator import Concentrator
from headend.concentrators.errors import ConcentratorDown, ConcentratorError, UnknownConcentrator
from headend.concentrators.forward import forwarding
from headend.concentrators.intake import Codec, Intake, Outcome
from headend.concentrators.settings import BrokerSettings, ConcentratorSettings
from headend.concentrators.tally import Seen
from headend.drivers.transport import Connect
from headend.errors import ItemRefused
from headend.intervals.guard import Guard
from headend.model import MeterRecord
from headend.store.writer import Writer
from protocols.concentrator.codec import ConcentratorContract
from protocols.concentrator.messages import Command, CommandAnswer, Op, Outgoing

__all__ = ["BrokerStatus", "ConcentratorPark", "ConcentratorStatus", "Unknown"]

LINGER_S = 0.01  # a broker may send no more than 20 messages ahead: each waits for the one before to be durable
LOOK_S_MAX = 10.0  # between two looks at who is silent

log = structlog.get_logger(__name__)


class BrokerStatus(Struct, frozen=True, kw_only=True):
    """url: without user name and password. refused: messages by reason."""

    name: str
    url: str
    state: str
    since: datetime
    problem: str
    counters: dict[str, int]
    refused: dict[str, int]


class ConcentratorStatus(Struct, frozen=True, kw_only=True):
    """One concentrator as we see it now.

    state: "online" | "offline" | "unknown". reason: why we say so: said | last-will | silence | heard. since: when that began.
    meters: configured here; listed: how many it says it has, null when it does not say. unmapped: names of values that its
    contract does not know. problem: why nothing can be expected from it; "" when nothing is wrong.
    """

    name: str
    broker: str
    contract: str
    state: str
    reason: str
    since: datetime | None
    last_message_at: datetime | None
    last_data_at: datetime | None
    meters: int
    listed: int | None
    software: str
    counters: dict[str, int]
    unmapped: list[str]
    problem: str


class Unknown(Struct, frozen=True, kw_only=True):
    """Somebody who speaks on our topics and is not configured. meter: "" for a concentrator; messages: 0 when it was only listed."""

    broker: str
    concentrator: str
    meter: str
    messages: int
    first_at: datetime
    last_at: datetime
    detail: str


class ConcentratorPark:
    """One broker and what is configured behind it; a park of its own even without concentrators, to see who is there.

    meters: those whose line is one of the concentrators; others are passed over. secret: what is behind a reference.
    Raises ContractError for a contract that cannot be used.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        concentrators: Sequence[ConcentratorSettings],
        meters: Iterable[MeterRecord],
        *,
        writer: Writer,
        clock: Clock,
        secret: Callable[[str], str],
        guard: Guard,
        heard: Callable[[str, datetime], None] = lambda meter, at: None,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._writer = writer
        self._clock = clock
        names = {one.name for one in concentrators}
        by_place = {(meter.line, meter.address): meter for meter in meters if meter.line in names}
        counts: dict[str, int] = defaultdict(int)
        for name, _ in by_place:
            counts[name] += 1
        self._concentrators: dict[str, Concentrator] = {}
        members: dict[ConcentratorContract, dict[str, Concentrator]] = defaultdict(dict)
        for one in concentrators:
            contract = _contract_of(one)
            commands = ConcentratorCommands(one.name, contract, publish=self._publish, clock=clock, room=self._room)
            made = Concentrator(one, one.contract, counts[one.name], commands)
            self._concentrators[one.name] = members[contract][one.name] = made
        codecs = [
            Codec(
                contract,
                of_it,
                contract.topics_up,
                tuple(dict.fromkeys(topic for name in of_it for topic in contract.topics_down(name))),
            )
            for contract, of_it in members.items()
        ]
        self.intake = Intake(
            settings.name,
            codecs,
            by_place,
            clock=clock,
            hears_others_only=settings.version == 5,
            guard=guard,
            heard=heard,
        )
        self.connection = BrokerConnection(
            settings,
            topics=list(dict.fromkeys(one for codec in codecs for one in codec.filters)),
            commands=list(dict.fromkeys(one for codec in codecs for one in codec.watched)),
            clock=clock,
            secret=secret,
            take=self._take,
        )

    async def run(self) -> None:
        """Until cancelled. What was taken and not yet stored then is sent again by the broker at the next start."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.connection.run())
            group.create_task(self._watch_silence())

    # -------------------------------------------------------------------------------------------- commands

    async def send(
        self,
        concentrator: str,
        command: Command,
        *,
        on_sending: Callable[[Outgoing], Awaitable[None]] | None = None,
        look: Callable[[], None] | None = None,
    ) -> CommandAnswer:
        """Send the command once, see `ConcentratorCommands.send`. Raises ConcentratorError: then nothing was done."""
        known = self._concentrators.get(concentrator)
        if known is None:
            raise UnknownConcentrator(concentrator)
        if problem := self._why_down(known):
            raise ConcentratorDown(concentrator, problem)
        return await known.commands.send(command, on_sending=on_sending, look=look)

    def offers(self, concentrator: str, op: Op) -> bool:
        """Whether its family can be told to do this."""
        return op in self._concentrators[concentrator].commands.contract.offers

    def is_up(self, concentrator: str) -> bool:
        """Whether a command has a chance to reach it; one of which nobody knows has."""
        one = self._concentrators[concentrator]
        return not self._why_down(one) and one.presence.online is not False

    def confirms(self, concentrator: str) -> bool:
        """Whether its "done" means that it has read a relay back."""
        return self._concentrators[concentrator].commands.contract.confirms

    def forwarding(self, concentrator: str, *, new_id: Callable[[], str], reply_timeout_s: float) -> Connect:
        """How a `Line` reaches the meters behind this concentrator; its URL is `forward.forward_url(concentrator)`."""
        known = self._concentrators[concentrator]
        return forwarding(
            concentrator,
            lambda command: self.send(concentrator, command),
            why_down=lambda: self._why_down(known),
            new_id=new_id,
            reply_timeout_s=reply_timeout_s,
            clock=self._clock,
        )

    def _why_down(self, concentrator: Concentrator) -> str:
        """ "" while commands can be sent. Silence is no reason: some push once a day and obey at any time."""
        if not self.connection.is_up:
            return f"its broker {self.name} is not connected: {self.connection.problem}"
        presence = concentrator.presence
        if presence.has_left and presence.since is not None:
            return f"it has been offline since {presence.since.isoformat(timespec='seconds')} ({presence.reason})"
        return ""

    async def _room(self) -> None:
        await self.connection.room()

    async def _publish(self, message: Outgoing) -> None:
        await self.connection.publish(message)

    # -------------------------------------------------------------------------------------------- messages

    async def _take(self, messages: Sequence[Incoming]) -> None:
        """Returns when what they say is durable. Raises StoreError only when the writer is closing."""
        outcome = Outcome()
        for message in messages:
            self.intake.take(message, outcome)
        try:
            await self._writer.submit_all(outcome.items, linger_s=LINGER_S)
        except ItemRefused:
            log.error(
                "the store refuses something that was pushed; it is lost", broker=self.name
            )  # the writer said what
        if self._settings.clear_retained_commands:
            for topic in dict.fromkeys(outcome.retained):
                await self.connection.clear_retained(topic)
        for reply in outcome.replies:
            try:
                await self.connection.publish(reply)
            except (ConcentratorError, MaybeLeft) as error:
                # It sends what was not acknowledged again, and then it is acknowledged: nothing is lost by this.
                log.info("an acknowledgement did not get through", broker=self.name, problem=str(error))
                break

    async def _watch_silence(self) -> None:
        listening_since: float | None = None
        pause_s = min(
            LOOK_S_MAX, min((one.presence.silent_after_s for one in self._concentrators.values()), default=1e9) / 4
        )
        while True:
            await asyncio.sleep(pause_s)
            now, monotonic = self._clock.now(), self._clock.monotonic()
            if not self.connection.is_up:
                listening_since = None
            elif listening_since is None:
                listening_since = monotonic
            for one in self._concentrators.values():
                change = one.presence.look(now, monotonic, listening_since)
                if change is not None:
                    log.warning("a concentrator is silent", concentrator=one.name, last=one.presence.last_message_at)
                    await self._writer.submit_all((change.event(one.name, now),))

    # -------------------------------------------------------------------------------------------- for the HTTP interface

    def broker_status(self) -> BrokerStatus:
        connection = self.connection
        return BrokerStatus(
            name=self.name,
            url=self._settings.url.text,
            state="up" if connection.is_up else "down",
            since=connection.since,
            problem=connection.problem,
            counters=asdict(connection.counters),
            refused=dict(sorted(self.intake.refusals.counts.items())),
        )

    def statuses(self) -> list[ConcentratorStatus]:
        return [self._status(one) for one in self._concentrators.values()]

    def unknown(self) -> list[Unknown]:
        """Concentrators first, then meters; the newest first."""
        intake = self.intake
        found = [(name, "", seen) for (name,), seen in intake.unknown_concentrators.seen.items()]
        found += [(name, meter, seen) for (name, meter), seen in intake.unknown_meters.seen.items()]
        found.sort(key=lambda one: (one[1] != "", -one[2].last_at.timestamp()))
        return [self._unknown(name, meter, seen) for name, meter, seen in found]

    def unknown_overflow(self) -> int:
        """Messages of further ones, of whom no more is known."""
        return self.intake.unknown_concentrators.overflow + self.intake.unknown_meters.overflow

    def _unknown(self, name: str, meter: str, seen: Seen) -> Unknown:
        return Unknown(
            broker=self.name,
            concentrator=name,
            meter=meter,
            messages=seen.count,
            first_at=seen.first_at,
            last_at=seen.last_at,
            detail=seen.detail,
        )

    def _status(self, one: Concentrator) -> ConcentratorStatus:
        presence = one.presence
        state = {True: "online", False: "offline", None: "unknown"}[presence.online]
        problem = self._why_down(one)
        if not problem and presence.online is False:
            problem = f"nothing came from it for {presence.silent_after_s:.0f} s"
        counters: Mapping[str, int] = asdict(one.counters) | {
            f"commands_{name}": count for name, count in asdict(one.commands.counters).items()
        }
        return ConcentratorStatus(
            name=one.name,
            broker=self.name,
            contract=one.contract_name,
            state=state,
            reason=presence.reason,
            since=presence.since,
            last_message_at=presence.last_message_at,
            last_data_at=one.last_data_at,
            meters=one.meters,
            listed=one.listed,
            software=one.software,
            counters=dict(counters),
            unmapped=sorted(one.unmapped),
            problem=problem,
        )


def _contract_of(settings: ConcentratorSettings) -> ConcentratorContract:
    """One and the same for concentrators that are configured alike."""
    given = {"timezone": settings.timezone, "prefix": settings.prefix}
    contract = load_concentrator(settings.contract, **given, settings=settings.settings)
    if not contract.concentrator:
        return contract
    # Its topics do not tell whose they are: they are this one's.
    return load_concentrator(settings.contract, **given, settings=settings.settings, concentrator=settings.name)
