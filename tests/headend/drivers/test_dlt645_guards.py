"""What drivers may not do, and what nothing may show: no relay order leaves but through the switch, and a password appears nowhere."""

import ast
import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import structlog

import headend.drivers
from firmware_contracts.contract import load
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.dlt645_operations import ALL_EVENTS, Dlt645Operations, TerminalOutput
from headend.drivers.line import Priority
from headend.secrets import Authority
from protocols.dlt645.control import Dialect
from protocols.dlt645.fields import Password
from protocols.dlt645.frame import BROADCAST, WILDCARD, Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import FreezeRequest, decode
from protocols.dlt645.security import INVALIDATE
from simulators.security_stub import SecureMeter, StubSecurityModule
from tests.headend.drivers.operations_support import ADDRESS, AUTHORITY, Site, a_meter, on_site

BASE = load("dlt645/base_2007")
OLD = load("dlt645/base_1997")
NOW = datetime(2025, 6, 17, 3, 30, tzinfo=UTC)
ON_DEMAND = Priority.ON_DEMAND


def test_no_driver_but_the_switch_can_send_a_relay_order() -> None:
    """1CH belongs to the command flow, which sends it through `dlt645_relay` alone; who may call that, test_relay_words tells."""
    for source in Path(next(iter(headend.drivers.__path__))).glob("*.py"):
        if source.name == "dlt645_relay.py":
            continue
        names = {node.id for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Name)}
        attributes = {node.attr for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Attribute)}
        assert not {"RelayRequest", "RelayOrder", "Private"} & (names | attributes), source.name
        assert "RELAY" not in attributes, source.name


async def _everything(site: Site) -> None:
    o = site.operations
    module = StubSecurityModule(seed=5)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "write": lambda: o.write(ADDRESS, BASE.find(Di("04000302")), Decimal(7), AUTHORITY, ON_DEMAND),
        "time_sync": lambda: o.time_sync(ADDRESS, site.local_now, ON_DEMAND),
        "broadcast_time": lambda: o.broadcast_time(site.local_now, ON_DEMAND),
        "freeze": lambda: o.freeze(ADDRESS, FreezeRequest.now(), ON_DEMAND),
        "broadcast_freeze": lambda: o.broadcast_freeze(FreezeRequest.now(), ON_DEMAND),
        "change_rate": lambda: o.change_rate(ADDRESS, 4800, ON_DEMAND),
        "change_password": lambda: o.change_password(ADDRESS, Password(4, bytes(3)), Password(4, bytes(3)), ON_DEMAND),
        "clear_demand": lambda: o.clear_demand(ADDRESS, AUTHORITY, ON_DEMAND),
        "clear_meter": lambda: o.clear_meter(ADDRESS, AUTHORITY, ON_DEMAND),
        "clear_events": lambda: o.clear_events(ADDRESS, AUTHORITY, ON_DEMAND, events=ALL_EVENTS),
        "set_terminal": lambda: o.set_terminal(ADDRESS, TerminalOutput.SECOND_PULSE, ON_DEMAND),
        "authenticate": lambda: o.authenticate(ADDRESS, module.challenge(ADDRESS), AUTHORITY.operator, ON_DEMAND),
        "secure": lambda: o.secure(ADDRESS, INVALIDATE, b"", AUTHORITY.operator, ON_DEMAND),
        "write_address": lambda: o.write_address(ADDRESS, "000000000018", ON_DEMAND),
    }
    public = {name for name, _ in inspect.getmembers(o, inspect.ismethod) if not name.startswith("_")}
    assert public == set(calls), "a method is missing in this test"
    for call in calls.values():
        await call()


def test_every_operation_sends_its_own_function_and_none_sends_1ch() -> None:
    async def story(site: Site) -> None:
        await _everything(site)
        sent = set(site.wire.functions)
        assert sent >= {0x03, 0x08, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1D}
        assert 0x1C not in sent
        assert {frame.address for frame in site.wire.sent} == {ADDRESS, BROADCAST, WILDCARD}

    on_site(story, SecureMeter(a_meter(baud=2400), seed=9), start=NOW)


CANARY = b"\xc5\x3a\x9e"
CANARY_OPERATOR = b"\x7d\xe1\x4b\x92"


def _spellings(secret: bytes) -> list[str]:
    """As it is, as it goes over the wire, reversed; spaced or not."""
    offset = bytes((byte + 0x33) & 0xFF for byte in secret)
    forms = [secret, offset, secret[::-1], offset[::-1]]
    texts = [text for form in forms for text in (form.hex(), form.hex(" "), repr(form)[2:-1])]
    return [text.lower() for text in texts]


@pytest.mark.parametrize("edition", ["2007", "1997"])
@pytest.mark.parametrize("spoil", ["lost", "damaged echo", "wrong address", "refused"])
def test_a_password_appears_in_no_log_no_error_and_no_repr(edition: str, spoil: str) -> None:
    canary = Authority(Password(0x02, CANARY), CANARY_OPERATOR)
    meter = a_meter(edition)
    if spoil != "refused":
        meter.passwords = dict.fromkeys(range(10), CANARY)
    seen: list[str] = []

    def tamper(_: int, wire: bytes) -> bytes | None:
        sent = site_of[0].wire.sent[-1].to_bytes()
        if spoil == "lost":
            return None
        if spoil == "damaged echo":
            return sent[:7] + b"\x69" + sent[8:] + sent[3:]  # no header is left to judge it by
        if spoil == "wrong address":
            frame = Frame.from_bytes(wire)
            return Frame("000000000099", frame.control, frame.payload).to_bytes()
        return wire

    site_of: list[Site] = []

    async def story(site: Site) -> None:
        site_of.append(site)
        dialect = Dialect(edition)
        spec = BASE.find(Di("04000302")) if edition == "2007" else OLD.find(Di("C117"))
        value = Decimal(7) if edition == "2007" else "0100"
        o = site.operations
        calls: list[Awaitable[object]] = [
            o.write(ADDRESS, spec, value, canary, ON_DEMAND),
            o.change_password(ADDRESS, canary.password, canary.password, ON_DEMAND, dialect=dialect),
        ]
        if edition == "2007":
            calls += [
                o.clear_demand(ADDRESS, canary, ON_DEMAND),
                o.clear_meter(ADDRESS, canary, ON_DEMAND),
                o.clear_events(ADDRESS, canary, ON_DEMAND),
                o.secure(ADDRESS, INVALIDATE, b"", canary.operator, ON_DEMAND),
            ]
        for call in calls:
            try:
                await call
            except Exception as error:
                problem: BaseException | None = error
                while problem is not None:
                    seen.extend((str(problem), repr(problem), repr(problem.args)))
                    problem = problem.__cause__
        seen.extend(repr(event) for event in site.line.unmatched)
        seen.extend(repr(frame) for frame in site.wire.sent)
        seen.extend(repr(decode(frame)) for frame in site.wire.sent)
        seen.extend((repr(canary), str(canary), repr(site.line), repr(o)))

    with structlog.testing.capture_logs() as logs:
        on_site(story, meter, tamper=tamper, retries=1)
    text = "\n".join([*seen, *map(repr, logs)]).lower()
    assert seen
    for spelling in (*_spellings(CANARY), *_spellings(CANARY_OPERATOR)):
        assert spelling not in text, spelling


def test_the_driver_reads_and_changes_nothing() -> None:
    public = {name for name, _ in inspect.getmembers(Dlt645Driver, inspect.isfunction) if not name.startswith("_")}
    assert public == {"ask", "read", "read_address", "read_curve", "read_data", "read_load_record"}
    assert "secure" in dir(Dlt645Operations)
