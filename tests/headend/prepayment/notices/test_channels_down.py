"""A channel that is down says nothing about customers: the next one is asked, messages wait, and nobody is unreachable for it."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from headend.prepayment.errors import ChannelsDown
from headend.prepayment.notices.channel_watch import DOWN_S
from headend.prepayment.notices.mailroom import MAIL_THREADS
from headend.prepayment.notices.notice import NoticeState
from headend.prepayment.notices.notices import Channel
from headend.prepayment.outside.messengers import FileMessenger, HttpMessenger
from headend.prepayment.ports import Delivery, Message
from tests.headend.prepayment.notices.test_mailroom import Desk, letter, opened
from tests.headend.prepayment.office_world import DAY, HOUR, PLAN, A, OfficeWorld
from tests.servers import Answer, http_endpoint

DOWN = timedelta(seconds=DOWN_S)
MESSAGE = Message(key="A1/1/low/1", kind="low", account="A1", to="+8613800000000", language="en", title="t", text="x")


class Line:
    """A gateway that may be down; what it takes goes to `inner`. asked: how often."""

    def __init__(self, inner: Callable[[Message], Delivery] | None = None, *, is_down: bool = False) -> None:
        self.inner = inner
        self.is_down = is_down
        self.asked = 0
        self.sent: list[Message] = []

    def send(self, message: Message) -> Delivery:
        self.asked += 1
        if self.is_down:
            return Delivery(reference="", delivered=False, problem="it answered 502", is_down=True)
        self.sent.append(message)
        if self.inner is not None:
            return self.inner(message)
        return Delivery(reference=f"sms-{message.key}", delivered=True)


class Poisoned(Line):
    """It breaks at one message, and takes all others."""

    def send(self, message: Message) -> Delivery:
        self.is_down = message.key.endswith("/paid/0")
        return super().send(message)


@pytest.fixture
def line(world: OfficeWorld) -> Line:
    """Before the world's phones. That no message leaves is raised for whoever watches, and the other duties go on."""
    found = Line(world.mail.send)
    world.outside = replace(world.outside, channels=[Channel("sms", found)])
    world.start()

    def tick(own: Callable[[datetime], int], now: datetime) -> int:
        try:
            return own(now)
        except ChannelsDown:
            return 0

    world.duties = [replace(one, tick=partial(tick, one.tick)) for one in world.duties]
    return found


# ------------------------------------------------------------------------------------------------ nobody is unreachable


def test_whoever_is_to_be_told_while_the_channel_is_down_is_told_when_it_works_again(
    world: OfficeWorld, line: Line
) -> None:
    world.open()
    world.pay(100_000)
    line.is_down = True
    world.pass_time(5 * DAY)
    waits = letter(world, "agreement")
    assert (waits.state, waits.tries, waits.problem) == (NoticeState.WAITING, 0, "sms: it answered 502")
    line.is_down = False
    world.pass_time(HOUR)
    assert letter(world, "agreement").state is NoticeState.DELIVERED
    card = world.office.card(A)
    assert (card.contact.is_reachable, dict(card.flags)) == (True, {})


@pytest.mark.parametrize("failed", [0, 1])
@pytest.mark.parametrize("kind", ["low", "used-up", "last-warning"])
def test_a_warning_whose_time_ends_while_the_channel_is_down_is_made_anew_and_the_story_goes_on(
    world: OfficeWorld, line: Line, kind: str, failed: int
) -> None:
    """failed: tries that the phone itself did not take before."""

    def go_down(message: Message) -> Delivery:
        if message.kind != kind:
            return world.mail.send(message)
        line.is_down, line.inner = True, world.mail.send
        return Delivery(reference="", delivered=False, problem="the phone is off", is_down=not failed)

    line.inner = go_down
    world.open()
    world.pay(3_000)
    while not line.is_down:
        world.pass_time(HOUR)
    world.pass_time(3 * DAY)
    assert world.state() != "disconnected"
    dropped = [one for one in world.office.letters(A) if one.kind == kind and one.state is NoticeState.WITHDRAWN]
    assert dropped[-1].tries == failed
    line.is_down = False
    world.until("disconnected")
    proven = {one.kind for one in world.office.letters(A) if one.state is NoticeState.DELIVERED}
    assert {"low", "used-up", "last-warning"} <= proven
    card = world.office.card(A)
    assert (card.contact.is_reachable, dict(card.flags)) == (True, {})


def test_last_warnings_that_never_left_are_not_counted_however_long_the_channel_is_down(
    world: OfficeWorld, line: Line
) -> None:
    def go_down(message: Message) -> Delivery:
        if message.kind != "last-warning":
            return world.mail.send(message)
        line.is_down, line.inner = True, world.mail.send
        return line.send(message)

    line.inner = go_down
    world.open()
    world.pay(3_000)
    world.pass_time(20 * DAY)
    unsent = [one for one in world.office.letters(A) if one.kind == "last-warning"]
    assert len(unsent) > PLAN.last_warnings_max
    assert {(one.state, one.tries) for one in unsent} <= {(NoticeState.WITHDRAWN, 0), (NoticeState.WAITING, 0)}
    assert dict(world.office.card(A).flags) == {}
    line.is_down = False
    world.until("disconnected", days_max=4)
    assert line.sent[-1].kind in ("last-warning", "disconnected")


def test_a_person_who_clears_the_flag_lets_as_many_last_warnings_go_out_again(world: OfficeWorld) -> None:
    world.switch.refusing = 1.0
    world.open()
    world.pay(3_000)
    world.pass_time(25 * DAY)
    assert world.mail.kinds(A).count("last-warning") == PLAN.last_warnings_max
    assert "warned-in-vain" in world.office.card(A).flags
    world.office.clear_flag(A, "warned-in-vain", by="clerk")
    world.pass_time(2 * HOUR)
    assert "warned-in-vain" not in world.office.card(A).flags
    world.switch.refusing = 0.0
    world.until("disconnected", days_max=4)
    assert world.mail.kinds(A).count("last-warning") == PLAN.last_warnings_max + 1


def test_a_number_that_one_channel_does_not_know_is_not_unreachable_while_the_other_is_down(world: OfficeWorld) -> None:
    opened(world)
    sms = Line(is_down=True)
    wechat = Line(lambda _: Delivery(reference="", delivered=False, problem="it answered 422: no subscriber"))
    desk = Desk(world, sms, wechat)
    desk.post("paid")
    for _ in range(3 * 24 * 12):
        desk.mailroom.tick(desk.at)
        desk.at += timedelta(minutes=5)
    assert desk.states("paid") == ["waiting"]
    assert wechat.asked < 150, "its pause does not grow"
    sms.is_down = False
    desk.at += PLAN.pause_max
    desk.until("paid", 1)
    sms.inner = wechat.inner
    desk.post("statement")
    for _ in range(3 * 24 * 12):
        desk.mailroom.tick(desk.at)
        desk.at += timedelta(minutes=5)
    assert desk.states("statement") == ["undeliverable"], "both work, and neither knows the number"


@pytest.mark.parametrize("does_start_anew", [False, True])
def test_a_receipt_of_a_channel_that_was_down_has_some_hours_from_then_on(
    world: OfficeWorld, does_start_anew: bool
) -> None:
    """It took the message, and died before it told of it."""
    opened(world)
    line = Line(lambda message: Delivery(reference=f"sms-{message.key}", delivered=False))
    desk = Desk(world, line)
    desk.post("paid")
    desk.mailroom.tick(desk.at)
    assert desk.states("paid") == ["sent"]
    line.is_down = True
    desk.post("statement")

    def live(length: timedelta) -> None:
        end = desk.at + length
        while desk.at < end:
            with suppress(ChannelsDown):
                desk.mailroom.tick(desk.at)
            desk.at += timedelta(minutes=5)

    live(4 * DAY)
    assert desk.states("paid") == ["sent"]
    if does_start_anew:
        world.town.now = desk.at
        desk = Desk(world, line)
    line.is_down = False
    live(5 * HOUR)
    assert desk.states("paid") == ["sent"]
    live(14 * HOUR)
    assert desk.states("paid") == ["undeliverable"], "no receipt came, and the channel has worked for long"


# ------------------------------------------------------------------------------------------------ who is asked


def test_a_message_for_which_a_channel_is_always_down_while_it_takes_others_is_at_fault_itself(
    world: OfficeWorld,
) -> None:
    opened(world)
    gateway = Poisoned()
    desk = Desk(world, gateway)
    desk.post("paid")
    told = 0
    for minute in range(3 * 24 * 60):
        if minute % 10 == 0:
            desk.post_one("paid", minute + 1)
        try:
            desk.mailroom.tick(desk.at)
        except ChannelsDown:
            told += 1
        desk.at += timedelta(minutes=1)
    assert told < 30, "it closed the channel for all others again and again"
    states = Counter(desk.states("paid"))
    assert states["undeliverable"] == 1
    assert states["delivered"] >= 3 * 24 * 6 - 1


def test_many_that_wait_behind_one_at_fault_all_get_through(world: OfficeWorld) -> None:
    opened(world)
    gateway = Poisoned()
    desk = Desk(world, gateway)
    desk.post("paid", 301)
    for _ in range(20):
        with suppress(ChannelsDown):
            desk.mailroom.tick(desk.at)
        desk.at += timedelta(minutes=1)
    assert desk.states("paid").count("delivered") == 300


def test_a_tick_ends_when_the_channel_goes_down_while_time_passes(world: OfficeWorld) -> None:
    opened(world)

    class Slow(Line):
        def send(self, message: Message) -> Delivery:
            desk.at += timedelta(seconds=2)
            return super().send(message)

    line = Slow(is_down=True)
    desk = Desk(world, line)
    desk.post("paid", 200)
    with pytest.raises(ChannelsDown):
        desk.mailroom.tick(desk.at)
    assert line.asked == 1
    assert desk.mailroom.tick(desk.at) == 0
    assert line.asked == 1


def test_the_next_channel_is_asked_at_once_and_the_one_that_is_down_now_and_then(world: OfficeWorld) -> None:
    opened(world)
    first, second = Line(is_down=True), Line()
    desk = Desk(world, first, second)
    desk.post("paid", 50)
    assert desk.mailroom.tick(desk.at) == 50
    assert (first.asked, len(second.sent)) == (1, 50)
    assert desk.states("paid") == ["delivered"] * 50
    desk.at += DOWN
    first.is_down = False
    desk.post("statement", 10)
    assert desk.mailroom.tick(desk.at) == 10
    assert len(first.sent) == 10


def test_while_no_channel_works_each_is_asked_once_in_half_a_minute_and_whoever_watches_is_told(
    world: OfficeWorld,
) -> None:
    opened(world)
    first, second = Line(is_down=True), Line(is_down=True)
    desk = Desk(world, first, second)
    desk.post("paid", 500)
    told = 0
    with capture_logs() as logged:
        for _ in range(600):
            try:
                assert desk.mailroom.tick(desk.at) == 0
            except ChannelsDown as problem:
                told += 1
                assert str(problem) == "no message leaves, because no channel takes any; sms1: it answered 502"
            desk.at += timedelta(seconds=1)
    assert first.asked == second.asked == told == 600 // DOWN.seconds
    assert {one["event"] for one in logged} == {"a channel is down"}
    second.is_down = False
    desk.at += PLAN.pause_max
    while desk.mailroom.tick(desk.at):
        pass
    assert len({one.key for one in second.sent}) == 500
    assert desk.states("paid") == ["delivered"] * 500


def test_on_threads_too_a_round_ends_when_the_channel_is_down(world: OfficeWorld) -> None:
    opened(world)
    line = Line(is_down=True)
    with ThreadPoolExecutor(MAIL_THREADS) as pool:
        desk = Desk(world, line, senders=pool)
        desk.post("paid", 500)
        desk.mailroom.tick(desk.at, limit=MAIL_THREADS)
        wait(desk.mailroom._under_way)
        with pytest.raises(ChannelsDown):
            desk.mailroom.tick(desk.at)
        assert desk.mailroom.tick(desk.at) == 0
        assert line.asked <= MAIL_THREADS
        line.is_down = False
        desk.at += PLAN.pause_max
        desk.until("paid", 500)
    assert len({one.key for one in line.sent}) == len(line.sent) == 500


def test_a_clock_that_was_set_back_leaves_no_channel_down(world: OfficeWorld) -> None:
    opened(world)
    line = Line(is_down=True)
    desk = Desk(world, line)
    desk.post("paid")
    with pytest.raises(ChannelsDown):
        desk.mailroom.tick(desk.at)
    line.is_down = False
    desk.at += DOWN
    desk.monotonic()
    desk.at -= 4 * DAY
    desk.until("paid", 1)


# ------------------------------------------------------------------------------------------------ what channels say


@pytest.mark.parametrize(
    ("answer", "is_down"),
    [
        (Answer(status=500), True),
        (Answer(status=503, body=b"later"), True),
        (Answer(status=401), True),
        (Answer(status=404), True),
        (Answer(status=429), True),
        (Answer(status=402, body=b"no credit left"), True),
        (Answer(status=302, headers={"Location": "/login"}), True),
        (Answer(body=b"<html>log in</html>"), True),
        (Answer(status=400, body=b"no such number"), False),
        (Answer(status=422, body=b"the number is blocked"), False),
        (Answer(), False),
        (Answer(body=b'{"reference": "sms-1"}'), False),
    ],
)
def test_an_endpoint_is_down_when_it_takes_nobodys_messages(answer: Answer, is_down: bool) -> None:
    with http_endpoint() as endpoint, httpx.Client() as client:
        endpoint.answers.append(answer)
        assert HttpMessenger(client, endpoint.url).send(MESSAGE).is_down is is_down


def test_an_endpoint_that_is_not_there_is_down_and_so_is_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with http_endpoint() as endpoint:
        url = endpoint.url
    with httpx.Client() as client:
        assert HttpMessenger(client, url).send(MESSAGE).is_down
    path = tmp_path / "messages.ndjson"
    file = FileMessenger(path)
    path.mkdir()
    assert file.send(MESSAGE).is_down
