"""Appending: durable with what it tells of, and never believed before it is."""

import json
import random
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from headend.audit.record import AuditError, AuditRecord, SecretInRecord, UnknownKind
from headend.errors import ItemRefused, StoreUnavailable
from headend.keys import SigningKey
from headend.model import Event, Item
from tests.headend.audit.support import Rig, a_record
from tests.headend.support import an_event


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, key=SigningKey.new())


class Crash(Exception):
    pass


def an_odd_record(data: dict[str, object]) -> AuditRecord:
    return AuditRecord(kind="fact", subject="c-1", actor="billing", data={"command": "c-1", "meter": "M000001", **data})


def test_records_are_numbered_from_one_without_gap_and_chained(rig: Rig) -> None:
    assert rig.append(a_record(), a_record("checked")) == [1, 2]
    assert rig.append(a_record("refused", None), at_once=True) == [3]
    rows = rig.book.records()
    bodies = [json.loads(row.body) for row in rows]
    assert [body["number"] for body in bodies] == [1, 2, 3]
    assert [(body.get("meter"), body.get("meter_number")) for body in bodies] == [
        ("M000001", 1),
        ("M000001", 2),
        (None, None),
    ]
    assert bodies[0] | {"data": None} == {
        "number": 1,
        "at": "2026-01-31T16:00:00.000Z",
        "kind": "requested",
        "actor": "billing",
        "subject": "c-1",
        "meter": "M000001",
        "meter_number": 1,
        "data": None,
    }
    assert rig.verify().is_good


def test_a_record_is_durable_with_the_rows_and_events_of_its_transaction_or_not_at_all(rig: Rig) -> None:
    def work(connection: Connection) -> tuple[int, list[Item]]:
        return rig.log.append(connection, a_record(), rig.clock.now()), [an_event()]

    assert rig.store.transact(work, "testing") == (1, [1])

    def crash(connection: Connection) -> tuple[int, list[Item]]:
        work(connection)
        raise Crash

    with pytest.raises(Crash):
        rig.store.transact(crash, "testing")

    def refused(connection: Connection) -> tuple[int, list[Item]]:
        data: dict[str, object] = {}
        event = Event(type="headend.relay.v1", subject="M000001", data=data, time=rig.clock.now())
        data["x"] = object()  # only shows when it is written
        return work(connection)[0], [event]

    with pytest.raises(ItemRefused):
        rig.store.transact(refused, "testing")
    assert rig.book.last_number() == 1
    assert rig.store.last_sequence() == 1
    assert rig.append(a_record()) == [2]
    assert rig.log.ok


def test_transactions_that_are_rolled_back_at_random_points_leave_no_trace(rig: Rig, tmp_path: Path) -> None:
    dice = random.Random(5)
    expected = 0
    for number in range(400):
        size, dies_after = dice.randrange(1, 6), dice.choice([None, None, 0, 1, 3, 5])
        signs = dice.random() < 0.1

        def work(
            connection: Connection, size: int = size, dies_after: int | None = dies_after, signs: bool = signs
        ) -> tuple[None, list[Item]]:
            for place in range(size):
                if place == dies_after:
                    raise Crash
                rig.log.append(connection, a_record(meter=f"M{place}"), rig.clock.now())
            if signs:
                rig.log.checkpoint(connection, rig.clock.now())
            if dies_after == size:
                raise Crash
            return None, []

        if dies_after is not None and dies_after <= size:
            with pytest.raises(Crash):
                rig.store.transact(work, "testing")
        else:
            rig.store.transact(work, "testing")
            expected += size
        if dice.random() < 0.05:
            rig.restart()
        assert rig.book.last_number() == expected, number
        assert rig.log.ok
    rig.checkpoint()
    assert rig.verify(*rig.checkpoints()).findings == []


def test_a_commit_that_fails_does_not_move_the_end(rig: Rig) -> None:
    rig.append(a_record())

    def work(connection: Connection) -> tuple[int, list[Item]]:
        number = rig.log.append(connection, a_record(), rig.clock.now())
        # A constraint that is looked at only by the commit itself.
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS parent (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql(
            "CREATE TABLE IF NOT EXISTS child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
        )
        connection.exec_driver_sql("INSERT INTO child VALUES (7)")
        return number, []

    with rig.store.engine.connect() as connection:
        assert connection.connection.dbapi_connection is not None
        connection.connection.dbapi_connection.execute("PRAGMA foreign_keys=ON")
    with pytest.raises(StoreUnavailable, match="FOREIGN KEY"):
        rig.store.transact(work, "testing")
    assert rig.log.ok
    assert rig.append(a_record()) == [2]
    assert rig.log.ok
    assert rig.verify().is_good


def test_records_of_another_process_are_followed(rig: Rig) -> None:
    rig.append(a_record())
    other = rig.new_log()
    mine, rig.log = rig.log, other
    assert rig.append(a_record(), a_record()) == [2, 3]
    rig.log = mine
    assert rig.append(a_record()) == [4]
    rig.log = other
    assert rig.append(a_record()) == [5]
    assert mine.ok
    assert other.ok
    assert rig.verify().is_good


def test_a_part_that_is_undone_inside_a_transaction_is_no_break(rig: Rig) -> None:
    rig.append(a_record())

    def work(connection: Connection) -> tuple[None, list[Item]]:
        rig.log.append(connection, a_record(), rig.clock.now())
        inner = connection.begin_nested()
        rig.log.append(connection, a_record(), rig.clock.now())
        inner.rollback()
        assert rig.log.append(connection, a_record("refused"), rig.clock.now()) == 3
        raise Crash

    with pytest.raises(Crash):
        rig.store.transact(work, "testing")
    assert rig.append(a_record()) == [2]
    assert rig.log.ok
    assert rig.verify().is_good


def test_a_wall_clock_that_is_set_back_breaks_nothing(rig: Rig) -> None:
    rig.append(a_record())
    rig.checkpoint()
    rig.clock.wall -= timedelta(days=400)
    rig.append(a_record())
    rig.checkpoint()
    assert rig.restart().ok
    assert rig.verify(*rig.checkpoints()).findings == []
    assert [json.loads(row.body)["at"][:4] for row in rig.book.records()] == ["2026", "2024"]


def test_no_checkpoint_covers_more_than_a_thousand_records(rig: Rig) -> None:
    rig.append(*(a_record(meter=None) for _ in range(300)), at_once=True)
    rig.append(*(a_record(meter=None) for _ in range(2500)), at_once=True)
    for _ in range(3):
        rig.append(*(a_record() for _ in range(150)))
    rig.checkpoint()
    found = rig.checkpoints()
    assert [one.number for one in found] == [1000, 2000, 3000, 3250]
    assert max(one.number - one.first + 1 for one in found) == 1000
    assert rig.verify(*found).findings == []
    assert rig.checkpoint() is None


@pytest.mark.parametrize(
    "data",
    [
        {"password": "111111"},
        {"operator_code": "00000000"},
        {"operatorCode": "12345678"},
        {"Api-Token": "x"},
        {"pw": "1"},
        {"nested": [{"meter_pin": 1234}]},
        {"session_token": b"\x01"},
        {"client_secret_2": "x"},
        {"text": "with hdt_abcdefghijklmnopqrstuvwxyz"},
        {"pem": SigningKey.new().pem},
    ],
)
def test_secrets_are_refused_in_tests_and_masked_in_service(tmp_path: Path, data: dict[str, object]) -> None:
    rig = Rig(tmp_path)
    with pytest.raises(SecretInRecord, match=r"named like a secret|looks like a secret") as raised:
        rig.append(an_odd_record(data))
    told = str(raised.value)
    rig.strict = False
    rig.log = rig.new_log()
    rig.append(an_odd_record(data))
    body = rig.book.records()[0].body
    assert "***" in body
    for canary in ("111111", "00000000", "12345678", "1234", "hdt_abc", "PRIVATE KEY", "MC4CAQ"):
        assert canary not in body
        assert canary not in told


def test_what_only_sounds_like_a_secret_is_written(rig: Rig) -> None:
    said = {"idempotency_key": "k-7", "fence": 12, "operator": "Li Wei", "token_name": "billing", "password": None}
    rig.append(an_odd_record(said))
    assert json.loads(rig.book.records()[0].body)["data"] == {"command": "c-1", "meter": "M000001", **said}


def test_what_cannot_be_written_is_refused_in_tests_and_told_in_service(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    loop: dict[str, object] = {}
    loop["loop"] = loop
    odd: list[dict[str, object]] = [{"x": object()}, {"x": float("nan")}, loop, {"x": {(1, 2): 3}}]
    for bad in odd:
        with pytest.raises(AuditError):
            rig.append(an_odd_record(bad))
    with pytest.raises(UnknownKind, match="kinds"):
        rig.append(a_record("knocked"))
    rig.strict = False
    rig.log = rig.new_log()
    for bad in odd:
        rig.append(an_odd_record(bad))
    rig.append(
        a_record("knocked"), AuditRecord(kind="fact", subject="\ud800", actor="\udfff", data={"\ud800": "\ud801"})
    )
    rig.append(a_record(long="x" * 3_000_000))
    assert "3000" in rig.book.records()[-1].body
    assert len(rig.book.records()[-1].body) < 1000
    assert rig.verify(signed=False).is_good
