"""After a restore, of the head-end's store or of the accounts: nothing is taken twice, nothing waits for ever, no fence comes again."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from headend.assembly.prepaid_backup import back_up_accounts, restore_accounts
from headend.cli.main import app
from headend.errors import ConfigError, StoreInUse
from headend.prepayment.books.fences import fence_of, next_fence
from headend.prepayment.days import LocalDays
from headend.prepayment.errors import FeedBroken
from headend.prepayment.storage.database import Database, open_database
from headend.prepayment.usage.intake import Intake
from headend.store.backup import back_up, restore
from headend.store.lock import sole_owner
from headend.store.store import Store, open_store
from tests.headend.support import a_read, new_store, store_url

NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=2)
DAYS = LocalDays(ZoneInfo("Asia/Shanghai"))


def quiet(done: int, total: int) -> None:
    """No progress bar."""


class StoreFeed:
    """The feed as the interface gives it: the cursor is taken over what is void."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def events_after(self, sequence: int, limit: int) -> Sequence[bytes]:
        return self._store.events_after(self._store.place_of(sequence).first if sequence else 0, limit)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/prepayment.db"


def an_account(database: Database, account: str, fence: int) -> None:
    with database.writing("making an account") as connection:
        connection.exec_driver_sql("INSERT INTO customers VALUES ('C1', 'Li', 'x', '34') ON CONFLICT DO NOTHING")
        connection.exec_driver_sql("INSERT INTO premises VALUES ('P1', 'here', 0) ON CONFLICT DO NOTHING")
        number = connection.exec_driver_sql("SELECT count(*) FROM accounts").scalar_one() + 1
        connection.exec_driver_sql(
            "INSERT INTO accounts (number, id, customer, premises, currency, tariff, state, opened_on, reminder_minor, topup_minor, "
            f"bank, is_large_household) VALUES ({number}, '{account}', 'C1', 'P1', 'CNY', 't', 'active', 20000, 0, 0, '', 0)"
        )
        for _ in range(fence):
            next_fence(connection)


def fences(database: Database) -> dict[str, int]:
    with database.reading("looking at fences") as connection:
        return {one: fence_of(connection, one) for one in ("A1", "A2")}


@pytest.mark.parametrize("ahead", [0, 3], ids=["at the end of the backup", "ahead of the backup"])
def test_a_restored_store_is_read_on_behind_the_void(tmp_path: Path, url: str, ahead: int) -> None:
    store = new_store(tmp_path)
    store.commit([a_read(slot=slot) for slot in range(5)])
    back_up(store_url(tmp_path), tmp_path / "backup", NOW)
    if ahead:
        store.commit([a_read(slot=5 + slot) for slot in range(ahead)])
    database = open_database(url)
    assert Intake(database, StoreFeed(store), DAYS).catch_up().cursor == 5 + ahead
    store.close()
    restored = restore(store_url(tmp_path), tmp_path / "backup", "luoyang-west", LATER)
    again = open_store(store_url(tmp_path), "luoyang-west")
    again.commit([a_read(slot=9)])
    taken = Intake(database, StoreFeed(again), DAYS).catch_up()
    assert (taken.events, taken.cursor) == (2, restored.first_sequence + 1)
    again.close()
    database.dispose()


def test_a_gap_that_no_restore_explains_is_a_broken_feed(tmp_path: Path, url: str) -> None:
    def event(sequence: int, **data: object) -> bytes:
        return json.dumps({"sequence": str(sequence), "type": "headend.service-status.v1", "data": data}).encode()

    database = open_database(url)
    intake = Intake(database, StoreFeed(new_store(tmp_path)), DAYS)
    for page in (
        [event(7, kind="capacity")],
        [event(7, kind="restored", last_before=0, void_through=9)],  # it is not the first behind the void
        [event(7, kind="restored", last_before=3, void_through=6)],  # events 1 to 3 are missing
        [event(7, kind="restored", last_before="none")],
    ):
        with pytest.raises(FeedBroken, match="expected 1"):
            intake.take(page, 0)
    assert intake.take([event(7, kind="restored", last_before=0, void_through=6)], 0).cursor == 7
    database.dispose()


def test_a_restored_account_never_gives_a_fence_again(tmp_path: Path, url: str) -> None:
    """Opens that rest on a balance from before the loss stay void, and those on later balances are not."""
    database = open_database(url)
    an_account(database, "A1", fence=3)
    an_account(database, "A2", fence=0)
    taken = back_up_accounts(url, tmp_path, NOW, quiet)
    assert taken is not None
    assert taken.path.name == "prepayment-20260201T120000Z.backup"
    with database.writing("paying") as connection:
        given = [next_fence(connection) for account in ("A1", "A2", "A2")]
    assert given == [4, 5, 6]
    database.dispose()

    restored = restore_accounts(url, taken.path, LATER, quiet)
    assert restored.backup_at == NOW
    assert restored.replaced is not None
    first = open_database(url)
    after = fences(first)
    assert min(after.values()) > max(given)
    first.dispose()
    restore_accounts(url, taken.path, LATER + timedelta(minutes=1), quiet)
    second = open_database(url)
    assert all(fences(second)[account] > after[account] for account in after)
    second.dispose()


def test_accounts_that_are_not_in_the_backup_give_no_fence_again_either(tmp_path: Path, url: str) -> None:
    open_database(url).dispose()
    taken = back_up_accounts(url, tmp_path, NOW, quiet)
    assert taken is not None
    database = open_database(url)
    an_account(database, "A1", fence=0)
    with database.writing("paying") as connection:
        given = [next_fence(connection) for _ in range(3)]
    database.dispose()
    restore_accounts(url, taken.path, LATER, quiet)
    database = open_database(url)
    an_account(database, "A1", fence=0)
    with database.writing("paying") as connection:
        assert fence_of(connection, "A1") > max(
            given
        )  # the switch remembers these, and refuses an order with a lower one
        assert next_fence(connection) > max(given)
    database.dispose()


def test_a_backup_names_what_it_is_of(tmp_path: Path, url: str) -> None:
    store = new_store(tmp_path)
    store.commit([a_read()])
    store.close()
    open_database(url).dispose()
    back_up(store_url(tmp_path), tmp_path / "x.backup", NOW)
    taken = back_up_accounts(url, tmp_path / "x.backup", NOW, quiet)
    assert taken is not None
    assert taken.path == tmp_path / "x-accounts.backup"
    with pytest.raises(ConfigError, match="another database"):
        restore_accounts(url, tmp_path / "x.backup", LATER, quiet)
    with pytest.raises(ConfigError, match="another database"):
        restore(store_url(tmp_path), taken.path, "luoyang-west", LATER)
    with sole_owner(url), pytest.raises(StoreInUse):
        restore_accounts(url, taken.path, LATER, quiet)


def test_accounts_that_were_never_made_need_no_backup(tmp_path: Path, url: str) -> None:
    assert back_up_accounts(url, tmp_path, NOW, quiet) is None


SERVER = "postgresql+psycopg://headend@127.0.0.1:9/none"  # nobody is asked there


@pytest.mark.parametrize("is_store", [False, True], ids=["the accounts", "the store"])
def test_what_is_on_a_server_is_said_and_the_other_is_backed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_store: bool
) -> None:
    # The configuration wants the driver to be installed; nothing of it is used.
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "psycopg.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "drivers")
    store = new_store(tmp_path)
    store.commit([a_read()])
    store.close()
    open_database(f"sqlite:///{tmp_path}/prepayment.db").dispose()
    (tmp_path / "salt").write_text("a salt of thirty-two characters.\n")
    stores = (SERVER, "sqlite:///prepayment.db") if is_store else (store_url(tmp_path), SERVER)
    config = tmp_path / "headend.toml"
    config.write_text(
        f'[headend]\nname = "luoyang-west"\ntimezone = "Asia/Shanghai"\nstore = "{stores[0]}"\n'
        f'[prepayment]\nenabled = true\nstore = "{stores[1]}"\nidentity_salt = "file:salt"\n'
    )
    done = CliRunner().invoke(app, ["backup", str(config), str(tmp_path / "x.backup"), "--json"])
    assert done.exit_code == 0, done.output
    assert f"the {'store is' if is_store else 'accounts are'} not in this backup" in " ".join(done.stderr.split())
    told = json.loads(done.stdout)
    taken = told["accounts"] if is_store else told
    assert Path(taken["path"]).is_file()
    assert ("path" in told, "accounts" in told) == (not is_store, is_store)
    assert told["left_out"] == ["store" if is_store else "accounts"]
