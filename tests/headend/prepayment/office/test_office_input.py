"""What cannot be is refused by every method of the office with words that say what was expected, and changes nothing."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from headend.prepayment.books.autopay import Limits
from headend.prepayment.errors import (
    AccountClosed,
    BadContact,
    BadInput,
    BadPayment,
    BadTelling,
    KeyReused,
    NotEligible,
    PrepaymentError,
    UnknownAccount,
    UnknownPayment,
    UnknownTariff,
)
from headend.prepayment.model import Premises
from headend.prepayment.notices.plan import parse_plan
from headend.prepayment.office.office import Office
from tests.headend.prepayment.books.test_autopay import BankBook
from tests.headend.prepayment.office_world import DAY, HOUR, A, M, OfficeWorld
from tests.headend.support import dump

pytestmark = pytest.mark.both_databases

D = date(2026, 3, 2)
NIGHT = datetime(2026, 3, 2, tzinfo=UTC)
Call = Callable[[OfficeWorld, Office], object]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OfficeWorld]:
    found = OfficeWorld(tmp_path)
    found.open()
    found.pay(5000)
    found.office.enrol(found.enrolment("A0003", "M0003"), by="clerk")
    found.office.enrol(found.enrolment("A0004", "M0004"), by="clerk")
    found.office.move_out("A0004", found.today, by="clerk")
    found.pass_time(2 * DAY)
    yield found
    found.aclose()


LANDLORD = "C-none"
REFUSED: list[tuple[type[PrepaymentError], str, Call]] = [
    (NotEligible, "exists already", lambda w, o: o.enrol(w.enrolment(), by="x")),
    (NotEligible, "none of ours", lambda w, o: o.enrol(w.enrolment("A5", "M-other"), by="x")),
    (NotEligible, "belongs to account", lambda w, o: o.enrol(w.enrolment("A5", M), by="x")),
    (NotEligible, "tariff 'gold'", lambda w, o: o.enrol(w.enrolment("A5", "M0005", tariff="gold"), by="x")),
    (NotEligible, "tariff 'yen'", lambda w, o: o.enrol(w.enrolment("A5", "M0005", tariff="yen"), by="x")),
    (NotEligible, "landlord", lambda w, o: o.enrol(w.enrolment("A5", "M0005", landlord=LANDLORD), by="x")),
    (NotEligible, "reminder_minor 0", lambda w, o: o.enrol(w.enrolment("A5", "M0005", reminder_minor=0), by="x")),
    (NotEligible, "name and identity", lambda w, o: o.enrol(w.enrolment("A5", "M0005", name=" "), by="x")),
    (NotEligible, "1 to 64 letters", lambda w, o: o.enrol(w.enrolment("A5", "M0005", customer="a b"), by="x")),
    (
        NotEligible,
        "by their landlord",
        lambda w, o: o.enrol(
            w.enrolment("A5", "M0005", premises=Premises(id="P5", address="5", is_submetered=True)), by="x"
        ),
    ),
    (NotEligible, "another document", lambda w, o: o.enrol(w.enrolment("A5", "M0005", customer=f"C{A}"), by="x")),
    (NotEligible, "each of them once", lambda w, o: o.enrol(w.enrolment("A5", meters=("M0005", "M0005")), by="x")),
    (BadContact, "no phone number", lambda w, o: o.enrol(w.enrolment("A5", "M0005", phone="12"), by="x")),
    (BadInput, "language 'fr'", lambda w, o: o.enrol(w.enrolment("A5", "M0005", language="fr"), by="x")),
    (BadInput, "by ''", lambda w, o: o.enrol(w.enrolment("A5", "M0005"), by="")),
    (BadInput, r"name 'Li\x00Hua'", lambda w, o: o.enrol(w.enrolment("A5", "M0005", name="Li\0Hua"), by="x")),
    (BadInput, "identity", lambda w, o: o.enrol(w.enrolment("A5", "M0005", identity="11\n22"), by="x")),
    (BadInput, "name", lambda w, o: o.enrol(w.enrolment("A5", "M0005", name="\ud83d"), by="x")),
    (
        BadInput,
        "address",
        lambda w, o: o.enrol(w.enrolment("A5", "M0005", premises=Premises(id="P5", address="1\x1b[2J")), by="x"),
    ),
    (UnknownAccount, "A9", lambda w, o: o.confirm("A9", by="x")),
    (NotEligible, "is active", lambda w, o: o.confirm(A, by="x")),
    (BadInput, "opens_on", lambda w, o: o.confirm("A0003", by="x", opens_on=w.today - DAY)),
    (BadInput, "opens_on", lambda w, o: o.confirm("A0003", by="x", opens_on=w.today + 93 * DAY)),
    (UnknownAccount, "A9", lambda w, o: o.card("A9")),
    (UnknownAccount, "A9", lambda w, o: o.account("A9")),
    (BadInput, "limit 0", lambda w, o: o.search(limit=0)),
    (BadInput, "limit 201", lambda w, o: o.search(limit=201)),
    (BadInput, "101 characters", lambda w, o: o.search("x" * 101)),
    (UnknownAccount, "A9", lambda w, o: o.change_contact("A9", "13800000000", by="x")),
    (BadContact, "no phone number", lambda w, o: o.change_contact(A, "+0", by="x")),
    (BadContact, "no phone number", lambda w, o: o.change_contact(A, "call me", by="x")),
    (BadContact, "no phone number", lambda w, o: o.change_contact(A, "1381234567", by="x")),
    (BadInput, "language", lambda w, o: o.change_contact(A, "13800000000", language="xx", by="x")),
    (UnknownAccount, "A9", lambda w, o: o.change_holder("A9", "C1", by="x")),
    (NotEligible, "not known", lambda w, o: o.change_holder(A, "C9", by="x")),
    (NotEligible, "name and identity", lambda w, o: o.change_holder(A, "C9", name="Wu", by="x")),
    (BadInput, "name", lambda w, o: o.change_holder(A, "C9", name="Wu\0", identity="9", by="x")),
    (BadInput, "bank", lambda w, o: o.change_amounts(A, reminder_minor=1, topup_minor=1, bank="b\0", by="x")),
    (NotEligible, "another document", lambda w, o: o.change_holder(A, f"C{A}", name="Wu", identity="9", by="x")),
    (AccountClosed, "was closed", lambda w, o: o.change_holder("A0004", f"C{A}", by="x")),
    (NotEligible, "expected both", lambda w, o: o.change_amounts(A, reminder_minor=1, topup_minor=1, bank="", by="x")),
    (NotEligible, "tariff 'gold'", lambda w, o: o.change_tariff(A, "gold", by="x")),
    (NotEligible, "tariff 'yen'", lambda w, o: o.change_tariff(A, "yen", by="x")),
    (NotEligible, "none of ours", lambda w, o: o.exchange_meter(A, M, "M-other", w.today, by="x")),
    (NotEligible, "does not measure", lambda w, o: o.exchange_meter(A, "M0005", "M0006", w.today, by="x")),
    (BadInput, "a year ahead at most", lambda w, o: o.exchange_meter(A, M, "M0006", date(2062, 3, 2), by="x")),
    (BadInput, "a year ahead at most", lambda w, o: o.move_out(A, date(2062, 3, 2), by="x")),
    (BadInput, "a year ahead at most", lambda w, o: o.move_out(A, w.today + 367 * DAY, by="x")),
    (UnknownAccount, "A9", lambda w, o: o.move_out("A9", D, by="x")),
    (UnknownAccount, "A9", lambda w, o: o.changes("A9")),
    (BadInput, "limit 0", lambda w, o: o.changes(A, limit=0)),
    (BadInput, "began on", lambda w, o: o.move_out(A, D - DAY, by="x")),
    (AccountClosed, "was closed", lambda w, o: o.move_out("A0004", D, by="x")),
    (UnknownAccount, "A9", lambda w, o: o.hold("A9", "because", by="x")),
    (BadInput, "text ' '", lambda w, o: o.hold(A, " ", by="x")),
    (BadInput, "by ''", lambda w, o: o.hold(A, "ill", by="")),
    (BadInput, "no flag 'hold'; expected one of none", lambda w, o: o.clear_flag(A, "hold", by="x")),
    (UnknownAccount, "A9", lambda w, o: o.why_not("A9")),
    (
        BadTelling,
        "measures no account",
        lambda w, o: o.tell_use("M0008", D, {"1-0:1.8.0": Decimal(1)}, by="x", note=""),
    ),
    (BadTelling, "is not over", lambda w, o: o.tell_use(M, w.today, {"1-0:1.8.0": Decimal(1)}, by="x", note="")),
    (BadTelling, "expected", lambda w, o: o.tell_use(M, D, {"1-0:1.8.0": Decimal(-1)}, by="x", note="")),
    (BadInput, "note", lambda w, o: o.tell_use(M, D, {"1-0:1.8.0": Decimal(1)}, by="x", note="seen\0")),
    (BadPayment, "amount_minor -5", lambda w, o: o.take(w.payment(-5))),
    (BadPayment, "amount_minor 0", lambda w, o: o.take(w.payment(0))),
    (BadPayment, "amount_minor 1000000000000000", lambda w, o: o.take(w.payment(10**15))),
    (BadPayment, "receipt ''", lambda w, o: o.take(w.payment(5, receipt=""))),
    (BadPayment, "currency 'XXX'", lambda w, o: o.take(w.payment(5, currency="XXX"))),
    (BadPayment, "currency 'YUAN'", lambda w, o: o.take(w.payment(5, currency="YUAN"))),
    (BadPayment, "channel 'sea'", lambda w, o: o.take(w.payment(5, channel="sea"))),
    (BadPayment, "has not come yet", lambda w, o: o.take(w.payment(5, paid_at=w.town.now + HOUR))),
    (KeyReused, "amount_minor 5000, now 6", lambda w, o: o.take(replace(o.payments(A)[0], amount_minor=6))),
    (UnknownPayment, "R99", lambda w, o: o.reverse("app", "R99", reason="r", by="x")),
    (BadInput, "reason", lambda w, o: o.reverse("app", "R1", reason="", by="x")),
    (BadInput, "reason", lambda w, o: o.reverse("app", "R1", reason=" ", by="x")),
    (UnknownPayment, "R99", lambda w, o: o.assign("app", "R99", A, by="x")),
    (BadPayment, "expected an unmatched one", lambda w, o: o.assign("app", "R1", "A0003", by="x")),
    (UnknownAccount, "A9", lambda w, o: o.adjust("A9", 1, key="k", note="n", by="x")),
    (BadInput, "amount_minor 0", lambda w, o: o.adjust(A, 0, key="k", note="n", by="x")),
    (BadInput, "key ''", lambda w, o: o.adjust(A, 1, key="", note="n", by="x")),
    (AccountClosed, "was closed", lambda w, o: o.adjust("A0004", 1, key="k", note="n", by="x")),
    (BadInput, "expected", lambda w, o: o.refund(A, 10**6, key="k", note="n", by="x")),
    (BadInput, "amount_minor -1", lambda w, o: o.refund(A, -1, key="k", note="n", by="x")),
    (UnknownPayment, "told and not booked", lambda w, o: o.drop_told("app", "R1", by="x")),
    (BadInput, "channel 'sea'", lambda w, o: o.reconciliation("sea", D)),
    (BadInput, "expected a day", lambda w, o: o.reconciliation("app", date.max)),
    (UnknownAccount, "A9", lambda w, o: o.standing("A9")),
    (BadInput, "expected 0 to 400", lambda w, o: o.daily(A, D, D + timedelta(days=401))),
    (UnknownAccount, "A9", lambda w, o: o.daily("A9", D, D)),
    (UnknownAccount, "A9", lambda w, o: o.comparison("A9")),
    (UnknownAccount, "A9", lambda w, o: o.statement("A9", D)),
    (UnknownAccount, "A9", lambda w, o: o.statements("A9")),
    (UnknownAccount, "A9", lambda w, o: o.payments("A9")),
    (UnknownAccount, "A9", lambda w, o: o.letters("A9")),
    (BadInput, "limit -1", lambda w, o: o.letters(A, limit=-1)),
    (UnknownAccount, "A9", lambda w, o: o.debits("A9")),
    (UnknownAccount, "A9", lambda w, o: o.awards("A9")),
    (BadInput, "limit 1001", lambda w, o: o.entries(A, limit=1001)),
    (UnknownTariff, "expected one of both, flat", lambda w, o: o.tariff_words("gold")),
    (BadInput, "language", lambda w, o: o.tariff_words("flat", language="de")),
]


def test_what_cannot_be_is_refused_in_words_and_changes_nothing(world: OfficeWorld) -> None:
    before = dump(world.engine)
    told = dict(world.switch.references)
    for kind, words, call in REFUSED:
        with pytest.raises(kind) as refused:
            call(world, world.office)
        assert words in str(refused.value), str(refused.value)
        assert dump(world.engine) == before, f"changed by what was refused with {refused.value}"
    assert world.switch.references == told


def test_every_method_that_may_be_refused_is_in_the_list() -> None:
    told = {name for _, _, call in REFUSED for name in call.__code__.co_names}
    methods = {name for name in vars(Office) if not name.startswith("_")}
    assert methods - told == {
        "duties",
        "problems",
        "unmatched",
        "told_not_booked",
        "landlord",
        "tariff_names",
        "receipt",
    }


def test_the_bank_draws_by_itself_and_both_answers_are_told_once(tmp_path: Path) -> None:
    bank = BankBook()
    world = OfficeWorld(tmp_path, bank=bank)
    world.settings = replace(world.settings, limits=Limits(retry_after=(HOUR, HOUR)))
    world.start()
    world.open(topup_minor=3000, bank="AG-1")
    bank.refusals = ["no cover", "no cover"]
    world.pass_time(DAY)
    assert next((one.state, one.tries) for one in world.office.debits(A)) == ("accepted", 3)
    assert world.balance() >= 3000 - 528
    world.pass_time(2 * HOUR)
    kinds = world.kinds()
    assert (kinds.count("debit-refused"), kinds.count("topped-up")) == (1, 1)
    assert [one.channel for one in world.office.payments(A)] == ["bank-debit"]
    world.aclose()


def test_a_plan_with_waits_of_seconds_must_say_that_it_is_a_trial() -> None:
    text = (Path(__file__).parents[4] / "headend/prepayment/notices/plans/cn-residential.toml").read_text("utf-8")
    hasty = text.replace('after_previous = "24h"', 'after_previous = "10s"')
    with pytest.raises(Exception, match="less with trial = true"):
        parse_plan(hasty, "hasty")
    assert parse_plan("trial = true\n" + hasty, "hasty").last_warning.after_previous == timedelta(seconds=10)
    loud = text.replace('quiet = { start = "20:00", end = "08:00" }', 'quiet = "none"')
    plan = parse_plan(loud, "loud")
    assert all(plan.may_send("low", NIGHT + place * HOUR) for place in range(24))


def test_while_the_bank_does_not_say_whether_it_drew_nothing_is_disconnected(tmp_path: Path) -> None:
    bank = BankBook()
    world = OfficeWorld(tmp_path, bank=bank)
    world.open(topup_minor=3000, bank="AG-1")
    bank.loses_answers = 10**6
    while not bank.asked:
        world.pass_time(HOUR)
    assert "a payment is on its way" in world.office.why_not(A)
    bank.drawn.clear()
    bank.loses_answers, bank.refusals = 0, ["no cover"] * 10**3
    world.pass_time(2 * HOUR)
    assert "a payment is on its way" not in world.office.why_not(A)
    world.aclose()
