"""A billing system that pulls the feed, and holds the head-end to what it has served before."""

from typing import Any

import httpx

from tests.system.processes import pull

__all__ = ["PullConsumer"]


class PullConsumer:
    """served: events by number, from 1 on, as they came first."""

    def __init__(self) -> None:
        self.served: dict[int, dict[str, Any]] = {}

    def take(self, client: httpx.Client, *, from_start: bool = False) -> int:
        """All there is behind what it has; from the start, what was served before must come again as it was. How many were new."""
        before = len(self.served)
        after = 0 if from_start else before
        for number, event in enumerate(pull(client, after), start=after + 1):
            assert int(event["sequence"]) == number, f"sequence {event['sequence']} came where {number} was due"
            assert self.served.setdefault(number, event) == event, f"event {number} changed after it was served"
        return len(self.served) - before

    def check(self) -> None:
        """No number left out, and nothing twice."""
        assert sorted(self.served) == list(range(1, len(self.served) + 1))
        assert len({event["id"] for event in self.served.values()}) == len(self.served)
        reads = [
            (event["data"]["meter"], event["data"]["obis"], event["data"]["interval_end"])
            for event in self.served.values()
            if event["type"] == "headend.read.v1"
        ]
        assert len(set(reads)) == len(reads) > 0
