"""What an older program left in its database is there, and right, after the upgrade."""

from datetime import date
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect

from headend.database.engine import connect, writing
from headend.prepayment.books.autopay import debits_of
from headend.prepayment.days import day_number
from headend.prepayment.storage import migrations
from headend.prepayment.storage.database import open_database
from tests.databases import database_url

pytestmark = pytest.mark.both_databases

DAY = date(2026, 3, 2)


def old_debit(account: str, day: int, tries: int) -> str:
    return (
        f"INSERT INTO debits VALUES ('{account}', {day}, 'debit:{account}:{day}:1', 5000, 'unknown', {tries}, 0, 0, '')"
    )


def database_of(url: str, revision: str, *statements: str) -> None:
    engine = connect(url)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    with writing(engine, "making an old database") as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for text in statements:
            connection.exec_driver_sql(text)
    engine.dispose()


def test_debits_that_were_asked_for_are_of_the_agreement_that_the_account_had(tmp_path: Path) -> None:
    url = database_url(tmp_path, "prepayment")
    database_of(
        url,
        "0004",
        "INSERT INTO customers VALUES ('C1', 'Wang', '', '')",
        "INSERT INTO premises VALUES ('P1', '1', 0)",
        "INSERT INTO accounts VALUES (1, 'A1', 'C1', 'P1', 'CNY', 'flat', 'active', 1, NULL, 2000, 5000, 'DE-1', 0)",
        old_debit("A1", day_number(DAY), 1),
        old_debit("A1", day_number(DAY) + 1, 0),
        old_debit("A9", day_number(DAY), 1),
    )
    database = open_database(url)
    with database.reading("looking") as connection:
        found = [[one.agreement for one in debits_of(connection, account)] for account in ("A1", "A9")]
    database.dispose()
    assert found == [["DE-1", ""], [""]]


def test_a_table_that_an_early_program_made_for_nothing_goes(tmp_path: Path) -> None:
    url = database_url(tmp_path, "prepayment")
    database_of(url, "0004", "CREATE TABLE notices (account TEXT PRIMARY KEY)")
    database = open_database(url)
    assert "notices" not in inspect(database.engine).get_table_names()
    database.dispose()
