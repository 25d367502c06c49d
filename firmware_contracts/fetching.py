"""Getting one item whole, for the conformance scripts: request, follow-ups, and words for what came instead."""

from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from msgspec import Struct

from firmware_contracts.contract import Contract
from firmware_contracts.errors import UnknownItem
from firmware_contracts.findings import Answer, Ask, Device, Verdict
from protocols.dlt645.control import Dialect, error_phrases
from protocols.dlt645.items import Di, ItemSpec, ItemValue, decode, size_range
from protocols.dlt645.messages import FollowUpReply, FollowUpRequest, ReadReply, ReadRequest, Refused
from protocols.errors import ItemError

__all__ = [
    "NO_DATA",
    "Fetched",
    "Judged",
    "Kit",
    "Script",
    "Steps",
    "fetch",
    "read_values",
    "refusal_said",
    "said",
    "told",
    "values_said",
]

PARTS_MAX = 255  # SEQ is one byte and starts at 1
VALUES_SAID_MAX = 4
NO_DATA = 0x02  # bit 1 of ERR: requested data do not exist (1997: DI error)


class Judged(Struct, frozen=True, kw_only=True):
    """How a script ends. secret: what came must not be shown."""

    verdict: Verdict
    expected: str
    came: str
    secret: bool = False


class Kit:
    """What scripts share.

    now: aware wall time of the latest step. values: of items read so far in this run, by DI text. parts_seen: whether
    any reply has come in several frames.
    """

    def __init__(self, contract: Contract, device: Device) -> None:
        self.contract = contract
        self.device = device
        self.now = datetime.min.replace(tzinfo=UTC)
        self.values: dict[str, list[ItemValue]] = {}
        self.parts_seen = False

    @property
    def promised(self) -> bool:
        """Whether the contract says what is offered, so that a refusal contradicts it."""
        return self.contract.offers is not None

    @property
    def dialect(self) -> Dialect:
        return Dialect(self.contract.protocol.removeprefix("dlt645-"))

    @property
    def local(self) -> datetime:
        """Wall time at the meter, by our clock."""
        return self.device.local(self.now)

    def ask(self, message: ReadRequest | FollowUpRequest, address: str = "") -> Ask:
        return Ask(address=address or self.device.address, message=message)


Script: TypeAlias = Callable[[Kit], Generator[Ask, Answer, Judged]]


class Fetched(Struct, frozen=True, kw_only=True):
    """An item as it came: all DATA behind the DI, or what came instead.

    data: None when there was none. refused: the meter's no. problem: of silence or broken follow-ups, in words.
    parts: frames it took. longest: bytes of DATA of the longest of them.
    """

    data: bytes | None = None
    refused: Refused | None = None
    problem: str = ""
    parts: int = 0
    longest: int = 0


Steps: TypeAlias = Generator[Ask, Answer, Fetched]


def fetch(kit: Kit, di: Di, *, count: int | None = None, start: str | None = None, address: str = "") -> Steps:
    """Read an item with all its follow-up frames. count, start: of load records, N and YYMMDDhhmm."""
    answer = yield kit.ask(ReadRequest(di=di, count=count, start=start), address)
    data, parts, longest = b"", 0, 0
    while True:
        message = answer.message
        if isinstance(message, Refused):
            problem = f"follow-up {parts} was refused: {said(answer, kit.dialect)}" if parts else ""
            return Fetched(refused=message, problem=problem, parts=parts, longest=longest)
        if not isinstance(message, ReadReply | FollowUpReply):
            problem = said(answer, kit.dialect) + (f", asked for follow-up {parts}" if parts else "")
            return Fetched(problem=problem, parts=parts, longest=longest)
        data += message.data
        parts += 1
        longest = max(longest, len(message.to_payload()))
        if not message.follow:
            return Fetched(data=data, parts=parts, longest=longest)
        kit.parts_seen = True
        if parts > PARTS_MAX:
            return Fetched(problem="255 follow-up frames and no end", parts=parts, longest=longest)
        sequence = parts if kit.dialect is Dialect.V2007 else None
        answer = yield kit.ask(FollowUpRequest(di=di, sequence=sequence), address)


def read_values(kit: Kit, di: str) -> Generator[Ask, Answer, list[ItemValue]]:
    """The values of an item, for checks that compare; none when it cannot be read, which is another check's affair."""
    try:
        spec = kit.contract.find(Di(di))
    except UnknownItem:
        return []
    fetched = yield from fetch(kit, spec.di)
    if fetched.data is None:
        return []
    try:
        return decode(fetched.data, spec)
    except ItemError:
        return []


def said(answer: Answer, dialect: Dialect) -> str:
    """What came, in words, where it was no data."""
    message = answer.message
    if message is None:
        heard = f" ({answer.wire_received.hex(' ').upper()})" if answer.wire_received else ""
        return {
            "silent": f"nothing within {answer.elapsed_s:.1f} s",
            "corrupt": f"no right frame{heard}",
            "unmatched": f"only frames that answer something else{heard}",
        }.get(answer.silence, answer.silence or "nothing")
    if isinstance(message, Refused):
        return refusal_said(message, dialect)
    return f"{type(message).__name__} with {message.to_payload().hex(' ').upper() or 'no data'}"


def refusal_said(refused: Refused, dialect: Dialect) -> str:
    phrases = ", ".join(error_phrases(dialect, refused.function, refused.word, refused.size))
    return f"refused with {refused.word:0{2 * refused.size}X}H ({phrases})"


def told(spec: ItemSpec) -> str:
    """What the contract says of the item: 4 bytes, XXXXXX.XX kWh."""
    least, most = size_range(spec)
    size = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"
    what = spec.layout if len(spec.layout) <= 40 else "a record"
    if spec.members:
        what = f"up to {len(spec.members)} items"
    if spec.series:
        return f"points of {size} bytes, {what} {spec.unit.value}".rstrip() if spec.series == "curve" else "blocks"
    return f"{size} bytes, {what} {spec.unit.value}".rstrip()


def values_said(values: Sequence[ItemValue]) -> str:
    """The first few values with units, for people."""
    shown = []
    for value in values[:VALUES_SAID_MAX]:
        content = "not measured" if value.content is None else f"{value.content} {value.unit.value}".rstrip()
        shown.append(content if content else '""')
    more = len(values) - VALUES_SAID_MAX
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
