"""Random lives of prepaid accounts, watched where the effects happen: payments at any moment, also between two effects; phones that
cannot be reached; a switch that refuses, expires, and does not answer; a program that dies anywhere; clocks that are set.

Each world has its seed; a failure names it.
"""

from datetime import timedelta
from pathlib import Path

import pytest

from headend.prepayment.books.books import check_books
from headend.prepayment.errors import BadPayment, SwitchboardUnavailable
from headend.prepayment.model import Payment
from headend.prepayment.ports import Message
from headend.prepayment.storage.database import Database
from headend.prepayment.supply.store import restores
from tests.headend.prepayment.supply_world import Crash, Program, Town, account_name, meter_of

ACCOUNTS = 25
DAYS = 22
STEP = timedelta(hours=1)
STEPS = {"low": "first", "used-up": "second", "last-warning": "final"}


class Lives:
    """One world: what happens to it, and what must never be seen in it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.town = Town(seed, crashes=0.004)
        self.program = Program(folder, self.town, ACCOUNTS)
        self.random = self.town.random
        self.names = [account_name(one) for one in range(ACCOUNTS)]
        self.untold: dict[str, Payment] = {}
        self.paid_off: dict[str, object] = {}  # when an account last paid all it owed, in the world's time
        self.owed_since_paid: dict[str, object] = {}
        self.late: list[timedelta] = []
        self.clock_was_set = False
        self._busy = False
        program = self.program
        program.mail.failing = self.random.choice((0.0, 0.1, 0.5))
        program.switch.refusing = self.random.choice((0.0, 0.3))
        program.switch.away = self.random.choice((0.0, 0.05))
        program.mail.watch = self.watch_message
        program.switch.watch_open = self.watch_open
        self.town.interrupt = self.interrupt
        for name in self.names:
            program.daily_minor[name] = self.random.randrange(300, 3000)
            program.pay(name, self.random.randrange(100, 6000))

    # ---------------------------------------------------------------------------------------- what must hold

    def watch_message(self, message: Message) -> None:
        account, program = message.account, self.program
        _, episode, kind, _ = message.key.split("/")
        given = [one.split("/") for one in program.mail.given if one.startswith(f"{account}/{episode}/")]
        if kind != "last-warning":
            assert not [one for one in given if one[2] == kind], f"{message.key}: {kind} was given before"
        else:
            assert sum(one[2] == kind for one in given) < program.plan.last_warnings_max
        if kind in ("used-up", "last-warning", "disconnected"):
            # A payment in the very moment between the claim and the channel overtakes nobody.
            just_paid = self.paid_off.get(account) == self.town.now
            assert program.balance(account) < 0 or just_paid, f"{message.key}: the customer has paid"

    def watch_open(self, command: object) -> None:
        program, town = self.program, self.town
        meter = command.meter  # type: ignore[attr-defined]
        account = f"A{meter[1:]}"
        assert program.balance(account) < 0, f"{account} has paid and is disconnected"
        proofs = command.notices  # type: ignore[attr-defined]
        assert [one.step for one in proofs] == list(STEPS.values())
        given = [program.mail.by_reference[one.reference] for one in proofs]
        assert [one.message.kind for one in given] == list(STEPS)
        assert {one.message.account for one in given} == {account}
        times = [one.at for one in given]
        if not self.clock_was_set:
            assert times[1] - times[0] >= timedelta(hours=24)
            assert times[2] - times[1] >= timedelta(hours=24)
            assert town.now - times[2] >= timedelta(hours=2)
            assert town.now - times[0] >= timedelta(days=7)

    # ---------------------------------------------------------------------------------------- what happens

    def interrupt(self) -> None:
        if not self._busy and self.random.random() < 0.01:
            self.pay(self.random.choice(self.names))

    def pay(self, account: str) -> None:
        owed = max(0, -self.program.balance(account))
        amount = self.random.randrange(1, 6000) + (owed if self.random.random() < 0.7 else 0)
        receipt = f"R{len(self.program.receipts)}"
        now = self.town.program_now()
        payment = Payment(
            channel="app",
            receipt=receipt,
            account=account,
            amount_minor=amount,
            currency="CNY",
            paid_at=now,
            received_at=now,
        )
        self.program.receipts[receipt] = payment
        self.untold[receipt] = payment
        self.take(payment)

    def take(self, payment: Payment) -> None:
        """The channel keeps what was not taken, and tells it again."""
        busy, self._busy = self._busy, True
        account = payment.account
        try:
            self.program.till.take(payment)
        except SwitchboardUnavailable:
            return
        except BadPayment:
            assert payment.paid_at > self.town.program_now(), "only a clock that was set back refuses a payment"
            return
        finally:
            self._busy = busy
        del self.untold[payment.receipt]
        if self.program.balance(account) >= 0:
            self.paid_off[account] = self.town.now
            meter, switch = meter_of(account), self.program.switch
            assert switch.contact.get(meter, "on") == "on" or meter in switch.debts, f"{account} paid, nothing is owed"

    def guarded_take(self, payment: Payment) -> None:
        try:
            self.take(payment)
        except Crash:
            self.program.start()

    def live(self) -> None:
        program, town = self.program, self.town
        for day in range(DAYS):
            for _ in range(24):
                town.now += STEP
                program.switch.pass_time()
                program.tick()
                for payment in list(self.untold.values()):
                    if self.random.random() < 0.5:
                        self.guarded_take(payment)
                if self.random.random() < 0.3:
                    try:
                        self.pay(self.random.choice(self.names))
                    except Crash:
                        program.start()
            for name in self.names:
                if self.random.random() < 0.95:
                    program.use(name, int(program.daily_minor[name] * self.random.uniform(0.3, 1.7)))
            self.change_something(day)

    def change_something(self, day: int) -> None:
        mail, kind = self.program.mail, self.random.random()
        phone = f"+86138{self.random.randrange(ACCOUNTS):08}"
        if kind < 0.3:
            mail.unreachable.add(phone)
        elif kind < 0.45:
            mail.unreachable.discard(phone)
        elif kind < 0.6 and self.town.random.random() < 0.3:
            self.clock_was_set = True
            self.town.offset += self.random.choice((-3, -1, 1, 2)) * timedelta(hours=self.random.choice((1, 30)))

    def come_to_rest(self) -> None:
        """Nothing goes wrong any more, everybody pays: all have light within a day, and are well."""
        program, town = self.program, self.town
        town.crashes = program.mail.failing = program.switch.refusing = program.switch.away = 0.0
        town.interrupt = lambda: None
        for payment in list(self.untold.values()):
            self.take(payment)
        for name in self.names:
            program.pay(name, max(0, -program.balance(name)) + 20 * program.daily_minor[name])
        program.pass_time(timedelta(hours=26), step=timedelta(minutes=30))
        dark = [name for name in self.names if program.switch.contact.get(meter_of(name), "on") == "off"]
        assert not dark, f"paid and dark: {dark}"
        states = {name: program.state(name) for name in self.names if program.state(name) != "well"}
        assert not states
        with Database(program.engine).reading("checking") as connection:
            assert check_books(connection) == []
        assert not program.switch.debts


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        lives = metafunc.config.getoption("--prepaid-lives")
        metafunc.parametrize("seed", range(-(-lives // ACCOUNTS)))


def test_nobody_is_cut_unwarned_or_paid_and_everybody_who_pays_has_light_again(tmp_path: Path, seed: int) -> None:
    lives = Lives(tmp_path, seed)
    try:
        lives.live()
        switch, mail = lives.program.switch, lives.program.mail
        assert mail.given, "nobody was told anything in this world"
        assert switch.opened or lives.clock_was_set, "nobody was disconnected in this world"
        lives.come_to_rest()
        assert len(switch.closed) == len(switch.opened)
    finally:
        lives.program.aclose()


def test_a_payment_that_leaves_a_disconnected_customer_owing_is_not_told(tmp_path: Path) -> None:
    program = Program(tmp_path, Town(3), 1)
    with program.database.reading("asking") as connection:
        assert restores(connection, account_name(0), 1)  # of an account that is not disconnected every payment is told
    program.aclose()
