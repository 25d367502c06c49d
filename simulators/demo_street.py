"""What the demo shows of its street: the newest read of every meter, from the feed, as a live table or as plain lines."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from simulators.demo_parts import QUANTITIES, Part

__all__ = ["Street", "watch"]

SHOWN_MAX = 24  # rows; the rest is counted below the table
USED = "used kWh"  # in the last interval
LOOK_S = 0.5
LINE_S = 2.0  # between two plain lines


class Street:
    """The newest read of every meter and quantity."""

    def __init__(self, parts: list[Part]) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.line_of = {identity: part.line for part in parts for identity in part.ids}
        self.reads = 0
        self.missing = self.suspect = self.intervals = 0
        self.sequence = 0

    def take(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            data = event["data"]
            if event["type"] == "headend.interval.v1" and data["amount"] is not None:
                self.rows.setdefault(data["meter"], {})[USED] = data["amount"]
                self.intervals += 1
            if event["type"] != "headend.read.v1":
                continue
            self.reads += 1
            self.missing += data["value"] is None
            self.suspect += "suspect" in data["quality"]
            row = self.rows.setdefault(data["meter"], {})
            if data["interval_end"] < row.get("interval_end", ""):
                continue  # what is told late of an earlier interval is not what the meter shows now
            row[data["obis"]] = data["value"]
            row["interval_end"], row["quality"] = data["interval_end"], ", ".join(data["quality"])

    @property
    def summary(self) -> str:
        return (
            f"{self.reads} reads of {len(self.rows)} meters, {self.missing} missing, feed at sequence {self.sequence}"
        )

    def table(self) -> Table:
        table = Table(
            title=f"demo street: {self.reads} reads, {self.missing} missing, {self.suspect} suspect, {self.intervals} intervals, "
            f"feed at sequence {self.sequence}"
        )
        for column in ("line", "meter", *QUANTITIES.values(), USED, "interval end", "quality"):
            table.add_column(column, justify="right" if column in (*QUANTITIES.values(), USED) else "left")
        for meter in self._shown():
            row = self.rows[meter]
            table.add_row(
                self.line_of.get(meter, "?"),
                meter,
                *(row.get(obis) or "–" for obis in (*QUANTITIES, USED)),
                row.get("interval_end", "–"),
                row.get("quality", "–"),
            )
        if len(self.rows) > SHOWN_MAX:
            table.caption = f"and {len(self.rows) - SHOWN_MAX} more meters"
        return table

    def _shown(self) -> list[str]:
        """Some of every line, in the order of the street."""
        lines: dict[str, list[str]] = {}
        for meter, line in self.line_of.items():
            if meter in self.rows:
                lines.setdefault(line, []).append(meter)
        share = max(2, SHOWN_MAX // max(1, len(lines)))
        return [meter for meters in lines.values() for meter in meters[:share]][:SHOWN_MAX]


async def watch(
    client: httpx.AsyncClient, street: Street, console: Console, *, status: Callable[[], str] = lambda: ""
) -> None:
    """Pull the feed as a billing system would, and show it. status: one line in place of the table, while there is one; whatever is
    printed on the console meanwhile stands above it."""
    if not console.is_terminal:
        while True:
            if await _pull(client, street) and not status():
                console.print(street.summary)
            await asyncio.sleep(LINE_S)
    with Live(_shown(street, status()), console=console, auto_refresh=False) as live:
        while True:
            await _pull(client, street)
            live.update(_shown(street, status()), refresh=True)
            await asyncio.sleep(LOOK_S)


def _shown(street: Street, status: str) -> RenderableType:
    return Text(f"{status}   |   street: {street.summary}", style="dim", no_wrap=True) if status else street.table()


async def _pull(client: httpx.AsyncClient, street: Street) -> bool:
    answer = await client.get("/v1/feed", params={"after": street.sequence, "limit": 1000})
    answer.raise_for_status()
    page = answer.json()
    street.take(page["events"])
    street.sequence = page["next"]
    return bool(page["events"])
