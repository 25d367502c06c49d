"""What can go wrong with accounts and money. Each says what was expected; the interfaces turn them into problem documents.

HeadendError
└── PrepaymentError
    ├── UnknownAccount
    ├── UnknownPayment
    ├── UnknownTariff
    ├── AccountClosed
    ├── BadPayment         the money cannot be taken as it is told; nothing was booked
    ├── KeyReused          the same key with other content
    ├── NotEligible        these premises or this customer cannot be enrolled
    ├── BadContact         a phone number that is none
    ├── BadInput           what was asked for cannot be; nothing was changed
    ├── BadTelling         an amount that a person told, and that cannot be
    ├── NotSettled         days that must be charged first are not known yet
    ├── FeedBroken         what the feed gave is not what its contract says
    │   └── FeedPruned     events behind the cursor are not kept any more
    ├── FeedUnavailable
    ├── SwitchboardUnavailable   nothing is known to have happened
    │   └── SwitchedOff    it switches nothing, by its configuration
    ├── OutboxUnavailable
    └── NoAnswer (calling)       of whichever interface; its caller says which
"""

from collections.abc import Iterable

from headend.errors import HeadendError

__all__ = [
    "AccountClosed",
    "BadContact",
    "BadInput",
    "BadPayment",
    "BadTelling",
    "FeedBroken",
    "FeedPruned",
    "FeedUnavailable",
    "KeyReused",
    "NotEligible",
    "NotSettled",
    "OutboxUnavailable",
    "PrepaymentError",
    "SwitchboardUnavailable",
    "SwitchedOff",
    "UnknownAccount",
    "UnknownPayment",
    "UnknownTariff",
]


class PrepaymentError(HeadendError):
    """Base of all of them."""


class UnknownAccount(PrepaymentError):
    def __init__(self, account: str) -> None:
        super().__init__(f"no account {account!r} is known here; expected a customer number that was enrolled")


class UnknownPayment(PrepaymentError):
    def __init__(self, channel: str, receipt: str, *, state: str = "") -> None:
        what = f"{state} payment" if state else "payment"
        super().__init__(
            f"no {what} of channel {channel!r} with receipt {receipt[:128]!r} is known; expected both as the channel told them"
        )


class UnknownTariff(PrepaymentError):
    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no tariff {name!r}; expected one of {', '.join(sorted(known))}")


class AccountClosed(PrepaymentError):
    def __init__(self, account: str, since: str) -> None:
        super().__init__(f"account {account!r} was closed on {since}; expected one that is open")


class BadPayment(PrepaymentError):
    """Says what was expected."""


class KeyReused(PrepaymentError):
    def __init__(self, key: str, differs: str) -> None:
        super().__init__(
            f"{key!r} was used before with other content ({differs}); expected the same content again, or a new key"
        )


class NotEligible(PrepaymentError):
    """Says why."""


class BadContact(PrepaymentError):
    def __init__(self, phone: str) -> None:
        super().__init__(f"{phone!r} is no phone number; expected 11 digits such as 13812345678, or + and country code")


class FeedBroken(PrepaymentError):
    """What the feed gave is not what its contract says."""


class FeedPruned(FeedBroken):
    """first: number of the oldest event that is kept."""

    def __init__(self, told: str, first: int) -> None:
        super().__init__(told)
        self.first = first


class FeedUnavailable(PrepaymentError):
    """The feed cannot be read now."""

    retryable = True


class SwitchboardUnavailable(PrepaymentError):
    """The command interface cannot be asked now: nothing is known to have happened."""

    retryable = True


class SwitchedOff(SwitchboardUnavailable):
    """Nothing is under way there that a payment would have to overtake; what is owed is to be told again when it switches."""


class OutboxUnavailable(PrepaymentError):
    """The head-end does not take our events now."""

    retryable = True


class ChannelsDown(PrepaymentError):
    """No channel takes messages now; they wait, and nobody is unreachable for it."""


class NotSettled(PrepaymentError):
    """Days that must be charged first are not known yet; says which, and why."""


class BadInput(PrepaymentError):
    """What was asked for cannot be; says what was expected. Nothing was changed."""


class BadTelling(PrepaymentError):
    """What a person told cannot be; says what was expected."""
