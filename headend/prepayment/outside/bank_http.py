"""A bank's debit interface over HTTP, idempotent by key.

POST URL `{"agreement", "amount_minor", "currency", "key"}`, the key also as `Idempotency-Key`, is answered 200 with
`{"outcome": "accepted"}` or `{"outcome": "refused", "reason"}`. Anything else says nothing: the same key is asked again.
"""

from typing import Literal

import httpx
import msgspec
import structlog
from msgspec import Struct

from headend.prepayment.ports import Debited, DebitOutcome

__all__ = ["HttpBank"]

REASON_MAX = 200
_log = structlog.get_logger(__name__)


class _Said(Struct):
    outcome: Literal["accepted", "refused", "unknown"]
    reason: str = ""


class HttpBank:
    """client: with the token in its headers, and a time-out."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url

    def debit(self, agreement: str, amount_minor: int, currency: str, key: str) -> Debited:
        """Never raises for the other end's trouble: that is UNKNOWN."""
        body = {"agreement": agreement, "amount_minor": amount_minor, "currency": currency, "key": key}
        headers = {"Idempotency-Key": key.encode("ascii", "backslashreplace").decode()}
        try:
            answer = self._client.post(self._url, json=body, headers=headers)
        except httpx.HTTPError as error:
            return self._unknown(f"no answer: {error or type(error).__name__}")
        if answer.status_code not in (200, 201, 202):
            return self._unknown(f"it answered {answer.status_code}")
        try:
            said = msgspec.json.decode(answer.content, type=_Said)
        except msgspec.DecodeError as error:
            return self._unknown(f"its answer says nothing: {error}")
        return Debited(DebitOutcome(said.outcome), " ".join(said.reason.split())[:REASON_MAX])

    @staticmethod
    def _unknown(problem: str) -> Debited:
        _log.warning("the bank has not said what became of a debit", problem=problem)
        return Debited(DebitOutcome.UNKNOWN, problem)
