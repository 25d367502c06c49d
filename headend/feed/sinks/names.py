"""Topics and subjects from templates. Pure.

    headend/{name}/{kind}/{subject}  ->  headend/luoyang-west/read/M000001

{name}: the head-end. {type}: headend.read.v1. {kind}: the middle of it, read. {subject}: whom the event is about, mostly a meter.
"""

import re
from collections.abc import Callable

from headend.feed.sinks.sink import EventHead

__all__ = ["BadTemplate", "mqtt_topic", "nats_subject"]

_PLACES = re.compile(r"\{(\w*)\}")
_KNOWN = ("name", "type", "kind", "subject")
_MQTT_UNFIT = re.compile(r"[/+#\x00-\x1f\x7f-\x9f]")
_NATS_UNFIT = re.compile(r"[.*>\s\x00-\x1f\x7f-\x9f]")
TEMPLATE_MAX = 200


class BadTemplate(Exception):
    """The message says what was expected."""


def mqtt_topic(template: str, name: str) -> Callable[[EventHead], str]:
    """What gives an event's topic. name: of the head-end. Raises BadTemplate."""
    if not template or template.startswith("$") or re.search(r"[+#\x00]", template):
        raise BadTemplate(
            f"{template!r}; expected a topic without + and #, such as headend/{{name}}/{{kind}}/{{subject}}"
        )
    return _filled(template, name, _MQTT_UNFIT)


def nats_subject(template: str, name: str) -> Callable[[EventHead], str]:
    """As `mqtt_topic`."""
    if not re.fullmatch(r"[^\s*>.]+(\.[^\s*>.]+)*", template) or template.startswith("$"):
        raise BadTemplate(
            f"{template!r}; expected a subject without * and >, such as headend.{{name}}.{{kind}}.{{subject}}"
        )
    return _filled(template, name, _NATS_UNFIT)


def _filled(template: str, name: str, unfit: "re.Pattern[str]") -> Callable[[EventHead], str]:
    unknown = [place for place in _PLACES.findall(template) if place not in _KNOWN]
    if unknown or len(template) > TEMPLATE_MAX or _PLACES.sub("", template).count("{"):
        raise BadTemplate(
            f"{template!r}; expected at most {TEMPLATE_MAX} characters, and of {{…}} only {', '.join(_KNOWN)}"
        )
    fixed = {"name": unfit.sub("_", name)}
    remembered: dict[tuple[str, str], str] = {}

    def fill(head: EventHead) -> str:
        key = (head.type, head.subject)
        found = remembered.get(key)
        if found is None:
            if len(remembered) >= 20_000:  # a fleet's meters; more would be a strange feed
                remembered.clear()
            words = fixed | {"type": unfit.sub("_", head.type), "kind": unfit.sub("_", _kind(head.type))}
            words["subject"] = unfit.sub("_", head.subject) or "_"
            found = remembered[key] = _PLACES.sub(lambda place: words[place[1]], template)
        return found

    return fill


def _kind(event_type: str) -> str:
    parts = event_type.split(".")
    return ".".join(parts[1:-1]) if len(parts) > 2 else event_type
