"""Enrolment checks what has to be true before anybody is charged, and nothing that was true once is overwritten."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, Engine, select

from headend.database.engine import reading, writing
from headend.prepayment.accounts import accounts, enrolment
from headend.prepayment.accounts.enrolment import Enrolment
from headend.prepayment.errors import AccountClosed, BadContact, NotEligible, UnknownAccount
from headend.prepayment.model import Account, AccountState, Premises
from headend.prepayment.storage.tables import customers
from tests.headend.prepayment.support import NOON, database

pytestmark = pytest.mark.both_databases

MARCH = date(2026, 3, 1)
OURS = {"M1", "M2", "M3"}
WANG = Enrolment(
    account="4100001",
    customer="C1",
    name="Wang Fang",
    identity="41030319800101123X",
    premises=Premises(id="P1", address="1 Jian She Lu"),
    meters=("M1",),
    phone="138 1234 5678",
    currency="CNY",
    tariff="residential-step",
    reminder_minor=2000,
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with database(tmp_path) as engine:
        yield engine


def enrolled(engine: Engine, **changes: Any) -> Account:
    with writing(engine, "enrolling") as connection:
        return enrolment.enrol(
            connection,
            replace(WANG, **changes),
            NOON,
            MARCH,
            our_meters=OURS,
            tariffs={"residential-step"},
            salt=b"s" * 16,
            by="clerk",
        )


def test_an_account_waits_for_its_agreement_and_is_then_charged_from_a_day_on(engine: Engine) -> None:
    assert enrolled(engine).state is AccountState.ENROLLED
    with writing(engine, "confirming") as connection:
        account = enrolment.confirm(connection, WANG.account, MARCH + timedelta(days=2))
        assert (account.state, account.opened_on) == (AccountState.ACTIVE, date(2026, 3, 3))
        assert accounts.account_of(connection, WANG.account) == account
        assert [(one.meter, one.since) for one in accounts.meters_of(connection, WANG.account)] == [
            ("M1", date(2026, 3, 3))
        ]
        assert accounts.contact_of(connection, WANG.account).phone == "+8613812345678"
        with pytest.raises(NotEligible, match="is active; expected one that waits"):
            enrolment.confirm(connection, WANG.account, MARCH)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"premises": Premises(id="P1", address="x", is_submetered=True)}, "metered by their landlord"),
        ({"meters": ("M1", "X9")}, "'X9' is none of ours"),
        ({"meters": ()}, "no meter"),
        ({"tariff": "cheap"}, "expected one of residential-step"),
        ({"currency": "RMB"}, "expected one of CNY"),
        ({"reminder_minor": 0}, "expected more than 0"),
        ({"topup_minor": 5000}, "expected both for automatic top-up"),
        ({"bank": "B1"}, "expected both for automatic top-up"),
        ({"identity": " "}, "name and identity are empty"),
        ({"account": "a b"}, "expected 1 to 64 letters"),
        ({"landlord": "C7"}, "no customer that is known"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_who_cannot_be_enrolled_is_told_why_and_nothing_is_kept(
    engine: Engine, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(NotEligible, match=why):
        enrolled(engine, **change)
    with reading(engine, "looking") as connection:
        assert list(accounts.all_accounts(connection)) == []
        assert connection.execute(select(customers)).all() == []


@pytest.mark.parametrize("phone", ["12345", "1381234567", "23812345678", "+0861381234", "phone", ""])
def test_a_phone_that_is_no_number_is_refused(engine: Engine, phone: str) -> None:
    with pytest.raises(BadContact, match="expected 11 digits"):
        enrolled(engine, phone=phone)


def test_a_meter_has_one_open_account_and_a_customer_one_document(engine: Engine) -> None:
    enrolled(engine)
    with pytest.raises(NotEligible, match="belongs to account '4100001'"):
        enrolled(engine, account="4100002", customer="C2")
    with pytest.raises(NotEligible, match=r"another document, which ends in 123X"):
        enrolled(engine, account="4100002", meters=("M2",), identity="999")
    assert enrolled(engine, account="4100002", meters=("M2",), identity=" 41030319800101123x ").customer == "C1"


def test_no_document_number_is_kept(engine: Engine) -> None:
    enrolled(engine)
    with reading(engine, "looking") as connection:
        row = connection.execute(select(customers)).one()
    assert WANG.identity[:14] not in "".join(map(str, row))
    assert row.identity_tail == "123X"


def test_phones_and_holders_have_a_history(engine: Engine) -> None:
    enrolled(engine)
    enrolled(engine, account="4100002", customer="C2", name="Li Wei", identity="77", meters=("M2",))

    def act(connection: Connection) -> None:
        accounts.set_reachable(connection, WANG.account, False, NOON, by="sms")
        accounts.set_reachable(connection, WANG.account, False, NOON, by="sms")
        accounts.change_contact(
            connection, WANG.account, "+4915112345678", NOON - timedelta(days=1), language="en", by="clerk"
        )
        accounts.change_holder(connection, WANG.account, "C2", NOON, by="clerk")
        with pytest.raises(NotEligible, match="'C9' is not known"):
            accounts.change_holder(connection, WANG.account, "C9", NOON, by="clerk")

    with writing(engine, "changing") as connection:
        act(connection)
        found = accounts.contacts_of(connection, WANG.account)
        # A clock that was set back does not change who came last.
        assert [(one.phone, one.is_reachable) for one in found] == [
            ("+8613812345678", True), ("+8613812345678", False), ("+4915112345678", True),
        ]  # fmt: skip
        assert accounts.contact_of(connection, WANG.account).language == "en"
        assert [one.customer for one in accounts.holders_of(connection, WANG.account)] == ["C1", "C2"]
        assert accounts.account_of(connection, WANG.account).customer == "C2"
        with pytest.raises(UnknownAccount):
            accounts.change_contact(connection, "nobody", "13812345678", NOON, by="clerk")


def test_a_tenant_who_moves_out_frees_the_meter_for_the_next(engine: Engine) -> None:
    enrolled(engine, account="L", customer="C9", name="Landlord", identity="1", meters=("M3",))
    enrolled(engine, landlord="C9")
    with writing(engine, "moving out") as connection:
        assert [one.account for one in accounts.of_landlord(connection, "C9")] == [WANG.account]
        closed = accounts.close(connection, WANG.account, date(2026, 4, 30))
        assert (closed.state, closed.closed_on) == (AccountState.CLOSED, date(2026, 4, 30))
        assert accounts.tenancies_of(connection, WANG.account)[0].until == date(2026, 4, 30)
        assert accounts.of_meter(connection, "M1") is None
        with pytest.raises(AccountClosed):
            accounts.close(connection, WANG.account, date(2026, 5, 1))
    assert (
        enrolled(engine, account="4100002", customer="C2", identity="2", landlord="C9").state is AccountState.ENROLLED
    )


def test_no_day_of_a_meter_is_charged_to_two_accounts(engine: Engine) -> None:
    enrolled(engine)
    with writing(engine, "moving out") as connection:
        accounts.close(connection, WANG.account, date(2026, 4, 30))
    enrolled(engine, account="4100002", customer="C2", identity="2")
    with writing(engine, "moving in") as connection:
        with pytest.raises(NotEligible, match="until 2026-04-30; expected opens_on from 2026-05-01"):
            enrolment.confirm(connection, "4100002", date(2026, 4, 30))
        assert enrolment.confirm(connection, "4100002", date(2026, 5, 1)).opened_on == date(2026, 5, 1)


def test_an_account_goes_on_with_another_meter(engine: Engine) -> None:
    enrolled(engine)
    with writing(engine, "exchanging") as connection:
        accounts.exchange_meter(connection, WANG.account, "M1", "M2", date(2026, 3, 9), our_meters=OURS)
        assert [(one.meter, one.since, one.until) for one in accounts.meters_of(connection, WANG.account)] == [
            ("M1", MARCH, date(2026, 3, 8)), ("M2", date(2026, 3, 9), None),
        ]  # fmt: skip
        with pytest.raises(NotEligible, match="does not measure"):
            accounts.exchange_meter(connection, WANG.account, "M1", "M3", date(2026, 3, 12), our_meters=OURS)
        with pytest.raises(NotEligible, match="none of ours"):
            accounts.exchange_meter(connection, WANG.account, "M2", "X", date(2026, 3, 12), our_meters=OURS)


def test_amounts_are_the_customers_own_to_change(engine: Engine) -> None:
    enrolled(engine)
    with writing(engine, "changing") as connection:
        changed = accounts.amounts(connection, WANG.account, reminder_minor=5000, topup_minor=20000, bank="ICBC-1")
        assert accounts.account_of(connection, WANG.account) == changed
        with pytest.raises(NotEligible):
            accounts.amounts(connection, WANG.account, reminder_minor=5000, topup_minor=20000, bank="")
        with pytest.raises(NotEligible, match="expected one of residential-step"):
            accounts.change_tariff(connection, WANG.account, "x", tariffs={"residential-step"})
