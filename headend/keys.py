"""Ed25519 keys of manifests and of the audit log. A key file is PEM as OpenSSL writes it: PKCS #8 for the private one,
SubjectPublicKeyInfo for the public.

The key's id is the first 16 hex digits of the SHA-256 of its 32 public bytes.
"""

import base64
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from headend.errors import ConfigError

__all__ = ["PublicKey", "SigningKey", "make_key_files"]


class PublicKey:
    """What a consumer keeps."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.id = hashlib.sha256(raw).hexdigest()[:16]

    @classmethod
    def from_pem(cls, text: str) -> "PublicKey":
        """Raises ConfigError."""
        try:
            key = serialization.load_pem_public_key(text.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                "the public key cannot be used: expected PEM that begins with -----BEGIN PUBLIC KEY-----"
            ) from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"the public key is of another kind ({type(key).__name__}): expected Ed25519")
        return cls(key)

    @property
    def pem(self) -> str:
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()

    def is_right(self, signature: str, message: bytes) -> bool:
        """signature: base64."""
        try:
            self._key.verify(base64.b64decode(signature, validate=True), message)
        except (ValueError, InvalidSignature):  # binascii.Error is a ValueError
            return False
        return True


class SigningKey:
    """The head-end's own. Its text is a secret and is neither kept nor shown."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    def __repr__(self) -> str:
        return f"SigningKey({self.public.id})"

    @classmethod
    def from_pem(cls, text: str) -> "SigningKey":
        """Raises ConfigError, which does not repeat the text."""
        try:
            key = serialization.load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigError(
                "the signing key cannot be used: expected an Ed25519 key in PEM without a password, as "
                "`openssl genpkey -algorithm ed25519` writes it"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError("the signing key is of another kind: expected Ed25519")
        return cls(key)

    @classmethod
    def new(cls) -> "SigningKey":
        return cls(Ed25519PrivateKey.generate())

    @property
    def pem(self) -> str:
        """The secret itself, to be written into its file."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def sign(self, message: bytes) -> str:
        """Base64."""
        return base64.b64encode(self._key.sign(message)).decode()


def make_key_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a new private key NAME.pem that only its owner may read, and NAME.pub.pem beside it. Raises FileExistsError, OSError."""
    key = SigningKey.new()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(key.pem)
    public.write_text(key.public.pem, encoding="ascii")
    return private, public
