"""Hands our events to the head-end, which takes each once into its feed as `headend.account.v1`."""

from datetime import datetime

import msgspec

from headend.feed.envelope import iso_utc
from headend.prepayment.errors import OutboxUnavailable
from headend.prepayment.outside.calling import Caller, NoAnswer

__all__ = ["HttpOutbox"]


class HttpOutbox:
    """call: under a token that may tell events of accounts."""

    def __init__(self, call: Caller) -> None:
        self._call = call

    def offer(self, number: int, type_: str, subject: str, at: datetime, data: bytes) -> None:
        """Durable at return. Raises OutboxUnavailable."""
        body = {
            "number": number,
            "type": type_,
            "subject": subject,
            "at": iso_utc(at),
            "data": msgspec.json.decode(data),
        }
        try:
            answer = self._call("POST", "/v1/account-events", body=body)
        except NoAnswer as error:
            raise OutboxUnavailable(f"event {number} cannot be handed over: {error}") from error
        if answer.status not in (200, 202):
            said = answer.body[:300].decode("utf-8", "replace")
            raise OutboxUnavailable(f"event {number} was answered {answer.status}: {said}")
