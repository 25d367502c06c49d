"""One family of concentrators: its topics and payloads to messages and back, as its contract says.

`ConcentratorContract` is the whole of both ends. The head-end uses `topics_up`, `decode`, `acknowledgements`,
`encode_command`, `answer_id` and `is_answer`; a simulated concentrator `topics_down`, `decode_command` and
`encode_uplink`. It holds no state: what is in flight and what was heard before is the caller's to know.

Whatever bytes come, `decode` raises BadEnvelope or returns; `decode_command` may also raise Expired. Time and work for a
message are bounded by the limits of `json_text`, `topics` and `shapes`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from protocols.concentrator.fields import ABSENT, EPOCH, MapRow, Marks, Surroundings
from protocols.concentrator.json_text import Mismatch, dump, parse, parse_text
from protocols.concentrator.messages import Command, CommandAnswer, Op, Outgoing, Retained, Uplink
from protocols.concentrator.params import check_params
from protocols.concentrator.quantities import NamedQuantity, Quantities
from protocols.concentrator.rows import FIELDS, rows_of, uplinks_of
from protocols.concentrator.shapes import Reading, Row, Shape, compile_shape
from protocols.concentrator.topics import TopicTemplate, check_topic, is_identity
from protocols.errors import BadEnvelope, BadLayout, EncodeError, Expired, NotOffered, shown

__all__ = ["Acknowledgement", "CommandRules", "ConcentratorContract", "DownMessage", "UpMessage"]

TTL_MS_MAX = 7 * 86_400_000
SECOND = timedelta(seconds=1)
_DOWN_FIELDS = {"meter", "id", "op", "params", "ttl_ms", "sent_at"}
_Result = TypeVar("_Result")


class Acknowledgement(Struct, frozen=True, forbid_unknown_fields=True):
    """What the platform owes the device for a message. May use every field of that message, also those with _."""

    topic: str
    payload: str


class UpMessage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message of a concentrator. kind: data, presence, meters, event, answer, ignored, or several of them.

    topic, payload: templates, see `topics` and `shapes`. text: the payload is plain text and no JSON.
    set: fields that no wire carries, with what they are. retain: the concentrator leaves it at the broker.
    read_only: a way of saying it that is understood and not written.
    """

    kind: str | tuple[str, ...]
    topic: str | tuple[str, ...]
    payload: str
    text: bool = False
    set: dict[str, Any] = {}
    qos: int = 1
    retain: bool = False
    read_only: bool = False
    acknowledge: Acknowledgement | None = None


class DownMessage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command. op: one or several of Op; with several the payload has {op}."""

    op: str | tuple[str, ...]
    topic: str
    payload: str
    text: bool = False
    set: dict[str, Any] = {}
    qos: int = 1


class CommandRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """id: what ids may look like on the wire: any text, a number below 2^31 or 2^32 (others are hashed), or none at all.

    With none, only one command may be in flight to a concentrator.
    ttl_s: how long a command holds whose message does not say it. confirms: "done" means that a relay was read back.
    """

    id: Literal["text", "uint31", "uint32", "none"] = "text"
    ttl_s: int = 15
    confirms: bool = False


class _Entry:
    """A compiled message: where it is published, its shape, and what goes without saying."""

    def __init__(
        self,
        message: UpMessage | DownMessage,
        topics: tuple[str, ...],
        around: Surroundings,
        constants: Mapping[str, Any],
        prefix: str,
    ) -> None:
        self.message = message
        self.topics = [TopicTemplate(prefix + topic, constants) for topic in topics]
        self.shape = _shape(message.payload, message.text, around, constants)
        self.set = {key: _resolved(value, constants) for key, value in message.set.items()}
        self.fields = self.shape.fields | self.topics[0].fields | set(self.set)
        self.acknowledge: tuple[TopicTemplate, Shape] | None = None
        if isinstance(message, UpMessage) and message.acknowledge is not None:
            told = message.acknowledge
            self.acknowledge = (
                TopicTemplate(prefix + told.topic, constants),
                _shape(told.payload, False, around, constants),
            )

    def topic_row(self, topic: str) -> Row | None:
        for template in self.topics:
            if (found := template.match(topic)) is not None:
                return {**found}
        return None

    def vagueness(self, topic: str) -> int:
        """How many fields the topic's template has."""
        return min(len(template.fields) for template in self.topics if template.match(topic) is not None)

    def read(self, topic: str, value: Any, reading: Reading) -> list[Row]:
        """Raises Mismatch."""
        about: Row = self.set | (self.topic_row(topic) or {})
        for field, text in about.items():
            if field in ("concentrator", "meter") and not is_identity(str(text)):
                raise Mismatch("a name of at most 128 printable characters", text, fault="identity").under(field)
        return [about | row for row in self.shape.read(value, reading)] or [about]

    def fits(self, rows: Sequence[Row]) -> bool:
        """Whether what goes without saying is what the rows say."""
        return all(row[key] == value for key, value in self.set.items() for row in rows if key in row)

    def write(self, rows: Sequence[Row]) -> bytes | None:
        """None when something is missing. Raises EncodeError."""
        wire = self.shape.write(rows)
        if wire is ABSENT:
            return None
        return str(wire).encode() if self.message.text else dump(wire)


class ConcentratorContract:
    """A compiled contract. `firmware_contracts.concentrator_contract.load_concentrator` makes it from a file."""

    def __init__(
        self,
        name: str,
        *,
        up: Sequence[UpMessage],
        down: Sequence[DownMessage],
        names: Mapping[str, NamedQuantity] | None = None,
        maps: Mapping[str, Sequence[MapRow]] | None = None,
        marks: Marks | None = None,
        rules: CommandRules | None = None,
        constants: Mapping[str, Any] | None = None,
        zone: tzinfo | None = None,
        prefix: str = "",
        concentrator: str = "",
    ) -> None:
        """prefix: stands before every topic. concentrator: whose messages these are, where no topic tells.

        Raises BadLayout for templates that cannot be.
        """
        self.name = name
        self.rules = rules or CommandRules()
        self.concentrator = concentrator
        self.quantities = Quantities(names or {})
        self._marks = marks or Marks()
        around = Surroundings(zone=zone, marks=self._marks, maps=maps or {}, quantities=self.quantities)
        constants = constants or {}
        self._up = [_Entry(message, _several(message.topic), around, constants, prefix) for message in up]
        self._down = [_Entry(message, (message.topic,), around, constants, prefix) for message in down]
        self._check()

    @property
    def topics_up(self) -> tuple[str, ...]:
        """What the head-end subscribes to. Where both directions share a topic, `decode` passes over our own messages."""
        return tuple(dict.fromkeys(topic.filter({}) for entry in self._up for topic in entry.topics))

    def topics_down(self, concentrator: str) -> tuple[str, ...]:
        """What a concentrator subscribes to. Raises EncodeError for a name that cannot stand in a topic."""
        filters = (topic.filter({"concentrator": concentrator}) for entry in self._down for topic in entry.topics)
        return tuple(dict.fromkeys(filters))

    @property
    def offers(self) -> frozenset[Op]:
        """What the family has a message for."""
        return frozenset(Op(op) for entry in self._down for op in _ops(entry))

    @property
    def confirms(self) -> bool:
        """Whether "done" of a relay command means that the relay was read back; else only that it was ordered."""
        return self.rules.confirms

    @property
    def one_at_a_time(self) -> bool:
        """Answers do not say which command they answer."""
        return self.rules.id == "none"

    # ------------------------------------------------------------------------------------------------ from concentrators

    def decode(self, topic: str, payload: bytes, *, now: datetime) -> tuple[Uplink, ...]:
        """What a message says; nothing when it is one of our own that came back. now: aware. Raises BadEnvelope."""

        def read() -> tuple[Uplink, ...]:
            entry, rows = self._read_up(topic, payload, now) or (None, [])
            if entry is None:
                return ()
            return tuple(uplink for kind in _kinds(entry) for uplink in uplinks_of(kind, rows, self.quantities))

        return _guarded(topic, payload, read)

    def acknowledgements(self, topic: str, payload: bytes, *, now: datetime) -> tuple[Outgoing, ...]:
        """What the concentrator waits to be told after this message, to be sent when it is stored. Raises BadEnvelope."""

        def read() -> tuple[Outgoing, ...]:
            entry, rows = self._read_up(topic, payload, now) or (None, [])
            if entry is None or entry.acknowledge is None:
                return ()
            template, shape = entry.acknowledge
            try:
                wire = shape.write(rows[:1])
                if wire is ABSENT:
                    return ()
                return (Outgoing(topic=template.fill(rows[0]), payload=dump(wire), qos=_qos(entry)),)
            except EncodeError as error:
                raise Mismatch("what can be acknowledged", str(error)) from None

        return _guarded(topic, payload, read)

    def _read_up(self, topic: str, payload: bytes, now: datetime) -> tuple[_Entry, list[Row]] | None:
        """None for our own message. Raises Mismatch."""
        check_topic(topic)
        entries = [entry for entry in self._up if entry.topic_row(topic) is not None]
        # .../event/property/post is not the event "property": of several templates the most particular one counts
        plainest = min((entry.vagueness(topic) for entry in entries), default=0)
        entries = [entry for entry in entries if entry.vagueness(topic) == plainest]
        try:
            entry, rows = _first(entries, topic, payload, now)
        except Mismatch:
            if self._is_ours(topic, payload, now):
                return None
            raise
        if self.concentrator:
            rows = [{"concentrator": self.concentrator} | row for row in rows]
        return entry, rows

    def _is_ours(self, topic: str, payload: bytes, now: datetime) -> bool:
        entries = [entry for entry in self._down if entry.topic_row(topic) is not None]
        try:
            return bool(entries) and bool(_first(entries, topic, payload, now))
        except Mismatch:
            return False

    # ------------------------------------------------------------------------------------------------ to concentrators

    def encode_command(self, concentrator: str, command: Command, *, now: datetime | None = None) -> Outgoing:
        """now: wall time; without it the command is dated back from its expiry by the contract's `ttl_s`.

        Raises NotOffered for what the family has no message for, and EncodeError for what its message cannot say: a
        parameter, a meter that this concentrator cannot switch, a command that has expired.
        """
        if command.op not in self.offers:
            raise NotOffered(self.name, command.op.value, sorted(op.value for op in self.offers))
        if self.concentrator and concentrator != self.concentrator:
            raise EncodeError(
                f"topics of {self.name} do not name the concentrator: {shown(concentrator)} would be obeyed by "
                f"{shown(self.concentrator)}; give each its own topic prefix"
            )
        sent_at = now if now is not None else command.expires_at - timedelta(seconds=self.rules.ttl_s)
        left = command.expires_at - sent_at
        if left <= timedelta(0):
            raise EncodeError(f"command {shown(command.id)} expired at {command.expires_at.isoformat()}")
        try:
            check_params(command.op, command.params)
        except Mismatch as error:
            raise EncodeError(f"{command.op.value}: {error.reason}") from error
        row: Row = {
            "concentrator": concentrator,
            "meter": command.meter,
            "id": self.answer_id(command),
            "op": command.op.value,
            "params": command.params,
            "sent_at": sent_at,
            "ttl_ms": min(left // timedelta(milliseconds=1), TTL_MS_MAX),
        } | {f"params.{key}": value for key, value in command.params.items()}
        reasons = []
        for entry in self._down:
            if command.op.value not in _ops(entry):
                continue
            if not entry.fits([row]):
                reasons.append(f"only for {', '.join(f'{key} {value}' for key, value in entry.set.items())}")
            elif (payload := entry.write([row])) is not None:
                return Outgoing(
                    topic=entry.topics[0].fill(row), payload=payload, qos=_qos(entry), expiry_s=max(1, left // SECOND)
                )
            else:
                reasons.append(f"needs {', '.join(sorted(entry.fields - set(row)))}")
        raise EncodeError(f"{self.name} cannot say {command.op.value} to {shown(command.meter)}: {'; '.join(reasons)}")

    def answer_id(self, command: Command) -> str:
        """What `CommandAnswer.id` will be: the id on the wire. "" where answers carry none. Raises EncodeError."""
        if not is_identity(command.id) or len(command.id) > 64:
            raise EncodeError(f"id {shown(command.id)}: expected 1 to 64 printable characters")
        bits = {"uint31": 31, "uint32": 32}.get(self.rules.id)
        if self.rules.id == "none":
            return ""
        if bits is None:
            return command.id
        plain = command.id.isascii() and command.id.isdecimal() and len(command.id) <= 10
        if plain and str(int(command.id)) == command.id and int(command.id) < 2**bits:
            return command.id
        return str(int.from_bytes(hashlib.sha256(command.id.encode()).digest()[:4]) >> (32 - bits))

    def is_answer(self, command: Command, answer: CommandAnswer) -> bool:
        """Whether the answer belongs to this command, as far as it tells. The concentrator must be the same, too."""
        return (
            answer.id == self.answer_id(command)
            and answer.op in (None, command.op)
            and answer.meter in ("", command.meter)
        )

    # ------------------------------------------------------------------------------------------------ the other end

    def encode_uplink(self, uplink: Uplink) -> tuple[Outgoing, ...]:
        """What a concentrator publishes; nothing when the family has no way to say it. Raises EncodeError."""
        kind, rows = rows_of(uplink, self.quantities, several_marks=self._marks.several)
        given = {field for row in rows for field in row}
        stamp = _stamp(uplink)
        rows = [{"_id": stamp} | row for row in rows]
        entries = [
            entry for entry in self._up if kind in _kinds(entry) and not _up(entry).read_only and entry.fits(rows)
        ]
        for entry in sorted(entries, key=lambda entry: -len(entry.fields & given)):
            if (payload := entry.write(rows)) is not None:
                form = Retained if _up(entry).retain else Outgoing
                return (form(topic=entry.topics[0].fill(rows[0]), payload=payload, qos=_qos(entry)),)
        return ()

    def decode_command(self, topic: str, payload: bytes, *, now: datetime) -> Command:
        """A command for the concentrator that the topic names. Raises BadEnvelope, and Expired when it came too late."""

        def read() -> Command:
            check_topic(topic)
            entries = [entry for entry in self._down if entry.topic_row(topic) is not None]
            entry, rows = _first(entries, topic, payload, now)
            row = rows[0]
            word = row.get("op", _ops(entry)[0])
            if word not in _ops(entry):
                raise Mismatch(f"one of {', '.join(_ops(entry))}", word).under("op")
            op = Op(word)
            params = dict(_object(row.get("params", {})))
            params |= {key.removeprefix("params."): value for key, value in row.items() if key.startswith("params.")}
            check_params(op, params)
            ttl_ms = row.get("ttl_ms", self.rules.ttl_s * 1000)
            if not 0 < ttl_ms <= TTL_MS_MAX:
                raise Mismatch(f"1 to {TTL_MS_MAX} ms", ttl_ms, fault="time").under("ttl_ms")
            return Command(
                id=row.get("id", ""),
                meter=row.get("meter", ""),
                op=op,
                params=params,
                expires_at=row.get("sent_at", now) + timedelta(milliseconds=ttl_ms),
            )

        command = _guarded(topic, payload, read)
        if now >= command.expires_at:
            raise Expired(topic, f"expired at {command.expires_at.isoformat()}", payload, command)
        return command

    def concentrator_of(self, topic: str) -> str | None:
        """Whose topic it is; None when no message of the contract has such a topic."""
        for entry in (*self._up, *self._down):
            if (row := entry.topic_row(topic)) is not None:
                return str(row.get("concentrator", self.concentrator))
        return None

    def _check(self) -> None:
        """Raises BadLayout for fields that nobody fills or reads, and for messages that lack what makes them one."""
        for entry in self._up:
            known = {"concentrator"}.union(*(FIELDS[kind][0] for kind in _kinds(entry)))
            _check_fields(entry, known)
            for needed in (need for kind in _kinds(entry) for need in FIELDS[kind][1] if need not in entry.fields):
                raise BadLayout(_up(entry).payload, f"a message of kind {_up(entry).kind} must tell {needed}")
        for entry in self._down:
            _check_fields(entry, {"concentrator", *_DOWN_FIELDS})
            if len(_ops(entry)) > 1 and "op" not in entry.fields:
                raise BadLayout(entry.message.payload, "a message for several operations must tell op")
        for entry in (*self._up, *self._down):
            if not self.concentrator and "concentrator" not in entry.topics[0].fields | entry.shape.fields:
                raise BadLayout(entry.topics[0].text, "nothing tells the concentrator, and there is no default")


def _check_fields(entry: _Entry, known: set[str]) -> None:
    for field in entry.fields:
        if field not in known and not field.startswith(("_", "params.")):
            raise BadLayout(entry.message.payload, f"no field {field!r}: there are {', '.join(sorted(known))}")
    if len({frozenset(field for field in topic.fields if field[0] != "_") for topic in entry.topics}) > 1:
        raise BadLayout(", ".join(topic.text for topic in entry.topics), "all topics of a message have the same fields")


def _first(entries: Sequence[_Entry], topic: str, payload: bytes, now: datetime) -> tuple[_Entry, list[Row]]:
    """The first message that the payload fits. Raises Mismatch: the one that came furthest."""
    if not entries:
        raise Mismatch("a topic of the contract", topic, fault="topic")
    parsed: dict[bool, Any] = {}
    best: Mismatch | None = None
    for entry in entries:
        text = entry.message.text
        if text not in parsed:
            parsed[text] = parse_text(payload) if text else parse(payload)
        try:
            return entry, entry.read(topic, parsed[text], Reading(now))
        except Mismatch as error:
            if best is None or len(error.path) > len(best.path):
                best = error
    assert best is not None
    raise best


def _guarded(topic: str, payload: bytes, read: Callable[[], _Result]) -> _Result:
    try:
        return read()
    except Mismatch as error:
        raise BadEnvelope(topic, error.fault, error.reason, payload) from None


def _shape(payload: str, text: bool, around: Surroundings, constants: Mapping[str, Any]) -> Shape:
    if text:
        return compile_shape(payload, around, constants)
    try:
        return compile_shape(msgspec.json.decode(payload), around, constants)
    except msgspec.DecodeError as error:
        raise BadLayout(payload, f"expected JSON: {error}") from error


def _resolved(value: Any, constants: Mapping[str, Any]) -> Any:
    """A value of `set`: "{relay_meter}" is a constant."""
    if isinstance(value, str) and value.startswith("{") and value.endswith("}"):
        if value[1:-1] not in constants:
            raise BadLayout(value, f"no such setting: there are {', '.join(constants)}")
        return constants[value[1:-1]]
    return value


def _several(text: str | tuple[str, ...]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _up(entry: _Entry) -> UpMessage:
    assert isinstance(entry.message, UpMessage)
    return entry.message


def _kinds(entry: _Entry) -> tuple[str, ...]:
    kinds = _several(_up(entry).kind)
    for kind in kinds:
        if kind not in FIELDS:
            raise BadLayout(kind, f"no such kind of message: there are {', '.join(FIELDS)}")
    return kinds


def _ops(entry: _Entry) -> tuple[str, ...]:
    assert isinstance(entry.message, DownMessage)
    ops = _several(entry.message.op)
    if unknown := set(ops) - {op.value for op in Op}:
        raise BadLayout(", ".join(unknown), f"no such operation: there are {', '.join(op.value for op in Op)}")
    return ops


def _qos(entry: _Entry) -> int:
    return entry.message.qos


def _object(params: Any) -> Mapping[str, Any]:
    if not isinstance(params, dict):
        raise Mismatch("an object of parameters", params).under("params")
    return params


def _stamp(uplink: Uplink) -> str:
    """A message id where the family wants one and nobody reads it: the sequence, or the time in seconds."""
    at = getattr(uplink, "at", None)
    sequence = getattr(uplink, "sequence", None)
    return str(sequence if sequence is not None else (at - EPOCH) // SECOND if at is not None else 1)
