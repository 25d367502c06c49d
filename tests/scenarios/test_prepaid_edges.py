"""What no ordinary day brings: bad input that must leave nothing half-done, days of other lengths, clocks that are set back, and
accounts that begin or end at an awkward moment.
"""

from collections.abc import Iterator
from datetime import UTC, date, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from headend.errors import ConfigError
from headend.prepayment.accounts.enrolment import Enrolment
from headend.prepayment.errors import AccountClosed
from headend.prepayment.model import PaymentState, Premises
from headend.prepayment.notices.plan import load_plan
from headend.prepayment.tariffs.tariff_file import TARIFFS, load_tariffs
from tests.headend.support import dump
from tests.scenarios.prepaid_year.quick import quick_plan
from tests.scenarios.prepaid_year.shop import Shop

DAY = timedelta(days=1)
FIRST = date(2028, 3, 1)
BERLIN = ZoneInfo("Europe/Berlin")
KEPT = ("payments", "entries", "books")  # for reconciliation, where money is involved
A_HOME = Enrolment(
    account="A7", customer="C7", name="Li", identity="110105194912310007", premises=Premises(id="P7", address="7"),
    meters=("M7",), phone="13800000007", currency="CNY", tariff="plain", reminder_minor=1000,
)  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path / "shop", start=FIRST)
    shop.open()
    shop.office.take(shop.payment(10_000, receipt="first"))
    yield shop
    shop.aclose()


# ------------------------------------------------------------------------------------------------ what cannot be booked


@pytest.mark.parametrize(
    ("account", "currency", "says"),
    [("A9", "CNY", "no account 'A9'"), ("A1", "EUR", "kept in CNY"), ("A2", "CNY", "is closed")],
)
def test_money_that_cannot_be_booked_is_kept_for_reconciliation(
    shop: Shop, account: str, currency: str, says: str
) -> None:
    """Once, however often it is told; in a book of its own, in the channel's file, and with the reason. Nothing else changes."""
    shop.open("A2", ("M2",))
    shop.office.move_out("A2", FIRST, by="clerk")
    shop.town.now += DAY
    shop.tell(FIRST, "0.00", meter="M2")
    shop.run()
    assert shop.office.card("A2").account.closed_on == FIRST
    payment = shop.payment(700, account=account, currency=currency, receipt="R7")
    before, told = dump(shop.engine, without=KEPT), len(shop.switch.references)
    for _ in range(20):
        kept = shop.office.take(payment)
        assert (kept.state, kept.booked_for) == (PaymentState.UNMATCHED, "")
    assert says in kept.problem
    assert dump(shop.engine, without=KEPT) == before
    assert len(shop.switch.references) == told, "nobody's supply comes back by it"
    assert [one.receipt for one in shop.office.unmatched()] == ["R7"]
    file = shop.office.reconciliation("app", shop.today)
    assert [(one.state, one.currency, one.count, one.amount_minor) for one in file.sums] == [
        ("unmatched", currency, 1, 700)
    ]
    assert shop.books() == []


def test_a_closed_account_is_changed_no_more(shop: Shop) -> None:
    shop.office.move_out("A1", FIRST, by="clerk")
    shop.use(1, "20.00")
    assert shop.office.card("A1").account.closed_on == FIRST
    before = dump(shop.engine)
    for ask in (
        lambda: shop.office.adjust("A1", 1, key="k", note="n", by="x"),
        lambda: shop.office.change_tariff("A1", "flat", by="x"),
        lambda: shop.office.exchange_meter("A1", "M1", "M3", FIRST + DAY, by="x"),
        lambda: shop.office.move_out("A1", FIRST + DAY, by="x"),
        lambda: shop.office.change_amounts("A1", reminder_minor=100, topup_minor=0, bank="", by="x"),
    ):
        with pytest.raises(AccountClosed):
            ask()
    assert dump(shop.engine) == before


def test_a_tariff_with_a_gap_is_refused_by_its_file_and_place(tmp_path: Path) -> None:
    text = (TARIFFS / "residential-step-tou.toml").read_text(encoding="utf-8")
    (tmp_path / "gap.toml").write_text(text.replace('start = "22:00"', 'start = "22:30"'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"gap\.toml.*22:00"):
        load_tariffs([tmp_path / "gap.toml"])


# ------------------------------------------------------------------------------------------------ days and clocks


@pytest.mark.parametrize("change", [date(2028, 3, 26), date(2028, 10, 29)], ids=["23 hours", "25 hours"])
def test_a_day_of_another_length_is_a_day(tmp_path: Path, change: date) -> None:
    plan = replace(load_plan("cn-residential"), timezone="Europe/Berlin")
    shop = Shop(tmp_path / "shop", start=change - 2 * DAY, zone=BERLIN, plan=plan)
    shop.open()
    shop.use(5, "10.00")
    days = [use.day for use in shop.office.daily("A1", change - 2 * DAY, change + 3 * DAY)]
    assert days == [change + number * DAY for number in range(-2, 3)]
    assert shop.balance() == -2500
    assert shop.office.standing("A1").unsettled == ()
    shop.aclose()


def test_a_clock_that_is_set_back_a_day_charges_and_tells_nothing_twice(shop: Shop) -> None:
    shop.use(4, "50.00")
    charged, told = shop.balance(), shop.messages()
    assert charged == 0
    now = shop.town.now
    shop.town.now = now - DAY
    shop.run()
    shop.pass_time(now, step=timedelta(hours=3))
    assert shop.balance() == charged
    assert shop.messages() == told
    assert shop.books() == []
    shop.use(1, "50.00")
    assert shop.balance() == -2500


def test_an_account_that_is_confirmed_today_holds_up_nobody(tmp_path: Path) -> None:
    """It lies between two that are to be settled, and has no day yet."""
    shop = Shop(tmp_path / "shop", start=FIRST)
    for number in (1, 3):
        shop.open(f"A{number}", (f"M{number}",))
    shop.office.enrol(A_HOME, by="clerk")
    shop.open("A4", ("M4",))
    shop.town.now = shop.at(FIRST + DAY, 0, 30)
    shop.office.confirm("A7", by="clerk")
    for number in (1, 3, 4):
        shop.tell(FIRST, "10.00", meter=f"M{number}")
    shop.run()
    assert [shop.balance(f"A{number}") for number in (1, 3, 4)] == [-500] * 3
    assert shop.balance("A7") == 0
    shop.aclose()


def test_a_payment_dated_before_the_account_began_is_booked_and_in_its_first_statement(shop: Shop) -> None:
    shop.office.take(shop.payment(300, receipt="early", paid_at=shop.at(date(2028, 2, 20), 9)))
    assert shop.balance() == 10_300
    shop.use(31, "2.00")
    shop.pass_time(timedelta(hours=1))
    made = shop.office.statement("A1", FIRST)
    assert made is not None
    assert (made.opening_minor, made.paid_minor, made.charged_minor, made.closing_minor) == (0, 10_300, 3100, 7200)


# ------------------------------------------------------------------------------------------------ balances


def test_a_balance_of_exactly_nothing_is_nothing_owed(shop: Shop) -> None:
    shop.use(5, "40.00")
    assert shop.balance() == 0
    shop.use(12, "0.00")
    assert shop.balance() == 0
    assert set(shop.messages()) <= {"agreement", "low"}
    assert not shop.is_dark()


def test_a_reminder_above_the_balance_warns_at_once_and_goes_no_further(shop: Shop) -> None:
    shop.office.change_amounts("A1", reminder_minor=50_000, topup_minor=0, bank="", by="clerk")
    shop.pass_time(timedelta(hours=12), step=timedelta(hours=1))
    assert "low" in shop.messages()
    shop.use(10, "1.00")
    assert set(shop.messages()) == {"agreement", "low"}


def test_nobody_is_cut_while_one_of_two_meters_is_not_settled(tmp_path: Path) -> None:
    """The balance is of three days ago; and as soon as it is fresh again, it is what counts."""
    shop = Shop(tmp_path / "shop", start=FIRST, plan=quick_plan(more="settled_within_days = 2"))
    shop.open(meters=("M1", "M2"))
    shop.tell(FIRST, "100.00", meter="M1")
    shop.tell(FIRST, "10.00", meter="M2")
    shop.town.now = shop.at(FIRST + DAY, 0, 10)
    shop.run()
    assert shop.balance() == -5500
    for number in (1, 2, 3):
        shop.tell(FIRST + number * DAY, "100.00", meter="M1")
    shop.town.now = shop.at(FIRST + 4 * DAY, 0, 10)
    shop.pass_time(timedelta(hours=1), step=timedelta(minutes=1))
    assert not shop.is_dark()
    assert not shop.switch.commands
    assert any("not fresh enough" in one for one in shop.office.why_not("A1"))
    for number in (1, 2, 3):
        shop.tell(FIRST + number * DAY, "0.00", meter="M2")
    shop.pass_time(timedelta(hours=1), step=timedelta(minutes=1))
    assert shop.is_dark("M1")
    assert shop.is_dark("M2")
    shop.aclose()


# ------------------------------------------------------------------------------------------------ meters and move-outs


def a_first_part(shop: Shop, meter: str, day: date, kwh: str) -> None:
    """Of a meter that was fitted at 14:00."""
    begin, end = (f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for moment in (shop.at(day, 14), shop.at(day + DAY)))
    start = f"{shop.at(day).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    data = {
        "meter": meter, "obis": "1-0:1.8.0", "start": start, "end": end, "period_s": 86400, "amount": None,
        "unit": "kWh", "quality": ["missing"], "revision": 0, "reason": "partial", "evidence": {},
        "span": {"start": begin, "end": end, "amount": kwh},
    }  # fmt: skip
    shop.feed.tell("headend.interval.v1", meter, data)


def test_a_move_out_on_the_day_of_a_meter_exchange_is_settled_to_the_last_kwh(shop: Shop) -> None:
    shop.use(1, "10.00")
    today = shop.today
    shop.office.exchange_meter("A1", "M1", "M5", today, by="clerk")
    shop.office.move_out("A1", today, by="clerk")
    shop.town.now = shop.at(today + DAY, 0, 10)
    shop.run()
    assert shop.office.card("A1").account.closed_on == today  # it waits
    assert shop.office.card("A1").move_out is not None
    assert shop.balance() == 9500
    a_first_part(shop, "M5", today, "4.00")
    shop.office.tell_use("M1", today, {"1-0:1.8.0": Decimal(6)}, by="fitter", note="")
    shop.town.now += timedelta(minutes=1)
    shop.run()
    card = shop.office.card("A1")
    assert card.move_out is not None
    assert card.move_out.remainder_minor == 10_000 - 500 - 500
    assert (card.account.state.value, shop.balance()) == ("closed", 0)
    assert shop.books() == []


def test_a_revision_after_the_final_settlement_is_told_to_a_person_and_not_booked(shop: Shop) -> None:
    shop.office.move_out("A1", FIRST, by="clerk")
    shop.use(1, "10.00")
    before = shop.office.entries("A1")
    shop.tell(FIRST, "12.00", revision=1)
    shop.run()
    assert shop.office.entries("A1") == before
    assert "1.00 CNY more" in shop.office.card("A1").flags["revised-after-closing"]


def test_a_lost_day_of_a_tariff_by_the_time_of_day_can_be_told_by_a_person(tmp_path: Path) -> None:
    """By band; or a move-out would wait for ever."""
    shop = Shop(tmp_path / "shop", start=FIRST)
    shop.open(tariff="residential-step-tou")
    shop.office.move_out("A1", FIRST, by="clerk")
    for hour in range(0, 24, 2):
        start, end = shop.at(FIRST, hour), shop.at(FIRST, hour) + timedelta(hours=2)
        is_lost = hour == 10
        data: dict[str, object] = {
            "meter": "M1", "obis": "1-0:1.8.0", "start": f"{start:%Y-%m-%dT%H:%M:%SZ}", "end": f"{end:%Y-%m-%dT%H:%M:%SZ}",
            "period_s": 7200, "amount": None if is_lost else "1.00", "unit": "kWh", "revision": 0,
            "quality": ["missing" if is_lost else "measured"], "reason": "exchange-without-readings" if is_lost else "",
        }  # fmt: skip
        shop.feed.tell("headend.interval.v1", "M1", data)
    shop.town.now = shop.at(FIRST + DAY, 0, 30)
    shop.run()
    assert [one.reason for one in shop.office.standing("A1").unsettled]
    told = {"1-0:1.8.2": Decimal("7.00"), "1-0:1.8.4": Decimal("5.00")}
    shop.office.tell_use("M1", FIRST, told, by="fitter", note="read on the old meter")
    shop.town.now += timedelta(minutes=1)
    shop.run()
    card = shop.office.card("A1")
    assert card.account.state.value == "closed"
    assert card.move_out is not None
    assert card.move_out.remainder_minor == -(7 * 59 + 5 * 44)
    shop.aclose()
