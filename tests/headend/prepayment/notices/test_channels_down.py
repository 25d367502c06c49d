"""A channel that is down says nothing about customers: the next one is asked, messages wait, and nobody is unreachable for it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from headend.prepayment.errors import ChannelsDown
from headend.prepayment.notices.mailroom import DOWN, MAIL_THREADS
from headend.prepayment.notices.notice import NoticeState
from headend.prepayment.notices.notices import Channel
from headend.prepayment.outside.messengers import FileMessenger, HttpMessenger
from headend.prepayment.ports import Delivery, Message
from tests.headend.prepayment.notices.test_mailroom import Desk, letter, opened
from tests.headend.prepayment.office_world import DAY, HOUR, PLAN, A, OfficeWorld
from tests.servers import Answer, http_endpoint

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


# ------------------------------------------------------------------------------------------------ who is asked


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
