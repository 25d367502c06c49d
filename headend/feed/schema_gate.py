"""What a new version of a schema does to those who know the old one. Pure.

Two readers must both be served by every version of one event type. A consumer written to the old schema reads new events: nothing it
was promised may be missing or look different. A consumer written to the new schema replays old events, which the feed gives again
byte for byte: they must be valid, too. So within one type a schema can only grow: optional fields, words in a list that is open,
kinds in a union that is open. Whatever else differs is breaking, unknown keywords included; then the type needs a new major
version, under a new name.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

__all__ = ["CATCH_ALL", "OPEN_UNION", "OPEN_WORDS", "TAG", "Change", "compare"]

Schema = Mapping[str, Any]

OPEN_WORDS = "x-open-enum"  # the words in use; others may come
OPEN_UNION = "x-open-union"  # true: further kinds may come
TAG = "x-tag"  # of a union: the property that tells its kinds apart
CATCH_ALL = "x-catch-all"  # true: the kind of a union that stands for all later ones

_WORDS_ONLY = {"title", "description", "examples", "$comment", "x-version"}  # for people; they promise nothing
_COMPARED = {"type", "properties", "required", "items", "anyOf", "enum", "const", "additionalProperties", OPEN_WORDS}
_OLD_EVENTS = "events that the feed holds already would no longer be valid"
_OLD_READERS = "consumers written to the version before do not expect it"


class Change(Struct, frozen=True):
    """path: where, "data.value"; "" is the event itself. is_breaking: needs a new major version; otherwise an addition."""

    path: str
    what: str
    is_breaking: bool

    def __str__(self) -> str:
        return f"{self.path or 'event'}: {self.what}"


def compare(old: Schema, new: Schema, path: str = "") -> Iterator[Change]:
    """All differences that mean something, in the order of the schema; nothing for a change of descriptions."""
    old, old_null = _split_null(old)
    new, new_null = _split_null(new)
    if old_null != new_null:
        what = f"may now be null; {_OLD_READERS}" if new_null else f"may no longer be null; {_OLD_EVENTS}"
        yield Change(path, what, True)
    if old.get("type") != new.get("type"):
        yield Change(path, f"type {old.get('type')} became {new.get('type')}", True)
        return
    yield from _fields(old, new, path)
    yield from _words(old, new, path)
    yield from _open_words(old, new, path)
    yield from _kinds(old, new, path)
    yield from _inner("items", old, new, f"{path}[]")
    yield from _inner("additionalProperties", old, new, f"{path}{{}}")
    for keyword in sorted((old.keys() | new.keys()) - _COMPARED - _WORDS_ONLY):
        if old.get(keyword) != new.get(keyword):
            yield Change(path, f"{keyword} {_shown(old, keyword)} became {_shown(new, keyword)}", True)


def _fields(old: Schema, new: Schema, path: str) -> Iterator[Change]:
    olds, news = old.get("properties", {}), new.get("properties", {})
    needed_before, needed_now = set(old.get("required", ())), set(new.get("required", ()))
    added = [name for name in news if name not in olds]
    for name, schema in olds.items():
        place = _join(path, name)
        if name not in news:
            renamed = next((other for other in added if news[other] == schema), None)
            yield Change(place, f"renamed to {renamed}" if renamed else "removed", True)
            continue
        yield from compare(schema, news[name], place)
        if name in needed_before and name not in needed_now:
            yield Change(place, f"no longer required; {_OLD_READERS} to be absent", True)
        if name in needed_now and name not in needed_before:
            yield Change(place, f"now required; {_OLD_EVENTS}", True)
    for name in added:
        if name in needed_now:
            yield Change(_join(path, name), f"added and required; {_OLD_EVENTS}", True)
        else:
            yield Change(_join(path, name), "added", False)


def _words(old: Schema, new: Schema, path: str) -> Iterator[Change]:
    """A closed list: consumers may have a branch for every word, and no other."""
    olds, news = _closed(old), _closed(new)
    if olds is None and news is None:
        return
    if olds is None or news is None:
        yield Change(path, "the list of words was closed" if olds is None else "the list of words was opened", True)
        return
    for word in news:
        if word not in olds:
            yield Change(path, f"{word!r} added to a closed list; {_OLD_READERS}", True)
    for word in olds:
        if word not in news:
            yield Change(path, f"{word!r} removed from a closed list; {_OLD_EVENTS}", True)


def _closed(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _open_words(old: Schema, new: Schema, path: str) -> Iterator[Change]:
    olds, news = old.get(OPEN_WORDS), new.get(OPEN_WORDS)
    if olds is None or news is None:
        if olds is not news:
            yield Change(path, f"{OPEN_WORDS} {'removed' if news is None else 'added'}", True)
        return
    for word in news:
        if word not in olds:
            yield Change(path, f"{word!r} added to an open list", False)
    for word in olds:
        if word not in news:
            yield Change(path, f"{word!r} removed from the list; events that the feed holds already have it", True)


def _kinds(old: Schema, new: Schema, path: str) -> Iterator[Change]:
    olds, news = _by_tag(old), _by_tag(new)
    for kind, schema in olds.items():
        if kind not in news:
            yield Change(path, f"kind {kind} removed", True)
        else:
            yield from compare(schema, news[kind], f"{path}<{kind}>")
    for kind in news:
        if kind not in olds:
            is_open = bool(old.get(OPEN_UNION)) and bool(new.get(OPEN_UNION))
            yield Change(path, f"kind {kind} added", not is_open)


def _by_tag(union: Schema) -> dict[str, Schema]:
    """The kinds of a union by what their tag says; those without one by their place. The catch-all follows from the others."""
    found: dict[str, Schema] = {}
    for place, kind in enumerate(union.get("anyOf", ())):
        if not kind.get(CATCH_ALL):
            words = _closed(kind.get("properties", {}).get(union.get(TAG, ""), {}))
            found[str(words[0]) if words else f"#{place}"] = kind
    return found


def _inner(keyword: str, old: Schema, new: Schema, path: str) -> Iterator[Change]:
    olds, news = old.get(keyword), new.get(keyword)
    if isinstance(olds, Mapping) and isinstance(news, Mapping):
        yield from compare(olds, news, path)
    elif olds != news:
        yield Change(path, f"{keyword} {_shown(old, keyword)} became {_shown(new, keyword)}", True)


def _split_null(schema: Schema) -> tuple[Schema, bool]:
    """A schema without its null, and whether it had one. Only the plain form that `schemas` writes is taken apart."""
    variants = schema.get("anyOf", ())
    others = [variant for variant in variants if variant != {"type": "null"}]
    if len(others) == len(variants) or len(others) != 1:
        return schema, False
    rest = {keyword: value for keyword, value in schema.items() if keyword != "anyOf"}
    return {**others[0], **rest}, True


def _shown(schema: Schema, keyword: str) -> str:
    return repr(schema[keyword]) if keyword in schema else "(none)"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
