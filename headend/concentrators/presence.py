"""Whether a concentrator is there: from what it says, from its last will, and from silence. Pure.

Nothing that lay at the broker and nothing that the broker sends again is a sign of life: both may be of yesterday.
"""

from datetime import datetime

from msgspec import Struct

from headend.feed.envelope import iso_utc
from headend.model import Event

__all__ = ["EVENT_TYPE", "Change", "PresenceState"]

EVENT_TYPE = "headend.meter-status.v1"


class Change(Struct, frozen=True, kw_only=True):
    """reason: said | last-will | silence | heard. at: when, by whom it came from."""

    online: bool
    reason: str
    at: datetime

    def event(self, concentrator: str, now: datetime) -> Event:
        """The same change has the same id, also when a retained status tells it again after our restart."""
        state = "online" if self.online else "offline"
        return Event(
            type=EVENT_TYPE,
            subject=concentrator,
            data={
                "meter": None,
                "concentrator": concentrator,
                "kind": "presence",
                "state": state,
                "reason": self.reason,
                "since": iso_utc(self.at),
            },
            time=now,
            id=f"presence:{concentrator}:{state}:{iso_utc(self.at)}",
        )


class PresenceState:
    """One concentrator. online: None until something is known. has_left: it, or its last will, said that it is gone."""

    def __init__(self, silent_after_s: float) -> None:
        self.online: bool | None = None
        self.since: datetime | None = None
        self.reason = ""
        self.last_message_at: datetime | None = None
        self.silent_after_s = silent_after_s
        self._heard_at: float | None = None  # monotonic
        self._said_at: datetime | None = None  # its own time

    @property
    def has_left(self) -> bool:
        return self.online is False and self.reason in ("said", "last-will")

    def heard(self, now: datetime, monotonic: float) -> Change | None:
        """A message that it sent just now."""
        self.last_message_at = now
        self._heard_at = monotonic
        return None if self.online else self._become(Change(online=True, reason="heard", at=now))

    def said(
        self, online: bool, at: datetime | None, now: datetime, monotonic: float, *, is_live: bool
    ) -> Change | None:
        """A status message. at: its own time; None in a last will. One older than what it said before changes nothing.

        is_live: it came when it was said, and has not lain at the broker.
        """
        if at is not None:
            if self._said_at is not None and at < self._said_at:
                return None
            self._said_at = at
        if is_live and online:
            self.last_message_at, self._heard_at = now, monotonic
        if self.online is online:
            return None
        reason = "said" if online or at is not None else "last-will"
        return self._become(Change(online=online, reason=reason, at=at or now))

    def look(self, now: datetime, monotonic: float, listening_since: float | None) -> Change | None:
        """Time has passed. listening_since: since when the broker is connected, monotonic; None: nobody could have been heard."""
        if listening_since is None or self.online is False:
            return None
        last = max(listening_since, self._heard_at if self._heard_at is not None else listening_since)
        if monotonic - last < self.silent_after_s:
            return None
        return self._become(Change(online=False, reason="silence", at=now))

    def _become(self, change: Change) -> Change:
        self.online, self.since, self.reason = change.online, change.at, change.reason
        return change
