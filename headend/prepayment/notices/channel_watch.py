"""Which channels take messages at the moment, by what they answered. In memory: what is forgotten is asked again.

A channel that says it is down is left alone for a while. But a message for which it is down again, after it has worked for others, is
at fault itself, and closes it for nobody.
"""

from datetime import timedelta
from math import inf

import structlog

from headend.clock import Clock
from headend.prepayment.notices.notices import Channel
from headend.prepayment.ports import Delivery

__all__ = ["DOWN_S", "ChannelWatch"]

DOWN_S = 30.0  # then it is asked again
UNASKED_S = timedelta(days=3).total_seconds()  # so long a channel that was down may be asked nothing: nights, holidays
REMEMBERED_MAX = 10_000  # messages for which a channel was down
_log = structlog.get_logger(__name__)


class ChannelWatch:
    """Several threads may ask and tell at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_at = clock.monotonic()
        # By channel: when it was down last, when it worked first after that, and last.
        self._down_at: dict[str, float] = {}
        self._back_at: dict[str, float] = {}
        self._worked_at: dict[str, float] = {}
        self._failed_at: dict[str, float] = {}  # by message: when a channel was down for it last

    def works(self, channel: Channel) -> bool:
        """Or is to be asked again."""
        down_at = self._down_at.get(channel.name, -inf)
        return self._worked_at.get(channel.name, -inf) > down_at or self._clock.monotonic() >= down_at + DOWN_S

    def hear(self, message: str, channel: Channel, delivery: Delivery) -> bool:
        """Whether that answer says something about the message; what it says of the channel is remembered."""
        name, now = channel.name, self._clock.monotonic()
        if not delivery.is_down:
            if self._worked_at.get(name, -inf) <= self._down_at.get(name, -inf):
                self._back_at[name] = now
            self._worked_at[name] = now
            self._failed_at.pop(message, None)
            return True
        before = self._failed_at.get(message, now)
        if len(self._failed_at) >= REMEMBERED_MAX:
            self._failed_at.clear()
        self._failed_at[message] = now
        if self._worked_at.get(name, before) > before:
            return True
        self._down_at[name] = now
        _log.warning("a channel is down", channel=name, problem=delivery.problem, message=message)
        return False

    def is_doubtful(self, name: str, grace: timedelta) -> bool:
        """Whether that channel may still have receipts to tell: it was down, or nothing is known of it, and it has not worked for
        `grace` since."""
        down_at, back_at = self._down_at.get(name), self._back_at.get(name, -inf)
        if down_at is None:
            since = self._began_at
        elif back_at > down_at:
            since = back_at
        else:
            since = down_at + UNASKED_S
        return self._clock.monotonic() < since + grace.total_seconds()
