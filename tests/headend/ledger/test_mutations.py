"""A consumer's copy is damaged in every way somebody could think of, thousands of times; both verifiers find each of them.

Run `--mutations 1000000` for all 10,000; the default is 2,000.
"""

import contextlib
import copy as copying
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headend.ledger.bundle import bundles_of, events_in
from headend.ledger.copy import Copy
from headend.ledger.signing import SigningKey
from headend.ledger.verify import verify
from headend.model import Quality
from tests.headend.ledger.support import CLOSING, DAY, MIDNIGHT, Site, duty, read, slots, status
from tests.headend.ledger.verifier import verify_feed

PERIOD_S = 3 * 3600
Json = dict[str, Any]
Mutation = Callable[["Holding", random.Random], None]


class Holding:
    """What a consumer holds: its copy, and the manifests it was given."""

    def __init__(self, copy: list[Json], manifests: list[Json]) -> None:
        self.copy = copy
        self.manifests = manifests

    def twin(self) -> "Holding":
        copy, manifests = json.loads(json.dumps([self.copy, self.manifests]))  # several times faster than deepcopy
        return Holding(copy, manifests)

    def lines(self) -> list[bytes]:
        return [json.dumps(event, ensure_ascii=False).encode() for event in self.copy]


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.new()


@pytest.fixture
async def original(tmp_path: Path, key: SigningKey) -> Holding:
    """Two days of three meters with gaps, back-filled and suspect reads and statuses, and the manifests of both."""
    meters = ("M1", "M2", "M3")
    async with Site(
        tmp_path, [duty(meter, back_fill_s=9 * 86400, period_s=PERIOD_S) for meter in meters], key=key
    ).running() as site:
        dice = random.Random(1)
        for day in range(2):
            for place, end in enumerate(slots(day, PERIOD_S)):
                for meter in meters:
                    lost = dice.random() < 0.2
                    amount = None if lost else f"{day * 12 + place}.{dice.randrange(100):02}"
                    await site.put([read(meter, end, amount, reason="silent" if lost else "")])
                if place % 5 == 0:
                    await site.put([status(dice.choice(meters), end, dice.choice([12.5, 1e-7, 3.0, -0.25]))])
            await site.put(
                [
                    read(
                        "M1",
                        slots(day, PERIOD_S)[3],
                        "3.33",
                        revision=1,
                        quality=(Quality.MEASURED, Quality.BACK_FILLED),
                    )
                ]
            )
            await site.close_at(MIDNIGHT + (day + 1) * DAY + CLOSING)
        events = site.events()
    wholes = [event for event in events if event["type"] == "headend.manifest.v1"]
    parts = [event for event in events if event["type"] == "headend.manifest-part.v1"]
    through = wholes[-1]["data"]["through"]
    assert len(wholes) == 2
    return Holding([event for event in events if int(event["sequence"]) <= through], [*wholes, *parts])


# ------------------------------------------------------------------------------------------------ what happens to a copy


def any_event(holding: Holding, dice: random.Random) -> Json:
    return dice.choice(holding.copy)


def leaves(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [found for name, value in inside for found in leaves(value, (*path, name))] or [path]


def change_leaf(document: Any, dice: random.Random) -> None:
    """Any field, to something that a careless or a clever program could put there."""
    *way, last = dice.choice(leaves(document))
    holder = document
    for name in way:
        holder = holder[name]
    value = holder[last]
    choices: list[Any] = [None, "", 0, 1, "0", [], {}, True, 0.5]
    if isinstance(value, str):
        choices += [f"{value} ", value[:-1], value.swapcase(), value[::-1], f"{value}0"]
    if type(value) is int or isinstance(value, float):
        choices += [value + 1, -value, str(value), value + 0.1]
    choices = [one for one in choices if verify_feed.canonical(one) != verify_feed.canonical(value)]
    holder[last] = dice.choice(choices)


def change_a_field(holding: Holding, dice: random.Random) -> None:
    change_leaf(any_event(holding, dice), dice)


def remove_a_member(holding: Holding, dice: random.Random) -> None:
    event = any_event(holding, dice)
    holder = dice.choice([event, event["data"]])
    del holder[dice.choice(list(holder))]


def add_a_member(holding: Holding, dice: random.Random) -> None:
    event = any_event(holding, dice)
    dice.choice([event, event["data"]])["note"] = "paid"


def drop(holding: Holding, dice: random.Random) -> None:
    for _ in range(dice.choice([1, 1, 1, 5])):
        holding.copy.remove(any_event(holding, dice))


def drop_and_renumber(holding: Holding, dice: random.Random) -> None:
    place = dice.randrange(len(holding.copy))
    del holding.copy[place]
    for event in holding.copy[place:]:
        event["sequence"] = str(int(event["sequence"]) - 1)


def add(holding: Holding, dice: random.Random) -> None:
    """An event more, with a number that is there."""
    made = copying.deepcopy(any_event(holding, dice))
    made["id"], made["sequence"] = f"{made['id']}9", any_event(holding, dice)["sequence"]
    holding.copy.insert(dice.randrange(len(holding.copy) + 1), made)


def add_and_renumber(holding: Holding, dice: random.Random) -> None:
    place = dice.randrange(len(holding.copy))
    made = copying.deepcopy(holding.copy[place])
    made["id"] = f"{made['id']}9"
    for event in holding.copy[place:]:
        event["sequence"] = str(int(event["sequence"]) + 1)
    holding.copy.insert(place, made)


def repeat(holding: Holding, dice: random.Random) -> None:
    place = dice.randrange(len(holding.copy))
    holding.copy.insert(place + dice.choice([0, 1]), copying.deepcopy(holding.copy[place]))


def repeat_with_a_change(holding: Holding, dice: random.Random) -> None:
    made = copying.deepcopy(any_event(holding, dice))
    change_leaf(made["data"], dice)
    holding.copy.insert(dice.randrange(len(holding.copy) + 1), made)


def reorder(holding: Holding, dice: random.Random) -> None:
    one, other = dice.sample(range(len(holding.copy)), 2)
    holding.copy[one], holding.copy[other] = holding.copy[other], holding.copy[one]


def reorder_and_renumber(holding: Holding, dice: random.Random) -> None:
    one, other = dice.sample(range(len(holding.copy)), 2)
    reorder_ = holding.copy
    reorder_[one]["sequence"], reorder_[other]["sequence"] = reorder_[other]["sequence"], reorder_[one]["sequence"]
    reorder_[one], reorder_[other] = reorder_[other], reorder_[one]


def swap_meters(holding: Holding, dice: random.Random) -> None:
    """Two customers' reads of the same moment change places, with everything that could give it away."""
    reads = [event for event in holding.copy if event["type"] == "headend.read.v1"]
    while True:
        one, other = dice.sample(reads, 2)
        if one["data"]["meter"] != other["data"]["meter"] and one["data"]["value"] != other["data"]["value"]:
            break
    for name in ("value", "quality", "reason"):
        mine, theirs = one["data"].pop(name, None), other["data"].pop(name, None)
        one["data"] |= {} if theirs is None and name == "reason" else {name: theirs}
        other["data"] |= {} if mine is None and name == "reason" else {name: mine}


def rewrite_a_read(holding: Holding, dice: random.Random) -> None:
    """A consistent lie: the read of another meter under its own id."""
    event = dice.choice([event for event in holding.copy if event["type"] == "headend.read.v1"])
    meter = "M1" if event["subject"] != "M1" else "M2"
    event["id"] = event["id"].replace(event["subject"], meter)
    event["subject"] = event["data"]["meter"] = meter


def cut_the_tail(holding: Holding, dice: random.Random) -> None:
    del holding.copy[-dice.randrange(1, len(holding.copy)) :]


def cut_the_head(holding: Holding, dice: random.Random) -> None:
    del holding.copy[: dice.randrange(1, len(holding.copy))]


def forge_the_manifest(holding: Holding, dice: random.Random) -> None:
    change_leaf(dice.choice(holding.manifests)["data"], dice)


def forge_both(holding: Holding, dice: random.Random) -> None:
    """Change a read, and everything in the manifest that would tell it, but for the signature."""
    place = dice.randrange(len(holding.copy))
    change_leaf(holding.copy[place]["data"], dice)
    meters = [meter for part in holding.manifests[2:] for meter in part["data"]["meters"]]
    dice.choice(meters)["sha256"] = holding.manifests[0]["data"]["sha256"]
    for whole in holding.manifests[:2]:
        for entry, part in zip(whole["data"]["parts"], holding.manifests[2:], strict=False):
            entry["sha256"] = verify_feed.sha256(verify_feed.canonical(part["data"]))


def sign_it_oneself(holding: Holding, dice: random.Random) -> None:
    """Change the manifest and sign it again, with a key of one's own under the id of ours."""
    whole = dice.choice(holding.manifests[:2])["data"]
    whole["count"] += 1
    unsigned = verify_feed.canonical({name: whole[name] for name in whole if name != "signature"})
    whole["signature"] = SigningKey.new().sign(f"headend.manifest.v1\n{unsigned}".encode())


def lose_a_part(holding: Holding, dice: random.Random) -> None:
    del holding.manifests[dice.randrange(2, len(holding.manifests))]


MUTATIONS: list[Mutation] = [
    change_a_field,
    remove_a_member,
    add_a_member,
    drop,
    drop_and_renumber,
    add,
    add_and_renumber,
    repeat,
    repeat_with_a_change,
    reorder,
    reorder_and_renumber,
    swap_meters,
    rewrite_a_read,
    cut_the_tail,
    cut_the_head,
    forge_the_manifest,
    forge_both,
    sign_it_oneself,
    lose_a_part,
]


def check(holding: Holding, key: SigningKey) -> tuple[bool, bool]:
    """What both verifiers say: whether all is good."""
    lines = holding.lines()
    bundles, problems = bundles_of(holding.manifests, [key.public])
    ours = verify(Copy(b"\n".join(lines)), bundles, problems=problems)
    theirs, _ = verify_feed.verify(lines, holding.manifests, [verify_feed.public_key(key.public.pem)])
    return ours.is_good, not theirs


async def test_every_damage_is_found_by_both_verifiers(
    original: Holding, key: SigningKey, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import functools

    # The same signature is looked at thousands of times; its arithmetic has a test of its own.
    monkeypatch.setattr(verify_feed, "is_signed", functools.cache(verify_feed.is_signed))
    assert check(original, key) == (True, True)
    for number in range(request.config.getoption("--mutations") // 100):
        dice = random.Random(number)
        mutation = MUTATIONS[number % len(MUTATIONS)]
        holding = original.twin()
        mutation(holding, dice)
        assert check(holding, key) == (False, False), f"{mutation.__name__}, seed {number}"


async def test_how_a_document_is_written_is_no_change(original: Holding, key: SigningKey) -> None:
    """Other order of members, blanks, escapes, 3.0 for 3: the same events."""
    for event in original.copy:
        event["data"] = dict(reversed(event["data"].items()))
    lines = [
        json.dumps(dict(reversed(event.items())), indent=None, separators=(" , ", " : ")) for event in original.copy
    ]
    wire = [line.replace('"revision" : 0', '"revision" : 0.0').encode() for line in lines]
    bundles, problems = bundles_of(original.manifests, [key.public])
    assert verify(Copy(b"\n".join(wire)), bundles, problems=problems).is_good
    assert verify_feed.verify(wire, original.manifests, [verify_feed.public_key(key.public.pem)])[0] == []


async def test_a_copy_of_ids_and_data_alone_is_proven(original: Holding, key: SigningKey) -> None:
    for event in original.copy:
        for name in ("specversion", "source", "subject", "time"):
            del event[name]
        event["sequence"] = int(event["sequence"])
    assert check(original, key) == (True, True)
    original.copy[17]["data"]["unit"] = "MWh"
    assert check(original, key) == (False, False)


async def test_a_single_meter_is_proven_alone_with_its_part(original: Holding, key: SigningKey) -> None:
    mine = [event for event in original.copy if event["type"] == "headend.read.v1" and event["subject"] == "M2"]
    public = verify_feed.public_key(key.public.pem)

    def problems(events: list[Json]) -> tuple[list[str], list[str]]:
        lines = [json.dumps(event).encode() for event in events]
        bundles, wrong = bundles_of(original.manifests, [key.public])
        verdict = verify(Copy(b"\n".join(lines)), bundles, meter="M2", problems=wrong)
        theirs, _ = verify_feed.verify(lines, original.manifests, [public], meter="M2")
        return [finding.what for finding in verdict.findings], theirs

    assert problems(mine) == ([], [])
    ours, theirs = problems(mine[:4] + mine[5:])
    assert ours == ["M2 on 2026-02-01: 7 records, expected 8"]
    assert theirs == ["changed: M2 on 2026-02-01 has 7 records, expected 8"]
    mine[4]["data"]["unit"] = "MWh"
    ours, theirs = problems(mine)
    assert ours == ["M2 on 2026-02-01: its 8 records are not those of the feed"]
    assert len(theirs) == 1


async def test_findings_name_what_they_can(original: Holding, key: SigningKey) -> None:
    bundles, _ = bundles_of(original.manifests, [key.public])

    def findings(*, after: int | None = None) -> list[str]:
        verdict = verify(Copy(b"\n".join(original.lines())), bundles, after=after)
        return [f"{finding.kind}: {finding.what}" for finding in verdict.findings]

    event = original.copy[9]
    event["id"] = event["id"].replace(event["subject"], "M9")
    [meter, block] = findings()
    assert (
        meter
        == f"changed: {event['subject']} on 2026-02-01: its {9 if event['subject'] == 'M1' else 8} records are not those of the feed"
    )
    assert "event 10: its id says 'read:M9:" in block
    del original.copy[20:23]
    assert "missing: events 21 to 23 are missing" in findings()
    del original.copy[:30]
    assert findings()[0].startswith("missing: events 1 to ")
    assert findings(after=int(original.copy[-1]["sequence"])) == []


async def test_the_program_in_the_docs_proves_a_meters_day(original: Holding, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "ledger.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert program is not None
    (tmp_path / "prove.py").write_text(program[1], encoding="utf-8")
    bundle = {"manifest": original.manifests[1], "parts": original.manifests[3:]}
    (tmp_path / "day.json").write_text(json.dumps(bundle), encoding="utf-8")

    def told() -> str:
        (tmp_path / "copy.ndjson").write_bytes(b"\n".join(original.lines()))
        asked = [sys.executable, "prove.py", "copy.ndjson", "day.json", "M2"]
        return subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert told() == "proven\n"
    original.copy = [event for event in original.copy if event["id"] != "read:M2:1-0:1.8.0:2026-02-02T04:00:00Z:0"]
    assert told() == "7 records, expected 8\n"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"sequence":',
        b"[" * 100_000,
        b'{"sequence":"1","id":"read:x","type":"headend.read.v1","data":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
        b'{"sequence":"1","id":"read:x","data":{"a":123456789012345678901234567890,"b":1e400}}',
        b'{"sequence":1e3,"id":"x","data":{}}',
        b'{"sequence":"007","id":"x","data":{}}',
        b'{"sequence":"1","id":7,"specversion":99999999999999999999999,"data":null}',
        b'{"sequence":"1","id":"x","type":"headend.manifest.v1","data":{"parts":7}}',
        b'{"sequence":"1","id":"x","type":"headend.manifest-part.v1","data":[]}',
    ],
)
async def test_whatever_a_line_holds_it_is_told_and_never_a_crash(
    original: Holding, key: SigningKey, line: bytes
) -> None:
    lines = original.lines()
    lines[0] = line
    bundles, problems = bundles_of(original.manifests, [key.public])
    assert not verify(Copy(b"\n".join(lines)), bundles, problems=problems).is_good
    assert verify_feed.verify(lines, original.manifests, [verify_feed.public_key(key.public.pem)])[0] != []
    events = original.manifests
    with contextlib.suppress(ValueError):
        events = [*events, *events_in(line)]
    assert len(bundles_of(events, [key.public])[0]) == 2
