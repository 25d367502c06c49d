"""The bank's adapter against a real HTTP endpoint: what it says, and nothing where it does not say."""

import json

import httpx

from headend.prepayment.outside.bank_http import HttpBank
from headend.prepayment.ports import Debited, DebitOutcome
from tests.servers import Answer, http_endpoint


def test_a_bank_that_accepts_or_refuses_is_taken_at_its_word_and_any_other_is_not() -> None:
    with http_endpoint() as endpoint, httpx.Client(timeout=0.5) as client:
        bank = HttpBank(client, endpoint.url)
        answers = [
            Answer(body=b'{"outcome": "accepted"}'),
            Answer(body=b'{"outcome": "refused", "reason": "no  money\\nleft"}'),
            Answer(status=500, body=b'{"outcome": "accepted"}'),
            Answer(body=b'{"outcome": "perhaps"}'),
            Answer(body=b""),
            Answer(body=b'{"outcome": "accepted"}', after_s=1.0),
        ]
        endpoint.answers.extend(answers)
        found = [bank.debit("6222-1", 5000, "CNY", "debit:A1:1") for _ in answers]
        assert found[0] == Debited(DebitOutcome.ACCEPTED)
        assert found[1] == Debited(DebitOutcome.REFUSED, "no money left")
        assert [one.outcome for one in found[2:]] == [DebitOutcome.UNKNOWN] * 4
        assert all(one.reason for one in found[2:])
        first = endpoint.requests[0]
        assert first.headers["idempotency-key"] == "debit:A1:1"
        assert json.loads(first.body) == {
            "agreement": "6222-1",
            "amount_minor": 5000,
            "currency": "CNY",
            "key": "debit:A1:1",
        }
    gone = HttpBank(httpx.Client(), endpoint.url).debit("6222-1", 5000, "CNY", "debit:A1:2")
    assert gone.outcome is DebitOutcome.UNKNOWN
