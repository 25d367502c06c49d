"""The gate: every kind of change once, by mutating real schemas; and the command that CI runs."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headend.feed.schema_gate import compare
from headend.feed.schemas import EVENT_TYPES, check, main, schema_file, schema_of, write

Schema = dict[str, Any]
TYPES = {event_type.name: event_type for event_type in EVENT_TYPES}
READ = schema_of(TYPES["headend.read.v1"])
STATUS = schema_of(TYPES["headend.meter-status.v1"])


def data(schema: Schema) -> Schema:
    found: Schema = schema["properties"]["data"]
    return found


def field(schema: Schema, name: str) -> Schema:
    found: Schema = data(schema)["properties"][name]
    return found


def rename(schema: Schema) -> None:
    properties = data(schema)["properties"]
    properties["tariff_unit"] = properties.pop("unit")
    data(schema)["required"].remove("unit")


def add_required(schema: Schema) -> None:
    data(schema)["properties"]["phase"] = {"type": "string"}
    data(schema)["required"].append("phase")


def drop(schema: Schema, name: str) -> None:
    del data(schema)["properties"][name]
    if name in data(schema)["required"]:
        data(schema)["required"].remove(name)


def no_null(schema: Schema) -> None:
    kept = field(schema, "value")["anyOf"][0]
    field(schema, "value").clear()
    field(schema, "value").update(kept)


def may_be_null(schema: Schema) -> None:
    old = dict(field(schema, "source"))
    field(schema, "source").clear()
    field(schema, "source")["anyOf"] = [old, {"type": "null"}]


def close_words(schema: Schema) -> None:
    field(schema, "unit")["enum"] = field(schema, "unit").pop("x-open-enum")


def open_words(schema: Schema) -> None:
    field(schema, "side")["x-open-enum"] = field(schema, "side").pop("enum")


BREAKING: dict[str, tuple[Callable[[Schema], object], str]] = {
    "field removed": (lambda s: drop(s, "source"), "data.source: removed"),
    "optional field removed": (lambda s: drop(s, "occurred_at"), "data.occurred_at: removed"),
    "field renamed": (rename, "data.unit: renamed to tariff_unit"),
    "required field added": (add_required, "data.phase: added and required"),
    "required became optional": (lambda s: data(s)["required"].remove("meter"), "data.meter: no longer required"),
    "optional became required": (lambda s: data(s)["required"].append("reason"), "data.reason: now required"),
    "type changed": (lambda s: field(s, "revision").update(type="string"), "data.revision: type integer became string"),
    "may be null": (may_be_null, "data.source: may now be null"),
    "no longer null": (no_null, "data.value: may no longer be null"),
    "pattern widened": (lambda s: field(s, "interval_end").pop("pattern"), "data.interval_end: pattern"),
    "pattern narrowed": (lambda s: field(s, "source").update(pattern="^dlt645/"), "data.source: pattern (none) became"),
    "format dropped": (lambda s: field(s, "received_at").pop("format"), "data.received_at: format"),
    "minimum lowered": (lambda s: field(s, "revision").update(minimum=-1), "data.revision: minimum 0 became -1"),
    "maximum added": (lambda s: field(s, "revision").update(maximum=9), "data.revision: maximum"),
    "empty list allowed": (lambda s: field(s, "quality").pop("minItems"), "data.quality: minItems"),
    "items of another type": (lambda s: field(s, "quality")["items"].update(type="integer"), "data.quality[]: type"),
    "word added to a closed list": (lambda s: field(s, "side")["enum"].append("both"), "'both' added to a closed list"),
    "word removed from a closed list": (lambda s: field(s, "side")["enum"].pop(), "removed from a closed list"),
    "word removed from an open list": (lambda s: field(s, "unit")["x-open-enum"].remove("kWh"), "'kWh' removed"),
    "open list closed": (close_words, "data.unit: the list of words was closed"),
    "closed list opened": (open_words, "data.side: the list of words was opened"),
    "unknown fields forbidden": (lambda s: data(s).update(additionalProperties=False), "additionalProperties"),
    "event type's name changed": (
        lambda s: s["properties"]["type"].update(const="headend.x.v1"),
        "type: 'headend.x.v1'",
    ),
    "envelope field removed": (lambda s: s["properties"].pop("sequence"), "sequence: removed"),
    "a keyword nobody knows": (lambda s: field(s, "source").update(contentEncoding="base64"), "contentEncoding"),
    "identity changed": (lambda s: s.update({"$id": "urn:other"}), "$id"),
}

ADDITIONS: dict[str, tuple[Callable[[Schema], object], str]] = {
    "optional field": (lambda s: data(s)["properties"].update(phase={"type": "string"}), "data.phase: added"),
    "word of an open list": (lambda s: field(s, "unit")["x-open-enum"].append("GJ"), "data.unit: 'GJ' added"),
    "word of an open list in a list": (
        lambda s: field(s, "quality")["items"]["x-open-enum"].append("blessed"),
        "data.quality[]: 'blessed' added to an open list",
    ),
}

NOTHING: dict[str, Callable[[Schema], object]] = {
    "description": lambda s: field(s, "source").update(description="in other words"),
    "title": lambda s: data(s).update(title="Read"),
    "order of required": lambda s: data(s)["required"].reverse(),
    "order of fields": lambda s: data(s).update(properties=dict(reversed(data(s)["properties"].items()))),
    "order of words": lambda s: field(s, "unit")["x-open-enum"].reverse(),
    "version": lambda s: s.update({"x-version": "1.7"}),
    "const as a list of one": lambda s: s["properties"].update(specversion={"enum": ["1.0"]}),
}


def changes(old: Schema, mutate: Callable[[Schema], object]) -> list[tuple[str, bool]]:
    new = copy.deepcopy(old)
    mutate(new)
    return [(str(change), change.is_breaking) for change in compare(old, new)]


@pytest.mark.parametrize(("mutate", "words"), BREAKING.values(), ids=BREAKING)
def test_what_breaks_consumers_is_found(mutate: Callable[[Schema], object], words: str) -> None:
    found = changes(READ, mutate)
    assert any(words in text and is_breaking for text, is_breaking in found), found


@pytest.mark.parametrize(("mutate", "words"), ADDITIONS.values(), ids=ADDITIONS)
def test_additions_are_found_and_break_nothing(mutate: Callable[[Schema], object], words: str) -> None:
    found = changes(READ, mutate)
    assert [(words in text, is_breaking) for text, is_breaking in found] == [(True, False)], found


@pytest.mark.parametrize("mutate", NOTHING.values(), ids=NOTHING)
def test_what_means_nothing_is_no_change(mutate: Callable[[Schema], object]) -> None:
    assert changes(READ, mutate) == []


def test_kinds_of_a_status_may_be_added_but_not_changed_or_removed() -> None:
    def kinds(schema: Schema) -> list[Schema]:
        found: list[Schema] = data(schema)["anyOf"]
        return found

    def add(schema: Schema) -> None:
        more = copy.deepcopy(kinds(schema)[0])
        more["properties"]["kind"]["enum"] = ["temper"]
        kinds(schema).insert(0, more)
        kinds(schema)[-1]["properties"]["kind"]["not"]["enum"].append("temper")

    assert changes(STATUS, add) == [("data: kind temper added", False)]
    assert changes(STATUS, lambda s: kinds(s).pop(1)) == [("data: kind presence removed", True)]
    ((text, is_breaking),) = changes(STATUS, lambda s: kinds(s)[0]["properties"].pop("limit_s"))
    assert (text, is_breaking) == ("data<clock>.limit_s: removed", True)

    def closed(schema: Schema) -> None:
        add(schema)
        data(schema)["x-open-union"] = False

    assert all(is_breaking for _, is_breaking in changes(STATUS, closed))


@pytest.mark.parametrize("name", TYPES)
def test_every_field_of_every_type_is_guarded(name: str) -> None:
    """Remove each field, make each required one optional, turn each type into another: nothing slips through."""
    old = schema_of(TYPES[name])
    count = 0
    for mutated in mutants(old):
        found = list(compare(old, mutated))
        assert any(change.is_breaking for change in found), mutated
        count += 1
    assert count > 20


def mutants(schema: Schema) -> Iterator[Schema]:
    for path, node in nodes(schema):
        for edited in edits(node):
            copied = copy.deepcopy(schema)
            place: Any = copied
            for key in path[:-1]:
                place = place[key]
            if path:
                place[path[-1]] = edited
                yield copied


def edits(node: Schema) -> Iterator[Schema]:
    for name in node.get("properties", {}):
        properties = {other: value for other, value in node["properties"].items() if other != name}
        yield node | {"properties": properties, "required": [one for one in node.get("required", []) if one != name]}
    for name in node.get("required", []):
        yield node | {"required": [one for one in node["required"] if one != name]}
    if "type" in node:
        yield node | {"type": "array" if node["type"] == "boolean" else "boolean"}
    for keyword in ("pattern", "format", "minimum", "minItems", "minLength", "minProperties"):
        if keyword in node:
            yield {other: value for other, value in node.items() if other != keyword}


def nodes(schema: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Schema]]:
    """Every schema inside, but what stands for later kinds, which follows from the others."""
    if isinstance(schema, list):
        for place, one in enumerate(schema):
            yield from nodes(one, (*path, place))
    elif isinstance(schema, dict) and not schema.get("x-catch-all") and schema != {"type": "null"}:
        yield path, schema
        for keyword in ("properties", "items", "anyOf", "additionalProperties"):
            if keyword == "properties":
                for name, one in schema.get(keyword, {}).items():
                    yield from nodes(one, (*path, keyword, name))
            elif isinstance(schema.get(keyword), dict | list):
                yield from nodes(schema[keyword], (*path, keyword))


def kept(**edited: Schema) -> dict[str, bytes]:
    files = {name: schema_file(event_type) for name, event_type in TYPES.items()}
    return files | {f"headend.{name}.v1": json.dumps(schema).encode() for name, schema in edited.items()}


def texts(files: dict[str, bytes], **options: Any) -> list[str]:
    return [problem.text for problem in check(files, **options)]


def test_a_breaking_change_asks_for_a_new_major_version() -> None:
    before = copy.deepcopy(READ)
    data(before)["properties"]["customer"] = {"type": "string"}
    (text,) = texts(kept(read=before))
    assert text == "headend.read.v1: breaking: data.customer: removed; make it headend.read.v2 beside this one"


def test_an_addition_asks_for_a_new_minor_version_and_passes_with_one() -> None:
    before = copy.deepcopy(READ)
    drop(before, "occurred_at")
    assert texts(kept(read=before)) == ["headend.read.v1: data.occurred_at: added: raise its version to 1.2"]
    raised = [
        msgspec.structs.replace(one, version="1.2") if one.name == "headend.read.v1" else one for one in EVENT_TYPES
    ]
    (problem,) = check(kept(read=before), raised)
    assert problem.is_stale
    assert check(kept(read=before), raised, exact=False) == []


def test_a_version_never_goes_back_and_has_the_major_of_its_name() -> None:
    later = copy.deepcopy(READ) | {"x-version": "1.4"}
    assert texts(kept(read=later)) == ["headend.read.v1: version 1.1 does not follow '1.4'"]
    second = [msgspec.structs.replace(one, version="2.0") for one in EVENT_TYPES[:1]]
    assert "does not follow" in check(kept(), second)[-1].text


def test_a_type_that_is_gone_a_new_one_and_a_spoilt_file_are_named() -> None:
    files = kept()
    files["headend.gone.v1"] = b"{}"
    del files["headend.interval.v1"]
    files["headend.meter-event.v1"] = b"["
    gone, missing, spoilt = texts(files)
    assert gone == "headend.gone.v1: the type is gone, but consumers know it"
    assert missing == "headend.interval.v1: has no file; --write makes it"
    assert spoilt.startswith("headend.meter-event.v1: its file is no JSON object")
    assert len(texts(files, exact=False)) == 2


def test_writing_never_goes_over_a_breaking_change(tmp_path: Path) -> None:
    assert write(tmp_path) == []
    path = tmp_path / "headend.read.v1.json"
    before = json.loads(path.read_text())
    data(before)["properties"]["customer"] = {"type": "string"}
    path.write_text(json.dumps(before))
    assert [problem.text for problem in write(tmp_path)] == texts(kept(read=before))
    assert "customer" in path.read_text()


def test_the_command_says_what_is_wrong_and_how_it_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--folder", str(tmp_path)]
    assert main(["--check", *here]) == 1
    assert "has no file" in capsys.readouterr().err
    assert main(["--write", *here]) == 0
    assert main(["--check", *here]) == 0
    assert capsys.readouterr().err == ""
    path = tmp_path / "headend.read.v1.json"
    path.write_text(path.read_text().replace('"x-version": "1.1"', '"x-version": "1.1",\n  "title2": ""'))
    assert main(["--check", *here]) == 1
    assert main(["--check", "--against", str(tmp_path)]) == 1
    with pytest.raises(SystemExit):
        main([])
