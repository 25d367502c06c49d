"""What is made of `[audit]` in the configuration."""

from pathlib import Path

from headend.audit.log import AuditLog
from headend.audit.witness import WitnessFile
from headend.clock import Clock
from headend.configuration.audit import AuditSettings
from headend.errors import ConfigError
from headend.keys import PublicKey, SigningKey
from headend.secrets import SecretRefs, SecretStore
from headend.store.store import Store

__all__ = ["known_keys_of", "log_of", "signing_key_of", "witness_of"]


def signing_key_of(settings: AuditSettings, *, base: Path) -> SigningKey | None:
    """base: folder of the configuration. Raises BadSecret, ConfigError."""
    if not settings.signing_key:
        return None
    return SigningKey.from_pem(SecretStore(SecretRefs(), base=base).resolve(settings.signing_key, "audit key"))


def known_keys_of(settings: AuditSettings, *, base: Path) -> list[PublicKey]:
    """Raises ConfigError."""
    found = []
    for name in settings.known_keys:
        try:
            text = (base / name).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the public key {name} of known_keys in [audit] cannot be read: {error}") from error
        found.append(PublicKey.from_pem(text))
    return found


def witness_of(settings: AuditSettings, *, base: Path) -> WitnessFile | None:
    return WitnessFile(base / settings.witness) if settings.witness else None


def log_of(settings: AuditSettings, store: Store, *, source: str, base: Path, clock: Clock) -> AuditLog:
    """The log of this store. Raises BadSecret, ConfigError."""
    witness = witness_of(settings, base=base)
    return AuditLog(
        store.engine,
        source=source,
        clock=clock,
        key=signing_key_of(settings, base=base),
        known_keys=known_keys_of(settings, base=base),
        witnessed=(lambda: None) if witness is None else witness.newest,
    )
