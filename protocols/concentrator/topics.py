"""Topic templates: "hes/v1/{concentrator}/meter/{meter}/data", matched, filled in, and turned into subscription filters.

A field stands for text inside one level and nothing else: it never takes in a slash. Names and addresses that come from
a topic or go into one have neither wildcards nor control characters, so that no name can reach another topic.
"""

import re
from collections.abc import Mapping
from typing import Any

from protocols.concentrator.json_text import Mismatch
from protocols.errors import BadLayout, EncodeError, shown

__all__ = ["TopicTemplate", "check_topic", "identity", "is_identity"]

TOPIC_LENGTH_MAX = 512
TOPIC_LEVELS_MAX = 16
IDENTITY_LENGTH_MAX = 128
_FIELD = re.compile(r"\{(\w+)\}")


class TopicTemplate:
    """constants: what `{name}` stands for when it is no field; a name that begins with _ matches anything when read."""

    def __init__(self, text: str, constants: Mapping[str, Any]) -> None:
        """Raises BadLayout."""
        self.text = _FIELD.sub(lambda found: _constant(found, constants), text)
        self._defaults = {name: value for name, value in constants.items() if name.startswith("_")}
        if re.search(r"[{}]", _FIELD.sub("", self.text)) or not _is_topic(_FIELD.sub("x", self.text)):
            raise BadLayout(text, "expected a topic without wildcards, with fields such as {meter}")
        self.fields = frozenset(_FIELD.findall(self.text))
        pieces = _FIELD.split(self.text)
        seen: set[str] = set()
        pattern = ""
        for index, piece in enumerate(pieces):
            if index % 2 == 0:
                pattern += re.escape(piece)
            elif piece in seen:
                pattern += f"(?P={piece})"
            else:
                seen.add(piece)
                pattern += f"(?P<{piece}>[^/]+)"
        self._pattern = re.compile(pattern)

    def match(self, topic: str) -> dict[str, str] | None:
        found = self._pattern.fullmatch(topic)
        return found.groupdict() if found else None

    def filter(self, row: Mapping[str, Any]) -> str:
        """What to subscribe to for this topic: "+" in levels with fields that the row does not have. Raises EncodeError."""
        levels = []
        for level in self.text.split("/"):
            fields = _FIELD.findall(level)
            levels.append(self._fill(level, row) if all(field in row for field in fields) else "+")
        return "/".join(levels)

    def fill(self, row: Mapping[str, Any]) -> str:
        """Raises EncodeError for what has no place in a topic."""
        return self._fill(self.text, self._defaults | {**row})

    def _fill(self, text: str, row: Mapping[str, Any]) -> str:
        def fill_in(found: re.Match[str]) -> str:
            text = str(row.get(found[1], ""))
            if not is_identity(text) or any(sign in text for sign in "/+#"):
                raise EncodeError(f"{found[1]} {shown(text)} cannot stand in topic {self.text}")
            return text

        return _FIELD.sub(fill_in, text)


def check_topic(topic: str) -> None:
    """Raises Mismatch unless a message may have come on this topic."""
    if len(topic) > TOPIC_LENGTH_MAX or topic.count("/") >= TOPIC_LEVELS_MAX:
        expected = f"at most {TOPIC_LENGTH_MAX} characters and {TOPIC_LEVELS_MAX} levels"
        raise Mismatch(expected, f"{len(topic)} characters, {topic.count('/') + 1} levels", fault="topic")
    if not _is_topic(topic):
        raise Mismatch("a topic without wildcards and control characters", topic, fault="topic")


def identity(text: Any) -> str:
    """The name of a concentrator, meter, value or event. Raises Mismatch."""
    if not isinstance(text, str) or not is_identity(text):
        raise Mismatch(f"a name of 1 to {IDENTITY_LENGTH_MAX} printable characters", text, fault="identity")
    return text


def is_identity(text: str) -> bool:
    """ "A+" and "Meter #1" are names like others; only topics have no place for them."""
    return 0 < len(text) <= IDENTITY_LENGTH_MAX and text.isprintable()


def _is_topic(topic: str) -> bool:
    return bool(topic) and topic.isprintable() and not ("+" in topic or "#" in topic)


def _constant(found: re.Match[str], constants: Mapping[str, Any]) -> str:
    name = found[1]
    return found[0] if name.startswith("_") or name not in constants else str(constants[name])
