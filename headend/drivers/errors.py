"""What can go wrong between the head-end and a meter. Leaves say whose fault it is and whether trying again makes sense.

HeadendError
├── BadLineUrl             text that is no LINE
├── DriverError            carries `kind`, the word that feed, metrics and exit codes use
│   ├── LineDown           no connection (line-down)
│   ├── LineQueueFull      more waits on the line than may (line-busy)
│   ├── NoAnswer           silent, corrupt or unmatched, with the evidence
│   ├── BadReply           a right frame whose DATA does not fit the item (corrupt)
│   ├── RefusedByMeter     the meter said no (refused)
│   ├── SilentBehind       a concentrator says that the meter does not answer it (silent)
│   ├── NotOffered         contract and meter do not know what was asked (unsupported)
│   ├── RateFixed          this line cannot change its rate (unsupported)
│   ├── Unconfirmed        an order has left, and nobody knows whether it was carried out (unconfirmed)
│   ├── WrongMeter         another meter answers than the one that was meant (contradicted)
│   ├── MeterSwapped       a switching order was meant for another meter than the one that answers; it has not left (contradicted)
│   ├── NotIdentified      nothing that was read back proves which meter answers; an open has not left (unsupported)
│   ├── NoFinalReading     the energy register could not be read just before an open; it has not left (refused)
│   ├── HoldOver           the line was held for longer than may; the order has not left (line-busy)
│   ├── SendingTooOld      too long between the durable "sending" and the first byte; the order has not left (line-busy)
│   └── Contradicted       the meter accepted, and what it tells afterwards says otherwise (contradicted)
└── StopOrder              the last look of a switching order said no; nothing has left

Wires stand in messages masked: passwords and operator codes as **. `wire_sent` and `wire_received` are the bytes themselves, to be
shown through `protocols.dlt645.masking` only.
"""

from headend.errors import HeadendError
from protocols.dlt645.masking import mask, mask_heard
from protocols.errors import ProtocolError
from protocols.exchange import NoReply, Silence

__all__ = [
    "BadLineUrl",
    "BadReply",
    "Contradicted",
    "DriverError",
    "HoldOver",
    "LineDown",
    "LineQueueFull",
    "MeterSwapped",
    "NoAnswer",
    "NoFinalReading",
    "NotIdentified",
    "NotOffered",
    "RateFixed",
    "RefusedByMeter",
    "SendingTooOld",
    "SilentBehind",
    "StopOrder",
    "Unconfirmed",
    "WrongMeter",
]


class BadLineUrl(HeadendError):
    def __init__(self, text: str, problem: str) -> None:
        super().__init__(f"line {text!r}: {problem}")


class DriverError(HeadendError):
    """kind: silent | corrupt | unmatched | refused | line-down | line-busy | unsupported | unconfirmed | contradicted.

    elapsed_s: from the first byte sent; 0 where nothing was sent or nobody measured.
    """

    kind = "corrupt"
    wire_sent = b""
    wire_received = b""
    elapsed_s = 0.0


class LineDown(DriverError):
    kind = "line-down"
    retryable = True

    def __init__(self, url: str, reason: str, lost: NoReply | None = None) -> None:
        """lost: what the request in flight had come to when the connection broke."""
        super().__init__(f"line {url} is down: {reason}")
        self.reason = reason
        if lost is not None:
            self.wire_sent = lost.wire_sent
            self.wire_received = lost.heard
            self.elapsed_s = lost.elapsed_s


class LineQueueFull(DriverError):
    kind = "line-busy"
    retryable = True

    def __init__(self, line: str, size: int) -> None:
        super().__init__(f"line {line}: {size} requests are waiting already; ask again later")


_ADVICE = {
    Silence.SILENT: "no byte came within {elapsed:.2f} s; expected a reply from {address}. Check power, wiring (A/B swapped?), "
    "address, baud rate and parity",
    Silence.CORRUPT: "no right frame came within {elapsed:.2f} s, only: {heard}. Check baud rate and parity, termination, "
    "and whether two meters share the address {address}",
    Silence.UNMATCHED: "only frames that answer something else came within {elapsed:.2f} s: {heard}. A late reply, a second "
    "master, or a meter that answers under another address than {address}",
}


class NoAnswer(DriverError):
    retryable = True

    def __init__(self, event: NoReply) -> None:
        super().__init__(
            _ADVICE[event.silence].format(
                elapsed=event.elapsed_s,
                address=event.request.address,
                heard=mask_heard(event.heard, event.wire_sent),
            )
        )
        self.kind = event.silence.value
        self.wire_sent = event.wire_sent
        self.wire_received = event.heard
        self.elapsed_s = event.elapsed_s


class BadReply(DriverError):
    kind = "corrupt"
    retryable = True

    def __init__(self, address: str, problem: ProtocolError, wire_sent: bytes, wire_received: bytes) -> None:
        super().__init__(
            f"{address} answered with a right frame whose content cannot be read: {problem}; "
            f"frame {mask(wire_received)}"
        )
        self.wire_sent = wire_sent
        self.wire_received = wire_received


class RefusedByMeter(DriverError):
    kind = "refused"

    """word: DL/T 645's error word, or Modbus' exception code. retryable: the meter said that it is busy."""

    def __init__(
        self, address: str, said: str, word: int, wire_sent: bytes, wire_received: bytes, *, retryable: bool = False
    ) -> None:
        super().__init__(f"{address} refused: {said}")
        self.word = word
        self.wire_sent = wire_sent
        self.wire_received = wire_received
        self.retryable = retryable


class SilentBehind(DriverError):
    """The concentrator answered for a meter that it could not reach. said: its words, with the exception's code."""

    kind = "silent"
    retryable = True

    def __init__(
        self, address: str, said: str, wire_sent: bytes, wire_received: bytes, *, elapsed_s: float = 0.0
    ) -> None:
        super().__init__(
            f"the concentrator got no reply from {address}: {said}. Check power, wiring and address of the meter behind it"
        )
        self.wire_sent = wire_sent
        self.wire_received = wire_received
        self.elapsed_s = elapsed_s


class NotOffered(DriverError):
    kind = "unsupported"


class RateFixed(NotOffered):
    def __init__(self, line: str, baud: int) -> None:
        super().__init__(
            f"line {line} cannot change to {baud} baud: its rate is set in the serial server; change it there, then in the "
            f"configuration"
        )


class Unconfirmed(DriverError):
    """Never repeated by itself: what the order does may have been done."""

    kind = "unconfirmed"

    def __init__(
        self, address: str, order: str, advice: str, *, wire_sent: bytes = b"", wire_received: bytes = b""
    ) -> None:
        super().__init__(f"{order} was sent to {address}, and its effect is unknown: {advice}")
        self.wire_sent = wire_sent
        self.wire_received = wire_received


class Contradicted(DriverError):
    kind = "contradicted"

    def __init__(self, address: str, order: str, expected: str, came: str) -> None:
        super().__init__(f"{address} accepted {order}, but expected {expected}, it tells {came}")


class WrongMeter(DriverError):
    kind = "contradicted"

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected {expected} alone on this line, but {came} answers; nothing was changed")


class MeterSwapped(DriverError):
    """Evidence that the meter there is not the one that is meant. Nothing was sent, and nothing will be until the record is right."""

    kind = "contradicted"

    def __init__(self, meter: str, what: str, expected: str, came: str) -> None:
        super().__init__(
            f"meter {meter} is not the one that answers: expected {what} {expected}, it tells {came}; nothing was sent. "
            f"Compare the meter on the wall with its record, then correct whichever is wrong"
        )
        self.what = what
        self.expected = expected
        self.came = came


class NotIdentified(DriverError):
    kind = "unsupported"

    def __init__(self, meter: str, why: str) -> None:
        super().__init__(
            f"meter {meter} is not opened, because its number could not be read back ({why}); nothing was sent. "
            f"Set its meter number or asset code, or correct its contract"
        )


class NoFinalReading(DriverError):
    kind = "refused"

    def __init__(self, meter: str, why: str) -> None:
        super().__init__(
            f"meter {meter} is not opened, because its energy register could not be read just before ({why}); nothing was sent. "
            f"Read it with `headend read`, or correct its contract"
        )


class HoldOver(DriverError):
    kind = "line-busy"
    retryable = True

    def __init__(self, line: str, longest_s: float) -> None:
        super().__init__(
            f"line {line} was held for longer than {longest_s:g} s and is free again; the order was not sent, ask again"
        )


class SendingTooOld(DriverError):
    kind = "line-busy"
    retryable = True

    def __init__(self, line: str, age_s: float, longest_s: float) -> None:
        super().__init__(
            f"line {line}: {age_s:.2f} s went by between the last check and the first byte, at most {longest_s:g} s may; "
            f"the order was not sent, ask again"
        )


class StopOrder(HeadendError):
    """The last look found a reason not to send; nothing has left. Whoever looks raises it, with the reason in words."""
