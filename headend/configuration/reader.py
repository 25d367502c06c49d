"""Taking a configuration file apart: every table and entry checked by its shape, every problem kept with its place."""

import tomllib
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from pydantic import BaseModel, ValidationError

from headend.configuration.toml_places import Places

__all__ = ["Entry", "Problem", "Reader", "Report", "Where", "dotted", "explain_errors", "names", "read_toml"]

FILE_BYTES_MAX = 1_000_000  # of policies, calendars, tariffs: they have some kB
NAMES_SHOWN_MAX = 20  # a fleet has hundreds of lines; a list of all behind each of its mistakes helps nobody
SECRET_KEYS = ("password", "operator", "secret")

Where = tuple[str | int, ...]
Report = Callable[[str, str], None]  # key, text


class Problem(Struct, frozen=True):
    """place: "headend.toml:31 meters[3].address"."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Entry(Struct, frozen=True):
    """One entry as written. good: the same in its shape; None when it has a problem, which is reported already."""

    report: Report
    raw: Mapping[str, object]
    good: Any

    def text(self, key: str, default: str | None = None) -> str | None:
        """A key's text, also of an entry with problems elsewhere, so that one run tells all of them."""
        value = getattr(self.good, key) if self.good is not None else self.raw.get(key, default)
        return value if isinstance(value, str) else None


class Reader:
    """Collects problems while the document is taken apart."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.fatal: list[Problem] = []
        self._places = Places(text)

    def problem(self, where: Where, text: str, *, fatal: bool = False) -> None:
        line = self._places.line_of(where)
        place = f"{self.path.name}:{line}" if line else self.path.name
        self._add(Problem(f"{place} {dotted(where)}".rstrip(), text), fatal=fatal)

    def row_problem(self, file: Path, row: int, column: str, text: str, *, fatal: bool = False) -> None:
        self._add(Problem(f"{file.name}:{row} {column}".rstrip(), text), fatal=fatal)

    def _add(self, problem: Problem, *, fatal: bool) -> None:
        (self.fatal if fatal else self.problems).append(problem)

    def table(self, document: Mapping[str, Any], name: str, shape: type[BaseModel]) -> Any:
        raw = document.get(name, {})
        if not isinstance(raw, dict):
            self.problem((name,), f"expected a table [{name}], got {type(raw).__name__}", fatal=True)
            return shape()
        try:
            return shape.model_validate(raw)
        except ValidationError as error:
            for where, text in explain_errors(error, shape):
                self.problem((name, *where), text, fatal=True)
            return shape()

    def entries(self, document: Mapping[str, Any], name: str, shape: type[BaseModel]) -> list[Entry]:
        raw = document.get(name, [])
        if not isinstance(raw, list):
            self.problem((name,), f"expected entries [[{name}]], got {type(raw).__name__}", fatal=True)
            return []
        return [self.entry((name, index), entry, shape) for index, entry in enumerate(raw)]

    def entry(self, where: Where, raw: Any, shape: type[BaseModel]) -> Entry:
        def report(key: str, text: str) -> None:
            self.problem((*where, key) if key else where, text)

        good = None
        try:
            good = shape.model_validate(raw)
        except ValidationError as error:
            for inner, text in explain_errors(error, shape):
                self.problem((*where, *inner), text)
        return Entry(report, raw if isinstance(raw, dict) else {}, good)

    def unique(self, entries: list[Entry], key: str, same: Callable[[Entry], Hashable | None], why: str) -> list[Entry]:
        """Entries that share `same` with no other; the others are reported, all of them. same: None does not count."""
        groups: dict[Hashable, list[Entry]] = defaultdict(list)
        for entry in entries:
            if (identity := same(entry)) is not None:
                groups[identity].append(entry)
        doubled = {id(entry) for group in groups.values() if len(group) > 1 for entry in group}
        for entry in entries:
            if id(entry) in doubled:
                count = len(groups[same(entry)])
                entry.report(key, f"{entry.text(key)!r} {why.format(count=count)}, so none of them is used")
        return [entry for entry in entries if id(entry) not in doubled]


def explain_errors(error: ValidationError, shape: type[BaseModel]) -> list[tuple[Where, str]]:
    """pydantic's findings in our words: what was expected, what came."""
    found: list[tuple[Where, str]] = []
    for item in error.errors():
        kind, came = item["type"], repr(item.get("input"))
        if item["loc"] and item["loc"][-1] in SECRET_KEYS:  # the secret itself may have been written there
            came = "(not shown)"
        if kind == "extra_forbidden":
            text = f"unknown key; expected one of {', '.join(shape.model_fields)}"
        elif kind == "missing":
            text = "missing"
        elif kind == "value_error":
            text = str(item["ctx"]["error"])
        else:
            message = item["msg"].removeprefix("Input should be ")
            text = f"expected {message}, got {came}"
        found.append((tuple(item["loc"]), text))
    return found


def dotted(where: Where) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def names(known: Mapping[str, Any]) -> str:
    """What there is to choose from, for an error message."""
    if not known:
        return "(none is configured)"
    shown = list(known)[:NAMES_SHOWN_MAX]
    return ", ".join(shown) + (f" and {len(known) - len(shown)} more" if len(known) > len(shown) else "")


def read_toml(path: Path) -> tuple[str, dict[str, Any], list[Problem]]:
    """Text and document of a small TOML file beside the configuration, or why there is none."""
    try:
        data = path.read_bytes()
        if len(data) > FILE_BYTES_MAX:
            return "", {}, [Problem(path.name, f"{len(data)} bytes; expected at most {FILE_BYTES_MAX}")]
        text = data.decode()
        return text, tomllib.loads(text), []
    except OSError as error:
        return "", {}, [Problem(str(path), f"cannot be read: {error.strerror}")]
    except UnicodeDecodeError as error:
        return "", {}, [Problem(path.name, f"is not UTF-8 (byte {error.start}); expected a TOML file")]
    except (ValueError, RecursionError) as error:  # the former also from a number of thousands of digits
        return "", {}, [Problem(path.name, f"is not TOML: {error}")]
