"""Contract files: where they are, what they extend, and putting their sections together.

A room is a folder of contracts that one loader reads: dlt645, modbus, concentrator. Names are "room/file", or the path
of a .toml file.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from firmware_contracts.errors import BadContract, UnknownContract

__all__ = ["Layer", "known_keys", "layers", "merged", "names", "read", "section", "stamp"]

Layer = tuple[str, Mapping[str, Any]]  # name of a file and its content
_NAME = re.compile(r"\w+(?:/[\w.-]+)+")


def names(*rooms: str) -> list[str]:
    """Names of the contracts that come with the package: those of the rooms given, or all."""
    found = []
    for folder in resources.files("firmware_contracts").iterdir():
        if folder.is_dir() and (not rooms or folder.name in rooms):
            found += [
                f"{folder.name}/{file.name[:-5]}"
                for file in folder.iterdir()
                if file.name.endswith(".toml") and not file.name.endswith(".vectors.toml")
            ]
    return sorted(found)


def read(name: str) -> Mapping[str, Any]:
    """One file. Decimals keep their digits. Raises UnknownContract, BadContract."""
    return _parsed(name) if name.endswith(".toml") else _packaged(name)


@lru_cache(maxsize=32)  # bases are extended by many, and take a tenth of a second to parse
def _packaged(name: str) -> Mapping[str, Any]:
    return _parsed(name)


def _parsed(name: str) -> Mapping[str, Any]:
    try:
        if name.endswith(".toml"):
            text = Path(name).read_text(encoding="utf-8")
        elif _NAME.fullmatch(name) is None or ".." in name:
            raise _unknown(name)
        else:
            text = resources.files("firmware_contracts").joinpath(f"{name}.toml").read_text(encoding="utf-8")
        return tomllib.loads(text, parse_float=Decimal)
    except OSError as error:
        raise _unknown(name) from error
    except UnicodeDecodeError as error:
        raise BadContract(name, "", f"is not UTF-8: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadContract(name, "", f"is not TOML: {error}") from error


def _unknown(name: str) -> UnknownContract:
    """With the contracts of the same room, or of all where there is no such room: nobody reads a list of everything."""
    return UnknownContract(name, names(name.partition("/")[0]) or names())


def layers(name: str) -> list[Layer]:
    """The file and those that it extends, the most particular first. Raises UnknownContract, BadContract."""
    found: list[Layer] = []
    following: str | None = name
    while following is not None:
        if any(file == following for file, _ in found):
            raise BadContract(name, "contract", f"extends itself through {following}")
        content = read(following)
        found.append((following, content))
        about = content.get("contract")
        if not isinstance(about, dict):
            raise BadContract(following, "contract", "section missing")
        following = about.get("extends")
        if following is not None and not isinstance(following, str):
            raise BadContract(found[-1][0], "contract", "extends: expected the name of a contract")
    return found


def stamp(name: str) -> int:
    """When the file was changed, for keeping what was loaded; 0 for a contract that came with the package."""
    path = Path(name)
    return path.stat().st_mtime_ns if path.suffix == ".toml" and path.is_file() else 0


def merged(files: Iterable[Layer], name: str) -> dict[str, Any]:
    """A section's keys, those of the most particular file winning. files: the most particular first."""
    keys: dict[str, Any] = {}
    for file, content in reversed(list(files)):
        given = content.get(name, {})
        if not isinstance(given, dict):
            raise BadContract(file, name, "expected a section of keys")
        keys |= given
    return keys


def section(file: str, name: str, given: Mapping[str, Any], shape: type[Any]) -> Any:
    """The section as a Struct. Raises BadContract."""
    try:
        return msgspec.convert(given, shape)
    except msgspec.ValidationError as error:
        raise BadContract(file, name, str(error)) from error


def known_keys(file: str, where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises BadContract for a key that nobody reads."""
    if unknown := set(given) - set(known):
        raise BadContract(file, where, f"unknown key {', '.join(sorted(unknown))}: expected {', '.join(sorted(known))}")
