"""docs/delivery.md: its consumer's code works, and it leaves no key, metric or command out."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from headend.configuration.sinks import SinkTable
from headend.feed.pusher_status import DeliveryCollector
from headend.feed.sinks.signature import signed_headers, signing_keys
from tests.headend.sinks.support import SIGNING_SECRET, a_batch

PAGE = (Path(__file__).parents[3] / "docs" / "delivery.md").read_text(encoding="utf-8")


def test_the_receivers_code_accepts_what_we_send_and_nothing_else() -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    body = b"[%b]" % b",".join(a_batch(3).events)
    now = int(time.time())
    keys = signing_keys(SIGNING_SECRET)
    headers = signed_headers(body, keys=keys, timestamp=now)
    assert len(names["events_of"](headers, body, SIGNING_SECRET)) == 3
    with pytest.raises(ValueError, match="wrong signature"):
        names["events_of"](headers, body + b" ", SIGNING_SECRET)
    with pytest.raises(ValueError, match="too old"):
        names["events_of"](signed_headers(body, keys=keys, timestamp=now - 3600), body, SIGNING_SECRET)


def test_every_key_and_every_metric_is_there() -> None:
    table = PAGE[PAGE.index("## Keys of") :]
    for key in SinkTable.model_fields:
        assert f"`{key}`" in table, key
    registry = CollectorRegistry()
    registry.register(DeliveryCollector(list, lambda: None))
    for metric in re.findall(r"^# HELP (\w+) ", generate_latest(registry).decode(), re.MULTILINE):
        assert f"| `{metric}` |" in PAGE, metric
    for command in ("list", "status", "parked", "release", "drop", "forget"):
        assert f"headend sink {command}" in PAGE, command
