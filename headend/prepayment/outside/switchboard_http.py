"""The switchboard over a head-end's public command interface, /v1/commands and /v1/obligations, as any billing system uses it."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import msgspec
from msgspec import Struct

from headend.feed.envelope import iso_utc
from headend.prepayment.errors import SwitchboardUnavailable, SwitchedOff
from headend.prepayment.outside.calling import Asked, Caller, NoAnswer
from headend.prepayment.ports import OpenProof, OrderState, ProvenNotice, Supply

__all__ = ["HttpSwitchboard"]

KEY_MAX = 128  # of the interface
ON = ("close", "permit-close")
# A head-end that does not serve this meter has no order that a payment would have to overtake, and nothing to give back.
NOTHING_TO_STOP = frozenset({"meter"})
OFF = "control"  # the rule by which it switches nothing at all
PAGE, PAGES = 100, 50  # commands asked for at once; as many pages until one of them has switched
T = TypeVar("T")


class _Refusal(Struct):
    rule: str
    text: str


class _Problem(Struct):
    detail: str = ""
    refusals: list[_Refusal] = []
    command: str = ""


class _Command(Struct):
    id: str
    state: str
    kind: str
    changed_at: datetime
    is_final: bool
    waiting_for_customer: bool = False
    detail: dict[str, str] = {}


class _Answer(Struct):
    command: _Command | None = None


class _Obligation(Struct):
    ended: str
    ended_at: datetime | None


class _Commands(Struct):
    commands: list[_Command]


class _Obligations(Struct):
    obligations: list[_Obligation]


class HttpSwitchboard:
    """Every method raises SwitchboardUnavailable when it cannot be asked, or gives an answer that nobody understands."""

    def __init__(self, call: Caller) -> None:
        self._call = call

    def order_open(
        self,
        meter: str,
        *,
        key: str,
        reason: str,
        proof: OpenProof,
        notices: Sequence[ProvenNotice],
        expires_at: datetime,
    ) -> OrderState:
        """A refusal is an answer: `problem` is "RULE: words", the rule being the first that says no."""
        body = {
            "kind": "open",
            "meter": meter,
            "reason": reason,
            "idempotency_key": _short(key),
            "expires_at": iso_utc(expires_at),
            "proof": {
                "account": proof.account,
                "balance_minor": proof.balance_minor,
                "currency": proof.currency,
                "as_of": iso_utc(proof.as_of),
                "fence": proof.fence,
            },
            "notices": [
                {
                    "step": one.step,
                    "sent_at": iso_utc(one.sent_at),
                    "delivered_at": iso_utc(one.delivered_at),
                    "channel": one.channel,
                    "reference": one.reference,
                }
                for one in notices
            ],
        }
        answer = self._ask("POST", "/v1/commands", body=body)
        if answer.status in (200, 202):
            return _state_of(_decoded(answer, _Answer).command)
        problem = _decoded(answer, _Problem) if answer.status in (403, 404, 409, 422) else None
        if problem is None or not problem.refusals:
            raise SwitchboardUnavailable(_told("POST /v1/commands", answer))
        first = problem.refusals[0]
        return OrderState(
            command=problem.command, state="refused", is_final=True, problem=f"{first.rule}: {first.text}"
        )

    def state(self, command: str) -> OrderState:
        answer = self._ask("GET", f"/v1/commands/{command}")
        if answer.status != 200:
            raise SwitchboardUnavailable(_told(f"GET /v1/commands/{command}", answer))
        return _state_of(_decoded(answer, _Answer).command)

    def payment(
        self, meter: str, *, reference: str, paid_at: datetime, amount_minor: int, currency: str, fence: int
    ) -> None:
        """One meter's share of the payment: another meter, or another fence after a crash, is another reference to the interface.

        Raises SwitchedOff, too.
        """
        body = {
            "cause": "payment",
            "meters": [meter],
            "reference": _short(f"{reference}@{meter}#{fence}"),
            "paid_at": iso_utc(paid_at),
            "amount_minor": amount_minor,
            "currency": currency,
            "fence": fence,
        }
        answer = self._ask("POST", "/v1/obligations", body=body)
        if answer.status in (200, 202):
            return
        if answer.status in (403, 404, 422):
            rules = {one.rule for one in _decoded(answer, _Problem).refusals}
            if rules and rules <= NOTHING_TO_STOP:
                return
            if OFF in rules:
                raise SwitchedOff(_told("POST /v1/obligations", answer))
        raise SwitchboardUnavailable(_told("POST /v1/obligations", answer))

    def supply(self, meter: str) -> Supply:
        """By the newest command that was proven, and the newest debt that ended after it."""
        newest = self._switched_last(meter)
        if newest is None:
            return "on"  # it was never switched through this interface
        if newest.kind in ON:
            return "off" if newest.waiting_for_customer else "on"
        answer = self._ask("GET", "/v1/obligations", query={"meter": meter, "ended": "true", "limit": str(PAGE)})
        if answer.status != 200:
            raise SwitchboardUnavailable(_told("GET /v1/obligations", answer))
        is_back = any(
            one.ended in ("verified", "already-on") and one.ended_at is not None and one.ended_at >= newest.changed_at
            for one in _decoded(answer, _Obligations).obligations
        )
        return "on" if is_back else "off"

    def _switched_last(self, meter: str) -> _Command | None:
        """The newest proven command that switched; those that only asked for the supply's state may be many."""
        after = ""
        for _ in range(PAGES):
            query = {"meter": meter, "state": "verified", "limit": str(PAGE)} | ({"after": after} if after else {})
            answer = self._ask("GET", "/v1/commands", query=query)
            if answer.status != 200:
                raise SwitchboardUnavailable(_told("GET /v1/commands", answer))
            page = _decoded(answer, _Commands)
            switched = [one for one in page.commands if one.kind in ("open", *ON)]
            if switched:
                return max(switched, key=lambda one: one.changed_at)
            if len(page.commands) < PAGE:
                return None
            after = page.commands[-1].id
        raise SwitchboardUnavailable(f"none of the {PAGE * PAGES} newest commands of meter {meter} has switched it")

    def _ask(self, method: str, path: str, *, query: dict[str, str] | None = None, body: object = None) -> Asked:
        try:
            return self._call(method, path, query=query, body=body)
        except NoAnswer as error:
            raise SwitchboardUnavailable(str(error)) from error


def _state_of(command: _Command | None) -> OrderState:
    if command is None:
        raise SwitchboardUnavailable("the answer names no command")
    rule = command.detail.get("refusal_1_rule", command.detail.get("rule", ""))
    words = next((command.detail[key] for key in ("refusal_1_text", "problem", "limit") if key in command.detail), "")
    problem = f"{rule}: {words}" if rule else words
    return OrderState(command=command.id, state=command.state, is_final=command.is_final, problem=problem)


def _decoded(answer: Asked, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except msgspec.DecodeError as error:
        raise SwitchboardUnavailable(f"an answer {answer.status} that cannot be understood: {error}") from error


def _told(what: str, answer: Asked) -> str:
    try:
        detail = msgspec.json.decode(answer.body, type=_Problem).detail
    except msgspec.DecodeError:
        detail = answer.body[:200].decode("utf-8", "replace")
    return f"{what} was answered {answer.status}: {detail}"


def _short(text: str) -> str:
    """Of what is longer than the interface takes, a digest: the same text, the same digest."""
    if len(text) <= KEY_MAX:
        return text
    return text[:40] + "~" + hashlib.sha256(text.encode()).hexdigest()
