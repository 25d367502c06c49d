"""Which edition of DL/T 645 a meter speaks: it is asked in both, and what it says is the evidence.

A meter of one edition is silent to the other, because the function codes differ. 2007 goes first: 13H, which only that edition
knows, where everybody may answer, else 11H of the total energy. Then 01H 9010, and for the only meter on a line that is
addressed by wildcard, the same to 99..99. A refusal proves as much as a value.
"""

from msgspec import Struct

from headend.drivers.errors import NoAnswer
from headend.drivers.line import Line, Priority
from protocols.dlt645.control import Dialect
from protocols.dlt645.frame import BROADCAST, WILDCARD
from protocols.dlt645.items import Di
from protocols.dlt645.masking import mask
from protocols.dlt645.messages import Message, ReadAddressRequest, ReadRequest, Refused
from protocols.exchange import Replied, Request

__all__ = ["DialectFound", "Evidence", "base_contract", "detect_dialect"]

TOTAL_2007 = Di("00010000")
TOTAL_1997 = Di("9010")


class Evidence(Struct, frozen=True, kw_only=True):
    """One question and what came. asked: in words. outcome: answered, refused, silent, corrupt or unmatched."""

    dialect: Dialect
    asked: str
    outcome: str
    address: str
    wire_sent: str
    wire_received: str

    @property
    def proves(self) -> bool:
        return self.outcome in ("answered", "refused")

    def __str__(self) -> str:
        what = f"{self.asked} to {self.address}" if not self.proves else f"{self.asked}, from {self.address}"
        return f"{what}: {self.outcome}"


class DialectFound(Struct, frozen=True, kw_only=True):
    """dialects: those the meter answered in, in the order asked; none when it was silent. address: its own, if it told.

    Some meters speak both; only with `thorough` is that found out.
    """

    address: str
    dialects: tuple[Dialect, ...]
    evidence: tuple[Evidence, ...]

    @property
    def dialect(self) -> Dialect | None:
        """The one to use: 2007 where the meter speaks both. None: nobody answered."""
        return self.dialects[0] if self.dialects else None


def base_contract(dialect: Dialect) -> str:
    """Name of the contract that every meter of the edition keeps."""
    return f"dlt645/base_{dialect.value}"


async def detect_dialect(
    line: Line, address: str, priority: Priority = Priority.ON_DEMAND, *, tries: int = 2, thorough: bool = False
) -> DialectFound:
    """Ask `address` (12 digits or a wildcard) in both editions. tries: per question. Raises LineDown, LineQueueFull."""
    evidence: list[Evidence] = []
    dialects: list[Dialect] = []
    real = address
    for dialect, asked, to, message in _questions(address):
        if dialect in dialects:
            continue
        found = await _ask(line, to, message, priority, tries)
        evidence.append(_evidence(dialect, asked, to, found))
        if isinstance(found, Replied):
            real = found.address
            dialects.append(dialect)
            if not thorough:
                break
    return DialectFound(address=real, dialects=tuple(dialects), evidence=tuple(evidence))


def _questions(address: str) -> list[tuple[Dialect, str, str, Message]]:
    read_2007 = (Dialect.V2007, f"11H {TOTAL_2007}", address, ReadRequest(di=TOTAL_2007))
    read_1997 = (Dialect.V1997, f"01H {TOTAL_1997}", address, ReadRequest(di=TOTAL_1997))
    if address != WILDCARD:
        return [read_2007, read_1997]
    return [
        (Dialect.V2007, "13H", address, ReadAddressRequest()),
        read_2007,
        (Dialect.V1997, f"01H {TOTAL_1997}", BROADCAST, ReadRequest(di=TOTAL_1997)),
        read_1997,
    ]


async def _ask(line: Line, address: str, message: Message, priority: Priority, tries: int) -> Replied | NoAnswer:
    began_at = line.monotonic()
    for number in range(1, tries + 1):
        try:
            replied = await line.exchange(Request(address, message, None if number == 1 else began_at), priority)
        except NoAnswer as error:
            problem = error
        else:
            assert isinstance(replied, Replied)
            return replied
    return problem


def _evidence(dialect: Dialect, asked: str, address: str, found: Replied | NoAnswer) -> Evidence:
    if isinstance(found, Replied):
        outcome = "refused" if isinstance(found.message, Refused) else "answered"
        address = found.address
    else:
        outcome = found.kind
    return Evidence(
        dialect=dialect,
        asked=asked,
        outcome=outcome,
        address=address,
        wire_sent=mask(found.wire_sent),
        wire_received=mask(found.wire_received),
    )
