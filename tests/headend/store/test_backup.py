"""A backup is one moment of a store at work; a restored store gives no number and no id to anything else."""

import json
import os
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headend.errors import ConfigError, StoreInUse, StoreUnavailable
from headend.feed.pusher_progress import Progress
from headend.model import PushedRead
from headend.store import Store
from headend.store.backup import back_up, restore
from headend.store.cursors import Cursors, Saved
from headend.store.ledger import LedgerBook
from headend.store.lock import sole_owner
from headend.store.restores import STEP
from headend.store.store import open_store
from tests.headend.support import a_read, an_event, new_store, store_url

NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)  # after the reads' interval ends
LATER = NOW + timedelta(hours=2)
MINUTE = 45480  # of LATER, since 2026 began
REVISION = 10 * MINUTE


def numbers(store: Store, after: int = 0) -> list[int]:
    return [int(one["sequence"]) for one in events(store, after)]


def events(store: Store, after: int = 0) -> list[dict[str, Any]]:
    return [json.loads(text) for text in store.events_after(after, 10_000)]


def restored(tmp_path: Path, *, before: int = 10, lost: int = 5, **options: Any) -> tuple[Store, list[dict[str, Any]]]:
    """A store that was backed up with `before` events and restored after `lost` more; and the lost ones."""
    store = new_store(tmp_path)
    store.commit([a_read(slot=slot, amount=f"{slot}.5") for slot in range(before)])
    Cursors(store.engine).save({"billing": Saved(progress=Progress(before)), "slow": Saved(progress=Progress(3))})
    taken = back_up(store_url(tmp_path), tmp_path / "backup", NOW)
    assert taken.last_sequence == before
    if lost:
        store.commit([a_read(slot=before + slot, amount=f"7.{slot}") for slot in range(lost)])
    gone = events(store, before)
    store.close()
    restore(store_url(tmp_path), tmp_path / "backup", "luoyang-west", LATER, **options)
    return open_store(store_url(tmp_path), "luoyang-west"), gone


def test_a_backup_under_load_is_one_moment_without_a_hole(tmp_path: Path) -> None:
    """Goal: 2,000 reads a second go on meanwhile, and neither side waits for the other."""
    store = new_store(tmp_path)
    for slot in range(20):
        store.commit([a_read(f"M{meter:06d}", slot) for meter in range(1000)])
    stop, stored, slowest_s = threading.Event(), [20_000], [0.0]

    def write() -> None:
        slot = 20
        while not stop.wait(0.1):
            began = datetime.now(UTC)
            store.commit([a_read(f"M{meter:06d}", slot) for meter in range(200)])
            slowest_s[0] = max(slowest_s[0], (datetime.now(UTC) - began).total_seconds())
            stored[0] += 200
            slot += 1

    writer = threading.Thread(target=write)
    writer.start()
    shown: list[tuple[int, int]] = []

    def show(done: int, total: int) -> None:
        shown.append((done, total))
        if len(shown) == 1:  # commits fall between the first pages and the last
            stop.wait(0.3)

    try:
        before = stored[0]
        taken = back_up(store_url(tmp_path), tmp_path / "backup", NOW, show)
    finally:
        stop.set()
        writer.join()
    assert before <= taken.last_sequence < stored[0], "nothing was written meanwhile"
    assert slowest_s[0] < 2
    assert shown[-1][0] == shown[-1][1] > 0
    assert sorted(path.name for path in tmp_path.iterdir() if "backup" in path.name) == ["backup"]
    store.close()
    copied = Store(f"sqlite:///{tmp_path / 'backup'}", "copy")
    assert numbers(copied, 0)[:1] == [1]
    assert copied.last_sequence() == taken.last_sequence
    with copied.engine.connect() as connection:
        count = connection.exec_driver_sql("SELECT count(*), max(sequence) FROM reads").one()
    assert tuple(count) == (taken.last_sequence, taken.last_sequence)
    copied.close()


def test_a_backup_keeps_the_stores_permissions_and_overwrites_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    os.chmod(tmp_path / "headend.db", 0o640)
    taken = back_up(store_url(tmp_path), tmp_path, NOW)
    assert taken.path.name == "headend-20260201T120000Z.backup"
    assert taken.path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        back_up(store_url(tmp_path), taken.path, NOW)
    store.close()


def test_a_backup_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    new_store(tmp_path).close()
    with pytest.raises(StoreUnavailable, match="backing up"):
        back_up(store_url(tmp_path), tmp_path / "missing" / "backup", NOW)
    assert not list(tmp_path.glob("*.part"))


def test_a_store_that_is_not_there_is_not_backed_up_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no store"):
        back_up(store_url(tmp_path), tmp_path / "backup", NOW)
    assert list(tmp_path.iterdir()) == []


def test_the_feed_goes_on_above_everything_that_can_have_been_given_out(tmp_path: Path) -> None:
    store, _ = restored(tmp_path)
    assert numbers(store) == list(range(1, 11))
    (notice,) = events(store, 10)
    assert notice["type"] == "headend.service-status.v1"
    assert notice["data"] == {
        "kind": "restored",
        "state": "restored",
        "last_before": 10,
        "void_through": int(notice["sequence"]) - 1,
        "backup_at": "2026-02-01T12:00:00Z",
    }
    assert int(notice["sequence"]) == MINUTE * STEP + 1
    assert store.commit([an_event()]) == [int(notice["sequence"]) + 1]
    store.close()


def test_a_consumer_that_is_ahead_of_the_backup_goes_on_without_missing_anything(tmp_path: Path) -> None:
    store, gone = restored(tmp_path)
    store.commit([an_event(), an_event()])
    there = numbers(store, 10)
    assert len(there) == 3
    for after in (10, 12, int(gone[-1]["sequence"]), there[0] - 1):
        assert numbers(store, after) == there
    assert numbers(store, there[0]) == there[1:]
    assert numbers(store, 8) == [9, 10]
    assert store.place_of(8).first == 8
    assert store.place_of(8).last == 10
    assert store.place_of(12).first == there[0] - 1
    store.close()


def test_no_id_is_given_to_another_event_after_a_restore(tmp_path: Path) -> None:
    """The same intervals are read again, with what the meter says now: for the consumer that has the lost ones, corrections."""
    store, gone = restored(tmp_path)
    store.commit([a_read(slot=slot, amount=f"8.{slot}") for slot in range(10, 15)])
    store.commit([PushedRead(read=a_read("M000002", slot=slot, amount="9.9")) for slot in range(3)])
    again = events(store, 10)[1:]
    assert not {one["id"] for one in again} & {one["id"] for one in gone}
    assert {one["data"]["revision"] for one in again} == {REVISION}
    # What is known of intervals from before the backup stays: a repeat is a repeat, a correction goes above all.
    assert store.commit([a_read(slot=2, amount="5.5")]) == [None]
    assert store.commit([a_read(slot=11, amount="5.5")]) == [None]
    assert store.commit([a_read(slot=2, amount="5.5", revision=1)]) != [None]
    assert events(store, 10)[-1]["data"]["revision"] == REVISION + 1
    # And what could not have been given out yet begins at 0.
    store.commit([a_read(slot=96 * 30, amount="1")])
    assert events(store, 10)[-1]["data"]["revision"] == 0
    store.close()


def test_destinations_wait_for_no_void_number(tmp_path: Path) -> None:
    store, _ = restored(tmp_path)
    first = store.last_sequence()
    cursors = Cursors(store.engine)
    assert cursors.progress("billing") == Progress(first - 1)
    assert cursors.progress("slow") == Progress(3, ((11, first - 1),))
    assert cursors.progress("slow").open_up_to(first) == 8  # type: ignore[union-attr]
    # A stretch has no void inside: numbers are counted from its first.
    assert (stretch := cursors.events_from(9, 100, 10**6)).first == 9
    assert len(stretch.events) == 2
    assert cursors.events_from(11, 100, 10**6).first == first
    store.close()


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_second_restore_of_the_same_backup_goes_on_higher_still(tmp_path: Path, is_lost: bool) -> None:
    store, _ = restored(tmp_path)
    store.commit([a_read(slot=12, amount="6.6")])
    second = numbers(store, 10)
    ids = {one["id"] for one in events(store, 10)}
    store.close()
    if is_lost:
        (tmp_path / "headend.db").unlink()
    restore(store_url(tmp_path), tmp_path / "backup", "luoyang-west", LATER + timedelta(minutes=is_lost))
    store = open_store(store_url(tmp_path), "luoyang-west")
    store.commit([a_read(slot=12, amount="7.7")])
    third = events(store, 10)
    assert int(third[0]["sequence"]) > second[-1]
    assert not ids & {one["id"] for one in third}
    store.close()


def test_what_a_consumer_is_known_to_have_raises_the_step(tmp_path: Path) -> None:
    store, _ = restored(tmp_path, beyond=10**6 * STEP)
    assert store.last_sequence() == (10**6 + 1) * STEP + 1
    store.close()


def test_a_running_store_is_not_overwritten(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    back_up(store_url(tmp_path), tmp_path / "backup", NOW)
    with sole_owner(store_url(tmp_path)), pytest.raises(StoreInUse):
        restore(store_url(tmp_path), tmp_path / "backup", "luoyang-west", LATER)
    store.close()


def test_the_replaced_store_is_kept_with_its_log(tmp_path: Path) -> None:
    store, gone = restored(tmp_path)
    store.close()
    (replaced,) = tmp_path.glob("headend.db.replaced-*Z")
    with closing(sqlite3.connect(replaced)) as former:
        assert former.execute("SELECT max(first + count - 1) FROM feed_batches").fetchone() == (15,)
    assert len(gone) == 5


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    new_store(tmp_path).close()
    before = (tmp_path / "headend.db").read_bytes()
    (tmp_path / "text").write_text("no")
    (tmp_path / "copy").write_bytes(before)
    for name, said in (("text", "not a backup"), ("copy", "not a backup"), ("missing", "no backup")):
        with pytest.raises(ConfigError, match=said):
            restore(store_url(tmp_path), tmp_path / name, "luoyang-west", LATER)
    back_up(store_url(tmp_path), tmp_path / "backup", NOW)
    whole = bytearray((tmp_path / "backup").read_bytes())
    whole[8192 : 8192 + 20_000] = bytes(20_000)
    (tmp_path / "backup").write_bytes(whole)
    with pytest.raises((StoreUnavailable, ConfigError)):
        restore(store_url(tmp_path), tmp_path / "backup", "luoyang-west", LATER)
    back_up(store_url(tmp_path), tmp_path / "second", NOW)
    with pytest.raises(ConfigError, match="set the clock"):
        restore(store_url(tmp_path), tmp_path / "second", "luoyang-west", NOW - timedelta(days=3))
    assert (tmp_path / "headend.db").read_bytes() == before
    assert not list(tmp_path.glob("*.restoring*"))


def test_manifests_of_the_lost_time_are_not_issued_again_under_their_revision(tmp_path: Path) -> None:
    store, _ = restored(tmp_path)
    book = LedgerBook(store.engine)
    assert book.lowest_revision() == REVISION
    (void,) = book.voids()
    assert (void.first, void.last) == (11, store.last_sequence() - 1)
    store.close()
