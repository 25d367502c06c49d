"""A log and a meter's evidence are damaged in every way somebody could think of, thousands of times; both verifiers find each of them.

Run `--mutations 4000000` for all 10,000 (and half as many of evidence); the default is 500.
"""

import copy as copying
import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headend.audit.checkpoint import Checkpoint, parsed
from headend.audit.entries import entries_in_file, entries_in_store, header_in_file
from headend.audit.evidence import evidence_lines, log_lines, record_export
from headend.audit.record import hash_of
from headend.audit.tree import root_of
from headend.audit.verify import verify_evidence, verify_log
from headend.database.engine import connect, reading
from headend.keys import SigningKey
from headend.ledger.digest import canonical
from tests.headend.audit.support import Rig, verify_audit

Json = dict[str, Any]
METER = "M000001"


class Holding:
    """A file, line by line. Records are (hash or proof, body), so that a change of the one leaves the other as it was."""

    def __init__(self, lines: list[bytes], key: SigningKey, seen: list[Checkpoint]) -> None:
        self.header = json.loads(lines[0])
        self.key, self.seen = key, seen
        self.items: list[Json] = [json.loads(line) for line in lines[1:]]

    def twin(self) -> "Holding":
        made = copying.copy(self)
        made.items = json.loads(json.dumps(self.items))
        return made

    def records(self) -> list[Json]:
        return [item for item in self.items if "record" in item]

    def checkpoints(self) -> list[Json]:
        return [item for item in self.items if "record" not in item]

    def lines(self) -> list[bytes]:
        return [_line(item) for item in self.items]

    def chain_anew(self, signer: SigningKey | None = None) -> None:
        """What a forger does who knows the rules: number, chain and root again, and sign with a key of the forger's own, or not."""
        before, number, first = "0" * 64, 0, 1
        hashes: list[str] = []
        meters: dict[str, int] = {}
        previous: Checkpoint | None = None
        for item in self.items:
            if "record" in item:
                record, number = item["record"], number + 1
                record["number"] = number
                if "meter" in record:
                    record["meter_number"] = meters[record["meter"]] = meters.get(record["meter"], 0) + 1
                before = item["hash"] = hash_of(before, canonical(record).decode())
                hashes.append(before)
            elif hashes:
                said = item["checkpoint"]
                digest = None if previous is None else previous.digest
                said |= {"number": number, "first": first, "hash": before, "root": root_of(hashes), "previous": digest}
                previous = parsed(json.dumps(said))
                if signer is not None:
                    previous = previous.signed(signer)
                    item["checkpoint"] = previous.to_data()
                first, hashes = number + 1, []


def _line(item: Json) -> bytes:
    if "record" not in item:
        return canonical(item)
    head = {name: item[name] for name in item if name != "record"}
    return json.dumps(head, separators=(",", ":")).encode()[:-1] + b',"record":' + canonical(item["record"]) + b"}"


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.new()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Rig:
    rig = Rig(tmp_path_factory.mktemp("log"), key=key)
    rig.story(60)
    return rig


@pytest.fixture(scope="module")
def whole(rig: Rig, key: SigningKey) -> Holding:
    holding = Holding(list(log_lines(rig.store, key=None)), key, rig.checkpoints()[-1:])
    assert len(holding.checkpoints()) > 3
    return holding


@pytest.fixture(scope="module")
def evidence(rig: Rig, whole: Holding, key: SigningKey) -> Holding:
    through = record_export(rig.store, rig.log, METER, actor="court", reason="case 12", now=rig.clock.now())
    holding = Holding(list(evidence_lines(rig.book, METER, through=through, key=None)), key, rig.checkpoints()[-1:])
    assert len(holding.records()) > 8
    return holding


# ------------------------------------------------------------------------------------------------ what happens to it

Mutation = Callable[[Holding, random.Random], None]


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
    holder[last] = dice.choice([one for one in choices if canonical(one) != canonical(value)])


def change_a_record(holding: Holding, dice: random.Random) -> None:
    change_leaf(dice.choice(holding.records())["record"], dice)


def remove_a_member(holding: Holding, dice: random.Random) -> None:
    record = dice.choice(holding.records())["record"]
    holder = dice.choice([record, record["data"]] if record["data"] else [record])
    del holder[dice.choice(list(holder))]


def add_a_member(holding: Holding, dice: random.Random) -> None:
    record = dice.choice(holding.records())["record"]
    dice.choice([record, record["data"]])["approver"] = "Li Wei"


def change_a_hash(holding: Holding, dice: random.Random) -> None:
    item = dice.choice(holding.records())
    change_leaf({name: item[name] for name in item if name != "record"}, dice)
    for name in ("hash", "previous"):
        if name in item:
            item[name] = item[name][::-1]


def delete(holding: Holding, dice: random.Random) -> None:
    holding.items.remove(dice.choice(holding.records()))


def insert(holding: Holding, dice: random.Random) -> None:
    made = copying.deepcopy(dice.choice(holding.records()))
    made["record"]["kind"] = "approved"
    # Not behind the last checkpoint: what is well chained there is no damage, but what was written last.
    holding.items.insert(dice.randrange(len(holding.items)), made)


def repeat(holding: Holding, dice: random.Random) -> None:
    holding.items.insert(dice.randrange(len(holding.items) + 1), copying.deepcopy(dice.choice(holding.items)))


def swap(holding: Holding, dice: random.Random) -> None:
    one, other = dice.sample([place for place, item in enumerate(holding.items) if "record" in item], 2)
    holding.items[one], holding.items[other] = holding.items[other], holding.items[one]


def swap_what_they_say(holding: Holding, dice: random.Random) -> None:
    one, other = dice.sample(holding.records(), 2)
    one["record"], other["record"] = other["record"], one["record"]


def truncate(holding: Holding, dice: random.Random) -> None:
    del holding.items[-dice.randrange(1, len(holding.items)) :]


def behead(holding: Holding, dice: random.Random) -> None:
    del holding.items[: dice.randrange(1, len(holding.items))]


def drop_a_checkpoint(holding: Holding, dice: random.Random) -> None:
    holding.items.remove(dice.choice(holding.checkpoints()))


def change_a_checkpoint(holding: Holding, dice: random.Random) -> None:
    change_leaf(dice.choice(holding.checkpoints())["checkpoint"], dice)


def swap_checkpoints(holding: Holding, dice: random.Random) -> None:
    one, other = dice.sample(holding.checkpoints(), 2)
    one["checkpoint"], other["checkpoint"] = other["checkpoint"], one["checkpoint"]


def sign_with_another_key(holding: Holding, dice: random.Random) -> None:
    item = dice.choice(holding.checkpoints())
    item["checkpoint"] = parsed(json.dumps(item["checkpoint"])).signed(SigningKey.new()).to_data()


def break_a_line(holding: Holding, dice: random.Random) -> None:
    holding.items[dice.randrange(len(holding.items))] = dice.choice([{}, {"checkpoint": {}}, {"checkpoint": 7}])


EITHER: list[Mutation] = [
    change_a_record,
    remove_a_member,
    add_a_member,
    change_a_hash,
    delete,
    insert,
    repeat,
    swap,
    swap_what_they_say,
    truncate,
    behead,
    drop_a_checkpoint,
    change_a_checkpoint,
    swap_checkpoints,
    sign_with_another_key,
    break_a_line,
]


def roll_back(holding: Holding, dice: random.Random) -> None:
    """To the state of an earlier checkpoint: a good log, but an old one."""
    ends = [place for place, item in enumerate(holding.items) if "record" not in item]
    del holding.items[dice.choice(ends[:-1]) + 1 :]


def cut_and_cover(holding: Holding, dice: random.Random) -> None:
    """Cut the tail off, and tell of a break that an operator has acknowledged, all well chained, where only our key is missing."""
    del holding.items[-dice.randrange(2, len(holding.items) - 2) :]
    template = holding.records()[-1]["record"]
    plain = {name: template[name] for name in template if name not in ("meter", "meter_number")}
    holding.chain_anew()
    end = holding.records()[-1]
    found = {"number": end["record"]["number"], "hash": end["hash"]}
    for kind, data in (
        ("chain-broken", {"problem": "", "expected": found, "found": found}),
        ("break-acknowledged", {"breaks": [found["number"] + 1], "reason": "ok"}),
    ):
        holding.items.append({"hash": "", "record": {**plain, "kind": kind, "data": data}})
    holding.chain_anew(dice.choice([None, SigningKey.new()]))


def forged(mutation: Mutation) -> Mutation:
    """Done well: everything is computed anew, and signed with the forger's key or not at all."""

    def forge(holding: Holding, dice: random.Random) -> None:
        mutation(holding, dice)
        holding.chain_anew(dice.choice([None, SigningKey.new()]))

    forge.__name__ = f"forged {mutation.__name__}"
    return forge


def change_what_was_said(holding: Holding, dice: random.Random) -> None:
    change_leaf(dice.choice(holding.records())["record"]["data"], dice)


WHOLE: list[Mutation] = [
    *EITHER,
    roll_back,
    cut_and_cover,
    *map(forged, (change_what_was_said, delete, insert, swap_what_they_say, add_a_member, drop_a_checkpoint)),
]


def check_whole(holding: Holding) -> tuple[bool, bool]:
    """What both verifiers say: whether all is good."""
    lines, public = holding.lines(), holding.key.public
    ours = verify_log(entries_in_file(lines), [public], holding.seen)
    seen = [one.to_data() for one in holding.seen]
    theirs, _ = verify_audit.verify_log(verify_audit.in_file(lines), [verify_audit.public_key(public.pem)], seen)
    return ours.is_good, not theirs


def check_evidence(holding: Holding) -> tuple[bool, bool]:
    lines, public = holding.lines(), holding.key.public
    ours = verify_evidence(METER, entries_in_file(lines), [public], holding.seen)
    seen = [one.to_data() for one in holding.seen]
    keys = [verify_audit.public_key(public.pem)]
    theirs, _ = verify_audit.verify_evidence(METER, list(verify_audit.in_file(lines)), keys, seen)
    return ours.is_good, not theirs


def test_every_damage_to_a_log_is_found_by_both_verifiers(whole: Holding, request: pytest.FixtureRequest) -> None:
    assert check_whole(whole) == (True, True)
    for number in range(request.config.getoption("--mutations") // 400):
        dice = random.Random(number)
        mutation = WHOLE[number % len(WHOLE)]
        holding = whole.twin()
        mutation(holding, dice)
        assert check_whole(holding) == (False, False), f"{mutation.__name__}, seed {number}"


def test_every_damage_to_evidence_is_found_by_both_verifiers(evidence: Holding, request: pytest.FixtureRequest) -> None:
    assert check_evidence(evidence) == (True, True)
    for number in range(request.config.getoption("--mutations") // 800):
        dice = random.Random(number)
        mutation = EITHER[number % len(EITHER)]
        holding = evidence.twin()
        mutation(holding, dice)
        if _is_the_same(holding, evidence):
            continue
        assert check_evidence(holding) == (False, False), f"{mutation.__name__}, seed {number}"


def _is_the_same(holding: Holding, other: Holding) -> bool:
    """Where checkpoints stand among the records of evidence means nothing."""
    checkpoints, others = (sorted(one.checkpoints(), key=canonical) for one in (holding, other))
    return holding.records() == other.records() and checkpoints == others


def test_evidence_of_another_meter_is_no_evidence(rig: Rig, evidence: Holding) -> None:
    lines = [json.dumps({**evidence.header, "meter": "M000002"}).encode(), *evidence.lines()]
    header = header_in_file(lines[0])
    assert not verify_evidence(header.meter or "", entries_in_file(lines[1:]), [evidence.key.public]).is_good


STATEMENTS = (
    "UPDATE audit_records SET body = replace(body, 'billing', 'nobody') WHERE number = :n",
    "UPDATE audit_records SET body = replace(body, ',', ', ') WHERE number = :n",
    "UPDATE audit_records SET hash = :junk WHERE number = :n",
    "UPDATE audit_records SET meter = 'M9' WHERE number = :n",
    "UPDATE audit_records SET meter = NULL, meter_number = 77 WHERE number = :n",
    "UPDATE audit_records SET body = :junk WHERE number = :n",
    "UPDATE audit_records SET number = 1000 WHERE number = :n",
    "DELETE FROM audit_records WHERE number = :n",
    "DELETE FROM audit_records WHERE number > :n",
    "DELETE FROM audit_records",
    "DELETE FROM audit_checkpoints",
    "DELETE FROM audit_checkpoints WHERE number >= :n",
    "UPDATE audit_checkpoints SET body = :junk WHERE number = (SELECT max(number) FROM audit_checkpoints)",
    "UPDATE audit_checkpoints SET body = replace(body, '2026', '2025') WHERE number >= :n",
    "UPDATE audit_checkpoints SET number = number + 1000 WHERE number >= :n",
)


def test_every_damage_to_the_store_itself_is_found_by_both_verifiers(rig: Rig, tmp_path: Path) -> None:
    dice = random.Random(3)
    newest = rig.checkpoints()[-1]
    for number in range(4 * len(STATEMENTS)):
        path = tmp_path / f"{number}.db"
        with sqlite3.connect(rig.path) as original, sqlite3.connect(path) as copy:
            original.backup(copy)
            junk = dice.choice(["", "x", "{}", "[]", "null", '{"number":1}', "é", b"\x00\xff", 7, "00" * 32])
            said = {"n": dice.randrange(1, newest.number), "junk": junk}
            copy.execute(STATEMENTS[number % len(STATEMENTS)], said)
        original.close()
        copy.close()
        engine = connect(f"sqlite:///{path}")
        with reading(engine, "verifying") as connection:
            ours = verify_log(entries_in_store(connection), [rig.key.public] if rig.key else [], [newest])
        engine.dispose()
        keys = [verify_audit.public_key(rig.key.public.pem)] if rig.key else []
        theirs, _ = verify_audit.verify(path, keys, [newest.to_data()])
        assert (ours.is_good, theirs == []) == (False, False), (STATEMENTS[number % len(STATEMENTS)], said)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"checkpoint":' + b"[" * 100_000 + b"}",
        b'{"checkpoint":{"source":1}}',
        b'{"hash":"' + b"0" * 64 + b'","record":{}}',
        b'{"hash":"' + b"0" * 64 + b'","record":{"number":"x","kind":[],"data":7,"meter":[]}}',
        b'{"hash":"' + b"0" * 64 + b'","record":{"number":1,"kind":"chain-broken","data":{"found":5}}}',
        b'{"hash":"' + b"0" * 64 + b'","record":{"number":1,"kind":"break-acknowledged","data":{"breaks":[[]]}}}',
        b'{"hash":"' + b"0" * 64 + b'","record":{' + b'"a":{' * 5000 + b"}" * 5000 + b"}}",
        b'{"previous":"' + b"0" * 64 + b'","checkpoint":[],"proof":7,"record":{"number":1,"kind":"x","data":{}}}',
        b'{"previous":"'
        + b"0" * 64
        + b'","previous":5,"checkpoint":10,"proof":[""],"record":{"number":1,"kind":"x","data":1}}',
    ],
)
def test_whatever_a_line_holds_it_is_told_and_never_a_crash(whole: Holding, evidence: Holding, line: bytes) -> None:
    public = whole.key.public
    keys = [verify_audit.public_key(public.pem)]
    for place in (0, 5):
        lines = [*whole.lines()[:place], line, *whole.lines()[place:]]
        assert not verify_log(entries_in_file(lines), [public]).is_good
        assert verify_audit.verify_log(verify_audit.in_file(lines), keys, [])[0] != []
        lines = [*evidence.lines()[:place], line, *evidence.lines()[place:]]
        assert not verify_evidence(METER, entries_in_file(lines), [public]).is_good
        assert verify_audit.verify_evidence(METER, list(verify_audit.in_file(lines)), keys, [])[0] != []
