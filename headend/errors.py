"""Everything that can leave `headend`. Each message says what was expected, what came, and what to do next.

HeadendError
├── ConfigError            the configuration cannot be used
├── StoreError             the store did not do what was asked
│   ├── StoreUnavailable   full disk, locked file, lost connection: the same call may work later
│   │   └── StoreFull      no space on the disk
│   ├── StoreInUse         another head-end runs on this store
│   ├── SchemaMismatch     the store's tables are not those of this program
│   ├── ItemRefused        one item that can never be stored; the others can
│   └── WriterFull         more was put than the queue may hold; await `room()` first
├── UnknownMeter           no meter of this asset number is served here
├── TokenError             a token that cannot be created or revoked as asked
├── TooManySubscribers     every place for a waiting reader is taken
├── AuditError             a record that the audit log does not take (SecretInRecord, UnknownKind)
├── NoSuchCommand, NotApproved   what is asked of the command room is not there, or waits for a second person
├── PrepaymentError        accounts and payments, see `headend.prepayment.errors`
└── ListenError            the HTTP address cannot be listened on
"""

__all__ = [
    "ConfigError",
    "HeadendError",
    "ItemRefused",
    "ListenError",
    "SchemaMismatch",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StoreUnavailable",
    "TokenError",
    "TooManySubscribers",
    "UnknownMeter",
    "WriterFull",
]


class HeadendError(Exception):
    """Root of the tree. retryable: the same call may work later without anybody changing anything."""

    retryable = False


class ConfigError(HeadendError):
    """The configuration cannot be used."""


class StoreError(HeadendError):
    """The store did not do what was asked."""


class StoreUnavailable(StoreError):
    """Full disk, locked file, lost connection: nothing was stored, and the same call may work later."""

    retryable = True


class StoreFull(StoreUnavailable):
    """No space on the disk: nothing was stored, and the same call works once there is room."""


class StoreInUse(StoreError):
    """Another head-end runs on this store: both would poll the same lines."""


class SchemaMismatch(StoreError):
    """The store's tables are not those of this program: never migrated, or by a newer program."""


class ItemRefused(StoreError):
    """One item that can never be stored. The others of its group can."""


class WriterFull(StoreError):
    """More was put than the queue may hold. The item was not taken; await `room()` before reading more."""

    retryable = True


class UnknownMeter(HeadendError):
    """No meter of this asset number is served here."""


class TokenError(HeadendError):
    """A token that cannot be created or revoked as asked."""


class TooManySubscribers(HeadendError):
    """Every place for a waiting reader is taken; a reader that goes away makes room."""

    retryable = True


class ListenError(HeadendError):
    """The HTTP address cannot be listened on."""
