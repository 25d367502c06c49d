"""Who changed what: every change of an account by a person is in its list, with its name, and stays there."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headend.prepayment.accounts.changes import Change
from headend.prepayment.office.office import Office
from headend.prepayment.trouble.kinds import HOLD
from tests.headend.prepayment.books.test_autopay import BankBook
from tests.headend.prepayment.office_world import DAY, HOUR, A, M, OfficeWorld

N = "M0002"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OfficeWorld]:
    found = OfficeWorld(tmp_path, bank=BankBook())
    yield found
    found.aclose()


def told(changes: list[Change]) -> list[tuple[str, str, str, str]]:
    return [(one.by, one.what, one.before, one.after) for one in changes]


def test_everything_that_a_person_does_to_an_account_is_in_the_list_with_its_name(world: OfficeWorld) -> None:
    office = world.office
    office.enrol(world.enrolment(), by="Ann")
    office.confirm(A, by="Ben")
    first = world.today
    office.change_contact(A, "13900000000", language="zh", by="Cai")
    office.change_holder(A, "C9", name="Wu Lei", identity="9", by="Dai")
    office.change_amounts(A, reminder_minor=2000, topup_minor=5000, bank="B-1", by="Eve")
    office.change_tariff(A, "tou", by="Fay")
    office.hold(A, "ill at home", by="Gao")
    office.hold(A, "very ill", by="Han")
    office.clear_flag(A, HOLD, by="Ina")
    world.pass_time(2 * DAY)
    office.tell_use(M, first, {"1-0:1.8.0": Decimal("1.5")}, by="Jin", note="by phone")
    office.exchange_meter(A, M, N, world.today, by="Kim")
    world.pay(500, account="A-nobody")
    office.assign("app", "R1", A, by="Lin")
    office.move_out(A, world.today, by="Ma")
    office.move_out(A, world.today + DAY, by="Na")
    day = f"{world.today}"
    assert told(list(office.changes(A)))[::-1] == [
        ("Ann", "enrolled", "", M),
        ("Ben", "confirmed", "", f"from {first}"),
        ("Cai", "contact", "+8613800000001, en", "+8613900000000, zh"),
        ("Dai", "holder", f"C{A}", "C9"),
        (
            "Eve",
            "amounts",
            "reminder below 10.00 CNY",
            "reminder below 20.00 CNY, top-up of 50.00 by B-1",
        ),
        ("Fay", "tariff", "flat", "tou"),
        ("Gao", "hold", "", "ill at home"),
        ("Han", "hold", "ill at home (Gao)", "very ill"),
        ("Ina", "flag", "hold: very ill (Han)", ""),
        ("Jin", "use", "", f"{M} on {first}: 1-0:1.8.0 1.5 kWh"),
        ("Kim", "meter", M, f"{N} from {day}"),
        ("Lin", "payment", "", "app receipt R1 assigned"),
        ("Ma", "move-out", "", day),
        ("Na", "move-out", day, f"{world.today + DAY}"),
    ]
    assert office.card(A).changes == tuple(office.changes(A, limit=20))
    assert [one.by for one in office.changes(A, limit=2)] == ["Na", "Ma"]


def test_what_was_told_for_a_meter_is_listed_with_the_account_that_it_measured_then(world: OfficeWorld) -> None:
    world.open()
    first = world.today
    world.pass_time(2 * DAY)
    world.office.exchange_meter(A, M, N, world.today, by="clerk")
    world.pass_time(HOUR)
    world.office.tell_use(M, first, {"1-0:1.8.0": Decimal(2)}, by="clerk", note="")
    assert world.office.changes(A, limit=1)[0].after == f"{M} on {first}: 1-0:1.8.0 2 kWh"


REFUSED: list[Callable[[Office, OfficeWorld], Any]] = [
    lambda office, _: office.change_tariff(A, "gold", by="x"),
    lambda office, _: office.change_amounts(A, reminder_minor=1, topup_minor=1, bank="", by="x"),
    lambda office, world: office.exchange_meter(A, M, "M-other", world.today, by="x"),
    lambda office, world: office.move_out(A, world.today - timedelta(days=99), by="x"),
]


@pytest.mark.parametrize("call", REFUSED)
def test_what_was_refused_is_not_in_the_list(world: OfficeWorld, call: Callable[[Office, OfficeWorld], Any]) -> None:
    world.open()
    before = world.office.changes(A)
    with pytest.raises(Exception, match="expected"):
        call(world.office, world)
    assert world.office.changes(A) == before
