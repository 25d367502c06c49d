"""The key of manifests; what a key is stands in `headend.keys`."""

from pathlib import Path

from headend.keys import PublicKey, SigningKey, make_key_files

__all__ = ["PublicKey", "SigningKey", "make_keys"]

NAME = "manifest-key"


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Write a new private key that only its owner may read, and its public key beside it. Raises FileExistsError, OSError."""
    return make_key_files(folder, NAME)
