"""What a broker's messages mean to us: which concentrator and meter they are of, and what of it goes into the store.

Whatever is said by somebody we do not know, or in words that no contract has, is counted by reason and forgotten: it must not stay
at the broker, where it would come again for ever. Decides and counts only; storing, publishing and acknowledging is `park`'s work.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog
from msgspec import Struct
from paho.mqtt.client import topic_matches_sub

from headend.clock import Clock
from headend.concentrators.broker import Incoming
from headend.concentrators.concentrator import Concentrator
from headend.concentrators.reads import event_of, reads_of
from headend.concentrators.tally import Refusals, Strangers
from headend.intervals.guard import Guard
from headend.model import Event, Item, MeterRecord, Read
from protocols.concentrator.codec import ConcentratorContract
from protocols.concentrator.messages import (
    CommandAnswer,
    MeterData,
    MeterEvent,
    MeterList,
    Outgoing,
    Presence,
    Uplink,
)
from protocols.errors import BadEnvelope

__all__ = ["Intake", "Outcome"]

QUANTITIES_MAX = 500  # per meter and run; a meter of DL/T 645 has some 300 with all tariffs
EVENTS_REMEMBERED = 5000  # ids, against repeats
CONCENTRATORS_UNKNOWN_MAX = 200
METERS_UNKNOWN_MAX = 1000

log = structlog.get_logger(__name__)


class Outcome(Struct):
    """items: to be stored. replies: to be published when they are: what a family's devices wait for. retained: command topics
    on which a retained message lies."""

    items: list[Item] = []
    replies: list[Outgoing] = []
    retained: list[str] = []


class Codec(Struct, frozen=True):
    """A contract and whom it is used for; `filters` are its subscriptions, `watched` the command topics of its concentrators."""

    contract: ConcentratorContract
    members: dict[str, Concentrator]
    filters: tuple[str, ...]
    watched: tuple[str, ...]


class Intake:
    """One broker's. meters: by concentrator and address."""

    def __init__(
        self,
        broker: str,
        codecs: Sequence[Codec],
        meters: dict[tuple[str, str], MeterRecord],
        *,
        clock: Clock,
        hears_others_only: bool,
        guard: Guard,
        heard: Callable[[str, datetime], None] = lambda meter, at: None,
    ) -> None:
        """hears_others_only: the broker does not send us what we published ourselves (MQTT 5). guard: looks at every read before it is
        published. heard: told of each meter's data."""
        self.refusals = Refusals(broker)
        self.unknown_concentrators = Strangers(CONCENTRATORS_UNKNOWN_MAX)
        self.unknown_meters = Strangers(METERS_UNKNOWN_MAX)
        self._codecs = codecs
        self._meters = meters
        self._clock = clock
        self._hears_others_only = hears_others_only
        self._guard = guard
        self._heard = heard
        self._quantities: dict[str, set[str]] = {}
        self._events: OrderedDict[str, None] = OrderedDict()

    def take(self, message: Incoming, outcome: Outcome) -> None:
        """Never raises: one message that brings us down would bring us down again at every start."""
        try:
            self._take(message, outcome)
        except Exception:
            log.exception("a message could not be taken in", topic=message.topic[:128], size=message.size)
            self._refuse("internal-error", message)

    def _take(self, message: Incoming, outcome: Outcome) -> None:
        if not message.topic:
            self._refuse("topic-not-text", message)
            return
        is_command = self._look_for_commands(message, outcome)
        codecs = [codec for codec in self._codecs if _matches(message.topic, codec.filters)]
        if not codecs:
            if not is_command:
                self._refuse("unexpected-topic", message)
            return
        if message.size > len(message.payload):
            self._refuse("too-large", message, f"{message.size} bytes")
            return
        best: tuple[Codec, tuple[Uplink, ...]] | None = None
        for codec in codecs:
            try:
                uplinks = codec.contract.decode(message.topic, message.payload, now=message.received_at)
            except BadEnvelope as error:
                problem = error
                continue
            if best is None or any(uplink.concentrator in codec.members for uplink in uplinks):
                best = (codec, uplinks)
        if best is None:
            self._refuse(problem.fault, message, problem.reason)
            return
        codec, uplinks = best
        if any([self._accept(uplink, codec, message, outcome) for uplink in uplinks]):  # all of them
            outcome.replies += codec.contract.acknowledgements(message.topic, message.payload, now=message.received_at)

    # -------------------------------------------------------------------------------------------- command topics

    def _look_for_commands(self, message: Incoming, outcome: Outcome) -> bool:
        """Whether this is a topic on which only we speak. What lies there is found; what others say there, too (MQTT 5)."""
        for codec in self._codecs:
            if not _matches(message.topic, codec.watched):
                continue
            is_shared = _matches(message.topic, codec.filters)
            if message.is_retained and message.size:
                self._found_retained(message, codec, outcome)
            elif self._hears_others_only and message.size and not is_shared:
                self._refuse("foreign-command", message, "somebody else commands our concentrators")
            return True
        return False

    def _found_retained(self, message: Incoming, codec: Codec, outcome: Outcome) -> None:
        names = [name for name in codec.members if _matches(message.topic, codec.contract.topics_down(name))]
        concentrator = codec.members[names[0]] if names else None
        self._refuse(
            "retained-command", message, "a retained message lies on a command topic: every reconnection repeats it"
        )
        outcome.retained.append(message.topic)
        if concentrator is None:
            return
        concentrator.counters.retained_commands += 1
        identity = f"retained-command:{message.topic}"
        if self._is_new(identity):
            outcome.items.append(concentrator.retained_command(message.topic, message.size, message.received_at))

    # -------------------------------------------------------------------------------------------- uplinks

    def _accept(self, uplink: Uplink, codec: Codec, message: Incoming, outcome: Outcome) -> bool:
        """Whether it was from somebody we know."""
        concentrator = codec.members.get(uplink.concentrator)
        now = message.received_at
        if concentrator is None:
            self.unknown_concentrators.note((uplink.concentrator,), now, message.topic)
            self._refuse("unknown-concentrator", message)
            return False
        concentrator.counters.messages += 1
        is_live = not message.is_retained and not message.is_repeated
        presence, monotonic = concentrator.presence, self._clock.monotonic()
        if isinstance(uplink, Presence):
            change = presence.said(uplink.online, uplink.at, now, monotonic, is_live=is_live)
            concentrator.software = uplink.software[:128] or concentrator.software
        else:
            change = presence.heard(now, monotonic) if is_live else None
        if change is not None:
            outcome.items.append(change.event(concentrator.name, now))
        match uplink:
            case MeterData():
                return self._take_data(uplink, concentrator, message, outcome)
            case MeterEvent():
                return self._take_event(uplink, concentrator, message, outcome)
            case MeterList():
                concentrator.listed = len(uplink.meters)
                for meter in uplink.meters:
                    if (concentrator.name, meter.address) not in self._meters:
                        detail = " ".join(filter(None, (meter.protocol, meter.contract)))
                        self.unknown_meters.note((concentrator.name, meter.address), now, detail[:128], count=0)
            case CommandAnswer():
                concentrator.commands.received(uplink)
        return True

    def _take_data(self, data: MeterData, concentrator: Concentrator, message: Incoming, outcome: Outcome) -> bool:
        meter = self._meter(concentrator, data.meter, message)
        if meter is None:
            return False
        if data.at is None and message.is_retained:
            # It comes again at every subscription, and would be a new read of an old value each time.
            self._refuse("retained-without-time", message, "nobody knows when this was read; publish it without retain")
            return True
        counters = concentrator.counters
        has_waited = message.is_repeated or message.has_waited
        known = self._quantities.setdefault(meter.id, set())
        reads: list[Read] = []
        for value, pushed in reads_of(
            data, meter, concentrator.contract_name, message.received_at, has_waited=has_waited
        ):
            if pushed is None:
                counters.unmapped_values += 1
                concentrator.note_unmapped(value.name)
                continue
            quantity = pushed.read.obis
            if quantity not in known:
                if len(known) >= QUANTITIES_MAX:
                    self._refuse("too-many-quantities", message, f"{meter.id} has more than {QUANTITIES_MAX}")
                    outcome.items += self._guard.examine(reads, is_pushed=True).items
                    return True
                known.add(quantity)
            counters.values += 1
            reads.append(pushed.read)
        outcome.items += self._guard.examine(reads, is_pushed=True).items
        concentrator.last_data_at = message.received_at
        self._heard(meter.id, message.received_at)
        return True

    def _take_event(self, event: MeterEvent, concentrator: Concentrator, message: Incoming, outcome: Outcome) -> bool:
        meter = self._meter(concentrator, event.meter, message)
        if meter is None:
            return False
        item: Event = event_of(event, meter, message.received_at)
        if not item.id or self._is_new(item.id):
            concentrator.counters.events += 1
            outcome.items.append(item)
        return True

    def _meter(self, concentrator: Concentrator, address: str, message: Incoming) -> MeterRecord | None:
        meter = self._meters.get((concentrator.name, address))
        if meter is None:
            concentrator.counters.unknown_meters += 1
            self.unknown_meters.note((concentrator.name, address), message.received_at)
            self._refuse(
                "unknown-meter", message, f"no meter {address[:128]!r} is configured behind {concentrator.name}"
            )
        return meter

    def _is_new(self, identity: str) -> bool:
        if identity in self._events:
            self._events.move_to_end(identity)
            return False
        self._events[identity] = None
        if len(self._events) > EVENTS_REMEMBERED:
            self._events.popitem(last=False)
        return True

    def _refuse(self, reason: str, message: Incoming, problem: str = "") -> None:
        self.refusals.note(reason, self._clock.monotonic(), topic=message.topic, problem=problem)


def _matches(topic: str, filters: Sequence[str]) -> bool:
    return any(topic_matches_sub(one, topic) for one in filters)
