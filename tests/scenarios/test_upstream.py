"""Two days of a street as billing sees them: closed by signed manifests, written into day files, proven by the verifier."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headend.ledger.bundle import bundles_of
from headend.ledger.copy import Copy
from headend.ledger.signing import PublicKey, make_keys
from headend.ledger.verify import verify
from simulators.virtual_time import run
from tests.scenarios.street import Street, run_street

MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)  # 00:00 of 2 March in Shanghai
DEAD = "M000003"


def with_sinks(folder: Path) -> Callable[[str], str]:
    """The archive gets a file per day; billing's webhook is not there."""

    def edit(text: str) -> str:
        return (
            text.replace(f'address = "{3:012}"', 'address = "999999000003"')
            + f"""
[ledger]
signing_key = "file:{folder}/manifest-key.pem"

[[sinks]]
name = "archive"
kind = "file"
url = "{folder}/days"
"""
        )

    return edit


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Street:
    folder = tmp_path_factory.mktemp("upstream")
    make_keys(folder)
    return run(
        lambda clock, _: run_street(
            folder,
            clock,
            hours=54,
            seed=3,
            lines=2,
            meters_per_line=4,
            quantities=["1-0:1.8.0"],
            period="1h",
            edit=with_sinks(folder),
        ),
        start=MIDNIGHT,
        seed=3,
    )


def test_each_day_is_closed_by_one_manifest_that_names_every_interval(street: Street) -> None:
    manifests = [event["data"] for event in street.events() if event["type"] == "headend.manifest.v1"]
    newest = {data["day"]: data for data in manifests}
    assert sorted(newest) == ["2026-03-02", "2026-03-03"]
    for data in newest.values():
        assert sum(data["states"].values()) == 8 * 24
        assert data["states"]["measured"] == 7 * 24
        assert data["signature"]


def test_a_copy_of_the_feed_is_proven_and_a_copy_that_lacks_a_read_is_not(street: Street) -> None:
    text = b"\n".join(street.store.events_after(0, 1_000_000))
    key = PublicKey.from_pem((street.config.path.parent / "manifest-key.pub.pem").read_text())
    good = Copy(text)
    bundles, problems = bundles_of(street.events(), [key])
    assert len(bundles) >= 2
    assert verify(good, bundles, problems=problems).findings == []
    lacking = [line for line in text.splitlines() if json.loads(line)["sequence"] != "40"]
    assert verify(Copy(b"\n".join(lacking)), bundles, problems=problems).findings


def test_the_archive_has_both_days(street: Street) -> None:
    folder = street.config.path.parent / "days"
    days = [path for path in sorted(folder.rglob("*.ndjson*")) if "2026-03-0" in path.name]
    assert {path.name[path.name.index("2026") :][:10] for path in days} >= {"2026-03-02", "2026-03-03"}
