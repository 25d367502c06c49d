"""A record: what is written of one thing that happened, as text that is hashed. Pure.

    body   canonical JSON (RFC 8785) of number, at, kind, actor, subject, data, and of a record about one meter meter and meter_number
    hash   SHA-256 of the hash before, in hex, a newline, and the body; before the first record stand 64 zeros

`meter_number` counts the records of each meter, so that a record left out of a meter's evidence leaves a hole.
"""

import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from headend.audit.kinds import KNOWN
from headend.errors import HeadendError
from headend.ledger.digest import canonical

__all__ = ["NO_HASH", "AuditError", "AuditRecord", "SecretInRecord", "UnknownKind", "body_of", "cleaned", "hash_of"]

NO_HASH = "0" * 64
MASK = "***"
BODY_MAX = 1_000_000  # bytes; a list of ten thousand orders fits, a runaway text does not

# Names, written small and without anything but letters, that hold a secret wherever they stand in a name, or at its end.
_SECRET_WORDS = re.compile(
    r"password|passwd|passphrase|secret|credential|authorization|privatekey|signingkey|apikey|operatorcode|bearer"
)
_SECRET_ENDS = frozenset({"pw", "pwd", "token", "tokens", "pin", "otp"})
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
# API tokens and private keys give themselves away whatever their name is.
_SECRET_TEXT = re.compile(r"hdt_[\w-]{16,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*")


class AuditError(HeadendError):
    """A record that cannot be written as it is."""


class SecretInRecord(AuditError):
    """What is written here is shown to others: it must hold no secret."""


class UnknownKind(AuditError):
    """A kind that headend/audit/kinds.py does not list."""


class AuditRecord(Struct, frozen=True, kw_only=True):
    """kind: see `kinds`. subject: command, meter, token…: whom it is about. actor: who did it: a token's name, "head-end", a person.

    data: what `msgspec.to_builtins` takes. meter: asset number, when it is about one; "" takes the member `meter` of the data.
    """

    kind: str
    subject: str
    actor: str
    data: dict[str, object] = {}
    meter: str = ""

    @property
    def about(self) -> str | None:
        """Asset number; None when it is about no single meter."""
        meter = self.meter or self.data.get("meter")
        return _text(meter) if isinstance(meter, str) and meter else None


def cleaned(record: AuditRecord, *, strict: bool) -> tuple[dict[str, Any], list[str]]:
    """The data as JSON has it, and what of it had to be hidden or replaced. Raises SecretInRecord, AuditError when strict."""
    troubles: list[str] = []

    def plain(value: Any) -> str:
        troubles.append(f"a {type(value).__name__} is nothing that can be written")
        return f"<{type(value).__name__}>"

    try:
        data = _clean(msgspec.to_builtins(record.data, enc_hook=plain, str_keys=True), "data", troubles)
    except (TypeError, ValueError, RecursionError) as error:
        troubles.append(f"data is nothing that can be written: {type(error).__name__}")
        data = {"left_out": f"the data could not be written: {type(error).__name__}"}
    if strict and record.kind not in KNOWN:
        raise UnknownKind(f"the kind {record.kind!r} is not known: list it in headend/audit/kinds.py with its meaning")
    if strict and troubles:
        kind = SecretInRecord if any("secret" in trouble for trouble in troubles) else AuditError
        raise kind(f"record {record.kind!r} of {record.subject!r}: {'; '.join(troubles)}; leave it out, or mask it")
    return data, troubles


def body_of(record: AuditRecord, data: dict[str, Any], *, number: int, at: datetime, meter_number: int | None) -> str:
    """data: as `cleaned` gives it. What is too long is left out and its digest written."""
    said: dict[str, Any] = {
        "number": number,
        "at": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "kind": _text(record.kind),
        "actor": _hidden(record.actor),
        "subject": _hidden(record.subject),
        "data": data,
    }
    if meter_number is not None:
        said |= {"meter": record.about, "meter_number": meter_number}
    body = canonical(said)
    if len(body) > BODY_MAX:
        long = canonical(data)
        said["data"] = {"left_out": f"{len(long)} bytes of data", "sha256": hashlib.sha256(long).hexdigest()}
        body = canonical(said)
    return body.decode()


def hash_of(before: str, body: str) -> str:
    """before: hash of the record before, hex."""
    return hashlib.sha256(f"{before}\n{body}".encode()).hexdigest()


def _clean(value: Any, path: str, troubles: list[str]) -> Any:
    if isinstance(value, str):
        hidden = _hidden(value)
        if hidden != value:
            troubles.append(f"{path} holds what looks like a secret")
        return hidden
    if isinstance(value, dict):
        made = {}
        for name, inner in value.items():
            name = _text(str(name))
            if _is_secret(name) and inner not in (None, "", MASK):
                troubles.append(f"{path}.{name} is named like a secret")
                made[name] = MASK
            else:
                made[name] = _clean(inner, f"{path}.{name}", troubles)
        return made
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner, f"{path}[{place}]", troubles) for place, inner in enumerate(value)]
    if isinstance(value, float) and not isfinite(value):
        troubles.append(f"{path} is {value}, which JSON cannot say")
        return str(value)
    return value


@lru_cache(maxsize=10_000)  # the names of members are few, and come again with every record
def _is_secret(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    return bool(words) and (words[-1] in _SECRET_ENDS or _SECRET_WORDS.search("".join(words)) is not None)


def _hidden(text: str) -> str:
    text = _text(text)
    return _SECRET_TEXT.sub(MASK, text) if "hdt_" in text or "-----BEGIN " in text else text


def _text(text: str) -> str:
    """Text that UTF-8 can say; file names and broken input may hold more."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
