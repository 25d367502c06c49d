"""The answers of prepaid_answers.txt, played on the whole of prepaid supply. Each line of the file is one of the steps below."""

import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from headend.prepayment.model import Cause
from headend.prepayment.notices.notice import NoticeState
from tests.scenarios.plain_words import Scene, Steps, read_scenes
from tests.scenarios.prepaid_year.shop import Shop

FILE = Path(__file__).with_name("prepaid_answers.txt")
ANSWERS = read_scenes(FILE, "Question: ")
MONTHS = {"February": 2, "March": 3}
YEAR = 2028  # February has 29 days
HOUR = timedelta(hours=1)
OTHER = ("agreement", "topped-up", "statement")  # what is no step of an episode


class Stage:
    """shop: once the answer has said when and where it plays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shop: Shop | None = None

    def opens(self, shop: Shop) -> None:
        self._shop = shop

    @property
    def shop(self) -> Shop:
        assert self._shop is not None
        return self._shop

    def aclose(self) -> None:
        if self._shop is not None:
            self._shop.aclose()

    def charges(self) -> list[tuple[date, int, date]]:
        """Day, minor units, and the local day on which it was booked."""
        return [
            (entry.day, -moved, entry.at.astimezone(self.shop.zone).date())
            for _, entry, moved in self.shop.office.entries("A1")
            if entry.cause in (Cause.DAILY_CHARGE, Cause.MINIMUM, Cause.CORRECTION)
        ]


step = Steps[Callable[..., None]]()


def minor(yuan: str) -> int:
    return int(yuan.replace(".", ""))


YUAN = r"(\d+\.\d\d)"

# ------------------------------------------------------------------------------------------------ given


@step(rf"it is (\d+) (\w+), and a home has {YUAN} yuan")
def a_home(stage: Stage, day: str, month: str, yuan: str, **agreement: Any) -> None:
    shop = Shop(stage.folder, start=date(YEAR, MONTHS[month], int(day)))
    stage.opens(shop)
    shop.open(**agreement)
    if minor(yuan):
        shop.office.take(shop.payment(minor(yuan), receipt="first"))


@step(rf"it is (\d+) (\w+), and a home has {YUAN} yuan, and a card that pays {YUAN} yuan below {YUAN}")
def a_home_with_a_card(stage: Stage, day: str, month: str, yuan: str, topup: str, reminder: str) -> None:
    a_home(stage, day, month, yuan, bank="card-1", topup_minor=minor(topup), reminder_minor=minor(reminder))


# ------------------------------------------------------------------------------------------------ when


@step(r"it uses (\d+) kWh a day for (\d+) days?")
def uses(stage: Stage, kwh: str, days: str) -> None:
    stage.shop.use(int(days), f"{kwh}.00")


@step(r"(\d+) hours pass")
def passes(stage: Stage, hours: str) -> None:
    stage.shop.pass_time(int(hours) * HOUR)


@step(rf"it pays {YUAN} yuan")
def pays(stage: Stage, yuan: str) -> None:
    shop = stage.shop
    shop.office.take(shop.payment(minor(yuan), receipt=f"at {shop.town.now:%m-%dT%H%M}"))
    shop.run()


# ------------------------------------------------------------------------------------------------ then: money


@step(rf"each of the days was charged with {YUAN} yuan, on the morning after it")
def charged_daily(stage: Stage, yuan: str) -> None:
    for day, amount, booked_on in stage.charges():
        assert (amount, booked_on) == (minor(yuan), day + timedelta(days=1))


@step("nothing else was charged")
def charged_no_more(stage: Stage) -> None:
    assert [day for day, _, _ in stage.charges()] == [date(YEAR, 2, 28), date(YEAR, 2, 29), date(YEAR, 3, 1)]


@step(rf"the home has {YUAN} yuan")
def has(stage: Stage, yuan: str) -> None:
    assert stage.shop.balance() == minor(yuan)


@step(rf"the home owes {YUAN} yuan")
def owes(stage: Stage, yuan: str) -> None:
    shown = stage.shop.office.standing("A1")
    assert (shown.owed_minor, shown.available_minor) == (minor(yuan), -minor(yuan))


@step("the days of February are charged")
def february_is_charged(stage: Stage) -> None:
    assert stage.shop.office.standing("A1").settled_through == date(YEAR, 2, 29)


@step(rf"the charges of February are {YUAN} yuan")
def charges_of_february(stage: Stage, yuan: str) -> None:
    assert stage.shop.today == date(YEAR, 3, 1)
    assert sum(amount for day, amount, _ in stage.charges() if day.month == 2) == minor(yuan)


@step(rf"this month's charges are {YUAN} yuan, of the 1st to yesterday")
def this_month(stage: Stage, yuan: str) -> None:
    shown = stage.shop.office.standing("A1")
    assert shown.charged_minor == minor(yuan)
    assert [day for day, _, _ in stage.charges() if day.month == 3] == [date(YEAR, 3, 1)]
    assert shown.month_opening_minor + shown.paid_minor - shown.charged_minor == shown.available_minor


@step(r"it is (\d+) March")
def it_is(stage: Stage, day: str) -> None:
    assert stage.shop.today == date(YEAR, 3, int(day))


# ------------------------------------------------------------------------------------------------ then: bank


@step("the day was charged first, and then the bank was asked once")
def charged_then_asked(stage: Stage) -> None:
    causes = [entry.cause for _, entry, _ in stage.shop.office.entries("A1")]
    assert causes == [Cause.PAYMENT, Cause.DAILY_CHARGE, Cause.PAYMENT]
    asked(stage, "1")


@step("the bank was asked once")
def asked_once(stage: Stage) -> None:
    asked(stage, "1")


@step(r"the bank was asked (\d+) times")
def asked(stage: Stage, times: str) -> None:
    assert len(stage.shop.bank.drawn) == int(times) == len(stage.shop.office.debits("A1"))


@step(rf"each debit was of {YUAN} yuan, and on a day of its own")
def debits(stage: Stage, yuan: str) -> None:
    found = stage.shop.office.debits("A1")
    assert {one.amount_minor for one in found} == {minor(yuan)}
    assert len({one.day for one in found}) == len(found)


@step("each was told by a message")
def debits_told(stage: Stage) -> None:
    stage.shop.pass_time(12 * HOUR)
    assert len(stage.shop.texts("topped-up")) == len(stage.shop.bank.drawn)


# ------------------------------------------------------------------------------------------------ then: messages and supply


@step("it has been sent (.*)")
def sent(stage: Stage, kinds: str) -> None:
    wanted = [] if kinds == "nothing" else kinds.split(", ")
    assert [one for one in stage.shop.messages() if one not in OTHER] == wanted


@step("the second message says how much is owed, and until when it is to be paid")
def second_says(stage: Stage) -> None:
    (text,) = stage.shop.texts("used-up")
    assert re.search(r"you owe \d+\.\d\d yuan", text), text
    assert re.search(r"before \d{4}-\d\d-\d\d \d\d:\d\d", text), text


@step("the home has (no )?power")
def power(stage: Stage, no: str | None) -> None:
    assert stage.shop.is_dark() is (no is not None)


@step(
    r"there were (\d+) days from the first message to the cut, (\d+) hours from the first to the second, "
    r"and (\d+) from the last to the cut"
)
def times_between(stage: Stage, days: str, apart: str, last: str) -> None:
    given = [
        one for one in stage.shop.phones.by_reference.values() if one.message.kind in ("low", "used-up", "last-warning")
    ]
    cut_at = stage.shop.switch.off_since["M1"]
    times = [one.at for one in given]
    assert cut_at - times[0] >= timedelta(days=int(days))
    assert all(after - before >= int(apart) * HOUR for before, after in pairwise(times))
    assert cut_at - times[2] >= int(last) * HOUR


@step(r"it covers (\d+) days")
def covers(stage: Stage, days: str) -> None:
    assert stage.shop.office.standing("A1").forecast.days_left == int(days)


@step(rf"the message names the balance, {YUAN} yuan, and the (\d+) days")
def low_says(stage: Stage, yuan: str, days: str) -> None:
    (text,) = stage.shop.texts("low")
    assert f"{yuan} yuan" in text
    assert f"{days} days" in text


# ------------------------------------------------------------------------------------------------ then: statement


@step("there is no statement of February")
def no_statement(stage: Stage) -> None:
    assert stage.shop.office.statements("A1") == []


@step(rf"there is a statement of February: (\d+) kWh, {YUAN} yuan, and {YUAN} yuan that remain")
def a_statement(stage: Stage, kwh: str, charged: str, remain: str) -> None:
    assert stage.shop.office.statements("A1") == ["2028-02"]
    made = stage.shop.office.statement("A1", date(YEAR, 2, 1))
    assert made is not None
    assert made.use.kwh == int(kwh)
    assert (made.charged_minor, made.closing_minor) == (minor(charged), minor(remain))
    assert made.is_final
    assert made.charged_minor == sum(amount for _, amount, _ in stage.charges())


@step("the same figures were sent as a message")
def statement_sent(stage: Stage) -> None:
    (text,) = stage.shop.texts("statement")
    for figure in ("290", "145.00", "155.00"):
        assert figure in text
    states = {one.state for one in stage.shop.office.letters("A1") if one.kind == "statement"}
    assert states == {NoticeState.DELIVERED}


# ------------------------------------------------------------------------------------------------ played


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "shop")
    yield stage
    stage.aclose()


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_the_answer_is_what_happens(stage: Stage, answer: Scene) -> None:
    for line in answer.lines:
        work, said = step.find(line)
        try:
            work(stage, *said)
        except AssertionError as error:
            raise AssertionError(f"{answer.title}\n  {line}: {error}") from error


def test_the_seven_questions_are_answered_and_every_step_is_told() -> None:
    assert len(ANSWERS) >= 7
    assert all(answer.lines for answer in ANSWERS)
    assert step.untold(ANSWERS) == []
