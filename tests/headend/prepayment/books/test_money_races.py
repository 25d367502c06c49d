"""Money while something else happens: agreements that end, meters that move, a bank and a switch that are slow."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from headend.prepayment.accounts import accounts
from headend.prepayment.books import fences
from headend.prepayment.books.autopay import Autopay, Debit, Drawn, debits_of
from headend.prepayment.errors import SwitchboardUnavailable, UnknownAccount
from headend.prepayment.model import Contact
from headend.prepayment.notices.texts import load_texts
from headend.prepayment.office.letter_drafts import LetterDrafts
from headend.prepayment.ports import Debited, DebitOutcome, OpenProof
from headend.prepayment.storage import tables
from headend.prepayment.supply.store import Content, Order, add_order
from tests.headend.prepayment.books.test_autopay import DAY, HOUR, BankBook, FenceKeeper, SetClock, Shop, spend
from tests.headend.prepayment.fleet import enrol
from tests.headend.prepayment.supply_world import PLAN

pytestmark = pytest.mark.both_databases

OURS = ("M1", "M2", "M3", "M9")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.database.dispose()


def debits(shop: Shop, account: str = "A1") -> list[Debit]:
    with shop.database.reading("looking") as connection:
        return debits_of(connection, account)


def amounts(shop: Shop, *, topup_minor: int, bank: str) -> None:
    with shop.database.writing("changing amounts") as connection:
        accounts.amounts(connection, "A1", reminder_minor=2000, topup_minor=topup_minor, bank=bank)


# ------------------------------------------------------------------------------------------------ the bank


def ended(shop: Shop) -> None:
    amounts(shop, topup_minor=0, bank="")


def lowered(shop: Shop) -> None:
    amounts(shop, topup_minor=3000, bank="DE-1")


def closed(shop: Shop) -> None:
    with shop.database.writing("closing") as connection:
        accounts.close(connection, "A1", DAY)


def paid(shop: Shop) -> None:
    shop.till.take(shop.paid("R1", 2000, account="A1"))


@pytest.mark.parametrize("change", [ended, lowered, closed, paid])
def test_a_refused_debit_is_not_tried_again_when_the_customer_does_not_want_it_any_more(
    shop: Shop, change: Callable[[Shop], None]
) -> None:
    shop.bank.refusals = ["no funds"]
    shop.run()
    change(shop)
    shop.clock.at += 5 * HOUR
    shop.run()
    assert shop.bank.drawn == {}
    assert len(shop.bank.asked) == 1
    (only,) = debits(shop)
    assert (only.state, only.next_try_at, only.problem.partition(":")[0]) == ("refused", None, "not drawn")


def test_a_debit_that_waits_for_its_turn_is_not_drawn_after_the_agreement_has_ended(shop: Shop) -> None:
    desk = Autopay(shop.database, shop.bank, shop.till.take, shop.days, shop.clock)
    desk.note("")
    assert debits(shop)[0].tries == 0
    ended(shop)
    desk.draw()
    assert shop.bank.asked == []
    assert debits(shop)[0].next_try_at is None


def test_without_an_agreement_no_bank_is_asked_what_became_of_a_debit(shop: Shop) -> None:
    """It may not have heard of it, and would draw now what the customer does not want any more; so a person looks at it."""
    shop.bank.loses_answers = 1
    assert shop.run() == Drawn(unknown=1)
    ended(shop)
    shop.clock.at += HOUR
    assert shop.run() == Drawn(unknown=1)
    assert len(shop.bank.asked) == 1
    amounts(shop, topup_minor=5000, bank="DE-1")
    shop.clock.at += timedelta(days=1)
    assert shop.run() == Drawn(accepted=1)
    assert shop.bank.drawn == {"debit:A1:2026-03-02:1": 5000}
    assert shop.credit() == 5000


def with_contact(shop: Shop, account: str) -> None:
    contact = Contact(account=account, since=shop.clock.at, phone="+8613800000001", language="en", by="clerk")
    with shop.database.writing("telling a number") as connection:
        accounts.add_contact(connection, contact)


def test_a_customer_who_cannot_be_told_of_a_debit_holds_up_nobody_elses_and_the_bank_has_a_pause(shop: Shop) -> None:
    letters = LetterDrafts(PLAN, load_texts(PLAN.zone))
    with shop.database.writing("agreeing") as connection:
        accounts.amounts(connection, "A2", reminder_minor=2000, topup_minor=3000, bank="DE-2")
    with_contact(shop, "A2")
    desk = Autopay(shop.database, shop.bank, shop.till.take, shop.days, shop.clock, answered=letters.debit)
    desk.note("")
    began, keys = shop.clock.at, [f"debit:{one}:{DAY}:1" for one in ("A1", "A2")]
    with capture_logs() as logged, pytest.raises(UnknownAccount, match="A1"):
        desk.draw()
    assert [one["account"] for one in logged if one["log_level"] == "error"] == ["A1"]
    assert shop.bank.asked == keys
    assert [one.state for one in debits(shop, "A2")] == ["accepted"]
    (waits,) = debits(shop)
    assert (waits.state, waits.tries, waits.next_try_at) == ("unknown", 1, began + desk._limits.ask_again_after)
    shop.clock.at += timedelta(seconds=1)
    assert desk.draw() == Drawn()
    with_contact(shop, "A1")
    shop.clock.at = began + desk._limits.ask_again_after
    assert desk.draw() == Drawn(accepted=1)
    assert shop.bank.asked == [*keys, keys[0]]
    assert (shop.credit("A1"), shop.credit("A2")) == (5000, 3000)


def test_a_debit_whose_account_is_gone_holds_up_no_other_and_its_bank_is_not_asked(shop: Shop) -> None:
    """Nor does its state say then that the bank was."""
    desk = Autopay(shop.database, shop.bank, shop.till.take, shop.days, shop.clock)
    desk.note("")
    with shop.database.writing("planting") as connection:
        row = connection.execute(select(tables.debits)).one()._mapping
        connection.execute(tables.debits.insert(), [{**row, "account": "A0", "next_try_at": 0}])
    with pytest.raises(UnknownAccount, match="A0"):
        desk.draw()
    assert shop.bank.asked == [f"debit:A1:{DAY}:1"]
    (gone,) = debits(shop, "A0")
    assert (gone.state, gone.tries, gone.next_try_at) == ("asked", 0, shop.clock.at + desk._limits.ask_again_after)


def test_an_unanswered_debit_is_asked_for_again_under_the_agreement_that_it_was_asked_under(shop: Shop) -> None:
    class Strict(BankBook):
        """As banks are: a key belongs to the agreement it came with."""

        def __init__(self) -> None:
            super().__init__()
            self.under: dict[str, str] = {}

        def debit(self, agreement: str, amount_minor: int, currency: str, key: str) -> Debited:
            if self.under.setdefault(key, agreement) != agreement:
                return Debited(DebitOutcome.REFUSED, "the key was used under another agreement")
            return super().debit(agreement, amount_minor, currency, key)

    shop.bank = bank = Strict()
    bank.loses_answers = 1
    assert shop.run() == Drawn(unknown=1)
    amounts(shop, topup_minor=5000, bank="DE-2")
    shop.clock.at += HOUR
    assert shop.run() == Drawn(accepted=1)
    assert (shop.credit(), bank.drawn) == (5000, {"debit:A1:2026-03-02:1": 5000})
    spend(shop, 4000)
    shop.clock.at += timedelta(days=1)
    bank.refusals = ["no funds"]
    assert shop.run() == Drawn(refused=1)
    amounts(shop, topup_minor=5000, bank="DE-3")
    shop.clock.at += 5 * HOUR
    assert shop.run() == Drawn(accepted=1)  # a new try is a new key, under what stands now
    assert list(bank.under.values()) == ["DE-1", "DE-2", "DE-3"]
    assert [one.agreement for one in debits(shop)] == ["DE-1", "DE-3"]


def test_an_account_whose_meters_cannot_be_told_holds_up_no_other_debit(shop: Shop) -> None:
    class Half(FenceKeeper):
        def payment(self, meter: str, **told: object) -> None:
            if self.is_away and meter == "M2":
                raise SwitchboardUnavailable("not this one")

    shop.till._switchboard = half = Half()
    half.is_away = True
    with shop.database.writing("enrolling") as connection:
        enrol(connection, "A3", ["M4"], "flat", DAY, reminder_minor=2000, topup_minor=5000, bank="DE-3")
    assert shop.run() == Drawn(accepted=1, unknown=1)
    assert (shop.credit("A1"), shop.credit("A3")) == (0, 5000)
    assert "drawn, and not booked yet" in debits(shop)[0].problem
    half.is_away = False
    shop.clock.at += HOUR
    assert shop.run() == Drawn(accepted=1)
    assert shop.credit("A1") == 5000
    assert shop.bank.drawn == {"debit:A1:2026-03-02:1": 5000, "debit:A3:2026-03-02:1": 5000}


def test_a_bank_that_keeps_us_waiting_is_asked_for_one_debit_a_run(shop: Shop) -> None:
    class Slow(BankBook):
        def __init__(self, clock: SetClock) -> None:
            super().__init__()
            self.clock = clock

        def debit(self, agreement: str, amount_minor: int, currency: str, key: str) -> Debited:
            self.asked.append(key)
            self.clock.at += timedelta(seconds=15)
            return Debited(DebitOutcome.UNKNOWN)

    shop.bank = bank = Slow(shop.clock)
    with shop.database.writing("enrolling") as connection:
        for number in range(3, 9):
            enrol(connection, f"A{number}", [f"N{number}"], "flat", DAY, reminder_minor=2000, topup_minor=50, bank="DE")
    began = shop.clock.at
    assert shop.run() == Drawn(unknown=1)
    assert (shop.clock.at - began).total_seconds() == 15
    shop.run()
    assert len(set(bank.asked)) == 2


# ------------------------------------------------------------------------------------------------ fences and meters


def test_the_next_customer_at_a_meter_can_be_disconnected_as_anybody_else(shop: Shop) -> None:
    """The switch keeps a fence for the meter, and does not know that it has another account now."""
    for number in range(5):
        shop.till.take(shop.paid(f"R{number}", 100))
    told = max(fence for meter, _, fence in shop.board.told if meter == "M3")
    with shop.database.writing("moving") as connection:
        accounts.close(connection, "A2", DAY)
        enrol(connection, "A9", ["M3"], "flat", DAY + timedelta(days=1))
        before = fences.fence_of(connection, "A9")
    assert before >= told
    shop.till.take(shop.paid("R9", 100, account="A9"))
    assert shop.board.told[-1][0] == "M3"
    assert shop.board.told[-1][2] > before  # so an order from before it is void
    with shop.database.reading("looking") as connection:
        assert fences.fence_of(connection, "A9") == shop.board.told[-1][2]


def test_a_payment_is_told_of_the_meter_that_measures_until_its_exchange(shop: Shop) -> None:
    with shop.database.writing("exchanging") as connection:
        accounts.exchange_meter(connection, "A2", "M3", "M9", DAY + timedelta(days=7), our_meters=OURS)
    shop.till.take(shop.paid("R1", 100))
    assert {meter for meter, _, _ in shop.board.told} == {"M3", "M9"}


@pytest.mark.parametrize("is_another_s", [False, True])
def test_a_payment_overtakes_an_order_for_a_meter_that_was_exchanged_since(shop: Shop, is_another_s: bool) -> None:
    """Unless the meter is another account's by now: its supply is not to come back for this payment."""
    now = shop.clock.at
    order = Order(
        key="k",
        account="A4",
        meter="M5",
        episode=1,
        command="c",
        state="approved",
        is_final=False,
        content=Content(
            reason="used up",
            proof=OpenProof(account="A4", balance_minor=-1, currency="CNY", as_of=now, fence=0),
            notices=(),
            expires_at=now + HOUR,
        ),
    )
    exchanged = date(2026, 2, 20)
    with shop.database.writing("exchanging") as connection:
        accounts.close(connection, "A1", DAY)
        enrol(connection, "A4", ["M5"], "flat", exchanged - timedelta(days=9))
        add_order(connection, order, now)
        accounts.exchange_meter(connection, "A4", "M5", "M9", exchanged, our_meters=OURS)
        if is_another_s:
            enrol(connection, "A5", ["M5"], "flat", exchanged)
    shop.till.take(shop.paid("R1", 100, account="A4"))
    assert {meter for meter, _, _ in shop.board.told} == ({"M9"} if is_another_s else {"M5", "M9"})


def test_after_one_payment_has_waited_in_vain_the_others_are_told_at_once(shop: Shop) -> None:
    """So that a switch that takes half a minute to say nothing does not hold every thread."""

    class Slow(FenceKeeper):
        waited = 0

        def payment(self, meter: str, **told: object) -> None:
            if self.is_away:
                self.waited += 1
                shop.clock.at += timedelta(seconds=30)
                raise SwitchboardUnavailable("no answer within 30 s")

    shop.till._switchboard = slow = Slow()
    slow.is_away = True
    for number in range(5):
        with pytest.raises(SwitchboardUnavailable):
            shop.till.take(shop.paid(f"R{number}", 100))
    assert slow.waited == 1
    with shop.database.reading("looking") as connection:
        assert len(fences.fenced(connection, "A2")) == 5  # none of which lets anything be disconnected
    slow.is_away = False
    shop.clock.at += timedelta(seconds=11)
    for number in range(5):
        shop.till.take(shop.paid(f"R{number}", 100))
    assert shop.credit("A2") == 500
