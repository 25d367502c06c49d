"""Figures: what grows for ever is not counted every minute, what somebody waits for is."""

from datetime import timedelta

from headend.prepayment.storage.database import put_rows
from headend.prepayment.storage.supply_tables import HANDED, HEARD, cursor_of, supply_cursors
from headend.prepayment.storage.tables import feed_cursor
from headend.prepayment.views.figures import COUNT_EVERY, Figures, figures_of
from tests.headend.prepayment.office_world import A, OfficeWorld

MINUTE = timedelta(minutes=1)


def figures(world: OfficeWorld, before: Figures | None = None) -> Figures:
    with world.database.reading("counting") as connection:
        return figures_of(connection, world.town.now, world.days, before)


def test_messages_and_payments_are_counted_every_quarter_of_an_hour(world: OfficeWorld) -> None:
    first = figures(world)
    assert (first.accounts, first.payments, first.messages) == ({}, {}, {})
    world.open()
    world.pay(100)
    world.office.hold(A, "dialysis at home", by="clerk")
    world.town.now += COUNT_EVERY - MINUTE
    second = figures(world, first)
    assert (second.accounts, second.payments, second.messages) == ({}, {}, {})
    assert second.flags == {"hold": 1}
    world.town.now += MINUTE
    third = figures(world, second)
    assert (third.accounts, third.payments) == ({"active": 1}, {("app", "booked"): 1})
    assert sum(third.messages.values()) == 1
    world.town.now -= timedelta(days=1)  # the clock was set back: it is not waited for until it comes round
    assert figures(world, first).accounts == {"active": 1}


def test_how_far_the_feed_was_taken_in_is_known_each_time(world: OfficeWorld) -> None:
    first = figures(world)
    with world.database.writing("hearing") as connection:
        put_rows(connection, feed_cursor, [(1, 12)])
        put_rows(connection, supply_cursors, [(HEARD, 9), (HANDED, 4)])
        put_rows(connection, supply_cursors, [(HEARD, 10)])
        assert (cursor_of(connection, HEARD), cursor_of(connection, HANDED)) == (10, 4)
    assert (first.heard_through, figures(world, first).heard_through) == (0, 10)
