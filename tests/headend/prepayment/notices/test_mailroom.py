"""What becomes of messages: who is given up and who is not, what goes first, many at once, and what a crash leaves."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection
from structlog.testing import capture_logs

from headend.errors import StoreUnavailable
from headend.prepayment.notices.mailroom import KEPT_FREE, MAIL_THREADS, Mailroom
from headend.prepayment.notices.notice import NoticeState
from headend.prepayment.notices.notices import Channel, Draft, Letter, Still, letters_of, post
from headend.prepayment.notices.texts import load_texts
from headend.prepayment.ports import Delivery, Message, Messenger
from headend.prepayment.storage.database import Database
from headend.prepayment.trouble.kinds import UNREACHABLE
from tests.headend.prepayment.office_world import DAY, HOUR, PLAN, A, OfficeWorld

MINUTE = timedelta(minutes=1)


def without_mailroom(world: OfficeWorld, length: timedelta) -> None:
    every = world.duties
    world.duties = [duty for duty in every if duty.name != "mailroom"]
    world.pass_time(length)
    world.duties = every


def letter(world: OfficeWorld, kind: str) -> Letter:
    """The newest."""
    return next(one for one in world.office.letters(A) if one.kind == kind)


# ------------------------------------------------------------------------------------------------ given up, or not


def test_a_message_that_was_never_tried_in_its_time_is_sent_and_its_customer_is_not_unreachable(
    world: OfficeWorld,
) -> None:
    world.open()
    world.pay(100_000)
    without_mailroom(world, 5 * DAY)
    assert letter(world, "agreement").tries == 0
    world.pass_time(HOUR)
    assert letter(world, "agreement").state is NoticeState.DELIVERED
    card = world.office.card(A)
    assert (card.contact.is_reachable, dict(card.flags)) == (True, {})


def test_a_warning_that_was_never_tried_in_its_time_is_made_anew_with_the_figures_of_now(world: OfficeWorld) -> None:
    world.open(kwh="0")
    world.pay(900)
    without_mailroom(world, 5 * DAY)
    assert letter(world, "low").tries == 0
    world.pay(50)
    world.pass_time(5 * HOUR)
    old, new = [one for one in world.office.letters(A) if one.kind == "low"][::-1]
    assert (old.state, old.tries, old.problem) == (
        NoticeState.WITHDRAWN,
        0,
        "it was not sent in its time, for reasons of our own",
    )
    assert (new.state, new.attempt) == (NoticeState.DELIVERED, 2)
    assert ("9.00" in old.text, "9.50" in new.text) == (True, True)
    assert world.mail.kinds(A) == ["agreement", "low"]
    assert world.office.card(A).contact.is_reachable


def test_a_first_try_that_is_late_has_its_whole_time_before_anybody_is_unreachable(world: OfficeWorld) -> None:
    world.open()
    world.pay(100_000)
    without_mailroom(world, 47 * HOUR)
    world.mail.failing = 1.0
    world.pass_time(6 * HOUR)
    late = letter(world, "agreement")
    assert late.tries > 0
    assert late.state in (NoticeState.WAITING, NoticeState.SENDING)
    assert world.office.card(A).contact.is_reachable
    world.mail.failing = 0.0
    world.pass_time(12 * HOUR)
    assert letter(world, "agreement").state is NoticeState.DELIVERED


def test_a_customer_is_unreachable_only_by_a_try_that_failed_at_the_end(world: OfficeWorld) -> None:
    world.open()
    world.pay(100_000)
    world.mail.failing = 1.0
    world.pass_time(2 * HOUR)
    without_mailroom(world, 3 * DAY)
    world.mail.failing = 0.0
    world.pass_time(HOUR)
    assert letter(world, "agreement").state is NoticeState.DELIVERED, (
        "it was given up for the days in which we were away"
    )
    world.mail.failing = 1.0
    world.office.change_contact(A, "13900000000", by="clerk")
    world.office.reverse("app", "R1", reason="r", by="clerk")
    world.pass_time(4 * DAY)
    lost = letter(world, "reversed")
    assert (lost.state, lost.problem) == (NoticeState.UNDELIVERABLE, "the phone is off")
    assert UNREACHABLE in world.office.card(A).flags


class Taker:
    """Takes every message, and may tell of its delivery later."""

    def send(self, message: Message) -> Delivery:
        return Delivery(reference=f"sms-{message.key}", delivered=False)


def test_a_receipt_that_could_not_be_told_while_we_were_away_has_some_hours_more(tmp_path: Path) -> None:
    world = OfficeWorld(tmp_path)
    world.outside = replace(world.outside, channels=[Channel("sms", Taker())])
    world.start()
    world.open()
    world.pay(100_000)
    world.pass_time(HOUR)
    sent = letter(world, "agreement")
    assert sent.state is NoticeState.SENT
    without_mailroom(world, 4 * DAY)
    world.pass_time(2 * HOUR)
    assert letter(world, "agreement").state is NoticeState.SENT
    assert world.office.receipt(sent.reference, delivered=True, problem="")
    assert letter(world, "agreement").state is NoticeState.DELIVERED
    world.office.reverse("app", "R1", reason="r", by="clerk")
    world.pass_time(DAY)
    assert letter(world, "reversed").state is NoticeState.SENT
    world.pass_time(30 * HOUR)
    assert letter(world, "reversed").state is NoticeState.UNDELIVERABLE, "no receipt came while we were here"
    world.aclose()


# ------------------------------------------------------------------------------------------------ what goes first


_TEXTS = load_texts(PLAN.zone)


class Desk:
    """A mailroom alone, over the accounts of a world: real threads, and real seconds where somebody waits for them."""

    def __init__(self, world: OfficeWorld, *messengers: Messenger, senders: Executor | None = None) -> None:
        self.database = Database(world.engine)
        self.at = self._start = self._newest = world.town.now
        self.mailroom = Mailroom(
            self.database,
            [Channel(f"sms{number}", one) for number, one in enumerate(messengers)],
            plan=PLAN,
            still=lambda *_: Still.SEND,
            settled=lambda *_: None,
            clock=self,
            senders=senders,
        )

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        """Goes on by itself, and whenever `at` is set ahead; never back."""
        self._newest = max(self._newest, self.at)
        return time.monotonic() + (self._newest - self._start).total_seconds()

    def post(self, kind: str, count: int = 1) -> None:
        with self.database.writing("posting") as connection:
            for number in range(count):
                self._post(connection, kind, number)

    def post_one(self, kind: str, number: int) -> None:
        with self.database.writing("posting") as connection:
            self._post(connection, kind, number)

    def _post(self, connection: Connection, kind: str, number: int) -> None:
        figures = dict.fromkeys(("month", "used", "charged", "paid", "balance"), "1")
        draft = Draft(id=f"{A}/{kind}/{number}", account=A, kind=kind, figures=figures)
        post(connection, draft, self.at, plan=PLAN, texts=_TEXTS)

    def states(self, kind: str) -> list[str]:
        with self.database.reading("looking") as connection:
            return [one.state.value for one in letters_of(connection, A, limit=1000) if one.kind == kind]

    def until(self, kind: str, count: int) -> None:
        end = time.monotonic() + 20
        while self.states(kind).count("delivered") < count:
            assert time.monotonic() < end, Counter(self.states(kind))
            self.mailroom.tick(self.at)


class Gateway:
    """A statement waits for `gate`; everything else is answered at once. watch: called with each message before it is answered."""

    def __init__(self, watch: Callable[[Message], None] = lambda _: None) -> None:
        self.gate = threading.Event()
        self.sent: list[Message] = []
        self._watch = watch

    def send(self, message: Message) -> Delivery:
        self.sent.append(message)
        self._watch(message)
        if message.kind == "statement":
            assert self.gate.wait(20)
        return Delivery(reference=f"sms-{message.key}", delivered=True)


@pytest.fixture
def senders() -> Iterator[Executor]:
    with ThreadPoolExecutor(MAIL_THREADS) as pool:
        yield pool


def opened(world: OfficeWorld) -> None:
    world.open()
    world.pass_time(HOUR)


def test_what_cannot_wait_goes_before_all_statements_that_are_due(world: OfficeWorld) -> None:
    opened(world)
    gateway = Gateway()
    gateway.gate.set()
    desk = Desk(world, gateway)
    desk.post("statement", 50)
    desk.at += MINUTE
    desk.post("paid")
    assert desk.mailroom.tick(desk.at, limit=1) == 1
    assert [one.kind for one in gateway.sent] == ["paid"]
    assert desk.mailroom.tick(desk.at, limit=100) == 50


def test_statements_that_hang_hold_up_neither_the_duties_nor_what_cannot_wait(
    world: OfficeWorld, senders: Executor
) -> None:
    opened(world)
    gateway = Gateway()
    desk = Desk(world, gateway, senders=senders)
    desk.post("statement", 40)
    began = time.monotonic()
    desk.mailroom.tick(desk.at)
    assert time.monotonic() - began < 5, "a tick waited for the gateway"
    assert desk.states("statement").count("sending") == MAIL_THREADS - KEPT_FREE
    assert desk.mailroom.tick(desk.at) == 0
    desk.post("paid", 8)
    desk.until("paid", 8)
    assert desk.states("statement").count("delivered") == 0
    gateway.gate.set()
    desk.until("statement", 40)
    assert max(Counter(one.key for one in gateway.sent).values()) == 1


def test_a_message_is_claimed_before_it_leaves_and_written_down_on_its_own(
    world: OfficeWorld, senders: Executor
) -> None:
    opened(world)
    seen: list[str] = []

    def watch(message: Message) -> None:
        with Database(world.engine).reading("looking") as connection:
            found = {one.id: one.state.value for one in letters_of(connection, A, limit=1000)}
        seen.append(found[message.key])

    gateway = Gateway(watch)
    gateway.gate.set()
    desk = Desk(world, gateway, senders=senders)
    desk.post("statement", 60)
    desk.until("statement", 60)
    assert seen == ["sending"] * 60


def test_what_was_under_way_when_we_died_is_sent_again_under_its_own_key(world: OfficeWorld, senders: Executor) -> None:
    opened(world)
    dead, alive = Gateway(), Gateway()
    first = Desk(world, dead, senders=senders)
    first.post("statement", 3)
    first.mailroom.tick(first.at)
    assert first.states("statement") == ["sending"] * 3
    alive.gate.set()
    second = Desk(world, alive)
    assert second.mailroom.tick(second.at) == 0, "they may be on their way still"
    second.at += PLAN.pause_first
    second.until("statement", 3)
    assert {one.key for one in alive.sent} == {one.key for one in dead.sent}
    dead.gate.set()


def test_an_answer_that_could_not_be_written_down_is_told_and_its_message_is_sent_again(
    world: OfficeWorld, senders: Executor
) -> None:
    opened(world)

    def watch(message: Message) -> None:
        if len(gateway.sent) == 1:
            raise StoreUnavailable("the disk is away")

    gateway = Gateway(watch)
    gateway.gate.set()
    desk = Desk(world, gateway, senders=senders)
    desk.post("statement")
    with pytest.raises(StoreUnavailable):
        desk.until("statement", 1)
    desk.at += PLAN.pause_first
    desk.until("statement", 1)
    assert len(gateway.sent) == 2


def test_a_message_that_cannot_be_sent_holds_up_no_other_on_threads_either(
    world: OfficeWorld, senders: Executor
) -> None:
    opened(world)

    def watch(message: Message) -> None:
        if message.key.endswith("/0"):
            raise KeyError("channel")

    gateway = Gateway(watch)
    gateway.gate.set()
    desk = Desk(world, gateway, senders=senders)
    desk.post("statement", 2)
    assert desk.mailroom.tick(desk.at, limit=1) == 1
    wait(desk.mailroom._under_way)
    assert [one.key[-2:] for one in gateway.sent] == ["/0"]
    with capture_logs() as logged, pytest.raises(KeyError, match="channel"):
        desk.mailroom.tick(desk.at, limit=1)
    assert [one["message"] for one in logged] == [f"{A}/statement/0"]
    desk.until("statement", 1)
    assert [one.key[-2:] for one in gateway.sent] == ["/0", "/1"]


def test_a_message_that_raises_when_it_is_sent_keeps_the_pause_it_was_claimed_with(world: OfficeWorld) -> None:
    opened(world)

    def watch(_: Message) -> None:
        raise KeyError("channel")

    desk = Desk(world, Gateway(watch))
    desk.post("paid")
    for pause in (PLAN.pause_first, 2 * PLAN.pause_first, 4 * PLAN.pause_first):
        with pytest.raises(KeyError, match="channel"):
            desk.mailroom.tick(desk.at)
        with desk.database.reading("looking") as connection:
            (paid,) = [one for one in letters_of(connection, A) if one.kind == "paid"]
        assert paid.next_try_at == desk.at + pause
        desk.at += pause
