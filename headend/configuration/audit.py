"""`[audit]`: the audit log's key, and who else sees its checkpoints."""

from typing import Annotated

from msgspec import Struct
from pydantic import Field

from headend.configuration.words import ConfigTable, Secret

__all__ = ["AuditSettings", "AuditTable"]


class AuditTable(ConfigTable):
    """As written."""

    signing_key: Secret | None = None
    known_keys: Annotated[tuple[str, ...], Field(strict=False)] = ()
    witness: str = ""


class AuditSettings(Struct, frozen=True, kw_only=True):
    """signing_key: reference, "" for none. known_keys: files with public keys that signed before. witness: a file, "" for none.

    Paths are relative to the configuration.
    """

    signing_key: str = ""
    known_keys: tuple[str, ...] = ()
    witness: str = ""

    @classmethod
    def of(cls, table: AuditTable) -> "AuditSettings":
        return cls(signing_key=table.signing_key or "", known_keys=table.known_keys, witness=table.witness)
