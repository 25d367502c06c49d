"""Passwords and operator codes of meters: named in the configuration, kept elsewhere, shown nowhere.

A reference is "env:NAME" or "file:PATH"; what it holds is hex digits, spaces allowed: a password is eight, `PA P0 P1 P2` as sent
(level 04, secret 111111: `04111111`), an operator code eight, `C0 C1 C2 C3`. References are resolved when the secret is used, so
that a changed file needs no restart, and nothing that is resolved is kept.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from headend.errors import HeadendError
from protocols.dlt645.fields import Password

__all__ = ["Authority", "BadSecret", "SecretRefs", "SecretStore", "is_reference"]

_PASSWORD = re.compile(r"[0-9A-Fa-f]{8}")
NO_OPERATOR = "00000000"


class BadSecret(HeadendError):
    """A secret that is not there or not in the expected shape. The message names the reference and never what it holds."""

    def __init__(self, what: str, reference: str, problem: str) -> None:
        super().__init__(f"{what} {reference!r}: {problem}")


class Authority(Struct, frozen=True):
    """With what right a meter is changed. operator: C0..C3 as sent, recorded by the meter."""

    password: Password
    operator: bytes = bytes(4)

    def __repr__(self) -> str:
        return f"Authority(level={self.password.level:02X}H, secret=***, operator=***)"


class SecretRefs(Struct, frozen=True, kw_only=True):
    """References, not secrets. password, operator: for every meter; passwords: by meter id, before `password`."""

    password: str | None = None
    operator: str | None = None
    passwords: dict[str, str] = {}


class SecretStore:
    """Resolves references. base: folder that relative paths start from."""

    def __init__(self, refs: SecretRefs, *, base: Path, environ: Mapping[str, str] = os.environ) -> None:
        self._refs = refs
        self._base = base
        self._environ = environ

    def __repr__(self) -> str:
        return "SecretStore(***)"

    def authority(self, meter_id: str) -> Authority:
        """What the meter with this asset number is changed with. Raises BadSecret."""
        reference = self._refs.passwords.get(meter_id, self._refs.password)
        if reference is None:
            raise BadSecret(
                "password of meter", meter_id, "none is configured; set `password` of the meter or of [secrets]"
            )
        password = self._hex(f"password of meter {meter_id}", reference)
        operator = NO_OPERATOR if self._refs.operator is None else self._hex("operator code", self._refs.operator)
        return Authority(Password.from_wire(bytes.fromhex(password)), bytes.fromhex(operator))

    def operator_code(self, reference: str, what: str) -> bytes:
        """C0..C3 behind a reference. Raises BadSecret."""
        return bytes.fromhex(self._hex(what, reference))

    def resolve(self, reference: str, what: str = "secret") -> str:
        """The text behind a reference, without surrounding blanks. Raises BadSecret."""
        kind, _, name = reference.partition(":")
        if kind == "env" and name:
            text = self._environ.get(name)
            if text is None:
                raise BadSecret(what, reference, f"the environment has no variable {name}")
            return text.strip()
        if kind == "file" and name:
            try:
                return (self._base / name).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "is no text"
                raise BadSecret(what, reference, f"cannot be read: {reason}") from None
        # The text itself may be the secret, written into the wrong place: it is not repeated.
        raise BadSecret(what, "(not shown)", 'expected "env:NAME" or "file:PATH"')

    def _hex(self, what: str, reference: str) -> str:
        digits = self.resolve(reference, what).replace(" ", "")
        if not _PASSWORD.fullmatch(digits):
            raise BadSecret(what, reference, f"holds {len(digits)} characters, expected 8 hex digits")
        return digits


def is_reference(text: str) -> bool:
    kind, _, name = text.partition(":")
    return kind in ("env", "file") and bool(name)
