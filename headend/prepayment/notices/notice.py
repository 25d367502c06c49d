"""A message about an account's supply, and how far it came. Pure."""

import enum
from datetime import datetime

from msgspec import Struct

__all__ = ["Notice", "NoticeState"]


class NoticeState(enum.Enum):
    """SENDING: durable before the messenger is called; after a crash it is called again with the same id. SENT: taken by the channel,
    which may still tell of the delivery. WITHDRAWN: goes nowhere any more: its reason was gone, or its time over without a channel."""

    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    DELIVERED = "delivered"
    UNDELIVERABLE = "undeliverable"
    WITHDRAWN = "withdrawn"


class Notice(Struct, frozen=True, kw_only=True):
    """The newest attempt at a step. deadline: as its text tells; None where it tells none."""

    id: str
    attempt: int
    state: NoticeState
    created_at: datetime
    deadline: datetime | None = None
    sent_at: datetime | None = None
    delivered_at: datetime | None = None
    channel: str = ""
    reference: str = ""

    @property
    def proven_at(self) -> datetime | None:
        return self.delivered_at if self.state is NoticeState.DELIVERED and self.reference else None
