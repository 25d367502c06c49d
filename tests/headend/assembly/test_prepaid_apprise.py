"""A message through a service that Apprise knows: its plain JSON one, on this machine."""

import json

import pytest

from headend.errors import ConfigError
from headend.prepayment.outside.messengers import AppriseMessenger
from headend.prepayment.ports import Message
from tests.servers import Answer, http_endpoint

pytest.importorskip("apprise")

MESSAGE = Message(
    key="A1/1/low/1",
    kind="low",
    account="A1",
    to="+8613812345678",
    language="zh",
    title="电费余额不足提醒",
    text="【智能交费】户号A1：您的可用余额为12.05元。",
)


def test_a_message_leaves_for_its_number_and_its_being_taken_proves_no_delivery() -> None:
    with http_endpoint() as endpoint:
        messenger = AppriseMessenger(endpoint.url.replace("http://", "json://").rstrip("/") + "/{to}")
        taken = messenger.send(MESSAGE)
        endpoint.answers.append(Answer(status=503))
        refused = messenger.send(MESSAGE)
    assert (taken.reference, taken.delivered, taken.problem) == ("apprise:A1/1/low/1", False, "")
    assert (refused.reference, refused.delivered, refused.problem) == ("", False, "the service did not take it")
    first = endpoint.requests[0]
    assert first.path.endswith(("/+8613812345678", "/%2B8613812345678"))
    sent = json.loads(first.body)
    assert (sent["title"], sent["message"]) == (MESSAGE.title, MESSAGE.text)


@pytest.mark.parametrize("url", ["json://localhost/all", "nothing://{to}", ""])
def test_an_address_without_a_number_or_of_no_service_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"with \{to\} for the number"):
        AppriseMessenger(url)
