"""Who is signed in, in memory: a restart signs everybody out.

The cookie carries a random key and nothing else. The token behind it stays in this process and is looked up again at every request, so
that a revoked one ends its sessions at once, as it does everywhere else.
"""

import asyncio
import ipaddress
import secrets
from collections import OrderedDict

from msgspec import Struct

from headend.clock import Clock
from headend.store.tokens import Token, Tokens

__all__ = ["Attempts", "Session", "Sessions"]

IDLE_S = 30 * 60  # a phone that was left lying, a counter that was left
LIFE_S = 12 * 3600  # a long shift
SESSIONS_MAX = 10_000  # about 5 MB; the one that was used longest ago ends
TRIES = 10  # of one address, then one more each TRY_S
TRY_S = 60.0
CLIENTS_MAX = 10_000
_IPV6_SITE = 64  # bits that one customer of a provider has to himself


class Session(Struct, kw_only=True):
    """csrf: what its forms must bring along. begun_at, used_at: monotonic seconds."""

    plain: str
    csrf: str
    begun_at: float
    used_at: float


class Sessions:
    """On the event loop only. most: so many at once."""

    def __init__(self, tokens: Tokens, clock: Clock, *, most: int = SESSIONS_MAX) -> None:
        self._tokens = tokens
        self._clock = clock
        self._most = most
        self._held: OrderedDict[str, Session] = OrderedDict()

    async def begin(self, plain: str) -> tuple[str, Token] | None:
        """The key for the cookie, and whose token it is; None when there is no such token."""
        token = await asyncio.to_thread(self._tokens.find_token, plain)
        if token is None:
            return None
        now, key = self._clock.monotonic(), secrets.token_urlsafe(32)
        self._held[key] = Session(plain=plain, csrf=secrets.token_urlsafe(32), begun_at=now, used_at=now)
        while len(self._held) > self._most:
            self._held.popitem(last=False)
        return key, token

    async def find(self, key: str) -> tuple[Session, Token] | None:
        """None once it is over: too long unused, too old, signed out, or its token revoked."""
        now, session = self._clock.monotonic(), self._held.get(key)
        if session is None:
            return None
        if now - session.used_at > IDLE_S or now - session.begun_at > LIFE_S:
            del self._held[key]
            return None
        session.used_at = now
        self._held.move_to_end(key)
        token = await asyncio.to_thread(self._tokens.find_token, session.plain)
        if token is None:
            self.end(key)
            return None
        return session, token

    def end(self, key: str) -> None:
        self._held.pop(key, None)


class _Tries(Struct):
    left: float
    at: float


class Attempts:
    """Failed sign-ins of each client address: TRIES at once, then one each TRY_S.

    Tokens cannot be guessed; this keeps the look-ups of those who try from the store. The table is bounded: whoever failed longest ago
    is forgotten first.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: OrderedDict[str, _Tries] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """How long until it may try; 0 for at once."""
        tries = self._held.get(_site(client))
        if tries is None:
            return 0.0
        return max(0.0, (1 - self._left(tries)) * TRY_S)

    def count(self, client: str) -> None:
        """Before the look-up, so that tries at the same time count, too."""
        site, now = _site(client), self._clock.monotonic()
        tries = self._held.get(site) or _Tries(float(TRIES), now)
        self._held[site] = _Tries(self._left(tries) - 1, now)
        self._held.move_to_end(site)
        while len(self._held) > CLIENTS_MAX:
            self._held.popitem(last=False)

    def forgive(self, client: str) -> None:
        """It was a good one."""
        tries = self._held.get(_site(client))
        if tries is not None:
            tries.left = min(float(TRIES), tries.left + 1)

    def _left(self, tries: _Tries) -> float:
        return min(float(TRIES), tries.left + (self._clock.monotonic() - tries.at) / TRY_S)


def _site(client: str) -> str:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client[:64]
    if address.version == 6:
        return str(ipaddress.ip_network((address, _IPV6_SITE), strict=False))
    return str(address)
