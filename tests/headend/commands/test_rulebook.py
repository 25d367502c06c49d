"""The rules over a real store: a stolen token, restarts, clocks that are set, two people, protections in the last moment."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from sqlalchemy import Connection, insert, update

from headend.commands.approval import Purpose, digest_of_list
from headend.commands.gate import Gate
from headend.commands.governor import Limits
from headend.commands.governor_clock import STEP_MS_MAX, GovernorClock
from headend.commands.governor_keeper import PERIOD_S, GovernorKeeper
from headend.commands.model import Command, Kind, Order, Refusal, State
from headend.commands.policy import MeterFacts
from headend.commands.protections import Protection, Scope
from headend.commands.roles import Caller
from headend.commands.rulebook import Rulebook
from headend.store import Store
from headend.store import governor as ledger
from headend.store import governor_approvals as approvals
from headend.store.commands_tables import commands
from headend.store.governor_approvals import NotApproved
from headend.store.governor_protections import add_protection, person_of, protections_of, set_person
from headend.store.tokens import Role
from headend.store.writer import Writer, inline
from tests.headend.commands.rules_support import FINE, NOON, a_meter, a_policy, an_order, rules_of
from tests.headend.support import new_store

T = TypeVar("T")
METERS = 10_000
STEP_S = STEP_MS_MAX / 1000
LI, WANG, ZHAO = (
    Caller(token=f"token of {name}", person=name, roles=frozenset({Role.DISCONNECT, Role.APPROVE, Role.OPERATE}))
    for name in ("Li Wei", "Wang Fang", "Zhao Min")
)


class Machine:
    """A store, and a head-end on it whose clocks are ours."""

    def __init__(self, store: Store, meters: dict[str, MeterFacts]) -> None:
        self.store = store
        self.meters = meters
        self.wall = NOON
        self.mono = 1000.0
        self.start()

    def start(self, monotonic: float | None = None) -> None:
        """As after a restart: nothing is known but what is in the store."""
        self.mono = self.mono if monotonic is None else monotonic
        position = self.do(ledger.load_position)
        self.rulebook = Rulebook(
            a_policy(),
            self.meters,
            GovernorClock(position, self.mono),
            monotonic=lambda: self.mono,
            wall=lambda: self.wall,
            control_enabled=True,
            has_signing_key=True,
        )
        self.do(self.rulebook.refresh)
        self.keeper = GovernorKeeper(self.rulebook, Writer(self.store, inline, clock=self), lambda: self.wall)

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    def do(self, work: Callable[[Connection], T]) -> T:
        return self.store.transact(lambda connection: (work(connection), ()), "a test")[0]

    def set_limits(self, limits: Limits) -> None:
        """By two people, and after the delay."""

        def ask_and_approve(connection: Connection) -> None:
            asked = self.rulebook.ask_limits(connection, limits, LI, self.wall)
            assert asked is not None
            self.rulebook.approve_limits(connection, asked.id, WANG, self.wall)

        self.do(ask_and_approve)

    async def run_for(self, seconds: float) -> None:
        """As long steps as the clock believes at once, which saves commits."""
        for _ in range(int(seconds // STEP_S) + 1):
            self.mono += STEP_S
            self.wall += timedelta(seconds=STEP_S)
            await self.keeper.look()

    def ask(self, orders: Sequence[Order]) -> tuple[Refusal | None, ...]:
        return self.do(lambda connection: self.rulebook.over_limit(connection, orders))

    def send(self, order: Order) -> Refusal | None:
        return self.do(lambda connection: self.rulebook.admit(connection, a_command(order)))

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(event) for event in self.store.events_after(0, 10_000)]


def a_command(order: Order, identity: str = "") -> Command:
    return Command(
        id=identity or f"c-{order.idempotency_key}",
        order=order,
        state=State.DUE,
        created_at=NOON,
        changed_at=NOON,
        due_at=NOON,
    )


def orders(count: int, *, first: int = 0, requester: str = "thief", prefix: str = "k") -> list[Order]:
    # One beside the other over the feeders, as whoever wants to harm most would choose them.
    return [
        an_order(meter=f"M{number:06}", requester=requester, key=f"{prefix}{number}")
        for number in range(first, first + count)
    ]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    meters = {
        f"M{number:06}": a_meter(
            f"M{number:06}", feeder=f"F{number % 20}", line=f"L{number % 200}", estimated_kw=Decimal("0.4")
        )
        for number in range(METERS)
    }
    store = new_store(tmp_path)
    yield Machine(store, meters)
    store.close()


def soon(**changes: Any) -> Limits:
    """The usual limits, which take effect a minute after their approval."""
    return Limits(raise_delay_s=60, **changes)


async def with_limits(machine: Machine, limits: Limits) -> Machine:
    machine.set_limits(limits)
    await machine.run_for(limits.raise_delay_s)
    assert machine.rulebook.limits == limits
    return machine


async def test_a_stolen_token_asks_for_10000_opens_and_gets_the_limit(machine: Machine) -> None:
    await with_limits(machine, soon())
    wanted = orders(METERS)
    began = machine.mono
    answers = [answer for start in range(0, METERS, 500) for answer in machine.ask(wanted[start : start + 500])]
    passed = [order for order, answer in zip(wanted, answers, strict=True) if answer is None]
    assert len(passed) == 50, "50 in an hour, 0.5 % of 10,000 in a day"
    assert {answer.rule for answer in answers if answer} == {"limit per_hour"}

    # The alarm: an event within 60 s, one for all of it.
    machine.mono += PERIOD_S
    machine.wall += timedelta(seconds=PERIOD_S)
    told = await machine.keeper.look()
    assert machine.mono - began <= 60
    assert [(alarm.caller, alarm.count) for alarm in told] == [("thief", METERS - 50)]
    event = machine.events()[-1]
    assert (event["type"], event["data"]["alarm"]) == ("headend.relay.v1", "quarantined")
    assert event["data"]["detail"]["requester"] == "thief"
    assert event["data"]["detail"]["count"] == "9950"
    assert machine.keeper.health().over_total == 9950
    assert await machine.keeper.look() == (), "it is told once"

    # Sending them counts nothing twice, and the thief's others may be asked for again and again.
    assert [machine.send(order) for order in passed] == [None] * 50
    assert all(machine.ask(orders(200, first=200)))
    assert all(machine.ask(orders(200, first=200, prefix="again")))

    # A restart, a new machine, clocks set forth and back: nothing is given back.
    for wall, monotonic in ((NOON, 0.0), (NOON + timedelta(days=400), 5e8), (NOON - timedelta(days=400), 3.0)):
        machine.wall = wall
        machine.start(monotonic)
        assert all(machine.ask(orders(50, first=300, prefix=f"{monotonic}")))
        machine.mono += 30 * 86400  # it stood still for a month
        assert all(machine.ask(orders(50, first=300, prefix=f"slept {monotonic}")))
        machine.wall += timedelta(days=3)
        assert all(machine.send(order) is not None for order in orders(20, first=500, prefix=f"direct {monotonic}"))


async def test_room_comes_back_only_by_running(machine: Machine) -> None:
    await with_limits(machine, soon(of_fleet_per_day=Decimal("0.008")))
    first = orders(50)
    assert machine.ask(first) == (None,) * 50
    assert [machine.send(order) for order in first] == [None] * 50
    await machine.run_for(3400)
    assert all(machine.ask(orders(1, first=100)))
    await machine.run_for(200)
    later = machine.ask(orders(50, first=200))
    assert later.count(None) == 30, "80 a day, of which 50 are used; the hour has room for 50"
    await machine.run_for(3700)
    assert all(machine.ask(orders(10, first=400)))


async def test_after_a_restart_the_clock_and_the_ledger_go_on_where_they_were(machine: Machine) -> None:
    await with_limits(machine, soon(of_fleet_per_day=Decimal(1)))
    first = orders(20)
    assert [machine.send(order) for order in first] == [None] * 20
    position = machine.rulebook.position_ms()
    machine.wall += timedelta(hours=5)
    machine.start(77.0)
    assert machine.rulebook.position_ms() == position
    assert machine.ask(orders(50, first=100)).count(None) == 30
    await machine.run_for(3700)
    assert machine.ask(orders(50, first=200)).count(None) == 50


async def test_claims_that_wait_count_against_the_day_however_long_they_wait(machine: Machine) -> None:
    await with_limits(machine, soon(per_day=60))
    assert machine.ask(orders(40)).count(None) == 40
    await machine.run_for(3 * 3600)
    assert machine.ask(orders(40, first=100)).count(None) == 10, "the fleet's 50 a day, of which 40 wait"


async def test_a_claim_comes_back_when_its_command_ends_with_no_byte_left(machine: Machine) -> None:
    await with_limits(machine, soon())
    wanted = orders(50)
    assert machine.ask(wanted).count(None) == 50
    for order in wanted:
        put_row(machine, order, "scheduled")
    assert all(machine.ask(orders(1, first=100)))
    sent, failed, cancelled, in_flight = wanted[0], wanted[1], wanted[2], wanted[3]
    for order in (sent, failed, in_flight):
        assert machine.send(order) is None
    for order, state in ((sent, "verified"), (failed, "failed"), (cancelled, "cancelled"), (in_flight, "unconfirmed")):
        set_state(machine, order, state)
    assert machine.ask(orders(5, first=200)).count(None) == 2, "of the failed and the cancelled one"


async def test_what_failed_and_is_due_again_is_counted_once(machine: Machine) -> None:
    await with_limits(machine, soon(per_hour=2))
    one, two = orders(2)
    assert machine.ask([one, two]) == (None, None)
    for order in (one, two):
        put_row(machine, order, "due")
        assert machine.send(order) is None
        set_state(machine, order, "due")  # the line was down: nothing has left
    assert machine.send(one) is None
    set_state(machine, one, "sent")
    assert machine.send(two) is None
    set_state(machine, two, "sent")
    assert all(machine.ask(orders(1, first=10)))
    assert machine.send(orders(1, first=11)[0]) is not None


async def test_an_order_that_is_looked_at_while_it_is_being_sent_does_not_stand_in_its_own_way(
    machine: Machine,
) -> None:
    await with_limits(machine, soon(per_hour=1))
    (order,) = orders(1)
    put_row(machine, order, "sending")
    assert machine.send(order) is None
    assert machine.send(order) is None
    assert machine.send(orders(1, first=1)[0]) is not None


async def test_asking_twice_takes_no_second_place(machine: Machine) -> None:
    await with_limits(machine, soon(per_hour=3))
    wanted = orders(2)
    assert machine.ask(wanted) == machine.ask(wanted) == (None,) * 2
    assert machine.ask(orders(2, first=10)).count(None) == 1


async def test_opens_that_were_planned_for_one_moment_are_held_to_the_hour_when_they_are_sent(machine: Machine) -> None:
    await with_limits(machine, soon(per_hour=5))
    planned = []
    for batch in range(4):
        wanted = orders(5, first=10 * batch)
        assert machine.ask(wanted) == (None,) * 5
        planned += wanted
        await machine.run_for(3700)
    outcomes = [machine.send(order) for order in planned]
    assert [outcome is None for outcome in outcomes] == [True] * 5 + [False] * 15
    assert outcomes[5] is not None
    assert outcomes[5].rule == "limit per_hour"


async def test_a_transaction_that_fails_takes_its_reservation_with_it(machine: Machine) -> None:
    await with_limits(machine, soon(per_hour=1))

    def dies(connection: Connection) -> None:
        assert machine.rulebook.admit(connection, a_command(orders(1)[0])) is None
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        machine.do(dies)
    assert machine.send(orders(1, first=1)[0]) is None
    assert machine.send(orders(1, first=2)[0]) is not None


async def test_lower_limits_hold_at_the_wire_for_what_was_admitted_before(machine: Machine) -> None:
    await with_limits(machine, soon())
    wanted = orders(10)
    assert machine.ask(wanted) == (None,) * 10
    assert (
        machine.do(lambda connection: machine.rulebook.ask_limits(connection, soon(per_hour=4), LI, machine.wall))
        is None
    )
    assert [machine.send(order) is None for order in wanted] == [True] * 4 + [False] * 6


async def test_higher_limits_take_two_people_and_a_delay_of_running_time(machine: Machine) -> None:
    rulebook = machine.rulebook
    assert machine.ask(orders(1))[0] is not None, "a fresh head-end has no limits and so no room"
    asked = machine.do(lambda connection: rulebook.ask_limits(connection, Limits(), LI, machine.wall))
    assert asked is not None
    for again in (LI, Caller(token="another token", person="li wei", roles=frozenset({Role.APPROVE}))):
        with pytest.raises(NotApproved, match="has asked for it"):
            machine.do(partial(rulebook.approve_limits, identity=asked.id, caller=again, now=machine.wall))
    _, delay_s = machine.do(lambda connection: rulebook.approve_limits(connection, asked.id, WANG, machine.wall))
    assert delay_s == 3600
    assert machine.ask(orders(1))[0] is not None
    machine.wall += timedelta(days=2)
    machine.start(0.0)
    assert machine.ask(orders(1))[0] is not None, "neither the wall clock nor a restart shortens the delay"
    await machine.run_for(3600)
    assert machine.ask(orders(1, first=5)) == (None,)


async def test_lowering_holds_at_once_and_voids_what_was_approved_to_be_raised(machine: Machine) -> None:
    await with_limits(machine, soon())
    machine.set_limits(soon(per_hour=500, of_fleet_per_day=Decimal("0.1")))
    machine.do(lambda connection: machine.rulebook.ask_limits(connection, soon(per_hour=1), LI, machine.wall))
    assert machine.ask(orders(2)).count(None) == 1
    await machine.run_for(400)
    assert machine.rulebook.limits == soon(per_hour=1), "the raise that was approved before has not come true"


async def test_of_mixed_limits_the_narrower_hold_at_once_and_the_wider_wait(machine: Machine) -> None:
    await with_limits(machine, soon())
    asked = machine.do(
        lambda connection: machine.rulebook.ask_limits(connection, soon(per_hour=60, line_per_day=1), LI, machine.wall)
    )
    assert asked is not None
    machine.do(machine.rulebook.refresh)
    assert machine.rulebook.limits == soon(per_hour=50, line_per_day=1)


async def test_a_release_takes_another_person_and_exactly_these_commands(machine: Machine) -> None:
    await with_limits(machine, soon(per_hour=1))
    wanted = orders(4, requester="Li Wei")
    assert machine.ask(wanted).count(None) == 1
    held = [a_command(order) for order in wanted[1:3]]
    rulebook = machine.rulebook
    asked = machine.do(lambda connection: rulebook.ask_quarantined(connection, held, ZHAO, machine.wall, delete=False))

    def approve(caller: Caller, what: list[Command]) -> None:
        machine.do(lambda connection: rulebook.approve_quarantined(connection, asked.id, what, caller, machine.wall))

    with pytest.raises(NotApproved, match="has asked for it"):
        approve(ZHAO, held)
    with pytest.raises(NotApproved, match="has asked for it"):
        approve(LI, held)  # whose orders they are
    with pytest.raises(NotApproved, match="edited since"):
        approve(WANG, [*held, a_command(wanted[3])])
    edited = msgspec.structs.replace(wanted[1], meter="M000099")
    with pytest.raises(NotApproved, match="edited since"):
        approve(WANG, [a_command(edited), held[1]])
    approve(WANG, list(reversed(held)))
    with pytest.raises(NotApproved, match="approved it already"):
        approve(Caller(token="t", person="Sun Li", roles=frozenset({Role.APPROVE})), held)

    assert machine.ask(wanted[1:])[:2] == (None, None)
    assert [machine.send(order) is None for order in wanted] == [True, True, True, False]
    assert machine.send(orders(1, first=50)[0]) is not None, "what was released counts"


async def test_a_deletion_takes_two_people_and_releases_nothing(machine: Machine) -> None:
    await with_limits(machine, soon(per_hour=0))
    (order,) = orders(1)
    assert machine.ask([order])[0] is not None
    rulebook = machine.rulebook
    asked = machine.do(
        lambda connection: rulebook.ask_quarantined(connection, [a_command(order)], LI, NOON, delete=True)
    )
    given = machine.do(
        lambda connection: rulebook.approve_quarantined(connection, asked.id, [a_command(order)], WANG, NOON)
    )
    assert (given.asked_by, given.approved_by) == ("Li Wei", "Wang Fang")
    assert machine.send(order) is not None


def test_an_approval_of_a_batch_is_of_the_exact_list(machine: Machine) -> None:
    batch = orders(12)
    rulebook = machine.rulebook
    assert rulebook.needs_approval(batch[:11])
    assert not rulebook.needs_approval(batch[:10])
    assert not rulebook.needs_approval([an_order(Kind.CLOSE, meter=f"M{n:06}", key=f"c{n}") for n in range(50)])
    digest = rulebook.list_digest(batch)
    assert digest == rulebook.list_digest(list(reversed(batch)))
    edits = [
        batch[:-1],
        [*batch, batch[0]],
        [*batch[:-1], msgspec.structs.replace(batch[-1], meter="M009999")],
        [*batch[:-1], msgspec.structs.replace(batch[-1], expires_at=NOON + timedelta(days=9))],
        [*batch[:-1], msgspec.structs.replace(batch[-1], kind=Kind.CLOSE)],
        [*batch[:-1], msgspec.structs.replace(batch[-1], proof=None)],
    ]
    assert digest not in {rulebook.list_digest(edit) for edit in edits}

    asked = machine.do(lambda c: approvals.ask(c, Purpose.BATCH, "b1", digest, "Li Wei", NOON))
    assert machine.do(lambda c: approvals.given(c, Purpose.BATCH, "b1", digest)) is None
    with pytest.raises(NotApproved, match="more than 24 hours ago"):
        machine.do(lambda c: approvals.approve(c, asked.id, digest, "Wang Fang", NOON + timedelta(hours=25)))
    machine.do(lambda c: approvals.approve(c, asked.id, digest, "Wang Fang", NOON))
    assert machine.do(lambda c: approvals.given(c, Purpose.BATCH, "b1", digest)) is not None
    for edit in edits:
        of_edit = partial(approvals.given, purpose=Purpose.BATCH, subject="b1", digest=digest_of_list(edit))
        assert machine.do(of_edit) is None
    machine.do(lambda c: approvals.void(c, Purpose.BATCH, "b1", "edited"))
    assert machine.do(lambda c: approvals.given(c, Purpose.BATCH, "b1", digest)) is None


def test_whoever_is_named_as_another_asker_may_not_approve(machine: Machine) -> None:
    asked = machine.do(lambda c: approvals.ask(c, Purpose.ORDER, "o1", "d1", "Li Wei", NOON, others=["Zhao Min", ""]))
    assert asked.others == ("Zhao Min",)
    with pytest.raises(NotApproved, match="Zhao Min has asked for it"):
        machine.do(lambda c: approvals.approve(c, asked.id, "d1", "Zhao Min", NOON))
    assert machine.do(lambda c: approvals.approve(c, asked.id, "d1", "Wang Fang", NOON)).is_given("d1")


async def test_of_two_raises_only_the_one_that_was_asked_for_last_can_be_approved(machine: Machine) -> None:
    rulebook = machine.rulebook
    first = machine.do(lambda c: rulebook.ask_limits(c, soon(per_hour=9), LI, machine.wall))
    second = machine.do(lambda c: rulebook.ask_limits(c, soon(per_hour=7), LI, machine.wall))
    assert first is not None
    assert second is not None
    with pytest.raises(NotApproved, match="other limits were asked for since"):
        machine.do(lambda c: rulebook.approve_limits(c, first.id, WANG, machine.wall))
    machine.do(lambda c: rulebook.approve_limits(c, second.id, WANG, machine.wall))
    await machine.run_for(60)
    assert rulebook.limits == soon(per_hour=7)


def test_asking_anew_voids_what_was_approved(machine: Machine) -> None:
    first = machine.do(lambda c: approvals.ask(c, Purpose.BATCH, "b1", "d1", "Li Wei", NOON))
    machine.do(lambda c: approvals.approve(c, first.id, "d1", "Wang Fang", NOON))
    machine.do(lambda c: approvals.ask(c, Purpose.BATCH, "b1", "d2", "Li Wei", NOON))
    assert machine.do(lambda c: approvals.given(c, Purpose.BATCH, "b1", "d1")) is None
    with pytest.raises(NotApproved, match="nothing to approve under 'nowhere'"):
        machine.do(lambda c: approvals.approve(c, "nowhere", "d1", "Wang Fang", NOON))
    with pytest.raises(NotApproved, match="which person"):
        machine.do(lambda c: approvals.ask(c, Purpose.BATCH, "b2", "d", "", NOON))


def a_protection(identity: str = "p1", **changes: Any) -> Protection:
    fields: dict[str, Any] = {
        "id": identity,
        "scope": Scope.METER,
        "target": "M000001",
        "category": "medical",
        "reason": "ventilator",
        "since": NOON - timedelta(days=1),
        "until": None,
        "added_by": "Li Wei",
    }
    return Protection(**(fields | changes))


async def test_a_protection_from_another_process_stops_an_open_in_the_transaction_that_would_send_it(
    machine: Machine,
) -> None:
    await with_limits(machine, soon())
    order = an_order()
    machine.do(lambda c: add_protection(c, a_protection()))
    assert machine.rulebook.examine(order, now=NOON, **FINE) == (), "memory does not know of it yet"
    refusal = machine.send(order)
    assert refusal is not None
    assert refusal.rule == "protection"
    machine.do(machine.rulebook.refresh)
    assert [one.rule for one in machine.rulebook.examine(order, now=NOON, **FINE)] == ["protection"]
    assert machine.rulebook.is_first("M000001")


@pytest.mark.parametrize(
    ("scope", "target"), [(Scope.ALL, ""), (Scope.FEEDER, "F1"), (Scope.LINE, "L1"), (Scope.METER, "M000001")]
)
def test_a_hold_reaches_the_meters_of_its_scope_until_it_expires(machine: Machine, scope: Scope, target: str) -> None:
    hold = a_protection(scope=scope, target=target, category="weather", until=NOON + timedelta(hours=1))
    machine.do(lambda c: add_protection(c, hold))
    machine.do(machine.rulebook.refresh)

    def rules(meter: str, now: datetime = NOON) -> list[str]:
        return rules_of(a_policy(), now=now, meter=machine.rulebook.facts_of(meter))

    assert rules("M000001") == ["protection"]
    assert rules("M000002") == (["protection"] if scope is Scope.ALL else [])
    assert rules("M000001", NOON + timedelta(hours=1)) == []
    there = machine.do(lambda c: protections_of(c, "M000001", NOON, line="L1", feeder="F1"))
    assert there == (hold,)
    assert machine.do(lambda c: protections_of(c, "M000001", NOON + timedelta(hours=1), line="L1", feeder="F1")) == ()


def test_a_protection_is_removed_by_two_people_and_by_no_less(machine: Machine) -> None:
    machine.do(lambda c: add_protection(c, a_protection()))
    asked = machine.do(lambda c: machine.rulebook.ask_unprotect(c, "p1", LI, NOON))
    with pytest.raises(NotApproved, match="has asked for it"):
        machine.do(lambda c: machine.rulebook.unprotect(c, asked.id, LI, NOON))
    no_role = Caller(token="t", person="Sun Li", roles=frozenset({Role.DISCONNECT, Role.OPERATE}))
    with pytest.raises(NotApproved, match="approve"):
        machine.do(lambda c: machine.rulebook.unprotect(c, asked.id, no_role, NOON))
    assert machine.do(lambda c: protections_of(c, "M000001", NOON)) == (a_protection(),)
    machine.do(lambda c: machine.rulebook.unprotect(c, asked.id, WANG, NOON))
    assert machine.do(lambda c: protections_of(c, "M000001", NOON)) == ()
    with pytest.raises(NotApproved, match="removed already"):
        machine.do(lambda c: machine.rulebook.ask_unprotect(c, "p1", LI, NOON))
    with pytest.raises(ValueError, match="there is or was a protection 'p1'"):
        machine.do(lambda c: add_protection(c, a_protection()))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reason": " "}, "a category, a reason"),
        ({"added_by": ""}, "who adds it"),
        ({"target": ""}, "a target"),
        ({"scope": Scope.ALL}, "a target"),
        ({"until": NOON - timedelta(days=2)}, "before it begins"),
    ],
)
def test_a_protection_that_says_too_little_is_not_taken(machine: Machine, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        machine.do(lambda c: add_protection(c, a_protection(**changes)))


def test_a_protections_end_is_stored_late_rather_than_early(machine: Machine) -> None:
    until = datetime(2026, 11, 24, 0, 0, 0, 1, tzinfo=UTC)
    machine.do(lambda c: add_protection(c, a_protection(until=until)))
    (there,) = machine.do(lambda c: protections_of(c, "M000001", NOON))
    assert there.until is not None
    assert until <= there.until < until + timedelta(milliseconds=1)


def test_a_token_has_the_person_that_somebody_named_and_none_by_itself(machine: Machine) -> None:
    assert machine.do(lambda c: person_of(c, "billing")) == ""
    machine.do(lambda c: set_person(c, "billing", "Li Wei"))
    machine.do(lambda c: set_person(c, "billing", "Wang Fang "))
    assert machine.do(lambda c: person_of(c, "billing")) == "Wang Fang"
    with pytest.raises(ValueError, match="name of a person"):
        machine.do(lambda c: set_person(c, "billing", " "))


def test_the_rulebook_is_a_gate(machine: Machine) -> None:
    gate: Gate = machine.rulebook
    assert gate.knows("M000001")
    assert not gate.knows("M999999")
    assert gate.feeder("M000021") == "F1"
    assert gate.reconnect_kind("M000001") is Kind.PERMIT_CLOSE
    night = NOON + timedelta(hours=10)
    assert gate.next_allowed(an_order(), night) == datetime(2026, 11, 24, 1, tzinfo=UTC)
    assert gate.next_allowed(an_order(Kind.CLOSE), night) == night
    told = gate.examine(an_order(meter="M999999"), now=NOON, **FINE)
    assert {one.rule for one in told} == {"limits", "unknown-class"}


async def test_what_no_limit_counts_any_more_is_forgotten(machine: Machine) -> None:
    await with_limits(machine, soon())
    one, two = orders(2)
    machine.ask([one, two])
    put_row(machine, one, "cancelled")
    put_row(machine, two, "scheduled")
    position = machine.rulebook.position_ms()
    claims = [ledger.claim_of(order.requester, order.idempotency_key) for order in (one, two)]
    machine.do(lambda c: ledger.prune(c, position))
    assert machine.do(lambda c: ledger.waiting_or_spent(c, claims)) == {claims[1]}
    assert machine.send(two) is None
    machine.do(lambda c: ledger.prune(c, position + 9 * 86_400_000))
    assert machine.do(lambda c: ledger.waiting_or_spent(c, claims)) == set()


def put_row(machine: Machine, order: Order, state: str) -> None:
    values = {
        "id": f"c-{order.idempotency_key}",
        "meter": order.meter,
        "kind": "open",
        "state": state,
        "place": None,
        "requester": order.requester,
        "idempotency_key": order.idempotency_key,
        "digest": "",
        "batch": "",
        "obligation": "",
        "created_at": 0,
        "due_at": 0,
        "is_waiting": 0,
        "body": b"",
    }
    machine.do(lambda connection: connection.execute(insert(commands).values(**values)))


def set_state(machine: Machine, order: Order, state: str) -> None:
    row = commands.c.idempotency_key == order.idempotency_key
    machine.do(lambda connection: connection.execute(update(commands).where(row).values(state=state)))


def test_asking_how_the_governor_is_moves_its_clock_by_nothing(machine: Machine) -> None:
    """Health is asked from the loop, and the clock is the store's thread's: two that move it would count time twice, or lose it."""
    before = machine.do(lambda _: machine.rulebook.position_ms())
    machine.mono += 40
    assert machine.keeper.health().position_s * 1000 == before
    assert machine.rulebook.clock.position_ms == before
    assert machine.do(lambda _: machine.rulebook.position_ms()) == before + 40_000
    assert machine.keeper.health().position_s * 1000 == before + 40_000
