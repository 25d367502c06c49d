"""How messages leave: into a file, to an HTTP endpoint, or through Apprise. Each says what it can prove.

Several threads may send at once. A messenger never raises for the other end's trouble: that is a Delivery without a reference, and
is tried again. `delivered` is said only where the channel itself says that the message reached the customer; a reference without it
means that the channel has taken the message, and may tell of the delivery later (`Mailroom.receipt`).
"""

import importlib
import os
import threading
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from headend.errors import ConfigError
from headend.prepayment.ports import Delivery, Message

__all__ = ["AppriseMessenger", "FileMessenger", "HttpMessenger"]

SAID_MAX = 200  # characters of an answer that are told
# These say something about this message; all else is our token, our credit, the address, or the endpoint's own trouble.
_REFUSED = {400, 409, 413, 422}


class _Line(Struct, frozen=True):
    reference: str
    message: Message


class FileMessenger:
    """One JSON object a line, durable before it counts. For trials, and for whoever carries messages by hand.

    counts_as_delivered: that whoever reads the file answers for it. Raises ConfigError when the file cannot be used.
    """

    def __init__(self, path: Path, *, counts_as_delivered: bool = True) -> None:
        self._path = path
        self._counts = counts_as_delivered
        self._known: dict[str, str] = {}
        self._one_at_a_time = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = path.read_bytes() if path.exists() else b""
            end = whole.rfind(b"\n") + 1
            if end < len(whole):
                os.truncate(path, end)  # a line that a crash cut off was never counted
        except OSError as error:
            raise ConfigError(f"messages cannot be written into {path}: {error.strerror}") from error
        for line in whole[:end].splitlines():
            found = msgspec.json.decode(line, type=_Line)
            self._known[found.message.key] = found.reference

    def send(self, message: Message) -> Delivery:
        with self._one_at_a_time:
            return self._write(message)

    def _write(self, message: Message) -> Delivery:
        if (reference := self._known.get(message.key)) is not None:
            return Delivery(reference=reference, delivered=self._counts)
        reference = f"file:{self._path.name}:{len(self._known) + 1}"
        try:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(_Line(reference, message)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            return Delivery(reference="", delivered=False, problem=f"{self._path}: {error.strerror}", is_down=True)
        self._known[message.key] = reference
        return Delivery(reference=reference, delivered=self._counts)


class _Receipt(Struct):
    reference: str = ""
    delivered: bool = False


class HttpMessenger:
    """POST of the message as JSON, its key also as `Idempotency-Key`: the endpoint takes the same key once.

    2xx with `{"reference": …, "delivered": true}` proves the delivery; with a reference only, the message was taken; without one
    nothing is proven. client: with the token in its headers. Anything else is tried again. 400, 409, 413 and 422 refuse this message;
    no answer, one that is no JSON, or any other status says that the endpoint takes nobody's messages now.
    """

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url

    def send(self, message: Message) -> Delivery:
        headers = {
            "Idempotency-Key": message.key.encode("ascii", "backslashreplace").decode(),
            "Content-Type": "application/json",
        }
        try:
            answer = self._client.post(self._url, content=msgspec.json.encode(message), headers=headers)
        except httpx.HTTPError as error:
            problem = f"no answer: {error or type(error).__name__}"
            return Delivery(reference="", delivered=False, problem=problem, is_down=True)
        if not answer.is_success:
            said = " ".join(answer.text.split())[:SAID_MAX]
            is_down = answer.status_code not in _REFUSED
            problem = f"it answered {answer.status_code}: {said}"
            return Delivery(reference="", delivered=False, problem=problem, is_down=is_down)
        try:
            receipt = msgspec.json.decode(answer.content or b"{}", type=_Receipt)
        except msgspec.DecodeError as error:
            problem = f"its answer proves nothing: {error}"
            return Delivery(reference="", delivered=False, problem=problem, is_down=True)
        if not receipt.reference:
            return Delivery(
                reference="", delivered=False, problem="its answer names no reference, so nothing is proven"
            )
        return Delivery(reference=receipt.reference, delivered=receipt.delivered)


class AppriseMessenger:
    """Through one of the services that Apprise knows. url: with {to} for the phone number, as in "sinch://TOKEN@PLAN/{to}".

    Apprise says that a service has taken the message and never that it arrived: where that is to count, the plan has `proof = "sent"`.
    Nor does it say why a service did not take one: each is a try that failed, also while the service is down.
    Raises ConfigError without the extra `notices`, or for an address that Apprise does not know.
    """

    def __init__(self, url: str) -> None:
        try:
            self._apprise: Any = importlib.import_module("apprise")
        except ImportError as error:
            raise ConfigError("Apprise is not installed: pip install 'headend[notices]'") from error
        if "{to}" not in url or not self._apprise.Apprise().add(url.replace("{to}", "+8613800000000")):
            raise ConfigError(
                "the Apprise address cannot be used; expected one of its services, with {to} for the number"
            )
        self._url = url

    def send(self, message: Message) -> Delivery:
        sender = self._apprise.Apprise()
        sender.add(self._url.replace("{to}", message.to))
        if not sender.notify(title=message.title, body=message.text):
            return Delivery(reference="", delivered=False, problem="the service did not take it")
        return Delivery(reference=f"apprise:{message.key}", delivered=False)
