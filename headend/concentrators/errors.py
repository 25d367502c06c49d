"""What can go wrong between the head-end, a broker and a concentrator. A command's error always says whether it has left.

HeadendError
├── BadBrokerUrl              text that is no broker's URL
└── ConcentratorError         carries `kind`, as driver errors do
    ├── UnknownConcentrator   none of this name is configured (unsupported)
    ├── ConcentratorDown      it, or its broker, is not there; the command has not left (line-down)
    ├── BrokerDown            no connection to the broker; the command has not left (line-down)
    ├── ConcentratorBusy      too many commands wait already; it has not left (line-busy)
    ├── CommandExpired        its time had passed before it could leave (expired)
    ├── CommandNotOffered     this family of concentrators has no such operation (unsupported)
    └── CommandNotTaken       the broker refused it, or nobody listens for it; no concentrator got it (refused)

What has left and was not answered is no error but an answer: `unconfirmed`.
"""

from headend.errors import HeadendError

__all__ = [
    "BadBrokerUrl",
    "BrokerDown",
    "CommandExpired",
    "CommandNotOffered",
    "CommandNotTaken",
    "ConcentratorBusy",
    "ConcentratorDown",
    "ConcentratorError",
    "UnknownConcentrator",
]


class BadBrokerUrl(HeadendError):
    def __init__(self, text: str, problem: str) -> None:
        super().__init__(f"broker {text!r}: {problem}")


class ConcentratorError(HeadendError):
    """kind: line-down | line-busy | expired | unsupported | refused. In all of them nothing has reached a meter."""

    kind = "refused"


class UnknownConcentrator(ConcentratorError):
    kind = "unsupported"

    def __init__(self, name: str) -> None:
        super().__init__(f"no concentrator {name!r} is served here; GET /v1/concentrators lists them")


class BrokerDown(ConcentratorError):
    kind = "line-down"
    retryable = True

    def __init__(self, broker: str, reason: str) -> None:
        super().__init__(f"broker {broker} is not connected: {reason}")
        self.reason = reason


class ConcentratorDown(ConcentratorError):
    kind = "line-down"
    retryable = True

    def __init__(self, concentrator: str, reason: str) -> None:
        super().__init__(f"concentrator {concentrator} cannot be told anything: {reason}; nothing was sent")
        self.reason = reason


class ConcentratorBusy(ConcentratorError):
    kind = "line-busy"
    retryable = True

    def __init__(self, concentrator: str, count: int) -> None:
        super().__init__(f"concentrator {concentrator}: {count} commands are under way already; ask again later")


class CommandExpired(ConcentratorError):
    kind = "expired"

    def __init__(self, concentrator: str, command: str, late_s: float) -> None:
        super().__init__(
            f"command {command} for concentrator {concentrator} was not sent: its time had passed by {late_s:.1f} s; "
            f"order it again if it is still wanted"
        )


class CommandNotOffered(ConcentratorError):
    kind = "unsupported"


class CommandNotTaken(ConcentratorError):
    kind = "refused"

    def __init__(self, broker: str, topic: str, reason: str) -> None:
        super().__init__(f"broker {broker} did not pass on the message to {topic!r}: {reason}; no concentrator got it")
