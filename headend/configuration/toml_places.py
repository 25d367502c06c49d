"""Line numbers for a TOML document's tables and keys, for error messages.

No TOML library of Python tells where a value stood. This looks at headers and `key =` lines only, so a key inside a multi-line
value may be missed; then the place of the table around it is given.
"""

import re
from collections import Counter

__all__ = ["Places"]

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"]+\")\s*=")

Path = tuple[str | int, ...]


class Places:
    """Where things stand in one document. Looked through once: a fleet's file can have as many mistakes as meters."""

    def __init__(self, text: str) -> None:
        self._places = _places(text)

    def line_of(self, path: Path) -> int | None:
        """1-based line of `("meters", 3, "address")`, or of the nearest thing around it that has one."""
        while path:
            if path in self._places:
                return self._places[path]
            path = path[:-1]
        return None


def _places(text: str) -> dict[Path, int]:
    places: dict[Path, int] = {}
    arrays: Counter[str] = Counter()
    table: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            name = header[2].strip('"')
            if header[1] == "[[":
                table = (name, arrays[name])
                arrays[name] += 1
            else:
                table = tuple(part.strip('" ') for part in name.split("."))
            places.setdefault(table, number)
            places.setdefault(table[:1], number)
        elif key := _KEY.match(line):
            places.setdefault((*table, key[1].strip('"')), number)
    return places
