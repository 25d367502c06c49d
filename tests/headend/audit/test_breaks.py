"""A log that is not as it was left: the alarm, and how the record of closes goes on."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from headend.audit.checkpoint import parsed
from headend.audit.entries import entries_in_file
from headend.audit.record import hash_of
from headend.audit.verify import verify_log
from headend.keys import SigningKey
from headend.ledger.digest import canonical
from tests.headend.audit.support import Rig, a_record, verify_audit


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path, key=SigningKey.new())
    rig.append(*(a_record(meter=f"M{number % 3}") for number in range(10)))
    rig.checkpoint()
    rig.append(*(a_record(meter=f"M{number % 3}") for number in range(5)))
    return rig


def kinds(rig: Rig) -> list[str]:
    return [json.loads(row.body)["kind"] for row in rig.book.records() if row.body != "x"]


DELETED_TAIL = "DELETE FROM audit_records WHERE number > 12"
CHANGED_LAST = "UPDATE audit_records SET hash = replace(hash, '0', '1') WHERE number = 15"


@pytest.mark.parametrize("statement", [DELETED_TAIL, CHANGED_LAST, "DELETE FROM audit_records"])
def test_meddling_under_our_hands_is_found_at_the_next_append_which_still_is_written(rig: Rig, statement: str) -> None:
    rig.meddle(statement)
    [number] = rig.append(a_record("sending"))
    assert not rig.log.ok
    assert rig.log.problem.startswith("the audit log is broken: record")
    assert number == 17, "behind what is gone, so that the hole is seen for ever"
    assert kinds(rig)[-2:] == ["chain-broken", "sending"]
    assert rig.append(a_record()) == [18], "one break is told once"
    rig.checkpoint()
    assert not rig.verify(*rig.checkpoints()).is_good


def test_the_last_transaction_taken_back_is_found(rig: Rig) -> None:
    """Exactly what a transaction that was rolled back would look like, but it was committed."""
    rig.append(a_record())
    rig.meddle("DELETE FROM audit_records WHERE number = 16")
    rig.append(a_record())
    assert not rig.log.ok


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (DELETED_TAIL.replace("12", "9"), "records 10 to 10 are gone, which the last checkpoint vouches for"),
        (
            "UPDATE audit_records SET body = replace(body, 'billing', 'nobody') WHERE number = 13",
            "record 13 or the one",
        ),
        ("DELETE FROM audit_records WHERE number = 13", "record 13 is missing"),
        ("UPDATE audit_records SET meter = 'M9' WHERE number = 13", "filed under meter 'M9'"),
        ("UPDATE audit_records SET body = 'x' WHERE number = 13", "record 13 is no record"),
        ("UPDATE audit_records SET hash = 'x' WHERE number = 10", "record 10 is not the one that the last checkpoint"),
        ("UPDATE audit_checkpoints SET body = replace(body, 'luoyang', 'kaifeng')", "has a wrong signature"),
        ("UPDATE audit_checkpoints SET body = 'x'", "cannot be read"),
        ("UPDATE audit_checkpoints SET number = 11", "says that it is 10"),
    ],
)
def test_meddling_while_we_were_away_is_found_at_the_start(rig: Rig, statement: str, problem: str) -> None:
    rig.meddle(statement)
    log = rig.restart()
    assert not log.ok
    assert problem in log.problem
    assert kinds(rig)[-1] == "chain-broken"
    rig.append(a_record("sending"))
    rig.checkpoint()
    assert not rig.restart().ok, "a restart is no acknowledgement"
    assert kinds(rig).count("chain-broken") == 1
    assert not rig.verify().is_good


def test_a_store_that_was_rolled_back_is_found_by_what_was_witnessed(rig: Rig) -> None:
    rig.witnessed = rig.checkpoint()
    rig.meddle(DELETED_TAIL)
    rig.meddle("DELETE FROM audit_checkpoints WHERE number > 10")
    log = rig.restart()
    assert "records 13 to 15 are gone, which a checkpoint that was witnessed vouches for" in log.problem
    assert kinds(rig)[-1] == "chain-broken"
    assert rig.book.last_number() == 16


def test_an_operator_ends_the_alarm_and_the_break_stays_in_the_log(rig: Rig) -> None:
    witnessed = rig.checkpoint()
    assert witnessed is not None
    rig.meddle(DELETED_TAIL)
    rig.meddle("DELETE FROM audit_checkpoints WHERE number > 10")
    rig.append(a_record())
    assert not rig.log.ok

    class Crash(Exception):
        pass

    def work(connection: object) -> tuple[None, list[object]]:
        rig.log.acknowledge(connection, "Li Wei", "restored", rig.clock.now())  # type: ignore[arg-type]
        raise Crash

    with pytest.raises(Crash):
        rig.store.transact(work, "testing")  # type: ignore[arg-type]
    assert not rig.log.ok, "what is not durable ends no alarm"
    number = rig.transact(rig.log.acknowledge, "Li Wei", "the store was restored from the backup of Monday")
    assert rig.log.ok
    assert rig.restart().ok
    record = json.loads(rig.book.records()[-1].body)
    assert record["number"] == number
    assert record["data"] == {"breaks": [16], "reason": "the store was restored from the backup of Monday"}
    assert rig.transact(rig.log.acknowledge, "Li Wei", "again") is None
    rig.checkpoint()
    verdict = rig.verify(witnessed, *rig.checkpoints())
    assert verdict.findings == []
    assert any("an operator has acknowledged it" in note for note in verdict.notes)
    assert any("15 was witnessed, and is gone, as an acknowledged break says" in note for note in verdict.notes)


def test_a_checkpoint_does_not_vouch_for_a_record_that_was_changed_before_it(rig: Rig) -> None:
    rig.meddle("UPDATE audit_records SET body = replace(body, 'billing', 'nobody') WHERE number = 13")
    made = rig.checkpoint()
    assert made is not None
    assert made.number == 16
    assert not rig.log.ok
    assert kinds(rig)[-1] == "chain-broken"
    assert not rig.verify(made).is_good


def test_after_a_change_of_keys_the_old_one_must_be_known(rig: Rig) -> None:
    old, rig.key = rig.key, SigningKey.new()
    assert old is not None
    log = rig.new_log(known_keys=[old.public])
    rig.transact(log.start)
    assert log.ok
    rig.restart()
    assert "is signed by another key" in rig.log.problem


def test_a_witness_that_cannot_be_read_stops_nothing(rig: Rig) -> None:
    from headend.audit.log import AuditLog

    def unreadable() -> None:
        raise PermissionError(13, "Permission denied")

    log = AuditLog(rig.store.engine, source="/headend/x", clock=rig.clock, key=rig.key, witnessed=unreadable)
    rig.transact(log.start)
    assert log.ok


def test_what_cannot_be_found_without_a_witness_is_told(rig: Rig) -> None:
    """An older state of everything is a good log; only who has seen a newer one can tell."""
    newest = rig.checkpoint()
    assert newest is not None
    rig.meddle("DELETE FROM audit_records WHERE number > 10")
    rig.meddle("DELETE FROM audit_checkpoints WHERE number > 10")
    verdict = rig.verify()
    assert verdict.is_good
    assert any("older state" in note for note in verdict.notes)
    assert rig.verify(newest).findings == ["checkpoint 15 was witnessed, and is gone"]
    assert parsed(newest.body) == newest


# ------------------------------------------------------------------------------------------------ both verifiers


def test_an_acknowledgement_ends_no_alarm_that_comes_after_it(rig: Rig) -> None:
    rig.append(a_record("break-acknowledged", None, breaks=[19]))
    rig.append(a_record(), a_record())
    rig.meddle("DELETE FROM audit_records WHERE number > 16")
    rig.append(a_record())
    assert kinds(rig)[-2:] == ["chain-broken", "requested"]
    findings = rig.verify().findings
    assert any(finding.startswith("record 19 begins a new segment") for finding in findings)


@pytest.mark.parametrize("number", ["twelve", None, [], {}, 0])
def test_a_break_that_says_nothing_that_can_be_read_explains_no_gap(rig: Rig, number: object) -> None:
    """Acknowledged, too: whoever has the store can write whatever pleases them."""
    witnessed = rig.checkpoint()
    assert witnessed is not None
    rig.append(a_record("chain-broken", None, problem="?", found={"number": number, "hash": "?"}))
    rig.append(a_record("break-acknowledged", None, breaks=[16]))
    rig.meddle("DELETE FROM audit_checkpoints WHERE number > 10")
    findings = rig.verify(witnessed, *rig.checkpoints()).findings
    assert ("checkpoint 15 was witnessed, and is gone" in findings) is (number != 0)


def a_log(dice: random.Random) -> list[bytes]:
    """Well chained, with breaks and acknowledgements of every kind: right ones, forged ones, and what is neither."""
    lines, before, number = [], "0" * 64, 0
    for _ in range(dice.randrange(1, 7)):
        gap = dice.choice([1, 1, 1, 1, 3, -1])
        numbers = [number, number + 1, str(number), 1.5, None, [], "x", True]
        found = dice.choice(
            [{"number": number, "hash": before}, {"number": dice.choice(numbers), "hash": before}, {}, 7]
        )
        breaks: Any = dice.choice([list(range(1, number + 1)), [number], [number, 99], ["1"], "", "ab", None, {}, [[]]])
        kind = dice.choice(["requested", "chain-broken", "break-acknowledged"])
        data: Any = dice.choice([{"problem": "?", "found": found, "breaks": breaks}] * 6 + [{}, [], "found", None])
        number += gap
        record = canonical({"number": number, "kind": kind, "data": data})
        before = hash_of(before, record.decode())
        lines.append(b'{"hash":"' + before.encode() + b'","record":' + record + b"}")
    return lines


def test_both_verifiers_agree_on_what_was_broken_and_who_acknowledged_it() -> None:
    dice, good = random.Random(7), 0
    for _ in range(3000):
        lines = a_log(dice)
        ours = verify_log(entries_in_file(lines))
        theirs, _notes = verify_audit.verify_log(verify_audit.in_file(lines), [], [])
        assert ours.is_good == (theirs == []), (lines, ours.findings, theirs)
        good += ours.is_good
    assert good > 10, "or it would be no comparison"
