"""The tables of docs/feed.md that are made from the types: between `<!-- made: NAME -->` and `<!-- end -->`.

python -m headend.feed.schema_docs     makes them anew
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headend.feed.quality_codes import MARK_CODES, QUALITY_CODES, RULE_CODES
from headend.feed.reading_type import Kind, reading_type
from headend.feed.schema_gate import OPEN_WORDS
from headend.feed.schemas import EVENT_TYPES, data_schema
from protocols.values import Unit

__all__ = ["PAGE", "main", "rewritten"]

PAGE = Path(__file__).parents[2] / "docs" / "feed.md"
_BLOCK = re.compile(r"(<!-- made: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

# What readers look for first; the function knows more.
_NAMED: tuple[tuple[str, str, Unit, int | None, Kind], ...] = (
    ("active energy import, the register", "1-0:1.8.0", Unit.KWH, None, "register"),
    ("the same in tariff 1", "1-0:1.8.1", Unit.KWH, None, "register"),
    ("active energy export", "1-0:2.8.0", Unit.KWH, None, "register"),
    ("active energy, import plus export", "1-0:15.8.0", Unit.KWH, None, "register"),
    ("reactive energy import", "1-0:3.8.0", Unit.KVARH, None, "register"),
    ("reactive energy, quadrant I", "1-0:5.8.0", Unit.KVARH, None, "register"),
    ("active energy import in a quarter of an hour", "1-0:1.8.0", Unit.KWH, 900, "interval"),
    ("in an hour", "1-0:1.8.0", Unit.KWH, 3600, "interval"),
    ("in a local day", "1-0:1.8.0", Unit.KWH, 86400, "interval"),
    ("maximum demand of the settlement period", "1-0:1.6.0", Unit.KW, None, "demand"),
    ("demand now", "1-0:1.4.0", Unit.KW, None, "demand"),
    ("active power, import minus export", "1-0:16.7.0", Unit.KW, None, "instantaneous"),
    ("voltage of phase A", "1-0:32.7.0", Unit.V, None, "instantaneous"),
    ("current of phase A", "1-0:31.7.0", Unit.A, None, "instantaneous"),
    ("power factor", "1-0:13.7.0", Unit.NONE, None, "instantaneous"),
    ("frequency", "1-0:14.7.0", Unit.HZ, None, "instantaneous"),
)


def rewritten(page: str) -> str:
    """The page with its made tables as they are now. Raises LookupError for a name that nobody makes."""
    tables = {
        "types": _table(("`type`", "`subject`", "What it says"), _types()),
        "interval": _table(("Field of `data`", "Meaning"), _fields("headend.interval.v1")),
        "reading-types": _table(("Quantity", "`obis`", "`unit`", "`period_s`", "ReadingType"), _reading_types()),
        "qualities": _table(("Word", "Code"), _codes()),
    }
    return _BLOCK.sub(lambda found: f"{found[1]}{tables[found[2]]}{found[3]}", page)


def main() -> None:
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "".join(f"{line}\n" for line in lines)


def _types() -> Iterator[Sequence[str]]:
    for event_type in EVENT_TYPES:
        yield f"`{event_type.name}`", event_type.subject, event_type.says


def _fields(name: str) -> Iterator[Sequence[str]]:
    schema = data_schema(next(one for one in EVENT_TYPES if one.name == name))
    for field, described in schema["properties"].items():
        absent = "" if field in schema["required"] else "absent otherwise"
        yield f"`{field}`", "; ".join(filter(None, (str(described.get("description", "")), _words(described), absent)))


def _words(schema: Mapping[str, Any]) -> str:
    found = schema.get(OPEN_WORDS) or schema.get("enum") or schema.get("items", {}).get(OPEN_WORDS)
    return ", ".join(f"`{word}`" for word in found if word) if found else ""


def _reading_types() -> Iterator[Sequence[str]]:
    for name, obis, unit, period_s, kind in _NAMED:
        code = reading_type(obis, unit, period_s, kind)
        shown = f"`{unit.value}`" if unit.value else ""
        yield name, f"`{obis}`", shown, "" if period_s is None else str(period_s), f"`{code}`"


def _codes() -> Iterator[Sequence[str]]:
    for quality, code in QUALITY_CODES.items():
        yield f"`{quality.value}`", f"`{code}`"
    for word, code in (MARK_CODES | RULE_CODES).items():
        yield f"`{word}`", f"`{code}`"


if __name__ == "__main__":
    main()
