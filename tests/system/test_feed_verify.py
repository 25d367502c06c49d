"""A consumer pulls the feed over HTTP, something happens to its copy, and both verifiers, as programs, say what."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from headend.ledger.duty import CONCENTRATOR
from headend.ledger.signing import SigningKey
from tests.headend.api.test_ledger_api import served
from tests.headend.ledger.support import CLOSING, DAY, MIDNIGHT, Site, duty, read, slots, status
from tests.headend.ledger.verifier import PATH

GOOD, USAGE, SILENT, CONTRADICTED = 0, 2, 3, 6


async def run(*arguments: object) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, told.decode()


async def headend(*arguments: object) -> tuple[int, str]:
    return await run("-c", "from headend.cli.main import main; main()", *arguments)


async def three_days(site: Site) -> None:
    """Of 30 meters, one silent, one behind a concentrator; a read back-filled after its day was closed."""
    meters = [f"M{number:03}" for number in range(30)]
    for day in range(3):
        ends = slots(day)
        await site.put(
            read(meter, end, None if meter == "M007" else f"{place}.{day}", reason="silent" if meter == "M007" else "")
            for place, end in enumerate(ends)
            for meter in meters
            if (meter, place) != ("M011", 4)
        )
        await site.put([status("M007", ends[0])])
        await site.close_at(MIDNIGHT + (day + 1) * DAY + CLOSING)


DUTIES = [duty(f"M{number:03}", line=f"line-{number // 10}") for number in range(30)]
DUTIES[29] = duty("M029", line="TX-12", route=CONCENTRATOR)


async def test_a_pulled_copy_is_proven_and_every_damage_is_named(tmp_path: Path) -> None:
    async with Site(tmp_path, DUTIES, key=SigningKey.new()).running() as site, served(site) as client:
        await three_days(site)
        assert site.key is not None
        key, copy, manifest = (tmp_path / name for name in ("key.pem", "copy.ndjson", "manifest.json"))
        key.write_text(site.key.public.pem)
        url, token = str(client.base_url), client.headers["Authorization"].removeprefix("Bearer ")
        online = ("--url", url, "--token", token)
        original = await pulled(client)
        manifest.write_text((await client.get("/v1/manifests/2026-02-02")).text)

        def damaged(events: list[dict[str, Any]]) -> Path:
            copy.write_text("".join(json.dumps(event) + "\n" for event in events))
            return copy

        # Pulled in two goes, the first of which was cut off in the middle of an event.
        exported = tmp_path / "exported.ndjson"
        code, told = await headend("feed", "export", exported, *online, "--through", "50")
        assert code == GOOD
        assert "50 event(s)" in told
        exported.write_bytes(exported.read_bytes()[:-20])
        assert (await headend("feed", "export", exported, *online))[0] == USAGE
        code, told = await headend("feed", "export", exported, *online, "--append", "--json")
        assert code == GOOD
        assert json.loads(told)["after"] == 49
        assert [json.loads(line) for line in exported.read_bytes().splitlines()] == original
        assert (await headend("feed", "verify", exported, "--key", key))[0] == GOOD

        damaged(original)
        for code, told in await asyncio.gather(
            headend("feed", "verify", copy, "--key", key),
            headend("feed", "verify", copy, "--key", key, "--manifest", manifest),
            headend("feed", "verify", copy, "--key", key, *online),
            headend("feed", "verify", copy, *online, "--json"),
            run(PATH, copy, "--key", key),
            run(PATH, copy, manifest, "--key", key),
        ):
            assert code == GOOD, told
            assert json.loads(told)["ok"] if told.startswith("{") else "proven" in told

        # A single reading is changed: the manifest narrows it down, the feed names it.
        events = json.loads(json.dumps(original))
        place = next(place for place, event in enumerate(events) if event["subject"] == "M003" and place > 100)
        events[place]["data"]["value"] = "999.99"
        damaged(events)
        offline, compared, alone = await asyncio.gather(
            headend("feed", "verify", copy, "--key", key),
            headend("feed", "verify", copy, "--key", key, *online),
            run(PATH, copy, "--key", key),
        )
        for code, told in (offline, compared, alone):
            assert code == CONTRADICTED, told
            assert "M003" in told
        told = compared[1]
        assert 'data.value is "999.99", expected' in told
        assert f"event {place + 1}," in told

        # A hole, a repeat, a cut tail.
        damaged([*original[:40], *original[43:80], original[79], *original[80:-300]])
        code, told = await headend("feed", "verify", copy, "--key", key, *online, "--json")
        found = {(one["kind"], one["first"], one["last"]) for one in json.loads(told)["verdict"]["findings"]}
        assert code == CONTRADICTED
        assert ("missing", 41, 43) in found
        assert {kind for kind, _, _ in found} == {"missing", "extra"}
        tail = len(original) - 300
        assert any(kind == "missing" and first == tail + 1 for kind, first, _ in found)

        # A manifest that somebody else has signed.
        other = tmp_path / "other.pem"
        other.write_text(SigningKey.new().public.pem)
        damaged(original)
        assert (await headend("feed", "verify", copy, "--key", other))[0] == CONTRADICTED
        assert (await run(PATH, copy, "--key", other))[0] == CONTRADICTED


async def pulled(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while True:
        page = (await client.get("/v1/feed", params={"after": len(events), "limit": 1000})).json()
        if not page["events"]:
            return events
        events += page["events"]


async def test_usage_errors_and_silence_have_their_own_exit_codes(tmp_path: Path) -> None:
    copy = tmp_path / "copy.ndjson"
    copy.write_text('{"sequence": "1", "id": "x", "type": "y", "data": {}}\n')
    listed = tmp_path / "list.json"
    listed.write_text("[1, 2]")
    wrong = [(copy,), (tmp_path / "nothing",), (copy, "--key", copy)]
    for code, told in await asyncio.gather(
        *(headend("feed", "verify", *arguments) for arguments in [*wrong, (copy, "--manifest", listed)]),
        *(run(PATH, *arguments) for arguments in [*wrong, (copy, listed)]),
    ):
        assert (code, "error: " in told) == (USAGE, True)
    code, told = await headend("feed", "verify", copy, "--url", "http://127.0.0.1:1", "--token", "hdt_x")
    assert (code, "does not answer" in told) == (SILENT, True)


@pytest.mark.parametrize("day", ["2026-02-01", None])
async def test_the_collection_report_shows_the_worst_line_first(tmp_path: Path, day: str | None) -> None:
    async with Site(tmp_path, DUTIES).running() as site, served(site) as client:
        await three_days(site)
        token = client.headers["Authorization"].removeprefix("Bearer ")
        asked = ["report", "collection", "--url", client.base_url, "--token", token, *(["--day", day] if day else [])]
        code, told = await headend(*asked)
        assert code == GOOD, told
        assert told.splitlines()[0].startswith(f"{day or '2026-02-03'} (Asia/Shanghai): 96.38% collected, 347 of 360")
        assert "target 98.00% not met" in told
        lines = [line.split() for line in told.splitlines() if line.startswith(("line-", "TX-"))]
        assert [line[0] for line in lines] == ["line-0", "line-1", "TX-12", "line-2"]
        assert lines[0][1:] == ["10", "12", "120", "90.00%", "silent", "12"]
        assert "M007" in told
        code, told = await headend(*asked, "--json")
        assert json.loads(told)["lines"][0]["intervals"]["reasons"] == {"silent": 12}
