"""What can go wrong with accounts and money. Each says what was expected; the interfaces turn them into problem documents.

HeadendError
└── PrepaymentError
    ├── UnknownAccount
    ├── AccountClosed
    ├── BadPayment         the money cannot be taken as it is told; nothing was booked
    ├── KeyReused          the same key with other content
    ├── NotEligible        these premises or this customer cannot be enrolled
    └── BadContact         a phone number that is none
"""

from headend.errors import HeadendError

__all__ = [
    "AccountClosed",
    "BadContact",
    "BadPayment",
    "KeyReused",
    "NotEligible",
    "PrepaymentError",
    "UnknownAccount",
]


class PrepaymentError(HeadendError):
    """Base of all of them."""


class UnknownAccount(PrepaymentError):
    def __init__(self, account: str) -> None:
        super().__init__(f"no account {account!r} is known here; expected a customer number that was enrolled")


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
