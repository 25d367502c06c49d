"""The stories of relay_stories.txt, played on the whole head-end in virtual time. Each line of the file is one of the steps below."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headend.commands.intake import Answer
from headend.commands.model import Command, Kind, NoticeProof, State
from headend.commands.policy_file import POLICIES
from headend.store.commands import commands_of
from headend.store.commands_debts import open_obligations
from protocols.dlt645.control import RelayOrder
from protocols.dlt645.messages import RelayRequest, decode
from tests.scenarios.plain_words import Scene, Steps, read_scenes
from tests.scenarios.relay_street import RelayStreet, play

FILE = Path(__file__).with_name("relay_stories.txt")
STORIES = read_scenes(FILE, "Story: ")


class Stage:
    """What a story has come to. answer, command: of the newest order."""

    def __init__(self, street: RelayStreet) -> None:
        self.street = street
        self.proof: Any = None
        self.notices: tuple[NoticeProof, ...] = ()
        self.answer: Answer | None = None
        self.refused_by: list[str] = []
        self.needed: list[str] = []

    @property
    def command(self) -> Command:
        assert self.answer is not None
        assert self.answer.command is not None, self.answer.refusals
        return self.answer.command


step = Steps[Callable[..., Awaitable[None]]]()


# ------------------------------------------------------------------------------------------------ given


@step("it is Wednesday, half past nine in the morning, and mild")
async def morning(stage: Stage) -> None:
    assert f"{stage.street.clock.now():%A}" == "Wednesday"


@step("a fresh installation")
async def fresh(stage: Stage) -> None:
    assert stage.street.head_end.switchgear.executor is None


@step("it has become seven in the evening")
async def evening(stage: Stage) -> None:
    await asyncio.sleep(9.5 * 3600)


@step(r"the policy says that (M\d+) is closed directly")
async def closed_directly(stage: Stage, meter: str) -> None:
    policy = stage.street.room.rulebook.policy
    assert policy is not None
    assert meter in policy.data.reconnect.direct_meters


@step(r"billing says that (M\d+) owes 120 yuan")
async def owes(stage: Stage, meter: str) -> None:
    stage.proof = stage.street.a_debt(meter)


@step("the first, the second and the final notice were delivered")
async def all_notices(stage: Stage) -> None:
    stage.notices = stage.street.notices()


@step("the first and the second notice were delivered")
async def two_notices(stage: Stage) -> None:
    stage.notices = stage.street.notices()[:2]


@step("the line is down")
async def line_down(stage: Stage) -> None:
    stage.street.wire.reachable = False
    stage.street.wire.drop()
    await asyncio.sleep(1)


@step(r"the relay of (M\d+) is stuck")
async def stuck(stage: Stage, meter: str) -> None:
    stage.street.meters[meter].model.relay.stuck = True


@step(r"the meter of (M\d+) was exchanged, and nobody has said so")
async def exchanged(stage: Stage, meter: str) -> None:
    stage.street.exchange(meter, number="000000777777")


# ------------------------------------------------------------------------------------------------ when


@step(r"Ann asks for (M\d+) to be opened")
async def asks(stage: Stage, meter: str) -> None:
    order = stage.street.an_order(
        Kind.OPEN, meter, valid=timedelta(minutes=60), proof=stage.proof, notices=stage.notices
    )
    stage.answer = await stage.street.ask(order)
    stage.refused_by = [one.rule for one in stage.answer.refusals]
    stage.needed = [one.needed for one in stage.answer.refusals]


@step(r"Ann asks for (M\d+) to be opened over the interface")
async def asks_interface(stage: Stage, meter: str) -> None:
    closed = stage.street.room.closed_by_configuration()
    assert closed is not None
    stage.refused_by, stage.needed = [closed.rule], [closed.needed]


@step(r"the customer of (M\d+) pays 150 yuan")
async def pays(stage: Stage, meter: str) -> None:
    await stage.street.pays(meter)


@step(r"the customer of (M\d+) presses the button")
async def presses(stage: Stage, meter: str) -> None:
    assert stage.street.meters[meter].model.relay.press_key(stage.street.clock.world())


@step("the line is up again")
async def line_up(stage: Stage) -> None:
    stage.street.wire.reachable = True


@step("five minutes have passed")
async def five_minutes(stage: Stage) -> None:
    await asyncio.sleep(300)


# ------------------------------------------------------------------------------------------------ then


@step("the command is taken")
async def taken(stage: Stage) -> None:
    assert stage.refused_by == []
    assert stage.command.is_active


@step(r"within (\d+) seconds the command is (\w+)")
async def becomes(stage: Stage, seconds: str, state: str) -> None:
    ended = await stage.street.ended(stage.command.id, within_s=float(seconds))
    assert ended.state is State(state), ended.detail
    stage.answer = Answer(command=ended)


@step(r"the command is refused by the rule ([\w-]+), which says what is needed")
async def is_refused(stage: Stage, rule: str) -> None:
    assert rule in stage.refused_by
    assert all(stage.needed)


@step("the energy register was captured")
async def captured(stage: Stage) -> None:
    assert stage.command.register is not None
    assert stage.command.register.obis == "1-0:1.8.0"


@step(r"the customer of (M\d+) has (no )?power")
async def has_power(stage: Stage, meter: str, no: str | None) -> None:
    assert stage.street.is_on(meter) is (no is None)


@step(r"a reconnection is owed to (M\d+)")
async def owed(stage: Stage, meter: str) -> None:
    debt = await stage.street.debt_of(meter)
    assert debt is not None
    assert debt.is_open
    assert debt.cause == "payment"


@step(r"within (\d+) seconds closing is permitted at (M\d+)")
async def permitted(stage: Stage, seconds: str, meter: str) -> None:
    await asyncio.sleep(float(seconds))
    debt = await stage.street.debt_of(meter)
    assert debt is not None
    assert debt.ended == "permitted"
    stage.answer = Answer(command=await stage.street.command(debt.command))


@step("the head-end waits for the customer's button")
async def waits_for_button(stage: Stage) -> None:
    assert stage.command.state is State.VERIFIED
    assert stage.command.waiting_for_customer


@step(r"within 20 minutes the head-end has seen the power at (M\d+)")
async def power_seen(stage: Stage, meter: str) -> None:
    await asyncio.sleep(1200)
    command = await stage.street.command(stage.command.id)
    assert not command.waiting_for_customer
    assert float(command.detail["time_to_power_s"]) >= 0
    assert stage.street.room.journal.supply(meter).contact == "closed"


@step(r"within (\d+) seconds the supply of (M\d+) is verified as closed")
async def closed(stage: Stage, seconds: str, meter: str) -> None:
    await asyncio.sleep(float(seconds))
    debt = await stage.street.debt_of(meter)
    assert debt is not None
    assert debt.ended == "verified"
    assert (await stage.street.command(debt.command)).state is State.VERIFIED
    assert debt.took_s is not None
    assert debt.took_s <= float(seconds)


@step("nothing is owed any more")
async def nothing_owed(stage: Stage) -> None:
    assert await stage.street.room.journal.read(open_obligations, "looking") == []


@step("every step was told in the feed, and recorded before its effect")
async def told(stage: Stage) -> None:
    street = stage.street
    in_feed = {
        (event["data"]["command"], event["data"]["state"])
        for event in street.events()
        if event["data"]["about"] == "command"
    }
    gear = street.head_end.switchgear
    records = [row.body for row in gear._book.records()]
    listed = await street.room.journal.read(lambda connection: commands_of(connection, limit=100), "looking")
    for command in listed:
        _, steps = await street.steps(command.id)
        assert {(command.id, one.state.value) for one in steps} <= in_feed
        assert any(f'"subject":"{command.id}"' in body and '"kind":"sending"' in body for body in records)
    assert gear.audit.ok


@step("no switching frame was on the wire")
async def no_frame(stage: Stage) -> None:
    assert stage.street.wire.orders == []


@step("one switching frame was on the wire")
async def one_frame(stage: Stage) -> None:
    [(_, frame)] = stage.street.wire.orders
    message = decode(frame)
    assert isinstance(message, RelayRequest)
    assert message.order == RelayOrder.TRIP


# ------------------------------------------------------------------------------------------------ playing


def _edit(folder: Path, story: Scene) -> Callable[[str], str]:
    """Of the configuration, where a story says so."""
    direct = [match[1] for line in story.lines if (match := re.search(r"that (M\d+) is closed directly", line))]
    if not direct:
        return str
    text = (POLICIES / "cn-residential.toml").read_text(encoding="utf-8")
    path = folder / "policy.toml"
    path.write_text(text.replace('close = "permit-close"\n', f'close = "permit-close"\ndirect_meters = {direct}\n'))
    return lambda config: config.replace(str(POLICIES / "cn-residential.toml"), str(path))


@pytest.mark.parametrize("story", STORIES, ids=repr)
def test_story(story: Scene, tmp_path: Path) -> None:
    async def tell(street: RelayStreet) -> None:
        stage = Stage(street)
        for line in story.lines:
            work, said = step.find(line)
            try:
                await work(stage, *said)
            except AssertionError as error:
                raise AssertionError(f"{story.title}\n  {line}\n{error}") from error

    is_fresh = "a fresh installation" in story.lines
    play(tmp_path, tell, edit=_edit(tmp_path, story), is_ready=not is_fresh, enabled=not is_fresh)


def test_every_step_is_told_in_some_story() -> None:
    assert step.untold(STORIES) == []
