"""API tokens: shown once, kept as a digest, looked up at every request so that a revoked one stops at once.

A token is 32 random bytes, so a plain SHA-256 is enough: there is nothing to guess, and the lookup is one index read.
"""

import enum
import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct
from sqlalchemy import Row, insert, select, update
from sqlalchemy.sql import Select

from headend.clock import Clock
from headend.database.engine import reading, writing
from headend.errors import TokenError
from headend.store.rows import epoch_ms, from_epoch_ms
from headend.store.store import Store
from headend.store.tables import tokens

__all__ = ["INSIDE_PREFIX", "Role", "Token", "Tokens"]

PREFIX = "hdt_"  # lets a leaked token be recognised in logs and repositories


class Role(enum.Enum):
    """What a token may ask for. OPERATE closes supplies, DISCONNECT opens them, APPROVE is the second pair of eyes.

    CUSTOMER sees one account, the token's own. ACCOUNT_EVENTS tells the feed about accounts; no token of the store has it.
    """

    READ = "read"
    OPERATE = "operate"
    DISCONNECT = "disconnect"
    APPROVE = "approve"
    CASHIER = "cashier"
    ADMIN = "admin"
    CUSTOMER = "customer"
    ACCOUNT_EVENTS = "account-events"


_OWN = frozenset({Role.CUSTOMER, Role.ACCOUNT_EVENTS})  # roles that `admin` does not stand for
_INSIDE = frozenset({Role.READ, Role.OPERATE, Role.DISCONNECT, Role.ACCOUNT_EVENTS})
INSIDE_PREFIX = "inside:"


class Token(Struct, frozen=True, kw_only=True):
    """What is known of a token; the token itself is not.

    revoked_at: None while it is valid. account: the one that a customer sees; "" of staff, who see them all.
    """

    name: str
    roles: frozenset[Role]
    created_at: datetime
    revoked_at: datetime | None
    account: str = ""

    def allows(self, *wanted: Role) -> bool:
        """Whether one request under this token may use all these roles.

        `admin` stands for every role of staff, but asking and approving a disconnection take two tokens: no single one,
        admin or not, ever allows both on one request.
        """
        if Role.DISCONNECT in wanted and Role.APPROVE in wanted:
            return False
        if Role.ADMIN in self.roles:
            return self.roles.issuperset(_OWN.intersection(wanted))
        return self.roles.issuperset(wanted)


class Tokens:
    """The tokens of one store. Another process may create and revoke them at the same time."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._engine = store.engine
        self._clock = clock
        self._inside: dict[str, Token] = {}  # by digest

    def create_token(self, name: str, roles: Iterable[Role | str], *, account: str = "") -> str:
        """The new token in plain text, this one time. account: of a customer. Raises TokenError, StoreUnavailable."""
        wanted = _roles(roles)
        if not name or not name.isprintable() or name.startswith(INSIDE_PREFIX):
            raise TokenError(
                f"a token needs a printable name that says who uses it and does not begin with {INSIDE_PREFIX}, found {name!r}"
            )
        _check_customer(wanted, account)
        plain = PREFIX + secrets.token_urlsafe(32)
        with writing(self._engine, "creating a token") as connection:
            if connection.execute(select(tokens.c.name).where(tokens.c.name == name)).first() is not None:
                raise TokenError(f"there is or was a token named {name!r}: choose another, so that records stay clear")
            connection.execute(
                insert(tokens).values(
                    name=name,
                    digest=_digest(plain),
                    created_at=epoch_ms(self._clock.now()),
                    revoked_at=None,
                    roles=",".join(role.value for role in Role if role in wanted),
                    account=account or None,
                )
            )
        return plain

    def issue_inside(self, part: str, roles: Iterable[Role]) -> str:
        """A token for a part of this process, as long as this object lives; it is in no store. Its name: "inside:PART".

        Raises TokenError for a role that no part may have: what a part asks for, it must not approve.
        """
        wanted = frozenset(roles)
        if not wanted or not wanted <= _INSIDE:
            named = ", ".join(sorted(role.value for role in _INSIDE))
            raise TokenError(f"a part of the head-end has of the roles {named}, and no other")
        plain = PREFIX + secrets.token_urlsafe(32)
        self._inside[_digest(plain)] = Token(
            name=INSIDE_PREFIX + part, roles=wanted, created_at=self._clock.now(), revoked_at=None
        )
        return plain

    def find_token(self, plain: str) -> Token | None:
        """The valid token with this text; None when there is none or it is revoked."""
        if (inside := self._inside.get(_digest(plain))) is not None:
            return inside
        with reading(self._engine, "checking a token") as connection:
            row = connection.execute(_columns().where(tokens.c.digest == _digest(plain))).first()
        token = None if row is None else _token(row)
        return None if token is None or token.revoked_at is not None else token

    def list_tokens(self) -> list[Token]:
        """All of them by name, revoked ones too."""
        with reading(self._engine, "listing tokens") as connection:
            return [_token(row) for row in connection.execute(_columns().order_by(tokens.c.name))]

    def revoke_token(self, name: str) -> None:
        """The token stops working at once, in every process. Raises TokenError when no valid one has this name."""
        with writing(self._engine, "revoking a token") as connection:
            revoked = connection.execute(
                update(tokens)
                .where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
                .values(revoked_at=epoch_ms(self._clock.now())),
            )
            if revoked.rowcount == 0:
                raise TokenError(f"no valid token is named {name!r}: see `headend token list`")


def _columns() -> Select[str, str, int, int | None, str | None]:
    return select(tokens.c.name, tokens.c.roles, tokens.c.created_at, tokens.c.revoked_at, tokens.c.account)


def _token(row: Row[str, str, int, int | None, str | None]) -> Token:
    name, roles, created_at, revoked_at, account = row
    return Token(
        name=name,
        roles=frozenset(Role(role) for role in roles.split(",")),
        created_at=from_epoch_ms(created_at),
        revoked_at=None if revoked_at is None else from_epoch_ms(revoked_at),
        account=account or "",
    )


def _check_customer(roles: set[Role], account: str) -> None:
    """Raises TokenError. A customer is nothing else: whoever works here has a token for that, too."""
    if (Role.CUSTOMER in roles) != bool(account):
        raise TokenError(
            "a token of a customer needs the account that it may see, and no other token has one: expected --role customer "
            "together with --account"
        )
    if account and roles != {Role.CUSTOMER}:
        raise TokenError("a token of a customer has no other role; make another token for the other roles")
    if not account.isprintable():
        raise TokenError(f"expected the id of an account, found {account!r}")


def _roles(roles: Iterable[Role | str]) -> set[Role]:
    known = {role.value: role for role in Role if role is not Role.ACCOUNT_EVENTS}
    wanted = [role.value if isinstance(role, Role) else role for role in roles]
    unknown = [role for role in wanted if role not in known]
    if unknown or not wanted:
        raise TokenError(f"expected one or more of the roles {', '.join(known)}, found {', '.join(unknown) or 'none'}")
    return {known[role] for role in wanted}


def _digest(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()
