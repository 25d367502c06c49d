"""Money at the till: who has to be told of it first, what a person books by hand, and the numbers that it is told with."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, select

from headend.prepayment.accounts.changes import changes_of
from headend.prepayment.books import fences
from headend.prepayment.books.points import awards_of
from headend.prepayment.errors import BadPayment, KeyReused, SwitchboardUnavailable, UnknownAccount, UnknownPayment
from headend.prepayment.model import PaymentState
from headend.prepayment.office.till import Till
from headend.prepayment.ports import OpenProof
from headend.prepayment.storage.database import put_rows
from headend.prepayment.storage.tables import fences as fence_rows
from headend.prepayment.supply.store import (
    Content,
    Order,
    Row,
    add_order,
    is_ordered,
    load,
    meters_to_tell,
    newest_orders,
    save,
)
from tests.headend.prepayment.books.test_autopay import DAY, Shop

pytestmark = pytest.mark.both_databases

MINUTE = timedelta(minutes=1)
A = "A2"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.database.dispose()


def order(connection: Connection, key: str, meter: str, at: datetime, *, is_final: bool) -> None:
    proof = OpenProof(account=A, balance_minor=-1, currency="CNY", as_of=at, fence=0)
    content = Content(reason="used up", proof=proof, notices=(), expires_at=at + 10 * MINUTE)
    state = "expired" if is_final else "sent"
    wanted = Order(
        key=key, account=A, meter=meter, episode=1, command=key, state=state, is_final=is_final, content=content
    )
    add_order(connection, wanted, at)


def many_orders(shop: Shop) -> None:
    """The oldest has no end yet."""
    with shop.database.writing("ordering") as connection:
        for number in range(30):
            order(connection, f"k{number:02}", "M8", shop.clock.at + number * MINUTE, is_final=number > 0)


# ------------------------------------------------------------------------------------------------ orders under way


def test_an_order_without_an_end_is_under_way_however_many_came_after_it(shop: Shop) -> None:
    with shop.database.reading("looking") as connection:
        assert not is_ordered(connection, A)
        assert meters_to_tell(connection, A, DAY) == ["M3"]
    many_orders(shop)
    with shop.database.reading("looking") as connection:
        assert is_ordered(connection, A)
        assert meters_to_tell(connection, A, DAY) == ["M3", "M8"]
        assert not is_ordered(connection, "A1")
        assert [one.is_final for one in newest_orders(connection, A)] == [True] * 20


def test_a_credit_overtakes_an_order_that_many_came_after(shop: Shop) -> None:
    many_orders(shop)
    shop.board.is_away = True
    with pytest.raises(SwitchboardUnavailable):
        shop.till.adjust(A, 500, key="goodwill", note="goodwill", by="cashier")
    assert shop.credit(A) == 0
    shop.board.is_away = False
    shop.till.adjust(A, 500, key="goodwill", note="goodwill", by="cashier")
    assert [meter for meter, _, _ in shop.board.told] == ["M3", "M8"]
    assert shop.credit(A) == 500


# ------------------------------------------------------------------------------------------------ beyond the books


def test_what_counts_beyond_the_books_is_asked_only_of_those_whose_supply_is_off(shop: Shop) -> None:
    asked: list[str] = []

    def counted(connection: Connection, account: str, now: datetime) -> int:
        asked.append(account)
        return 300

    till = Till(shop.database, shop.board, shop.days, shop.clock, counted=counted)
    till.take(shop.paid("R1", 100))
    assert (asked, len(shop.board.told)) == ([], 1)
    with shop.database.writing("disconnecting") as connection:
        found = load(connection, A, shop.clock.at)
        off = replace(found.episode, state=found.episode.state.DISCONNECTED, since=shop.clock.at)
        save(connection, replace(found, episode=off))
    till.take(shop.paid("R2", 199))  # 299 in the books
    assert (asked, len(shop.board.told)) == ([A], 1)
    till.take(shop.paid("R3", 1))
    assert (asked, len(shop.board.told)) == ([A, A], 2)


# ------------------------------------------------------------------------------------------------ by hand


def test_an_unmatched_payment_is_assigned_once_with_what_it_earns(shop: Shop) -> None:
    shop.till.take(shop.paid("lost", 50_000, account="nobody"))
    looks_at(shop, None)
    for _ in range(2):
        assigned = shop.till.assign("app", "lost", A, by="cashier")
        assert (assigned.state, assigned.booked_for) == (PaymentState.BOOKED, A)
    assert shop.credit(A) == 50_000 + 200
    assert looked_at(shop) == shop.clock.at
    with shop.database.reading("looking") as connection:
        assert [one.receipt for one in awards_of(connection, A)] == ["lost"]
        (change,) = changes_of(connection, A, limit=10)
    assert (change.by, change.what, change.after) == ("cashier", "payment", "app receipt lost assigned")
    with pytest.raises(BadPayment, match="is booked"):
        shop.till.assign("app", "lost", "A1", by="cashier")
    with pytest.raises(UnknownPayment):
        shop.till.assign("app", "unheard-of", A, by="cashier")


def test_a_correction_is_booked_once_a_key_and_earns_nothing(shop: Shop) -> None:
    looks_at(shop, None)
    for _ in range(2):
        posted = shop.till.adjust(A, 50_000, key="k1", note="meter was wrong", by="Ann")
        assert posted.number > 0
    assert shop.credit(A) == 50_000
    assert looked_at(shop) == shop.clock.at
    shop.till.adjust(A, -20_000, key="k2", note="meter was right", by="Ann")
    assert shop.credit(A) == 30_000
    assert shop.board.told == []
    with pytest.raises(KeyReused):
        shop.till.adjust(A, -1, key="k2", note="meter was right", by="Ann")
    with pytest.raises(UnknownAccount):
        shop.till.adjust("nobody", 1, key="k3", note="gift", by="Ann")


def looks_at(shop: Shop, moment: datetime | None) -> None:
    """An episode, so that it has a time."""
    with shop.database.writing("beginning an episode") as connection:
        found: Row = load(connection, A, shop.clock.at)
        save(connection, replace(found, look_at=moment))


def looked_at(shop: Shop) -> datetime | None:
    with shop.database.reading("looking") as connection:
        return load(connection, A, shop.clock.at).look_at


# ------------------------------------------------------------------------------------------------ fences


def test_fences_count_on_from_the_highest_that_any_account_had(shop: Shop) -> None:
    """A database of a version in which each account counted for itself."""
    with shop.database.writing("as it was") as connection:
        put_rows(connection, fence_rows, [("A1", 7), ("A2", 3)])
        assert [fences.fence_of(connection, one) for one in ("A1", "A2")] == [7, 7]
        assert fences.next_fence(connection) == 8
        assert fences.raise_fence(connection, "A2", "app", "R1", shop.clock.at) == 9
        assert [fences.fence_of(connection, one) for one in ("A1", "A2")] == [9, 8]


def test_a_payment_leaves_one_row_of_fences_and_none_of_its_account(shop: Shop) -> None:
    for number, account in enumerate(("A1", "A2", "A1")):
        shop.till.take(shop.paid(f"R{number}", 100, account=account))
    with shop.database.reading("looking") as connection:
        rows = [(row.account, row.number) for row in connection.execute(select(fence_rows))]
    assert rows == [(fences.ALL_ACCOUNTS, 3)]
