"""The switch of DL/T 645 meters: what leaves, to whom, in whose name, and in which class. Simulated meters, virtual time."""

import asyncio
import inspect
from typing import Any

import pytest
import structlog

from headend.commands.model import Kind, State
from headend.drivers.dlt645_relay import Dlt645Switch
from headend.drivers.errors import (
    NotOffered,
    RefusedByMeter,
)
from headend.drivers.relay import BadSwitchAddress, OperatorCodes, SwitchUnconfirmed, UnknownOperator
from headend.secrets import Authority
from protocols.dlt645.fields import Password
from protocols.dlt645.messages import RelayRequest, SecurityRequest, decode
from simulators.faults import FaultKind as K
from simulators.security_stub import SecureMeter, StubSecurityModule
from tests.headend.drivers.dlt645_relay_support import a_meter, dis, on_site, order_in, shown_by
from tests.headend.drivers.relay_support import (
    ADDRESS,
    AUTHORITY,
    OPERATOR,
    Site,
    amperes,
    fault,
    plan,
)

# ------------------------------------------------------------------------------------------------ the good case


@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.CLOSE, Kind.PERMIT_CLOSE, Kind.PROTECT, Kind.UNPROTECT])
def test_an_order_reads_who_and_what_is_there_and_leaves_once(kind: Kind) -> None:
    numbers = {
        Kind.OPEN: 0x1A,
        Kind.PERMIT_CLOSE: 0x1B,
        Kind.CLOSE: 0x1C,
        Kind.PROTECT: 0x3A,
        Kind.UNPROTECT: 0x3B,
    }

    async def story(site: Site) -> None:
        if kind is Kind.PERMIT_CLOSE:
            site.bus.meters[0].model.open_relay(site.clock.world())
        sent, found = await site.whole(kind)
        assert (found.state, sent.acknowledged, sent.refused) == (State.VERIFIED, True, "")
        request = order_in(site)
        assert (request.order, request.delay, request.operator) == (numbers[kind], 0, OPERATOR)
        assert request.password == AUTHORITY.password
        [(_, frame)] = site.wire.orders
        assert (frame.address, frame.control, len(frame.payload)) == (ADDRESS, 0x1C, 0x10)
        counter = "1D000001" if kind is Kind.OPEN else "1E000001"
        load = [] if kind in (Kind.CLOSE, Kind.PERMIT_CLOSE) else ["0202FF00", "0201FF00"]
        before = ["04000402", "04000403", "040005FF", counter, *load, "00010000", "0400010C", "1CH"]
        assert dis(site)[: len(before)] == before
        assert site.looks == 1
        assert sent.register is not None
        assert sent.register.obis == "1-0:1.8.0"
        assert sent.register.unit == "kWh"
        assert sent.register == site.ready[0].register
        assert sent.identity is not None
        assert sent.identity.is_proven
        assert sent.identity.told.number == ADDRESS

    on_site(story)


def test_an_opened_supply_is_proven_by_contact_record_and_load() -> None:
    async def story(site: Site) -> None:
        sent, found = await site.whole(Kind.OPEN)
        assert site.bus.meters[0].model.relay_open(site.clock.world())
        assert sent.before is not None
        assert sent.before.contact == "closed"
        assert amperes(sent.before) > 1
        evidence = found.evidence
        assert evidence["reply"] == "acknowledged"
        assert evidence["contact"] == "open"
        assert evidence["trips"] == "1, 1 since the order"
        assert evidence["current"] == "0.000 A"
        assert evidence["identity"] == "read back"
        assert evidence["because"] == "the contact is open and the trip is on record"

    on_site(story)


def test_permitting_to_close_waits_for_the_customers_button_and_then_for_none() -> None:
    async def story(site: Site) -> None:
        meter = site.bus.meters[0]
        meter.model.open_relay(site.clock.world())
        _, found = await site.whole(Kind.PERMIT_CLOSE)
        assert (found.state, found.waiting_for_customer) == (State.VERIFIED, True)
        assert found.evidence["contact"] == "permitted"
        assert "button" in found.evidence["because"]
        await asyncio.sleep(60)  # the customer presses after 30 s
        witness = await site.switch.look_back(site.record)
        assert (witness.contact, witness.closes) == ("closed", 1)

    on_site(story, fault(K.CUSTOMERS_BUTTON, after_s=30.0))


def test_a_slow_contact_is_verified_when_it_has_moved() -> None:
    async def story(site: Site) -> None:
        began = site.clock.monotonic()
        _, found = await site.whole(Kind.OPEN)
        assert found.state is State.VERIFIED
        assert site.clock.monotonic() - began > 4
        assert len(site.wire.orders) == 1

    on_site(story, fault(K.SLOW_CONTACT, after_s=4.0))


# ------------------------------------------------------------------------------------------------ who, and to whom


@pytest.mark.parametrize(
    "address", ["AAAAAAAAAAAA", "AAAAAAAA0017", "999999999999", "17", "", "00000000001x", "٠" * 12]
)
def test_wildcards_and_broadcasts_cannot_be_said(address: str) -> None:
    async def story(site: Site) -> None:
        for kind in (Kind.OPEN, Kind.CLOSE):
            with pytest.raises(BadSwitchAddress, match="wildcards and broadcasts"):
                await site.order(kind)
        assert site.wire.passed == []

    on_site(story, address=address)


def test_a_person_stands_behind_each_operator_code() -> None:
    codes = OperatorCodes({"li": bytes.fromhex("01020304"), "wang": bytes.fromhex("05060708")}, other=OPERATOR)

    async def story(site: Site) -> None:
        with pytest.raises(UnknownOperator, match="'zhao' has no operator code"):
            await site.order(Kind.OPEN, operator="zhao")
        for kind in (Kind.PROTECT, Kind.UNPROTECT):
            with pytest.raises(UnknownOperator, match="'zhao' has no operator code"):
                await site.order(kind, operator="zhao")
        assert site.wire.passed == []
        await site.order(Kind.OPEN, operator="wang")
        assert codes.person_of(order_in(site).operator) == "wang"
        await site.order(Kind.CLOSE, operator="payment")  # nobody in particular
        trip, close = site.bus.meters[0].model.trips[-1], site.bus.meters[0].model.closes[-1]
        assert [codes.person_of(one.operator) for one in (trip, close)] == ["wang", "headend"]

    on_site(story, operators=codes)
    assert codes.person_of(b"\xff" * 4) == ""
    with pytest.raises(ValueError, match="share"):
        OperatorCodes({"li": OPERATOR, "wang": OPERATOR})


def test_too_low_a_password_is_refused_and_the_refusal_says_what_the_contract_asks_for() -> None:
    async def story(site: Site) -> None:
        sent = await site.order(Kind.OPEN)
        assert not sent.acknowledged
        assert "password level 04H was used, the contract asks for 02H or higher" in sent.refused
        assert sent.wire_received.endswith("16")

    on_site(story, authority=lambda _: Authority(Password(0x04, bytes(3)), OPERATOR))


@pytest.mark.parametrize("contract", ["dlt645/generic_three_phase_multi_function", "dlt645/base_1997"])
def test_a_meter_without_a_relay_is_asked_nothing(contract: str) -> None:
    async def story(site: Site) -> None:
        with pytest.raises(NotOffered, match="M000017"):
            await site.order(Kind.OPEN)
        assert site.wire.passed == []

    on_site(story, contract=contract)


def test_no_password_and_no_operator_code_stands_in_logs_records_and_errors() -> None:
    secret, operator = b"\xc5\x3a\x9e", b"\x7d\xe1\x4b\x92"
    seen: list[str] = []

    async def story(site: Site) -> None:
        meter = site.bus.meters[0]
        meter.passwords = dict.fromkeys(range(10), secret)
        for faults in ([], [K.PROTECTED_METER], [K.LOST_ACKNOWLEDGEMENT], []):
            site.bus.faults = plan(*faults)
            try:
                sent = await site.order(Kind.OPEN, operator=operator)
            except SwitchUnconfirmed as error:
                sent = error.sent
                seen.append(str(error) + repr(error.__cause__))
            seen.append(repr(sent))
        seen.extend(map(repr, site.ready))

    with structlog.testing.capture_logs() as logs:
        on_site(story, authority=lambda _: Authority(Password(0x02, secret), operator))
    text = "\n".join([*seen, *map(repr, logs)]).lower()
    assert "**" in text
    for plain in (secret, operator):
        offset = bytes((byte + 0x33) & 0xFF for byte in plain)
        for form in (plain, offset):
            assert form.hex() not in text
            assert form.hex(" ") not in text


# ------------------------------------------------------------------------------------------------ the secure class


def secure(**options: Any) -> SecureMeter:
    return SecureMeter(a_meter(), seed=9, takes_plain=False, **options)


def test_the_secure_class_authenticates_under_the_same_hold_and_sends_ciphertext_and_mac() -> None:
    async def story(site: Site) -> None:
        sent, found = await site.whole(Kind.OPEN)
        assert found.state is State.VERIFIED
        assert found.evidence["reply"] == "acknowledged: tripped"
        assert dis(site)[8:10] == ["03H", "1CH"]
        [(_, frame)] = site.wire.orders
        message = decode(frame)
        assert isinstance(message, RelayRequest)
        assert message.password.level == 0x98
        assert len(frame.payload) == 8 + 8 + 4
        meter_now = site.bus.meters[0].model.clock(sent.at)
        assert frame.payload[8:10] == b"\x1a\x00"
        shown = shown_by(frame.payload[10:16].hex())  # year first inside
        assert 50 < (shown - meter_now).total_seconds() <= 61
        _, found = await site.whole(Kind.CLOSE)
        assert found.state is State.VERIFIED
        assert found.evidence["reply"] == "acknowledged: closed"

    on_site(story, meter=secure(), security=StubSecurityModule(seed=4))


@pytest.mark.parametrize(
    ("options", "faults", "words"),
    [
        ({}, [K.PROTECTED_METER], "trip refused: supply protected"),
        ({}, [fault(K.WRONG_OPERATOR, code="99999999")], "password wrong / not authorised"),
    ],
)
def test_the_secure_class_says_why_it_refuses(options: dict[str, Any], faults: list[Any], words: str) -> None:
    async def story(site: Site) -> None:
        sent = await site.order(Kind.OPEN)
        assert words in sent.refused
        assert len(site.wire.orders) == 1

    on_site(story, *faults, meter=secure(**options), security=StubSecurityModule(seed=4))


def test_a_wrong_key_ends_before_any_order() -> None:
    async def story(site: Site) -> None:
        with pytest.raises(RefusedByMeter, match="identity authentication failed"):
            await site.order(Kind.OPEN)
        assert site.wire.orders == []
        assert site.ready == []

    on_site(story, meter=secure(), security=StubSecurityModule(seed=4, key=b"another"))


def test_a_meter_of_the_secure_class_only_refuses_plain_orders() -> None:
    async def story(site: Site) -> None:
        sent = await site.order(Kind.OPEN)
        assert sent.refused.startswith("error word 04H")
        assert not site.bus.meters[0].model.relay_open(site.clock.world())

    on_site(story, meter=secure())


def test_every_frame_that_could_change_anything_is_the_one_order() -> None:
    """Counted at the wire over all kinds: reads, one authentication, and the orders; no clear, no write, no broadcast."""

    async def story(site: Site) -> None:
        for kind in (Kind.OPEN, Kind.CLOSE, Kind.PROTECT, Kind.UNPROTECT):
            await site.order(kind)
        functions = [frame.control for _, frame in site.wire.frames]
        assert functions.count(0x1C) == 4
        assert set(functions) == {0x11, 0x1C, 0x03}
        assert {frame.address for _, frame in site.wire.frames} == {ADDRESS}
        assert all(isinstance(decode(f), SecurityRequest) for _, f in site.wire.frames if f.control == 0x03)

    on_site(story, meter=SecureMeter(a_meter(), seed=9), security=StubSecurityModule(seed=4))


def test_the_switch_offers_what_the_command_room_calls_and_no_more() -> None:
    public = {name for name, _ in inspect.getmembers(Dlt645Switch, inspect.isfunction) if not name.startswith("_")}
    assert public == {"prepare", "order", "look_back", "register"}
