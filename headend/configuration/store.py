"""Where reads are kept: the store's URL, checked before anything is opened, without its secrets in any message."""

import importlib.util
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from headend.secrets import SecretRefs, SecretStore, is_reference

__all__ = ["check_store_url", "resolve_store_url"]

SQLITE = "sqlite"
POSTGRESQL = "postgresql+psycopg"
_EXPECTED = "expected sqlite:///headend.db or postgresql+psycopg://user@host/database"
_USER = re.compile(r"(//)[^/]*@")


def check_store_url(text: str) -> str:
    """The text, when it may stand in a configuration. Raises ValueError with what to write instead."""
    if not is_reference(text):
        _check(text, told=repr(_USER.sub(r"\1***@", text)), may_hold_password=False)
    return text


def resolve_store_url(text: str, path: Path) -> str:
    """The URL itself, absolute. path: of the configuration. Raises BadSecret, ValueError."""
    if is_reference(text):
        told = f"the URL behind {text!r}"
        text = SecretStore(SecretRefs(), base=path.resolve().parent).resolve(text, "store")
        _check(text, told=told, may_hold_password=True)
    prefix = "sqlite:///"
    if text.startswith(prefix) and not text.startswith(prefix + "/"):
        return prefix + str((path.resolve().parent / text.removeprefix(prefix)).resolve())
    return text


def _check(text: str, *, told: str, may_hold_password: bool) -> None:
    scheme, separator, rest = text.partition("://")
    if scheme == SQLITE and separator:
        file = rest.removeprefix("/").partition("?")[0]
        if not rest.startswith("/") or not file or file == ":memory:":
            raise ValueError(
                f"{told} names no file; expected sqlite:///headend.db, or sqlite:////absolute/path/headend.db"
            )
        return
    if scheme == "postgresql":
        raise ValueError(f"{told} names no driver; write it as {POSTGRESQL}://…")
    if scheme != POSTGRESQL or not separator:
        raise ValueError(f"{told} is no store; {_EXPECTED}")
    try:
        parts = urlsplit(text)
        password = parts.password
        host_is_right = parts.port is None or bool(parts.hostname)
    except ValueError:
        password, host_is_right = None, False
        parts = urlsplit("")
    if not host_is_right or len(parts.path) < 2:
        raise ValueError(f"{told} names no database; {_EXPECTED}")
    in_options = any(name == "password" for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    if (password is not None or in_options) and not may_hold_password:
        raise ValueError(
            "it holds a password; secrets are never written into this file: put the whole URL into the environment and write "
            'store = "env:HEADEND_STORE", or into a file and write "file:PATH"'
        )
    if importlib.util.find_spec("psycopg") is None:
        raise ValueError("PostgreSQL needs the extra: install headend[postgresql]")
