"""What three witnesses prove: the whole matrix of reply, contact, event counter and load, for every kind of order."""

import itertools
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headend.commands.model import Kind, State
from headend.commands.verification import CURRENT_A_MIN, LOOKS_S, SETTLE_S, verdict
from headend.drivers.relay import Contact, Identity, Sent, Told, Witness

AT = datetime(2026, 6, 1, 4, 0, tzinfo=UTC)
V, U, C = State.VERIFIED, State.UNCONFIRMED, State.CONTRADICTED
CONTACTS: tuple[Contact, ...] = ("open", "closed", "permitted", "unknown")
FLOWS = Decimal("5.000")
NOTHING = Decimal("0.000")
ACKNOWLEDGED = Sent(acknowledged=True, at=AT, wire_sent="68 **", wire_received="68 9C")
SILENT = Sent(acknowledged=False, at=AT, silence="silent")
REFUSED = Sent(acknowledged=False, at=AT, refused="error word 04H")
REPLIES: dict[str, Sent | None] = {
    "acknowledged": ACKNOWLEDGED,
    "silent": SILENT,
    "refused": REFUSED,
    "not known": None,
}


def seen(contact: Contact, current: Decimal | None = None, **others: Any) -> Witness:
    return Witness(contact=contact, at=AT, current_a=current, **others)


def state_of(kind: Kind, last: Witness, before: Witness | None = None, sent: Sent | None = ACKNOWLEDGED) -> State:
    return verdict(kind, sent, [last], before=before).state


# (contact, current) -> verdict of a settled order, whatever the reply was; before: closed, no counters.
MATRIX: dict[Kind, dict[tuple[Contact, Decimal | None], State]] = {
    Kind.OPEN: {
        ("open", None): V,
        ("open", NOTHING): V,
        ("open", FLOWS): C,
        ("permitted", None): V,
        ("permitted", NOTHING): V,
        ("permitted", FLOWS): C,
        ("closed", None): C,
        ("closed", NOTHING): C,
        ("closed", FLOWS): C,
        ("unknown", None): U,
        ("unknown", NOTHING): U,
        ("unknown", FLOWS): C,
    },
    Kind.CLOSE: {
        ("open", None): C,
        ("open", NOTHING): C,
        ("open", FLOWS): C,
        ("permitted", None): C,
        ("permitted", NOTHING): C,
        ("permitted", FLOWS): C,
        ("closed", None): V,
        ("closed", NOTHING): V,
        ("closed", FLOWS): V,
        ("unknown", None): U,
        ("unknown", NOTHING): U,
        ("unknown", FLOWS): V,
    },
    Kind.PERMIT_CLOSE: {
        ("open", None): C,
        ("open", NOTHING): C,
        ("open", FLOWS): C,
        ("permitted", None): V,
        ("permitted", NOTHING): V,
        ("permitted", FLOWS): V,
        ("closed", None): V,
        ("closed", NOTHING): V,
        ("closed", FLOWS): V,
        ("unknown", None): U,
        ("unknown", NOTHING): U,
        ("unknown", FLOWS): V,
    },
    Kind.STATUS: {
        (contact, current): U if contact == "unknown" else V
        for contact in CONTACTS
        for current in (None, NOTHING, FLOWS)
    },
}


@pytest.mark.parametrize("kind", MATRIX)
@pytest.mark.parametrize("reply", REPLIES)
def test_the_matrix_of_contact_and_load_holds_whatever_the_reply_was(kind: Kind, reply: str) -> None:
    assert set(MATRIX[kind]) == set(itertools.product(CONTACTS, (None, NOTHING, FLOWS)))
    for (contact, current), state in MATRIX[kind].items():
        found = verdict(kind, REPLIES[reply], [seen(contact, current)], before=seen("closed"))
        assert found.state is state, (contact, current, found)
        assert found.evidence["because"]
        assert found.evidence["contact"] == contact
        expected = {"acknowledged": "acknowledged", "silent": "none: silent"}
        expected |= {"refused": "refused: error word 04H"}
        assert found.evidence.get("reply") == expected.get(reply)


@pytest.mark.parametrize("kind", list(Kind))
def test_without_anybody_who_could_look_nothing_is_known(kind: Kind) -> None:
    found = verdict(kind, ACKNOWLEDGED, [])
    assert (found.state, found.waiting_for_customer) == (U, False)
    assert found.evidence["because"] == "nobody could look back at the relay"


@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.CLOSE, Kind.PERMIT_CLOSE])
def test_nothing_is_contradicted_while_the_contact_may_still_move_and_what_is_verified_is_so_at_once(
    kind: Kind,
) -> None:
    for (contact, current), state in MATRIX[kind].items():
        early = verdict(kind, ACKNOWLEDGED, [seen(contact, current)], before=seen("closed"), settled=False)
        assert early.state is (U if state is C else state)
        if state is C:
            assert early.evidence["because"].startswith("not yet: ")
    assert list(LOOKS_S) == sorted(LOOKS_S)
    assert LOOKS_S[-1] == SETTLE_S


def test_permitting_waits_for_the_customer_until_power_is_seen() -> None:
    cases: list[tuple[Contact, Decimal | None, bool]] = [
        ("permitted", NOTHING, True),
        ("permitted", None, True),
        ("permitted", FLOWS, False),
        ("closed", NOTHING, False),
        ("closed", FLOWS, False),
    ]
    for contact, current, waits in cases:
        found = verdict(Kind.PERMIT_CLOSE, ACKNOWLEDGED, [seen(contact, current)], before=seen("open"))
        assert (found.state, found.waiting_for_customer) == (V, waits), (contact, current)
    assert not verdict(Kind.CLOSE, ACKNOWLEDGED, [seen("permitted", NOTHING)]).waiting_for_customer
    assert not verdict(Kind.OPEN, ACKNOWLEDGED, [seen("permitted", NOTHING)]).waiting_for_customer


@pytest.mark.parametrize(
    ("before", "after", "state", "because"),
    [
        (3, 4, V, "the contact is open and the trip is on record"),
        (3, 3, U, "the contact is shown open, and the meter's record knows of no trip"),
        (None, 4, V, "the contact is open"),
        (3, None, V, "the contact is open"),
        (3, 0, V, "the contact is open"),  # the meter's records were cleared meanwhile
    ],
)
def test_the_event_record_is_a_witness_of_an_open(
    before: int | None, after: int | None, state: State, because: str
) -> None:
    found = verdict(
        Kind.OPEN, ACKNOWLEDGED, [seen("open", NOTHING, trips=after)], before=seen("closed", FLOWS, trips=before)
    )
    assert (found.state, found.evidence["because"]) == (state, because)


def test_a_supply_that_was_open_before_needs_no_new_trip() -> None:
    found = verdict(Kind.OPEN, SILENT, [seen("open", NOTHING, trips=3)], before=seen("open", NOTHING, trips=3))
    assert (found.state, found.evidence["because"]) == (V, "the contact is open, as it was before the order")


def test_an_announced_trip_is_waited_for() -> None:
    """A delay is set in the meter, 04001401: it acknowledges, warns the customer, and opens later."""
    found = verdict(Kind.OPEN, ACKNOWLEDGED, [seen("closed", FLOWS, alarm=True)], before=seen("closed", FLOWS))
    assert found.state is U
    assert "announced" in found.evidence["because"]
    assert state_of(Kind.CLOSE, seen("open", NOTHING, alarm=True)) is C


def test_protection_is_judged_by_its_own_bit() -> None:
    for wanted, kind in ((True, Kind.PROTECT), (False, Kind.UNPROTECT)):
        for told in (True, False, None):
            for contact in CONTACTS:
                state = U if told is None else V if told is wanted else C
                assert state_of(kind, seen(contact, FLOWS, protected=told)) is state


def test_what_was_as_ordered_and_is_not_any_more_says_so() -> None:
    witnesses = [seen("open", NOTHING), seen("closed", FLOWS)]
    found = verdict(Kind.OPEN, ACKNOWLEDGED, witnesses, before=seen("closed", FLOWS))
    assert found.state is C
    assert found.evidence["because"] == "the contact is closed; it was as ordered for a while"


def test_the_meters_own_word_on_its_relay_and_a_missing_voltage_stand_in_the_evidence() -> None:
    stuck = verdict(Kind.CLOSE, ACKNOWLEDGED, [seen("permitted", NOTHING, faulty=True)])
    assert stuck.evidence["relay_fault"] == "reported by the meter"
    assert "relay does not follow" in stuck.evidence["because"]
    dark = verdict(Kind.CLOSE, ACKNOWLEDGED, [seen("closed", NOTHING, voltage_v=Decimal("3.1"))])
    assert (dark.state, dark.evidence["because"]) == (V, "the contact is closed, but there is no voltage (3.1 V)")
    full = verdict(
        Kind.OPEN,
        Sent(
            acknowledged=True,
            at=AT,
            said="tripped",
            identity=Identity(told=Told(number="17"), is_proven=True, missing={"asset": "refused"}),
        ),
        [seen("open", NOTHING, trips=4, voltage_v=Decimal("221.3"), status="0050", problems={"closes": "refused"})],
        before=seen("closed", FLOWS, trips=3),
    )
    assert full.evidence | {} == {
        "reply": "acknowledged: tripped",
        "identity": "read back",
        "identity_number": "17",
        "identity_asset": "not known: refused",
        "contact": "open",
        "contact_before": "closed",
        "looked_at": "2026-06-01T04:00:00.000+00:00",
        "trips": "4, 1 since the order",
        "current": "0.000 A",
        "voltage": "221.3 V",
        "status": "0050",
        "no_closes": "refused",
        "because": "the contact is open and the trip is on record",
    }


def test_noise_in_the_current_is_no_consumption() -> None:
    assert state_of(Kind.OPEN, seen("open", CURRENT_A_MIN - Decimal("0.001"))) is V
    assert state_of(Kind.OPEN, seen("open", CURRENT_A_MIN)) is C
    assert state_of(Kind.OPEN, seen("open", -CURRENT_A_MIN)) is C  # exporting is a load, too


witnesses = st.builds(
    Witness,
    contact=st.sampled_from(CONTACTS),
    at=st.just(AT),
    trips=st.none() | st.integers(0, 3),
    closes=st.none() | st.integers(0, 3),
    current_a=st.none() | st.sampled_from([NOTHING, FLOWS, Decimal("-5")]),
    voltage_v=st.none() | st.sampled_from([NOTHING, Decimal(220)]),
    protected=st.none() | st.booleans(),
    alarm=st.none() | st.booleans(),
    faulty=st.none() | st.booleans(),
)


@given(
    kind=st.sampled_from(list(Kind)),
    reply=st.sampled_from(list(REPLIES)),
    looked=st.lists(witnesses, max_size=4),
    before=st.none() | witnesses,
    settled=st.booleans(),
)
def test_nothing_is_ever_verified_against_a_witness(
    kind: Kind, reply: str, looked: list[Witness], before: Witness | None, settled: bool
) -> None:
    found = verdict(kind, REPLIES[reply], looked, before=before, settled=settled)
    assert found.state in (V, U, C)
    assert found.evidence["because"]
    if not looked:
        assert found.state is U
        return
    last = looked[-1]
    flows = last.current_a is not None and abs(last.current_a) >= CURRENT_A_MIN
    if found.state is V and kind is Kind.OPEN:
        assert last.contact in ("open", "permitted")
        assert not flows
    if found.state is V and kind is Kind.CLOSE:
        assert last.contact == "closed" or (last.contact == "unknown" and flows)
    if found.state is C:
        assert settled
    if found.waiting_for_customer:
        assert found.state is V
        assert last.contact == "permitted"
        assert not flows
    if REPLIES[reply] is not None and "although the meter refused" not in found.evidence["because"]:
        again = verdict(kind, ACKNOWLEDGED, looked, before=before, settled=settled)
        assert again.state is found.state  # the reply alone decides nothing
