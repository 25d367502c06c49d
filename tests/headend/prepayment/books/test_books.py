"""The books balance at all times, an entry is booked once for ever, and tampering shows."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import delete, update

from headend.database.engine import reading, writing
from headend.prepayment.books.books import balance_of, balances_of, check_books, entries_of, post
from headend.prepayment.errors import KeyReused
from headend.prepayment.model import Cause, customer_book
from headend.prepayment.storage.tables import books, entries
from tests.headend.prepayment.support import DAY, an_entry, database


def test_a_payment_and_a_charge_leave_the_difference(tmp_path: Path) -> None:
    with database(tmp_path) as engine:
        with writing(engine, "booking") as connection:
            posted = post(connection, [an_entry("p1", 5000), an_entry("c1", 1234, cause=Cause.DAILY_CHARGE)])
        assert [(one.number, one.is_new) for one in posted] == [(1, True), (2, True)]
        with reading(engine, "looking") as connection:
            assert balance_of(connection, "A1", "CNY") == 3766
            assert balances_of(connection, ["A1", "A2"]) == {"A1": 3766}
            assert [(number, entry.cause, moved) for number, entry, moved in entries_of(connection, "A1")] == [
                (1, Cause.PAYMENT, 5000),
                (2, Cause.DAILY_CHARGE, -1234),
            ]
            assert check_books(connection) == []


def test_entries_are_found_by_their_day_and_those_of_earlier_days_by_when_they_were_booked(tmp_path: Path) -> None:
    days = [DAY + place * timedelta(days=1) for place in (0, 1, 2, 0, 1, 5)]
    with database(tmp_path) as engine:
        with writing(engine, "booking") as connection:
            post(connection, [replace(an_entry(f"p{place}"), day=day) for place, day in enumerate(days)])
        with reading(engine, "looking") as connection:

            def found(**wanted: Any) -> list[int]:
                return [number for number, _, _ in entries_of(connection, "A1", **wanted)]

            assert found(since=days[2]) == [3, 6]
            assert found(since=days[2], until=days[5], booked_after=3) == [3, 4, 5]
            assert found(since=days[2], until=days[1], booked_after=3) == [4]
            assert found(newest=2) == [5, 6]


def test_an_entry_told_again_is_the_same_and_told_otherwise_is_refused(tmp_path: Path) -> None:
    with database(tmp_path) as engine:
        with writing(engine, "booking") as connection:
            first = post(connection, [an_entry("p1"), an_entry("p1")])
        assert [one.number for one in first] == [1, 1]
        with writing(engine, "booking") as connection:
            again = post(connection, [replace(an_entry("p1"), note="told later"), an_entry("p2")])
        assert [(one.number, one.is_new) for one in again] == [(1, False), (2, True)]
        with (
            pytest.raises(KeyReused, match=r"'p1' .*amount_minor 100, now 101"),
            writing(engine, "booking") as connection,
        ):
            post(connection, [an_entry("p3"), an_entry("p1", 101)])
        with reading(engine, "looking") as connection:
            assert balance_of(connection, "A1", "CNY") == 200  # nothing of the refused call was booked
            assert check_books(connection) == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    portions=st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 30), st.integers(1, 10**9), st.sampled_from(["A1", "A2", "A3"]),
                st.sampled_from([Cause.PAYMENT, Cause.DAILY_CHARGE]),
            ),
            max_size=6,
        ),
        max_size=8,
    )
)  # fmt: skip
def test_whatever_is_booked_in_whatever_portions_balances(
    tmp_path_factory: pytest.TempPathFactory, portions: list[list[tuple[int, int, str, Cause]]]
) -> None:
    expected: dict[str, tuple[int, str, Cause]] = {}
    with database(tmp_path_factory.mktemp("books")) as engine:
        for portion in portions:
            told = [
                an_entry(f"k{key}", amount, account=account, cause=cause) for key, amount, account, cause in portion
            ]
            before = dict(expected)
            try:
                with writing(engine, "booking") as connection:
                    post(connection, told)
            except KeyReused:
                expected = before
                continue
            for key, amount, account, cause in portion:
                expected.setdefault(f"k{key}", (amount, account, cause))
        with reading(engine, "looking") as connection:
            assert check_books(connection) == []
            for account in ("A1", "A2", "A3"):
                moved = [
                    amount if cause is Cause.PAYMENT else -amount
                    for amount, name, cause in expected.values()
                    if name == account
                ]
                assert balance_of(connection, account, "CNY") == sum(moved)


def test_tampering_shows(tmp_path: Path) -> None:
    with database(tmp_path) as engine:
        with writing(engine, "booking") as connection:
            post(connection, [an_entry("p1"), an_entry("p2"), an_entry("c1", 30, cause=Cause.DAILY_CHARGE)])
        with writing(engine, "tampering") as connection:
            connection.execute(update(entries).where(entries.c.number == 1).values(amount_minor=900))
        with reading(engine, "looking") as connection:
            assert len(check_books(connection)) == 2
        with writing(engine, "tampering") as connection:
            connection.execute(update(entries).where(entries.c.number == 1).values(amount_minor=100))
            connection.execute(update(books).where(books.c.name == customer_book("A1")).values(balance_minor=900))
        with reading(engine, "looking") as connection:
            assert any("sum to" in one for one in check_books(connection))
        with writing(engine, "tampering") as connection:
            connection.execute(delete(entries).where(entries.c.number == 2))
        with reading(engine, "looking") as connection:
            assert any("one was removed" in one for one in check_books(connection))


@pytest.mark.parametrize("amount", [0, -5])
def test_nothing_and_less_are_no_entries(tmp_path: Path, amount: int) -> None:
    with (
        database(tmp_path) as engine,
        writing(engine, "booking") as connection,
        pytest.raises(ValueError, match="more than 0"),
    ):
        post(connection, [an_entry("p1", amount)])
