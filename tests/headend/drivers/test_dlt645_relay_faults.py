"""The switch of DL/T 645 meters when something is wrong: with the relay, the reply, or the meter. Each ends in its own verdict."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from headend.commands.model import Kind, State
from headend.drivers.errors import (
    MeterSwapped,
    NoFinalReading,
    NotIdentified,
)
from headend.drivers.relay import Expected
from protocols.dlt645.items import Di
from simulators.dlt645_values import NoSuchItem
from simulators.faults import FaultKind as K
from tests.headend.drivers.dlt645_relay_support import a_meter, on_site
from tests.headend.drivers.relay_support import (
    ADDRESS,
    Site,
    fault,
    plan,
)

# ------------------------------------------------------------------------------------------------ the fault table

U, C, V = State.UNCONFIRMED, State.CONTRADICTED, State.VERIFIED


@pytest.mark.parametrize(
    ("name", "kind", "faults", "state", "orders", "evidence"),
    [
        (
            "stuck, and the meter senses it",
            Kind.OPEN,
            [K.STUCK_RELAY],
            C,
            1,
            {"relay_fault": "reported", "contact": "closed"},
        ),
        (
            "stuck, and nothing but the load tells",
            Kind.OPEN,
            [fault(K.STUCK_RELAY, senses=False)],
            C,
            1,
            {"because": "cut, but consuming", "contact": "open", "reply": "acknowledged"},
        ),
        (
            "acknowledged and not switched",
            Kind.OPEN,
            [K.ACK_WITHOUT_SWITCH],
            C,
            1,
            {"reply": "acknowledged", "contact": "closed", "trips": "0, 0 since"},
        ),
        (
            "silent after the frame, obeyed",
            Kind.OPEN,
            [fault(K.SILENT_AFTER_ORDER, for_s=30.0)],
            U,
            1,
            {"reply": "none: silent", "because": "nobody could look back"},
        ),
        (
            "silent after the frame for a moment, obeyed",
            Kind.OPEN,
            [fault(K.SILENT_AFTER_ORDER, for_s=3.0)],
            V,
            1,
            {"reply": "none: silent", "contact": "open", "trips": "1, 1 since"},
        ),
        (
            "the frame was never heard",
            Kind.OPEN,
            [fault(K.SILENT_AFTER_ORDER, for_s=3.0, obeys=False)],
            C,
            1,
            {"reply": "none: silent", "contact": "closed"},
        ),
        ("reply lost", Kind.OPEN, [K.LOST_ACKNOWLEDGEMENT], V, 1, {"reply": "none: silent", "contact": "open"}),
        ("reply lost", Kind.CLOSE, [K.LOST_ACKNOWLEDGEMENT], V, 1, {"reply": "none: silent", "contact": "closed"}),
        (
            "wrong operator",
            Kind.OPEN,
            [fault(K.WRONG_OPERATOR, code="99999999")],
            C,
            1,
            {"reply": "refused: error word 04H (password wrong / not authorised)", "contact": "closed"},
        ),
        (
            "protected meter",
            Kind.OPEN,
            [K.PROTECTED_METER],
            C,
            1,
            {"reply": "supply is protected (保电)", "protected": "yes", "contact": "closed"},
        ),
        ("slow contact", Kind.OPEN, [fault(K.SLOW_CONTACT, after_s=3.0)], V, 1, {"contact": "open"}),
        ("too slow a contact", Kind.OPEN, [fault(K.SLOW_CONTACT, after_s=60.0)], C, 1, {"contact": "closed"}),
    ],
)
def test_each_fault_ends_in_its_own_verdict_with_evidence_and_one_frame(
    name: str, kind: Kind, faults: list[Any], state: State, orders: int, evidence: dict[str, str]
) -> None:
    async def story(site: Site) -> None:
        if kind is Kind.CLOSE:
            site.bus.meters[0].model.open_relay(site.clock.world())
        sent, found = await site.whole(kind)
        assert found.state is state, (name, found)
        assert len(site.wire.orders) == orders
        for key, text in evidence.items():
            assert text in found.evidence[key], (key, found.evidence)
        assert sent.wire_sent.count("**") == 8, sent.wire_sent  # P0 P1 P2, operator, checksum

    on_site(story, *faults)


def test_a_stuck_contact_stays_contrary_when_it_is_to_be_closed() -> None:
    async def story(site: Site) -> None:
        site.bus.meters[0].model.open_relay(site.clock.world())
        site.bus.faults = plan(K.STUCK_RELAY)
        sent, found = await site.whole(Kind.CLOSE)
        assert (found.state, sent.acknowledged) == (C, True)
        assert found.evidence["contact"] == "permitted"
        assert "reports that its relay does not follow" in found.evidence["because"]
        assert not found.waiting_for_customer

    on_site(story)


def test_another_meter_under_the_address_is_sent_nothing() -> None:
    async def story(site: Site) -> None:
        for kind in (Kind.OPEN, Kind.CLOSE):
            with pytest.raises(MeterSwapped) as swapped:
                await site.order(kind)
            assert (swapped.value.expected, swapped.value.came) == (f"M000017 or {ADDRESS}", "900000000005")
            assert "nothing was sent" in str(swapped.value)
        assert site.wire.orders == []
        assert (site.ready, site.looks) == ([], 0)

    on_site(story, fault(K.METER_SWAP, seed=5))


def test_the_records_own_number_is_what_counts_where_there_is_one() -> None:
    async def story(site: Site) -> None:
        sent = await site.order(Kind.OPEN)
        assert sent.identity is not None
        assert sent.identity.told.number == "445566778899"

    known: dict[str, Any] = {"expected": lambda _: Expected(number="445566778899", asset="SIM-445566778899")}
    on_site(story, meter=a_meter(number="445566778899"), **known)
    with pytest.raises(MeterSwapped, match="expected meter number 445566778899, it tells 000000000017"):
        on_site(story, **known)


def test_an_open_needs_a_number_that_was_read_back_and_a_close_does_not() -> None:
    """The meter has never been given one: zeros and blanks prove nothing."""

    async def story(site: Site) -> None:
        meter = site.bus.meters[0]
        for di, value in (("04000402", "000000000000"), ("04000403", " ")):
            meter.items.parameters.fixed[di] = [value]
        with pytest.raises(NotIdentified, match="could not be read back"):
            await site.order(Kind.OPEN)
        assert site.wire.orders == []
        sent = await site.order(Kind.CLOSE)
        assert sent.identity is not None
        assert not sent.identity.is_proven
        assert sent.identity.evidence["identity"] == "by address only"

    on_site(story)


@pytest.mark.parametrize("shows", ["nothing", "not measured"])
def test_an_open_needs_a_last_reading_and_a_close_does_not(shows: str) -> None:
    async def story(site: Site) -> None:
        items = site.bus.meters[0].items
        answered: Callable[[Di, datetime], list[bytes]] = items.read

        def read(di: Di, now: datetime) -> list[bytes]:
            if di.text == "00010000" and shows == "nothing":
                raise NoSuchItem(di.text)
            if di.text == "00010000":
                return [b"\xff" * len(answered(di, now)[0])]
            return answered(di, now)

        items.read = read
        with pytest.raises(NoFinalReading, match="could not be read just before"):
            await site.order(Kind.OPEN)
        assert site.wire.orders == []
        sent = await site.order(Kind.CLOSE)
        assert (sent.register, len(site.wire.orders)) == (None, 1)

    on_site(story)


def test_a_contract_that_offers_no_number_is_switched_by_address_and_says_so() -> None:
    async def story(site: Site) -> None:
        sent, found = await site.whole(Kind.OPEN)
        assert found.state is State.VERIFIED
        assert sent.identity is not None
        assert sent.identity.told.address == ADDRESS
        assert found.evidence["identity"] == "by address only"
        assert found.evidence["identity_number"] == "not known: the contract does not offer it"
        assert found.evidence["no_trips"] == "the contract does not offer it"

    on_site(story, contract="dlt645/generic_submeter")


def test_a_contract_that_offers_no_number_opens_nothing_where_two_meters_share_the_address() -> None:
    """By its address alone nobody can tell whether the lines were mixed up; a close may go to the wrong one, an open must not."""

    async def story(site: Site) -> None:
        with pytest.raises(NotIdentified, match="the contract does not offer it"):
            await site.order(Kind.OPEN)
        assert (site.wire.orders, site.ready) == ([], [])
        sent = await site.order(Kind.CLOSE)
        assert sent.identity is not None
        assert sent.identity.evidence["identity"] == "by address only"

    on_site(story, contract="dlt645/generic_submeter", expected=lambda _: Expected(is_address_shared=True))
