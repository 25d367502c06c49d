"""The whole of prepaid supply through its one door: from the agreement to the supply that comes back, and what goes wrong."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from headend.prepayment.books.points_file import RULES, load_points_rule
from headend.prepayment.errors import SwitchboardUnavailable, UnknownPayment
from headend.prepayment.model import AccountState, PaymentState
from headend.prepayment.trouble.kinds import HOLD
from tests.headend.prepayment.books.test_autopay import BankBook
from tests.headend.prepayment.office_world import DAY, HOUR, PLAN, TRIAL, A, M, OfficeWorld
from tests.headend.prepayment.supply_world import Crash

B, N = "A0002", "M0002"
MINUTE = timedelta(minutes=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OfficeWorld]:
    found = OfficeWorld(tmp_path, bank=BankBook())
    yield found
    found.aclose()


def run_out(world: OfficeWorld) -> None:
    world.open()
    world.pay(100)
    world.until("disconnected")


# ------------------------------------------------------------------------------------------------ the story


def test_from_the_agreement_to_the_supply_that_comes_back(world: OfficeWorld) -> None:
    card = world.office.enrol(world.enrolment(), by="clerk")
    assert (card.account.state, card.supply.state) == (AccountState.ENROLLED, "well")
    card = world.office.confirm(A, by="clerk")
    assert (card.account.state, card.account.opened_on, card.holder.name) == (
        AccountState.ACTIVE,
        world.today,
        "Li Hua",
    )
    world.daily_kwh[M] = Decimal(10)
    world.pay(100)
    world.until("disconnected")
    world.pass_time(HOUR)
    assert world.kinds() == ["agreement", "low", "used-up", "last-warning", "disconnected"]
    card = world.office.card(A)
    assert card.supply.is_off
    assert card.supply.off_since is not None
    assert [(one.meter, one.state, one.is_final) for one in card.supply.orders] == [(M, "verified", True)]
    owed = card.standing.owed_minor
    assert owed == -world.balance() > 0

    world.pay(owed - 1)
    world.daily_kwh[M] = Decimal(0)
    world.pass_time(2 * HOUR)
    assert world.switch.supply(M) == "off", "a fen is owed, and the supply came back"
    world.pay(1)
    assert M in world.switch.debts, "the payment itself makes the debt"
    world.pass_time(3 * HOUR, step=5 * MINUTE)
    assert (world.switch.supply(M), world.state()) == ("on", "well")
    assert world.kinds()[-2:] == ["paid", "restored"]
    told = [json.loads(data) for _, data in world.outbox.taken]
    assert [one["state"] for one in told] == [
        "low", "used-up", "warned", "ordered", "disconnected", "paid", "well",
    ]  # fmt: skip


def test_a_balance_can_be_used_up_and_paid_again_within_minutes_where_the_plan_counts_today(tmp_path: Path) -> None:
    world = OfficeWorld(tmp_path, plan=TRIAL)
    world.open(kwh=None)
    world.pay(2000)
    second = timedelta(seconds=10)
    for _ in range(5):
        world.tell_minutes("4")
        world.pass_time(MINUTE, step=second)
    card = world.office.card(A)
    standing = card.standing
    assert (standing.today_kwh, standing.today_minor, standing.charged_minor) == (Decimal(20), 1057, 0)
    assert (standing.available_minor, standing.counted_minor, world.balance()) == (943, 1057, 2000)
    assert card.supply.state == "low"
    for _ in range(2):
        world.tell_minutes("20")
        world.pass_time(MINUTE, step=second)
    assert (world.balance(), world.office.standing(A).owed_minor) == (2000, 1170)
    world.until("disconnected", step=second, days_max=1)
    assert world.town.now - card.supply.since < timedelta(minutes=15)
    assert world.switch.commands["c0"].proof.balance_minor < 0
    world.pay(100)
    world.pass_time(2 * MINUTE, step=second)
    assert world.switch.supply(M) == "off"
    world.pay(3000)
    world.pass_time(HOUR + MINUTE, step=15 * second)
    assert (world.switch.supply(M), world.state()) == ("on", "well")
    world.aclose()


def test_over_midnight_what_was_counted_stays_counted_until_it_is_charged(tmp_path: Path) -> None:
    """Nobody is put right by the date."""
    world = OfficeWorld(tmp_path, plan=TRIAL)
    world.open(kwh=None)
    world.pay(2000)
    first = world.today
    world.pass_time(15 * HOUR)
    world.tell_minutes("60", minutes=60)
    world.pass_time(MINUTE, step=MINUTE)
    before = world.office.standing(A)
    assert before.available_minor == 2000 - 3170
    world.pass_time(2 * HOUR)
    assert world.today == first + DAY
    after = world.office.standing(A)
    assert (after.available_minor, after.today_kwh) == (before.available_minor, None)
    world.daily_kwh[M] = Decimal(60)
    world.tell_day(first)
    world.pass_time(MINUTE, step=MINUTE)
    charged = world.office.standing(A)
    assert (charged.available_minor, charged.counted_minor, charged.charged_minor) == (2000 - 3170, 0, 3170)
    world.aclose()


def test_a_day_is_charged_when_it_is_over_and_not_before(world: OfficeWorld) -> None:
    world.open(kwh=None)
    world.pay(5000)
    world.pass_time(HOUR)
    world.tell_minutes("3", minutes=60)
    world.pass_time(HOUR)
    standing = world.office.standing(A)
    assert (standing.today_kwh, standing.today_minor, standing.available_minor) == (Decimal(3), 158, 5000)
    assert standing.settled_through is None
    day = world.today
    world.daily_kwh[M] = Decimal(8)
    world.pass_time(DAY)
    assert world.office.standing(A).settled_through == day
    assert [one.kwh for one in world.office.daily(A, day, day + DAY)] == [Decimal(8)]
    assert world.balance() == 5000 - 423


# ------------------------------------------------------------------------------------------------ payments


def test_a_payment_that_dies_between_its_two_transactions_stops_disconnections_until_it_is_told_again(
    world: OfficeWorld,
) -> None:
    world.open()
    world.pay(100)
    world.until("warned")
    payment, real = world.payment(50_000), world.switch.payment

    def dies(meter: str, **told: object) -> None:
        real(meter, **told)  # type: ignore[arg-type]
        raise Crash

    world.switch.payment = dies  # type: ignore[method-assign]
    with pytest.raises(Crash):
        world.office.take(payment)
    world.switch.payment = real  # type: ignore[method-assign]
    world.start()
    assert [one.receipt for one in world.office.told_not_booked()] == [payment.receipt]
    assert "a payment is on its way" in world.office.why_not(A)
    world.pass_time(3 * DAY)
    assert world.switch.opened == []
    assert "payment-not-booked" in world.office.card(A).flags
    assert any("not booked for more than" in one for one in world.office.problems())
    for _ in range(20):  # the channel tells it again, and again
        assert world.office.take(payment).state is PaymentState.BOOKED
    assert world.office.told_not_booked() == []
    assert "payment-not-booked" not in world.office.card(A).flags
    assert [one.amount_minor for one in world.office.payments(A)] == [100, 50_000]
    world.pass_time(HOUR)
    assert world.state() == "well"


def test_a_person_may_drop_a_payment_that_the_channel_never_had_and_it_is_taken_if_it_comes(world: OfficeWorld) -> None:
    world.open()
    world.pay(1000)
    payment = world.payment(5000)
    world.switch.away = 1.0
    with pytest.raises(SwitchboardUnavailable):
        world.office.take(payment)
    world.switch.away = 0.0
    with pytest.raises(Exception, match="may be on its way"):
        world.office.drop_told("app", payment.receipt, by="chief")
    world.pass_time(2 * HOUR)
    assert "payment-not-booked" in world.office.card(A).flags
    with pytest.raises(Exception, match="ends when its payment is told again"):
        world.office.clear_flag(A, "payment-not-booked", by="chief")
    dropped = world.office.drop_told("app", payment.receipt, by="chief")
    assert (dropped.account, world.office.told_not_booked()) == (A, [])
    assert world.office.card(A).flags == {}
    with pytest.raises(UnknownPayment):
        world.office.drop_told("app", payment.receipt, by="chief")
    assert world.office.take(payment).state is PaymentState.BOOKED
    assert world.balance() == 6000


def test_a_payment_taken_back_after_the_supply_came_back_begins_the_usual_notices(world: OfficeWorld) -> None:
    run_out(world)
    paid = world.pay(20_000)
    world.pass_time(3 * HOUR, step=5 * MINUTE)
    assert world.state() == "well"
    told = len(world.kinds())
    for _ in range(3):
        taken_back = world.office.reverse("app", paid.receipt, reason="cheque without funds", by="cashier 7")
        assert (taken_back.state, taken_back.problem) == (PaymentState.REVERSED, "cheque without funds")
    (entry,) = [entry for _, entry, _ in world.office.entries(A) if entry.cause.value == "reversal"]
    assert entry.note == "cheque without funds (cashier 7)"
    world.until("disconnected")
    assert world.kinds()[told:] == ["reversed", "low", "used-up", "last-warning", "disconnected"]


def test_money_of_the_wrong_currency_or_account_brings_nothing_back_until_it_is_assigned(world: OfficeWorld) -> None:
    run_out(world)
    stray = world.pay(90_000, "A9999")
    yen = world.pay(5000, currency="JPY")
    assert [one.state for one in (stray, yen)] == [PaymentState.UNMATCHED] * 2
    world.pass_time(2 * HOUR)
    assert (world.switch.debts, world.switch.supply(M)) == ({}, "off")
    assert [one.receipt for one in world.office.unmatched()] == [stray.receipt, yen.receipt]
    for _ in range(2):
        assert world.office.assign("app", stray.receipt, A, by="chief").booked_for == A
    world.pass_time(3 * HOUR, step=5 * MINUTE)
    assert world.switch.supply(M) == "on"
    today = world.office.reconciliation("app", stray.paid_at.astimezone(PLAN.zone).date())
    sums = {(one.state, one.currency): (one.count, one.amount_minor) for one in today.sums}
    assert sums == {("booked", "CNY"): (1, 90_000), ("unmatched", "JPY"): (1, 5000)}


def test_points_come_with_a_top_up_and_go_with_its_reversal(tmp_path: Path) -> None:
    rule = load_points_rule(next(RULES.glob("*.toml")))
    world = OfficeWorld(tmp_path, rule=rule)
    world.open()
    amount = max(tier.from_minor for tier in rule.tiers)
    paid = world.pay(amount)
    (award,) = world.office.awards(A)
    assert world.balance() == amount + award.bonus_minor
    world.office.reverse("app", paid.receipt, reason="a mistake", by="cashier")
    assert (world.balance(), world.office.awards(A)[0].is_taken_back) == (0, True)
    world.aclose()


def test_corrections_and_refunds_are_booked_once_and_no_more_is_given_back_than_there_is(world: OfficeWorld) -> None:
    world.open()
    first = world.office.adjust(A, 700, key="K1", note="a goodwill gesture", by="chief")
    again = world.office.adjust(A, 700, key="K1", note="a goodwill gesture", by="chief")
    assert (first.is_new, again.is_new, again.number) == (True, False, first.number)
    world.office.adjust(A, -200, key="K2", note="too much of it", by="chief")
    with pytest.raises(Exception, match=r"has 5\.00 CNY that can be given back"):
        world.office.refund(A, 501, key="B1", note="moved", by="chief")
    assert world.office.refund(A, 500, key="B1", note="moved", by="chief").is_new
    assert not world.office.refund(A, 500, key="B1", note="moved", by="chief").is_new
    assert world.balance() == 0
    notes = [entry.note for _, entry, _ in world.office.entries(A, limit=2)]
    assert notes == ["too much of it (chief)", "moved (chief)"]


def test_a_correction_to_the_credit_of_a_disconnected_customer_brings_the_supply_back(world: OfficeWorld) -> None:
    run_out(world)
    world.daily_kwh[M] = Decimal(0)
    world.office.adjust(A, 50_000, key="K1", note="a wrong tariff", by="chief")
    world.pass_time(3 * HOUR, step=5 * MINUTE)
    assert (world.switch.supply(M), world.state()) == ("on", "well")


# ------------------------------------------------------------------------------------------------ what people change


def test_a_hold_keeps_the_supply_on_and_its_end_lets_things_go_on(world: OfficeWorld) -> None:
    world.open()
    card = world.office.hold(A, "a sick person lives here", by="chief")
    assert card.flags == {HOLD: "a sick person lives here (chief)"}
    world.pay(100)
    world.pass_time(4 * DAY)
    assert world.switch.commands == {}
    assert "a person has to look first" in world.office.why_not(A)
    assert world.office.clear_flag(A, HOLD, by="chief").flags == {}
    world.until("disconnected", days_max=5)


def test_a_phone_that_is_never_reached_is_flagged_and_a_new_number_goes_on(world: OfficeWorld) -> None:
    world.open()
    world.mail.unreachable.add(world.office.card(A).contact.phone)
    world.pay(100)
    world.pass_time(4 * DAY)
    card = world.office.card(A)
    assert "unreachable" in card.flags
    assert (card.contact.is_reachable, world.switch.commands) == (False, {})
    card = world.office.change_contact(A, "139 0000 0001", language="zh", by="clerk")
    assert (card.flags, card.contact.phone, card.contact.language) == ({}, "+8613900000001", "zh")
    assert [one.by for one in card.contacts] == ["clerk", "notices", "clerk"]
    world.until("disconnected")


def test_holder_amounts_tariff_and_meter_change_and_the_card_shows_it(world: OfficeWorld) -> None:
    world.open()
    world.pay(10_000)
    world.pass_time(2 * DAY)
    card = world.office.change_holder(A, "C7", name="Wang Wu", identity="110105194912310007", by="clerk")
    assert (card.holder.name, card.holder.identity_tail) == ("Wang Wu", "0007")
    card = world.office.change_amounts(A, reminder_minor=5000, topup_minor=9000, bank="AG-1", by="clerk")
    assert (card.account.reminder_minor, card.account.topup_minor, card.account.bank) == (5000, 9000, "AG-1")
    assert world.office.change_tariff(A, "both", by="clerk").account.tariff == "both"
    card = world.office.exchange_meter(A, M, N, world.today + DAY, by="fitter")
    assert [(one.meter, one.until) for one in card.meters] == [(M, world.today), (N, None)]
    assert world.office.tariff_names() == ["both", "flat", "tou", "yen"]
    assert any("0.5283" in line for line in world.office.tariff_words("flat"))
    assert world.office.tariff_words("flat", language="zh") != world.office.tariff_words("flat")


def test_accounts_are_found_by_whatever_is_known_of_them(world: OfficeWorld) -> None:
    world.open()
    world.open(B, N, name="Zhang 100%", phone="13900000007")
    for text, expected in (
        ("", [A, B]), ("a000", [A, B]), (N, [B]), ("zhang", [B]), ("139 0000 0007", [B]), ("Nanjing", [A, B]),
        (f"P{A}", [A]), ("100%", [B]), ("%", [B]), ("nobody", []),
    ):  # fmt: skip
        assert [card.account.id for card in world.office.search(text)] == expected, text
    assert [card.account.id for card in world.office.search(after=A)] == [B]
    assert [card.account.id for card in world.office.search(limit=1)] == [A]


def test_who_moves_out_is_settled_closed_and_given_the_rest(world: OfficeWorld) -> None:
    world.open()
    paid = world.pay(10_000)
    world.pass_time(2 * DAY)
    last = world.today
    assert world.office.move_out(A, last, by="clerk").done_at is None
    world.pass_time(2 * DAY)
    card = world.office.card(A)
    assert (card.account.state, card.account.closed_on) == (AccountState.CLOSED, last)
    assert card.move_out is not None
    rest = card.move_out.remainder_minor
    assert rest == 10_000 - 1585
    assert world.office.refund(A, rest, key="B1", note="paid out", by="cashier").is_new
    with pytest.raises(Exception, match=r"has 0\.00 CNY"):
        world.office.refund(A, 1, key="B2", note="again", by="cashier")
    world.office.reverse("app", paid.receipt, reason="no funds", by="bank")
    assert "reversed-after-closing" in world.office.card(A).flags
    world.open(B, M)  # the next customer of these premises
    assert world.office.card(B).account.state is AccountState.ACTIVE


def test_who_moves_out_in_the_dark_leaves_a_flag_for_the_next_customer(world: OfficeWorld) -> None:
    run_out(world)
    world.office.move_out(A, world.today, by="clerk")
    world.pass_time(2 * DAY)
    card = world.office.card(A)
    assert card.account.state is AccountState.CLOSED
    assert "closed-while-off" in card.flags


# ------------------------------------------------------------------------------------------------ what is told by itself


def test_a_landlord_sees_today_so_far_and_no_name(world: OfficeWorld) -> None:
    world.open(B, N, kwh=None)
    world.open(landlord=f"C{B}")
    world.pay(10_000)
    world.pass_time(2 * DAY)
    assert world.office.landlord(f"C{B}")[0].today_kwh is None
    world.tell_minutes("0.25", minutes=15)
    world.town.now += 15 * MINUTE
    world.tell_minutes("0.50", minutes=15)
    world.pass_time(MINUTE, step=MINUTE)
    (row,) = world.office.landlord(f"C{B}")
    assert (row.account, row.today_kwh, row.today_until) == (A, Decimal("0.75"), world.town.now - MINUTE)
    assert row.available_minor == world.balance() == 10_000 - 1057
    assert world.office.landlord("C9") == []


def test_statements_are_made_and_sent_once_when_the_month_is_charged(world: OfficeWorld) -> None:
    world.open()
    world.pay(50_000)
    world.pass_time(29 * DAY, step=12 * HOUR)
    assert world.office.statements(A) == []
    world.pass_time(3 * DAY)
    assert world.office.statements(A) == ["2026-03"]
    made = world.office.statement(A, date(2026, 3, 15))
    assert made is not None
    assert (made.paid_minor, made.closing_minor) == (50_000, 50_000 - made.charged_minor)
    assert world.kinds().count("statement") == 1
    (letter,) = [one for one in world.office.letters(A) if one.kind == "statement"]
    assert "2026-03: used 300 kWh" in letter.text


def test_a_sudden_increase_is_flagged_and_told_to_the_customer(world: OfficeWorld) -> None:
    world.open()
    world.pay(500_000)
    world.pass_time(31 * DAY, step=6 * HOUR)
    world.daily_kwh[M] = Decimal(60)
    world.pass_time(4 * DAY, step=6 * HOUR)
    assert "sudden-increase" in world.office.card(A).flags
    (letter,) = [one for one in world.office.letters(A) if one.kind == "finding"]
    assert "60 kWh were counted. That is much more" in letter.text
    both = world.office.comparison(A)
    assert (both.this.days, both.this.kwh, both.last_so_far.kwh) == (5, Decimal(250), Decimal(40))


def test_use_behind_an_open_contact_is_flagged_and_told(world: OfficeWorld) -> None:
    run_out(world)
    world.daily_kwh[M] = Decimal(3)
    world.pass_time(3 * DAY)
    assert "use-while-disconnected" in world.office.card(A).flags
    assert world.kinds().count("finding") == 1


def test_a_receipt_that_comes_later_proves_a_message(world: OfficeWorld) -> None:
    world.open()
    world.pass_time(HOUR)
    letter = world.office.letters(A)[0]
    assert world.office.receipt(letter.reference, delivered=True, problem="") is True
    assert world.office.receipt("unheard-of", delivered=True, problem="") is False


def test_a_supply_that_does_not_come_back_in_time_is_everybodys_affair(world: OfficeWorld) -> None:
    run_out(world)
    assert world.office.problems() == []
    world.switch.debts = _Lost()
    world.pay(90_000)
    world.pass_time(6 * HOUR)
    assert "not-back" in world.office.card(A).flags
    assert world.office.problems() == ["accounts that have paid and whose supply is not back in time: 1"]


class _Lost(dict):  # type: ignore[type-arg]
    """Debts that the switch forgets."""

    def setdefault(self, key: object, default: object = None) -> object:
        return default


def test_a_told_amount_settles_a_day_that_no_read_explains(world: OfficeWorld) -> None:
    world.open(kwh=None)
    world.pay(5000)
    day = world.today
    world.pass_time(2 * DAY)
    assert [one.day for one in world.office.standing(A).unsettled][:1] == [day]
    world.office.tell_use(M, day, {"1-0:1.8.0": Decimal(10)}, by="reader", note="read from a photo")
    world.pass_time(HOUR)
    assert world.balance() == 5000 - 528


def test_everything_that_a_new_process_needs_is_in_the_database(world: OfficeWorld) -> None:
    run_out(world)
    world.start()
    assert world.state() == "disconnected"
    world.pay(90_000)
    world.start()
    world.pass_time(3 * HOUR, step=5 * MINUTE)
    assert world.state() == "well"
