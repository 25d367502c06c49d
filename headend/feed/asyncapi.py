"""The AsyncAPI 3.0 document of the feed: where its events come from and what they are, made from the same types as the schemas. Pure.

As AsyncAPI has it, the document speaks for the head-end: it `send`s events, and it `receive`s the request of a pull, whose reply is
the page.
"""

from typing import Any

import msgspec

from headend.feed.schemas import EVENT_TYPES, schema_of

__all__ = ["MEDIA_TYPE", "document", "document_json"]

MEDIA_TYPE = "application/vnd.aai.asyncapi+json;version=3.0.0"

EVENT_MEDIA_TYPE = "application/cloudevents+json"
BATCH_MEDIA_TYPE = "application/cloudevents-batch+json"
LIMIT_MAX = 10_000

_DESCRIPTION = (
    "One numbered stream without gaps. The cursor pull is the ground truth; the stream and the pushes carry the same events, at least "
    "once: drop what has an `id` that you have. Skip a `type` that you do not know, ignore fields that you do not know, and expect new "
    "words where a schema says x-open-enum."
)
_AFTER = {
    "type": "integer",
    "minimum": 0,
    "default": 0,
    "description": "Sequence of the last event you have; 0: the beginning.",
}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": 1000, "description": "Events at most."}
_NAME = {"description": "The head-end, as configured."}
_KIND = {"description": "The middle of the event type: read of headend.read.v1.", "examples": ["read", "interval"]}
_SUBJECT = {"description": "Whom the event is about, mostly the meter's asset number."}


def document_json(version: str) -> bytes:
    return msgspec.json.encode(document(version))


def document(version: str) -> dict[str, Any]:
    """version: of the head-end that speaks."""
    names = [event_type.name for event_type in EVENT_TYPES]
    return {
        "asyncapi": "3.0.0",
        "id": "urn:headend:feed",
        "info": {
            "title": "headend feed",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": "metering"}],
        },
        "defaultContentType": EVENT_MEDIA_TYPE,
        "servers": _servers(),
        "channels": _channels(names),
        "operations": _operations(names),
        "components": {
            "schemas": {event_type.name: _embedded(schema_of(event_type)) for event_type in EVENT_TYPES},
            "messages": _messages(names),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token with role read."},
            },
        },
    }


def _servers() -> dict[str, Any]:
    return {
        "headend": _server(
            "https", "127.0.0.1:8645", "The head-end itself.", security=[_ref("components/securitySchemes/bearer")]
        ),
        "webhook": _server("https", "billing.example", "An endpoint that the head-end pushes to."),
        "mqtt": _server("mqtt", "broker.example:1883", "A broker that the head-end pushes to.", protocolVersion="5.0"),
        "nats": _server("nats", "nats.example:4222", "A NATS server with JetStream that the head-end pushes to."),
    }


def _server(protocol: str, host: str, description: str, **more: Any) -> dict[str, Any]:
    return {
        "host": "{host}",
        "protocol": protocol,
        "description": description,
        "variables": {"host": {"default": host, "description": "Host and port."}},
        **more,
    }


def _channels(names: list[str]) -> dict[str, Any]:
    events = {name: _ref(f"components/messages/{name}") for name in names}
    return {
        "feed": {
            "address": "/v1/feed",
            "title": "The feed by cursor",
            "servers": [_ref("servers/headend")],
            "messages": {"ask": _ref("components/messages/ask"), "page": _ref("components/messages/page")},
        },
        "feedStream": {
            "address": "/v1/feed/stream",
            "title": "The feed as server-sent events",
            "description": "`id` is the sequence, `data` the event. Last-Event-ID continues where one broke; comments are heartbeats.",
            "servers": [_ref("servers/headend")],
            "messages": events,
        },
        "webhook": {
            "address": None,
            "title": "Webhook",
            "description": "The address is the destination's own. Standard Webhooks headers; answer 2xx once the batch is durable.",
            "servers": [_ref("servers/webhook")],
            "messages": {"batch": _ref("components/messages/batch")},
        },
        "mqtt": {
            "address": "headend/{name}/{kind}/{subject}",
            "title": "MQTT 5",
            "description": "The topic as it is without configuration. User properties: id and sequence of the event.",
            "servers": [_ref("servers/mqtt")],
            "parameters": {"name": _NAME, "kind": _KIND, "subject": _SUBJECT},
            "messages": events,
        },
        "nats": {
            "address": "headend.{name}.{kind}.{subject}",
            "title": "NATS JetStream",
            "description": "The subject as it is without configuration. Header Nats-Msg-Id: the event's id; the stream drops repeats.",
            "servers": [_ref("servers/nats")],
            "parameters": {"name": _NAME, "kind": _KIND, "subject": _SUBJECT},
            "messages": events,
        },
    }


def _operations(names: list[str]) -> dict[str, Any]:
    return {
        "pullFeed": {
            "action": "receive",
            "title": "Pull a page",
            "summary": "Events after a sequence number, oldest first; ask again with after=next.",
            "channel": _ref("channels/feed"),
            "messages": [_ref("channels/feed/messages/ask")],
            "reply": {"channel": _ref("channels/feed"), "messages": [_ref("channels/feed/messages/page")]},
            "bindings": {"http": _http("GET", after=_AFTER, limit=_LIMIT)},
        },
        "streamFeed": {
            "action": "send",
            "title": "Stream",
            "summary": "Events after a sequence number, and then as they become durable.",
            "channel": _ref("channels/feedStream"),
            "messages": [_ref(f"channels/feedStream/messages/{name}") for name in names],
            "bindings": {"http": _http("GET", after=_AFTER)},
        },
        "pushWebhook": {
            "action": "send",
            "title": "Push to a webhook",
            "summary": "Batches, signed, compressed with gzip unless configured otherwise.",
            "channel": _ref("channels/webhook"),
            "messages": [_ref("channels/webhook/messages/batch")],
            "bindings": {"http": _http("POST")},
        },
        "pushMqtt": {
            "action": "send",
            "title": "Push to an MQTT broker",
            "summary": "One message per event, acknowledged by the broker.",
            "channel": _ref("channels/mqtt"),
            "messages": [_ref(f"channels/mqtt/messages/{name}") for name in names],
            "bindings": {"mqtt": {"qos": 1, "retain": False, "bindingVersion": "0.2.0"}},
        },
        "pushNats": {
            "action": "send",
            "title": "Push to a JetStream",
            "summary": "One message per event, acknowledged by the stream.",
            "channel": _ref("channels/nats"),
            "messages": [_ref(f"channels/nats/messages/{name}") for name in names],
        },
    }


def _http(method: str, **query: Any) -> dict[str, Any]:
    binding: dict[str, Any] = {"method": method, "bindingVersion": "0.3.0"}
    if query:
        binding["query"] = {"type": "object", "properties": query, "additionalProperties": False}
    return binding


def _messages(names: list[str]) -> dict[str, Any]:
    some = {"type": "array", "items": {"oneOf": [_ref(f"components/schemas/{name}") for name in names]}}
    messages: dict[str, Any] = {
        event_type.name: {
            "name": event_type.name,
            "title": event_type.says,
            "contentType": EVENT_MEDIA_TYPE,
            "payload": _ref(f"components/schemas/{event_type.name}"),
        }
        for event_type in EVENT_TYPES
    }
    messages["ask"] = {"name": "ask", "title": "Request of a page", "payload": {"type": "null"}}
    messages["page"] = {
        "name": "page",
        "title": "Events after the cursor",
        "contentType": "application/json",
        "payload": {
            "type": "object",
            "properties": {
                "events": some,
                "next": {"type": "integer", "minimum": 0, "description": "The `after` of the following request."},
            },
            "required": ["events", "next"],
        },
    }
    messages["batch"] = {
        "name": "batch",
        "title": "Events of the feed in order",
        "contentType": BATCH_MEDIA_TYPE,
        "headers": {
            "type": "object",
            "properties": {
                "webhook-id": {"type": "string", "description": "Same for the same batch at every try."},
                "webhook-timestamp": {
                    "type": "string",
                    "pattern": r"^\d+$",
                    "description": "Unix seconds of this try.",
                },
                "webhook-signature": {
                    "type": "string",
                    "description": "v1,BASE64 of HMAC-SHA256 over id.timestamp.body.",
                },
            },
            "required": ["webhook-id", "webhook-timestamp"],
        },
        "payload": {**some, "minItems": 1},
    }
    return messages


def _embedded(schema: dict[str, Any]) -> dict[str, Any]:
    """Without what only a file of its own needs: an `$id` would move the document's references."""
    return {keyword: value for keyword, value in schema.items() if keyword not in ("$schema", "$id")}


def _ref(path: str) -> dict[str, str]:
    return {"$ref": f"#/{path}"}
