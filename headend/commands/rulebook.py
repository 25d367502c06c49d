"""The rules of one installation in one hand: policy, protections, limits, approvals. What the desk and the executor ask (`Gate`).

What can change while the head-end runs (protections, limits) is looked up twice: in memory, for the last look that must not wait,
and in the store, in the very transaction that makes an open `sending`.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec
from sqlalchemy import Connection

from headend.commands import roles
from headend.commands.approval import Approval, Purpose, digest_of_list, digest_of_words
from headend.commands.governor import Fleet, Governor, Limits, OpenFacts, Over, OverLimit
from headend.commands.governor_clock import GovernorClock
from headend.commands.model import Command, Kind, Order, Refusal
from headend.commands.obligations import Spread
from headend.commands.policy import NO_POLICY, Forecast, Installation, MeterFacts, Policy, examine
from headend.commands.protections import Protection, Scope
from headend.commands.roles import Action, Caller
from headend.store import governor as ledger
from headend.store import governor_approvals as approvals
from headend.store.governor_approvals import NotApproved
from headend.store.governor_protections import (
    active_protections,
    end_protection,
    find_protection,
    person_of,
    protections_of,
)

__all__ = ["Rulebook"]

GOVERNOR_VERSION = "governor@1"


class Rulebook:
    """policy: None opens nothing. meters: facts by asset number, without protections. clock: the governor's own.

    monotonic, wall: the clocks of the head-end. forecast: for a meter, None when there is none.
    """

    def __init__(
        self,
        policy: Policy | None,
        meters: Mapping[str, MeterFacts],
        clock: GovernorClock,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], datetime],
        control_enabled: bool,
        has_signing_key: bool,
        forecast: Callable[[str], Forecast | None] = lambda meter: None,
        first_classes: frozenset[str] = frozenset({"medical", "public"}),
    ) -> None:
        self.policy = policy
        self.clock = clock
        self.limits: Limits | None = None
        self._meters = meters
        self._monotonic = monotonic
        self._wall = wall
        self._control_enabled = control_enabled
        self._has_signing_key = has_signing_key
        self._forecast = forecast
        self._first_classes = first_classes
        self._protections: dict[tuple[Scope, str], tuple[Protection, ...]] = {}
        on_feeder: dict[str, int] = {}
        for facts in meters.values():
            on_feeder[_feeder(facts)] = on_feeder.get(_feeder(facts), 0) + 1
        self.fleet = Fleet(meters=len(meters), on_feeder=on_feeder)

    def refresh(self, connection: Connection) -> None:
        """Look up limits and protections anew; another process may have changed them."""
        self.clock.catch_up(ledger.load_position(connection))
        self.limits = approvals.limits_in_force(connection, self.position_ms())
        found: dict[tuple[Scope, str], list[Protection]] = {}
        for protection in active_protections(connection, self._wall()):
            found.setdefault((protection.scope, protection.target), []).append(protection)
        self._protections = {place: tuple(some) for place, some in found.items()}

    def position_ms(self) -> int:
        return self.clock.observe(self._monotonic())

    # Gate

    @property
    def version(self) -> str:
        return NO_POLICY if self.policy is None else self.policy.version

    def knows(self, meter: str) -> bool:
        return meter in self._meters

    def feeder(self, meter: str) -> str:
        return _feeder(self.facts_of(meter))

    def spread(self) -> Spread:
        """One close fewer than what the policy calls many goes at once."""
        if self.policy is None:
            return Spread()
        reconnect = self.policy.data.reconnect
        return Spread(reconnect.spread_from - 1, reconnect.spread_s)

    def is_first(self, meter: str) -> bool:
        facts = self.facts_of(meter)
        return facts.customer_class in self._first_classes or bool(facts.protections)

    def facts_of(self, meter: str) -> MeterFacts:
        """With the protections in memory. Of a meter that is not known nothing is known."""
        facts = self._meters.get(meter) or MeterFacts(
            meter=meter, feeder="", line="", tariff_group="", customer_class=""
        )
        places = (
            (Scope.METER, meter),
            (Scope.LINE, facts.line),
            (Scope.FEEDER, facts.feeder),
            (Scope.ALL, ""),
        )
        protections = tuple(one for place in places for one in self._protections.get(place, ()))
        return msgspec.structs.replace(facts, protections=protections) if protections else facts

    def examine(
        self, order: Order, *, now: datetime, clock_synchronised: bool | None, audit_ok: bool, store_ok: bool
    ) -> tuple[Refusal, ...]:
        return examine(
            self.policy,
            Installation(
                control_enabled=self._control_enabled,
                has_signing_key=self._has_signing_key,
                has_limits=self.limits is not None,
            ),
            order,
            now=now,
            meter=self.facts_of(order.meter),
            clock_synchronised=clock_synchronised,
            audit_ok=audit_ok,
            store_ok=store_ok,
            forecast=self._forecast(order.meter) if order.kind is Kind.OPEN else None,
        )

    def next_allowed(self, order: Order, now: datetime) -> datetime | None:
        if order.kind is not Kind.OPEN:
            return now
        if self.policy is None:
            return None
        return self.policy.next_allowed(now, tariff_group=self.facts_of(order.meter).tariff_group)

    def reconnect_kind(self, meter: str) -> Kind:
        """Without a policy nobody has said that it may be closed directly."""
        return Kind.PERMIT_CLOSE if self.policy is None else self.policy.reconnect_kind(self.facts_of(meter))

    def needs_approval(self, orders: Sequence[Order]) -> bool:
        """More opens than a single person may order, or the end of a protection in a meter."""
        opens = sum(order.kind is Kind.OPEN for order in orders)
        limits = self.limits or Limits()
        return opens > limits.batch_max or any(order.kind is Kind.UNPROTECT for order in orders)

    def list_digest(self, orders: Sequence[Order]) -> str:
        return digest_of_list(orders)

    def over_limit(self, connection: Connection, orders: Sequence[Order]) -> tuple[Refusal | None, ...]:
        """As `Gate.over_limit`. What is within its limits counts from here on, what is not is noted for the alarm."""
        position_ms = self._durable_position(connection)
        governor = Governor(approvals.limits_in_force(connection, position_ms))
        counted = ledger.tally(connection, position_ms, waiting=True)
        claims = [ledger.claim_of(order.requester, order.idempotency_key) for order in orders]
        there = ledger.waiting_or_spent(connection, claims)
        released = ledger.released_of(connection, claims)
        answers: list[Refusal | None] = []
        overs: list[tuple[str, Over]] = []
        for order, claim in zip(orders, claims, strict=True):
            answers.append(None)
            if order.kind is not Kind.OPEN or claim in there:
                continue
            facts = self._open_facts(order)
            outcome = governor.admit(facts, counted, self.fleet)
            if isinstance(outcome, OverLimit) and not (released.get(claim) and governor.limits is not None):
                answers[-1] = _refusal(outcome)
                if governor.limits is None:
                    continue  # nothing waits for two people here: `examine` refuses it, and there is nothing to raise an alarm for
                overs.append((claim, _over(facts, outcome, position_ms)))
                continue
            there.add(claim)
            kw = governor.kw_of(facts)
            counted.add(facts, kw)
            ledger.put_claim(connection, order.requester, order.idempotency_key, facts, kw, position_ms)
        ledger.note_over(connection, overs)
        return tuple(answers)

    def admit(self, connection: Connection, command: Command) -> Refusal | None:
        """As `Gate.admit`: protections as they are in the store now, and every limit over what was really sent."""
        order = command.order
        if order.kind is not Kind.OPEN:
            return None
        now = self._wall()
        facts = self.facts_of(order.meter)
        last = now + timedelta(seconds=self.policy.data.margin_s if self.policy else 0)
        for protection in protections_of(connection, order.meter, now, line=facts.line, feeder=facts.feeder):
            if protection.is_in_force(now, last):
                return Refusal(
                    rule="protection",
                    version=self.version,
                    text=f"{order.meter} is protected ({protection.category}): {protection.reason}",
                    needed=f"the end of protection {protection.id}, or its removal by two people",
                )
        position_ms = self._durable_position(connection)
        governor = Governor(approvals.limits_in_force(connection, position_ms))
        claim = ledger.claim_of(order.requester, order.idempotency_key)
        open_facts = self._open_facts(order)
        outcome = governor.admit(
            open_facts, ledger.tally(connection, position_ms, waiting=False, without=claim), self.fleet
        )
        is_released = ledger.released_of(connection, [claim]).get(claim, False) and governor.limits is not None
        if isinstance(outcome, OverLimit) and not is_released:
            ledger.note_over(connection, [(claim, _over(open_facts, outcome, position_ms))])
            return _refusal(outcome)
        kw = governor.kw_of(open_facts)
        ledger.put_claim(connection, order.requester, order.idempotency_key, open_facts, kw, position_ms)
        ledger.spend(connection, claim, position_ms)
        return None

    # two people

    def ask_quarantined(
        self, connection: Connection, commands: Sequence[Command], caller: Caller, now: datetime, *, delete: bool
    ) -> Approval:
        """Ask that exactly these leave the quarantine, to go on or to be deleted. Raises NotApproved."""
        _check(roles.refusals(caller, [Action.ASK_DELETE if delete else Action.ASK_RELEASE]))
        digest = _digest_of(commands)
        requesters = {command.order.requester for command in commands}
        # Who ordered is a person, or a token of nobody known; a token may be named as somebody who does not hold it.
        others = sorted(requesters | {person_of(connection, requester) for requester in requesters})
        purpose = Purpose.DELETE if delete else Purpose.RELEASE
        ids = [command.id for command in commands]
        return approvals.ask(connection, purpose, digest[:16], digest, caller.person, now, others=others, commands=ids)

    def approve_quarantined(
        self, connection: Connection, identity: str, commands: Sequence[Command], caller: Caller, now: datetime
    ) -> Approval:
        """The second person. Afterwards the caller moves the commands on, RELEASED or DELETED. Raises NotApproved."""
        _check(roles.refusals(caller, [Action.APPROVE], asked_by=_askers(connection, identity)))
        approval = approvals.approve(connection, identity, _digest_of(commands), caller.person, now)
        claims = [ledger.claim_of(command.order.requester, command.order.idempotency_key) for command in commands]
        if approval.purpose is Purpose.RELEASE:
            ledger.release(connection, claims)
        return approval

    def ask_unprotect(self, connection: Connection, protection: str, caller: Caller, now: datetime) -> Approval:
        """Raises NotApproved."""
        _check(roles.refusals(caller, [Action.ASK_UNPROTECT]))
        digest = _digest_of_protection(connection, protection)
        return approvals.ask(connection, Purpose.UNPROTECT, protection, digest, caller.person, now)

    def unprotect(self, connection: Connection, identity: str, caller: Caller, now: datetime) -> Approval:
        """The second person removes the protection. Raises NotApproved."""
        _check(roles.refusals(caller, [Action.APPROVE], asked_by=_askers(connection, identity)))
        asked = approvals.find_approval(connection, identity)
        if asked is None or asked.purpose is not Purpose.UNPROTECT:
            raise NotApproved(f"{identity!r} is no request to remove a protection")
        digest = _digest_of_protection(connection, asked.subject)
        approval = approvals.approve(connection, identity, digest, caller.person, now)
        end_protection(connection, approval.subject, (approval.asked_by, approval.approved_by), now)
        return approval

    def ask_limits(self, connection: Connection, limits: Limits, caller: Caller, now: datetime) -> Approval | None:
        """None: they hold already, since they are nowhere wider. Raises NotApproved."""
        position_ms = self._durable_position(connection)
        wider = approvals.is_wider(connection, limits, position_ms)
        _check(roles.refusals(caller, [Action.ASK_LIMITS if wider else Action.LOWER_LIMITS]))
        return approvals.ask_limits(connection, limits, caller.name, now, position_ms)

    def approve_limits(
        self, connection: Connection, identity: str, caller: Caller, now: datetime
    ) -> tuple[Limits, Decimal]:
        """The limits, and after how many seconds of governor time they take effect. Raises NotApproved."""
        _check(roles.refusals(caller, [Action.APPROVE], asked_by=_askers(connection, identity)))
        position_ms = self._durable_position(connection)
        limits, effective_ms = approvals.approve_limits(connection, identity, caller.person, now, position_ms)
        return limits, Decimal(effective_ms - position_ms) / 1000

    def _durable_position(self, connection: Connection) -> int:
        self.clock.catch_up(ledger.load_position(connection))
        position_ms = self.position_ms()
        ledger.save_position(connection, position_ms)
        return position_ms

    def _open_facts(self, order: Order) -> OpenFacts:
        facts = self.facts_of(order.meter)
        return OpenFacts(
            caller=order.requester,
            meter=order.meter,
            feeder=_feeder(facts),
            line=facts.line,
            kw=facts.estimated_kw,
        )


def _feeder(facts: MeterFacts) -> str:
    return facts.feeder or f"line {facts.line}"


def _over(facts: OpenFacts, over: OverLimit, position_ms: int) -> Over:
    return Over(
        caller=facts.caller,
        meter=facts.meter,
        limit=over.limit,
        used=over.used,
        allowed=over.allowed,
        position_ms=position_ms,
    )


def _refusal(over: OverLimit) -> Refusal:
    return Refusal(
        rule=f"limit {over.limit}",
        version=GOVERNOR_VERSION,
        text=f"one more open would go over the limit {over.limit}: {over.used} of {over.allowed} are used",
        needed="its release by two people, or room under the limit",
    )


def _check(refused: Sequence[Refusal]) -> None:
    if refused:
        raise NotApproved("; ".join(f"{one.text} (needed: {one.needed})" for one in refused))


def _askers(connection: Connection, identity: str) -> list[Caller]:
    """Who asked for it, as people; their token is not known any more, and two tokens of one person are one."""
    asked = approvals.find_approval(connection, identity)
    if asked is None:
        return []
    people = (asked.asked_by, *asked.others)
    return [Caller(token="", person=person, roles=frozenset()) for person in people]


def _digest_of(commands: Sequence[Command]) -> str:
    return digest_of_words(*sorted(f"{command.id} {digest_of_list([command.order])}" for command in commands))


def _digest_of_protection(connection: Connection, identity: str) -> str:
    protection = find_protection(connection, identity)
    if protection is None:
        raise NotApproved(f"there is no protection {identity!r}, or it was removed already")
    return digest_of_words(msgspec.json.encode(protection, order="sorted").decode())
