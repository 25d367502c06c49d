"""The supply relay of a meter: what it was ordered, where its contact is, and since when.

An order and the contact are two things: a stuck contact stays where it is whatever was ordered. Pure; `now` is true
time (aware UTC), and what was due before it (timed restoring, the customer's key) happens first.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import Struct

__all__ = ["Relay", "RelayRefused", "Span"]


class RelayRefused(Exception):
    """The relay does not obey now; the message says why."""


class Span(Struct):
    """From `start` until `end` (None: still)."""

    start: datetime
    end: datetime | None = None

    def has(self, at: datetime) -> bool:
        return self.start <= at and (self.end is None or at < self.end)


class Relay:
    """One contact.

    on_switch: told (moment, open?, operator) whenever a contact was driven; also a stuck one, which did not move.
    press_after_s: a customer who presses the key so long after closing was permitted; None: nobody does.
    stuck: the contact does not move. senses: the meter notices, and shows where the contact is rather than what it
    was told. follows_after_s: how long a slow contact takes; the operation is recorded when it has moved.
    operators: codes that may order; None: any.
    """

    def __init__(self, on_switch: Callable[[datetime, bool, bytes], None], *, press_after_s: float | None) -> None:
        self.press_after_s = press_after_s
        self.commanded_open = False
        self.protected = False
        self.close_permitted = False
        self.alarm = False
        self.stuck = False
        self.senses = True
        self.follows_after_s = 0.0
        self.operators: frozenset[bytes] | None = None
        self.spans: list[Span] = []  # of an open contact
        self._driven_open = False
        self._on_switch = on_switch
        self._restore_at: datetime | None = None
        self._restore_permits = False
        self._press_at: datetime | None = None
        self._moves: tuple[datetime, bool, bytes] | None = None  # a slow contact: when, to open?, on whose order

    @property
    def is_contrary(self) -> bool:
        """The contact is not where it was driven to, and is not on its way."""
        return self._moves is None and self._driven_open != self._is_open

    @property
    def shows_open(self) -> bool:
        return self._is_open if self.senses else self._driven_open

    def is_open(self, at: datetime) -> bool:
        """The contact, now or at a moment that is past."""
        self.advance(at)
        return any(span.has(at) for span in self.spans)

    def open(
        self, now: datetime, operator: bytes, *, restore_after: timedelta | None = None, restore_permits: bool = False
    ) -> None:
        """Raises RelayRefused while the supply is protected."""
        self.advance(now)
        if self.protected:
            raise RelayRefused("the supply is protected")
        self.commanded_open = True
        self.close_permitted = False
        self._press_at = None
        self._restore_at = None if restore_after is None else now + restore_after
        self._restore_permits = restore_permits
        self._drive(now, True, operator)

    def permit_close(self, now: datetime) -> None:
        """Arm: the customer may close with the key. Without an open relay it does nothing."""
        self.advance(now)
        self.commanded_open = False
        self._restore_at = None
        if self._driven_open:
            self._permit(now)

    def close(self, now: datetime, operator: bytes) -> None:
        self.advance(now)
        self._close(now, operator)

    def press_key(self, now: datetime) -> bool:
        """The customer's key; True when the supply is on afterwards."""
        self.advance(now)
        if self.close_permitted:
            self._close(now, bytes(4))
        return not self._is_open

    def protect(self, now: datetime, operator: bytes) -> None:
        """Keep the supply (保电): close, and refuse every order to open."""
        self.close(now, operator)
        self.protected = True

    def unprotect(self, now: datetime) -> None:
        self.advance(now)
        self.protected = False

    def advance(self, now: datetime) -> None:
        """Let happen what was due by now."""
        self._follow(now)
        if self._restore_at is not None and now >= self._restore_at:
            due, self._restore_at = self._restore_at, None
            if self._restore_permits:
                self.commanded_open = False
                self._permit(due)
            else:
                self._close(due, bytes(4))
        if self._press_at is not None and now >= self._press_at:
            self._close(self._press_at, bytes(4))
        self._follow(now)

    @property
    def _is_open(self) -> bool:
        return bool(self.spans) and self.spans[-1].end is None

    def _permit(self, now: datetime) -> None:
        self.close_permitted = True
        self._press_at = None if self.press_after_s is None else now + timedelta(seconds=self.press_after_s)

    def _close(self, now: datetime, operator: bytes) -> None:
        self.commanded_open = self.close_permitted = False
        self._press_at = self._restore_at = None
        self._drive(now, False, operator)

    def _drive(self, now: datetime, to_open: bool, operator: bytes) -> None:
        driven, self._driven_open = self._driven_open != to_open, to_open
        self._moves = None
        if self.follows_after_s and not self.stuck and to_open != self._is_open:
            self._moves = (now + timedelta(seconds=self.follows_after_s), to_open, operator)
            return
        self._move(now, to_open, operator, driven=driven)

    def _follow(self, now: datetime) -> None:
        if self._moves is not None and now >= self._moves[0]:
            (at, to_open, operator), self._moves = self._moves, None
            self._move(at, to_open, operator, driven=True)

    def _move(self, now: datetime, to_open: bool, operator: bytes, *, driven: bool) -> None:
        moves = not self.stuck and to_open != self._is_open
        if moves and to_open:
            self.spans.append(Span(now))
        elif moves:
            self.spans[-1].end = now
        if driven or moves:
            self._on_switch(now, to_open, operator)
