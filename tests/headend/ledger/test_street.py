"""A street of simulated meters for three days: one dies, one is away for some hours, and the ledger tells it as it was."""

import asyncio
import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from headend.ledger.bundle import bundles_of
from headend.ledger.copy import Copy
from headend.ledger.signing import PublicKey, make_keys
from headend.ledger.verify import verify
from headend.store.ledger import LedgerBook
from simulators.virtual_time import VirtualClock, run
from tests.headend.ledger.verifier import verify_feed
from tests.scenarios.street import Street, run_street

MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)
DEAD, AWAY = "000000000002", "000000000003"


def test_the_ledger_of_a_street_says_what_became_of_every_interval(tmp_path: Path) -> None:
    _, public = make_keys(tmp_path)
    key = PublicKey.from_pem(public.read_text())

    async def meanwhile(street: Street, clock: VirtualClock) -> None:
        bus: Any = street.lines["line-0"].bus
        all_meters = list(bus.meters)

        await asyncio.sleep(6 * 3600)
        bus.meters = [meter for meter in all_meters if meter.address not in (DEAD, AWAY)]
        await asyncio.sleep(4.5 * 3600)
        bus.meters = [meter for meter in all_meters if meter.address != DEAD]

    async def street(clock: VirtualClock, _: random.Random) -> Street:
        return await run_street(
            tmp_path,
            clock,
            hours=72,
            seed=5,
            quantities=["1-0:1.8.0"],
            period="1h",
            meanwhile=meanwhile,
            edit=lambda text: (
                text.replace('period = "1h"', 'period = "1h"\nback_fill = "1d"')
                + f'\n[ledger]\nsigning_key = "file:{tmp_path}/manifest-key.pem"\n'
            ),
        )

    found = run(street, start=MIDNIGHT - timedelta(minutes=1), seed=5)
    book = LedgerBook(found.store.engine)
    assert [(one.day, one.revision) for one in book.issued()] == [
        ("2026-03-01", 0),  # the interval that ended at the first midnight
        ("2026-03-02", 0),
        ("2026-03-03", 0),
        ("2026-03-02", 1),  # what was open of it is final now
    ]
    assert states(book, "2026-03-02") == {
        "M000001": {"measured": 24},
        "M000002": {"measured": 5, "meter-unreachable": 19},
        "M000003": {"measured": 20, "back-filled": 4},
        "M000004": {"measured": 24},
    }
    assert states(book, "2026-03-03")["M000002"] == {"meter-unreachable": 4, "open": 20}
    assert counted(found) == states(book, "2026-03-02")
    lines = found.store.events_after(0, 1_000_000)
    events = found.events()
    manifests = [event for event in events if event["type"].startswith("headend.manifest")]
    bundles, problems = bundles_of(manifests, [key])
    verdict = verify(Copy(b"\n".join(lines)), bundles, problems=problems)
    assert verdict.findings == []
    assert verify_feed.verify(lines, manifests, [verify_feed.public_key(key.pem)])[0] == []
    found.store.close()


def counted(street: Street) -> dict[str, dict[str, int]]:
    """The second day of the street as a consumer would count it from the feed."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for data in street.reads():
        if MIDNIGHT < datetime.fromisoformat(data["interval_end"]) <= MIDNIGHT + timedelta(days=1):
            newest[data["meter"], data["interval_end"]] = data
    words: dict[str, Counter[str]] = {}
    for (meter, _), data in sorted(newest.items()):
        word = {"silent": "meter-unreachable"}[data["reason"]] if "reason" in data else data["quality"][-1]
        words.setdefault(meter, Counter())["measured" if word == "late" else word] += 1
    return {meter: dict(count) for meter, count in words.items()}


def states(book: LedgerBook, day: str) -> dict[str, dict[str, int]]:
    body = book.body(day)
    assert body is not None
    return {meter["meter"]: meter["states"] for part in body[1:] for meter in json.loads(part)["data"]["meters"]}
