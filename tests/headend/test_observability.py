"""Logs that programs read: one JSON object per line, nothing in it a Python repr."""

import json
import logging
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import structlog

from headend.observability import configure_logs
from protocols.values import Unit


def test_times_are_written_as_in_the_feed_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(2026, 1, 31, 16, 0, 2, 250_000, tzinfo=UTC)
    before = structlog.get_config()
    try:
        configure_logs(level=logging.INFO)
        log = structlog.get_logger("test")
        log.info("store works again", since=moment, meter_clock=datetime(2026, 2, 1), inside=[{"at": moment}])
        log.info("amounts", amount=Decimal("1.50"), unit=Unit.KWH, wire=b"\x68")
    finally:
        structlog.configure(**before)
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["since"] == "2026-01-31T16:00:02.250Z"
    assert first["meter_clock"] == "2026-02-01T00:00:00"
    assert first["inside"] == [{"at": "2026-01-31T16:00:02.250Z"}]
    assert (second["amount"], second["unit"], second["wire"]) == ("1.50", "kWh", "b'h'")
