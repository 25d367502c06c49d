"""What the store's SQL looks like to PostgreSQL; no server is needed to see that it can be said there."""

import re
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from headend.store import audit
from headend.store.audit_tables import audit_breaks, audit_checkpoints, audit_records


def test_the_tables_and_questions_can_be_said_in_both_databases() -> None:
    for dialect in (sqlite.dialect(), postgresql.dialect()):  # type: ignore[no-untyped-call]
        for table in (audit_records, audit_checkpoints, audit_breaks):
            assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        told: list[Any] = [audit._TAIL.statement, audit._ROWS, audit._METER_COUNT.statement]
        for statement in told:
            text = str(statement.compile(dialect=dialect))
            assert not re.search(r"rowid|PRAGMA|INSERT OR", text)


def test_numbers_are_wide_enough_for_ever() -> None:
    text = str(CreateTable(audit_records).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert text.count("BIGINT") == 2
