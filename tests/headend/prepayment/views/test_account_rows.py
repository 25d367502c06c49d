"""Accounts in a list say what their cards say, and cost a fraction of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import event

from tests.headend.prepayment.office_world import DAY, HOUR, TRIAL, A, M, OfficeWorld

B, C = "A0002", "A0003"


@pytest.fixture(params=[None, TRIAL], ids=["by days", "today counts"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OfficeWorld]:
    found = OfficeWorld(tmp_path) if request.param is None else OfficeWorld(tmp_path, plan=request.param)
    yield found
    found.aclose()


def test_a_row_says_what_its_card_says(world: OfficeWorld) -> None:
    world.open()
    world.open(B, "M0002", kwh="3")
    world.office.enrol(world.enrolment(C, "M0003"), by="clerk")
    world.pay(100)
    world.pay(20_000, account=B)
    world.office.hold(B, "ill", by="clerk")
    world.pass_time(9 * DAY)
    world.office.exchange_meter(B, "M0002", "M0004", world.today, by="clerk")
    world.office.change_contact(C, "13900000000", by="clerk")
    world.pass_time(HOUR)
    rows = world.office.search()
    assert [row.account.id for row in rows] == [A, B, C]
    for row in rows:
        card = world.office.card(row.account.id)
        assert (row.account, row.holder, row.premises) == (card.account, card.holder, card.premises)
        assert row.meters == tuple(one.meter for one in card.meters if one.until is None)
        assert (row.contact, dict(row.flags)) == (card.contact, dict(card.flags))
        assert row.supply == replace(card.supply, orders=())
        own = card.standing
        assert (row.standing.available_minor, row.standing.owed_minor, row.standing.today) == (
            own.available_minor,
            own.owed_minor,
            own.today,
        )
        assert (row.standing.days_left is None) == (own.forecast.days_left is None), row.account.id
        if row.standing.days_left is not None and own.forecast.days_left is not None:
            assert abs(row.standing.days_left - own.forecast.days_left) <= 1
    assert rows[0].supply.state != "well"


def test_a_longer_list_asks_no_more_questions(world: OfficeWorld) -> None:
    for number in range(1, 10):
        world.office.enrol(world.enrolment(f"A{number:04}", f"M{number:04}"), by="clerk")
        world.office.confirm(f"A{number:04}", by="clerk")
    asked = []
    event.listen(world.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    assert len(world.office.search(limit=1)) == 1
    one = len(asked)
    assert len(world.office.search(limit=9)) == 9
    assert len(asked) == 2 * one
    assert M in world.office.search(M)[0].meters
