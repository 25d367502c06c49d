"""A server's databases, backed up and put back by its own tools: no number and no fence is given a second time."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headend.assembly.prepaid_backup import accounts_go_on_after_server
from headend.cli.main import app
from headend.errors import ConfigError, StoreUnavailable
from headend.feed.pusher_progress import Progress
from headend.prepayment.books.fences import next_fence
from headend.prepayment.storage.database import open_database
from headend.store.backup import go_on_after_server
from headend.store.cursors import Cursors, Saved
from headend.store.lock import sole_owner
from headend.store.migrate import migrate
from headend.store.store import open_store
from tests.headend.assembly.test_prepaid_restore import LATER, NOW, an_account, fences
from tests.headend.support import a_read
from tests.postgres import Postgres

NAME = "luoyang-west"


def test_the_feed_goes_on_behind_a_void_after_the_server_was_put_back(postgres: Postgres) -> None:
    url = postgres.url("restore_store")
    store = open_store(url, NAME)
    store.commit([a_read(slot=slot) for slot in range(10)])
    Cursors(store.engine).save({"slow": Saved(progress=Progress(3))})
    dump = postgres.dump("restore_store")
    store.commit([a_read(slot=10 + slot, amount="7.5") for slot in range(5)])
    gone = {json.loads(event)["id"] for event in store.events_after(10, 100)}
    store.close()
    still_running = open_store(url, NAME)
    still_running.commit([a_read(slot=20)])
    postgres.put_back("restore_store", dump)
    with pytest.raises(StoreUnavailable, match="it was put back, or a standby took over"):
        still_running.commit([a_read(slot=21)])
    still_running.close()

    done = go_on_after_server(url, NAME, NOW, LATER)
    assert (done.last_before, done.backup_at, done.replaced) == (10, NOW, None)
    store = open_store(url, NAME)
    store.commit([a_read(slot=10 + slot, amount="8.5") for slot in range(5)])
    # For whoever has the lost ones, and for whoever has not.
    for after in (10, 13, 15):
        [notice, *again] = [json.loads(event) for event in store.events_after(store.place_of(after).first, 100)]
        assert int(notice["sequence"]) == done.first_sequence > 10**8
        assert (notice["data"]["last_before"], notice["data"]["void_through"]) == (10, done.first_sequence - 1)
        assert len(again) == 5
        assert not {one["id"] for one in again} & gone
    assert Cursors(store.engine).progress("slow") == Progress(3, ((11, done.first_sequence - 1),))
    store.close()
    # Once more, by somebody who is not sure whether it was done.
    assert go_on_after_server(url, NAME, NOW, LATER).first_sequence > done.first_sequence
    assert go_on_after_server(url, NAME, NOW, LATER, beyond=10**15).first_sequence > 10**15


def test_accounts_that_the_server_was_put_back_to_give_no_fence_again(postgres: Postgres) -> None:
    url = postgres.url("restore_accounts")
    database = open_database(url)
    an_account(database, "A1", fence=3)
    dump = postgres.dump("restore_accounts")
    an_account(database, "A2", fence=0)
    with database.writing("paying") as connection:
        given = [next_fence(connection) for _ in range(3)]
    postgres.put_back("restore_accounts", dump)
    with pytest.raises(StoreUnavailable, match="it was put back"), database.writing("paying") as connection:
        next_fence(connection)
    database.dispose()
    accounts_go_on_after_server(url, NOW, LATER)
    database = open_database(url)
    assert min(fences(database).values()) > max(given)  # also of the account that it knows no more
    database.dispose()


def test_what_cannot_be_restored_so_is_refused_and_changes_nothing(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.url("restore_refused")
    open_store(url, NAME).close()
    with pytest.raises(ConfigError, match="set the clock of this machine first"):
        go_on_after_server(url, NAME, LATER + timedelta(seconds=1), LATER)
    with sole_owner(url), pytest.raises(ConfigError, match=r"has the database .* already"):
        go_on_after_server(url, NAME, NOW, LATER)
    with pytest.raises(ConfigError, match="`--beyond` is too high"):
        go_on_after_server(url, NAME, NOW, LATER, beyond=10**17)
    empty = postgres.url("restore_nothing")
    with pytest.raises(ConfigError, match="no table feed_batches in this database: put it back"):
        go_on_after_server(empty, NAME, NOW, LATER)
    with pytest.raises(ConfigError, match="no table feed_cursor"):
        accounts_go_on_after_server(empty, NOW, LATER)
    with pytest.raises(ConfigError, match="is a file: give the backup"):
        go_on_after_server(f"sqlite:///{tmp_path}/headend.db", NAME, NOW, LATER)
    assert not list(tmp_path.iterdir())
    store = open_store(url, NAME)
    assert store.last_sequence() == 0
    store.close()


def test_the_command_says_what_it_did_and_what_it_expects(postgres: Postgres, tmp_path: Path) -> None:
    (tmp_path / "salt").write_text("a salt of thirty-two characters.\n")
    config = tmp_path / "headend.toml"
    stores = [postgres.url("restore_cli"), postgres.url("restore_cli_accounts")]
    config.write_text(
        f'[headend]\nname = "{NAME}"\ntimezone = "Asia/Shanghai"\nstore = "{stores[0]}"\n'
        f'[prepayment]\nenabled = true\nstore = "{stores[1]}"\nidentity_salt = "file:salt"\n'
    )

    def restore(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["restore", str(config), *words])
        return done.exit_code, " ".join(f"{done.output} {done.exception or ''}".split())

    migrate(stores[0])
    open_database(stores[1]).dispose()
    assert restore("--restored-to", "2026-11-21T02:00:00+08:00", "--json")[0] == 0
    told = restore("--restored-to", "2026-11-20T18:00:00Z")
    assert told[0] == 0
    assert "and the numbers between are void" in told[1]
    assert (
        "restored the accounts as of 2026-11-20 18:00 UTC"
        in restore("--accounts", "--restored-to", "2026-11-20T18:00:00Z")[1]
    )
    for words, expected in (
        ((), "expected either BACKUP"),
        (("x.backup", "--restored-to", "2026-11-20T18:00:00Z"), "expected either BACKUP"),
        (("--restored-to", "0001-01-01T00:00:00+08:00"), "expected a time"),
        (("--restored-to", "yesterday"), "expected a time such as 2026-11-22T16:00:00Z"),
        (("--restored-to", "2026-11-20T18:00:00"), "has no zone"),
        (("x.backup",), "--restored-to TIME"),
        (("--accounts", "x.backup"), "--restored-to TIME"),
    ):
        code, said = restore(*words)
        assert code != 0
        assert expected in said
