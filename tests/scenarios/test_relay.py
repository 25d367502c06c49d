"""The whole head-end and its supply switches in virtual time: what is owed over outages, what faults end in, what a stop leaves."""

import asyncio
import json
import random
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import structlog

from headend.audit.entries import entries_in_store
from headend.audit.verify import verify_log
from headend.commands.model import Kind, State
from headend.database.engine import reading
from headend.keys import PublicKey
from headend.store.reserve import DiskWatch, Reserve
from headend.store.store import open_store
from simulators.virtual_time import VirtualClock, run
from tests.scenarios.relay_street import LIMITS, MORNING, RelayStreet, play, running


async def opened(street: RelayStreet, meter: str) -> None:
    answer = await street.ask(street.an_order(Kind.OPEN, meter))
    assert answer.refusals == ()
    assert answer.command is not None
    assert (await street.ended(answer.command.id)).state is State.VERIFIED
    assert not street.is_on(meter)


def test_what_is_paid_while_the_line_is_down_is_given_back_within_a_minute_of_its_return(tmp_path: Path) -> None:
    async def story(street: RelayStreet) -> None:
        await opened(street, "M000001")
        climbed: list[tuple[str, int]] = []
        street.head_end.switchgear.on_escalation(lambda debt: climbed.append((debt.meter, debt.stage)))
        street.wire.reachable = False
        street.wire.drop()
        await street.pays("M000001")
        await asyncio.sleep(5 * 3600)
        assert climbed == [("M000001", 1), ("M000001", 2)]
        [collector] = street.head_end.switchgear.collectors()
        counted = {
            sample.labels["hours"]: sample.value
            for metric in collector.collect()
            for sample in metric.samples
            if sample.name == "headend_obligations_escalated_total"
        }
        assert counted == {"1": 1, "4": 1, "12": 0, "20": 0, "24": 0}
        debt = await street.debt_of("M000001")
        assert debt is not None
        assert debt.is_open
        assert debt.stage == 2  # told at one and at four hours
        told = [event["data"] for event in street.events() if event["data"]["about"] == "obligation"]
        assert [one["state"] for one in told if one["stage"] == 2][:1] == ["escalated"]
        street.wire.reachable = True
        back = street.clock.monotonic()
        while debt.is_open:
            assert street.clock.monotonic() - back <= 60
            await asyncio.sleep(1)
            debt = await street.debt_of("M000001")
            assert debt is not None
        # The line itself is tried anew every half minute or so; from then on its debts have 20 s between them.
        assert debt.ended == "permitted"

    play(tmp_path, story)


def test_polling_goes_on_and_a_close_waits_for_one_exchange_at_most(tmp_path: Path) -> None:
    async def story(street: RelayStreet) -> None:
        await opened(street, "M000002")
        await asyncio.sleep(15 * 60 - 60 - street.clock.monotonic() % 900)
        await asyncio.sleep(61)  # the round has just begun
        await street.pays("M000002")
        await asyncio.sleep(20)
        debt = await street.debt_of("M000002")
        assert debt is not None
        assert debt.ended == "permitted"
        assert debt.took_s is not None
        assert debt.took_s < 15
        await asyncio.sleep(900)
        reads = street.street.reads()
        assert {read["meter"] for read in reads} == set(street.meters)
        assert not any("missing" in read["quality"] for read in reads)

    play(tmp_path, story, meters=12)


def test_a_stop_leaves_a_signed_log_and_the_next_start_pays_what_is_owed(tmp_path: Path) -> None:
    async def main(clock: VirtualClock, random_: random.Random) -> None:
        async with running(tmp_path, clock, meters=2, seed=1, edit=str) as street:
            await street.set_limits()
            street.tell_weather()
            await opened(street, "M000001")
            street.wire.reachable = False
            street.wire.drop()
            await street.pays("M000001")
            path = street.street.config.path
            meters = street.meters
        store = open_store(street.street.config.store, street.street.config.name)
        public = PublicKey.from_pem((tmp_path / "audit-key.pub.pem").read_text())
        with reading(store.engine, "verifying") as connection:
            verdict = verify_log(entries_in_store(connection), [public], [])
        assert verdict.is_good, verdict.findings
        assert verdict.through == verdict.records
        store.close()
        assert path.exists()
        await asyncio.sleep(3600)
        assert not street.is_on("M000001")
        async with running(tmp_path, clock, meters=2, seed=1, edit=str, there=meters) as again:
            debt = await again.debt_of("M000001")
            assert debt is not None
            await asyncio.sleep(60)
            debt = await again.debt_of("M000001")
            assert debt is not None
            assert debt.ended == "permitted"
            assert again.room.rulebook.limits == LIMITS  # durable; the weather is not

    run(main, start=MORNING, seed=1)


def test_supply_that_is_on_though_it_was_cut_is_an_alarm(tmp_path: Path) -> None:
    async def story(street: RelayStreet) -> None:
        await opened(street, "M000001")
        # Somebody closes it at the cabinet.
        relay = street.meters["M000001"].model.relay
        relay.close(street.clock.world(), bytes(4))
        assert street.is_on("M000001")
        await asyncio.sleep(1200)
        raised = [event["data"] for event in street.events() if event["data"]["about"] == "alarm"]
        assert ("closed-but-should-be-open", "raised") in [(one["alarm"], one["state"]) for one in raised]
        assert street.head_end.switchgear.figures.alarms["closed-but-should-be-open"] == 1
        await street.ask(street.an_order(Kind.PERMIT_CLOSE, "M000001"))
        await asyncio.sleep(120)
        told = [event["data"] for event in street.events() if event["data"]["about"] == "alarm"]
        assert ("closed-but-should-be-open", "cleared") in [(one["alarm"], one["state"]) for one in told]

    play(tmp_path, story)


def test_what_is_counted_behind_a_cut_supply_is_told_with_the_next_poll(tmp_path: Path) -> None:
    async def story(street: RelayStreet) -> None:
        await opened(street, "M000001")
        await asyncio.sleep(1500)  # somebody has looked at it, and looks again in six hours
        assert not [event for event in street.events() if event["data"]["about"] == "alarm"]
        # Somebody bridges it at the cabinet.
        street.meters["M000001"].model.relay.close(street.clock.world(), bytes(4))
        bridged_at = street.clock.monotonic()
        while not (alarms := [event["data"] for event in street.events() if event["data"]["about"] == "alarm"]):
            assert street.clock.monotonic() - bridged_at < 900 + 60
            await asyncio.sleep(5)
        assert [(one["meter"], one["alarm"], one["state"]) for one in alarms] == [
            ("M000001", "cut-but-consuming", "raised")
        ]
        assert "A flow" in alarms[0]["detail"]["why"]

    def more(text: str) -> str:
        return text.replace('quantities = ["1-0:1.8.0"]', 'quantities = ["1-0:1.8.0", "1-0:31.7.0"]')

    play(tmp_path, story, edit=more)


def test_figures_and_health_say_what_happened(tmp_path: Path) -> None:
    async def story(street: RelayStreet) -> None:
        await opened(street, "M000001")
        await street.pays("M000001")
        await asyncio.sleep(60)
        [collector] = street.head_end.switchgear.collectors()
        found = {
            (sample.name, json.dumps(sample.labels, sort_keys=True)): sample.value
            for metric in collector.collect()
            for sample in metric.samples
        }
        assert found["headend_relay_commands_total", '{"kind": "open", "state": "verified"}'] == 1
        assert found["headend_reconnect_seconds_count", "{}"] == 1
        assert found["headend_reconnect_seconds_bucket", '{"le": "30.0"}'] == 1
        assert found["headend_obligations_open", "{}"] == 0
        assert found["headend_audit_ok", "{}"] == 1
        assert not any("M000001" in labels for _, labels in found)
        assert street.head_end.health().problems == ()

    play(tmp_path, story)


def test_no_code_of_a_meter_or_a_person_is_in_anything_that_switching_leaves_behind(tmp_path: Path) -> None:
    """Journal, audit log, feed and log lines, after orders that were obeyed, refused and lost: searched byte by byte."""
    codes = {"password.txt": "02735192", "operator.txt": "7de14b92", "ann.txt": "c53a9ef1"}

    def secret(text: str) -> str:
        for name, digits in codes.items():
            (tmp_path / name).write_text(digits)
        return text

    async def story(street: RelayStreet) -> None:
        for meter in street.meters.values():
            meter.passwords = dict.fromkeys(range(10), bytes.fromhex("735192"))
        refused = street.an_order(Kind.OPEN, "M000003")
        street.meters["M000003"].passwords = dict.fromkeys(range(10), bytes(3))
        answer = await street.ask(refused)
        assert answer.command is not None
        assert (await street.ended(answer.command.id)).state is State.REFUSED
        await opened(street, "M000001")
        [trip] = street.meters["M000001"].model.trips
        assert bytes.fromhex(codes["ann.txt"]) in (trip.operator, trip.operator[::-1])  # they do reach the wire
        street.wire.reachable = False
        street.wire.drop()
        await street.pays("M000001")
        await asyncio.sleep(120)
        street.wire.reachable = True
        await asyncio.sleep(120)
        debt = await street.debt_of("M000001")
        assert debt is not None
        assert debt.ended == "permitted"

    with structlog.testing.capture_logs() as logs:
        play(tmp_path, story, edit=secret)
    left = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name not in codes}
    assert any(b"sending" in wire for wire in left.values())
    left["log lines"] = "\n".join(map(repr, logs)).encode()
    for code in map(bytes.fromhex, codes.values()):
        for said in (
            code,
            code[::-1],
            code[1:],
            code[:0:-1],
        ):  # as it is kept and as it is sent; a password without its level, too
            for one in (said, bytes((byte + 0x33) & 0xFF for byte in said)):
                # Three bytes without blanks between them may stand in a hash by chance.
                texts = (one.hex(" "), one.hex()) if len(one) == len(code) else (one.hex(" "),)
                for name, wire in left.items():
                    assert not any(form.encode() in wire.lower() for form in texts), (name, code)
                    assert len(one) < len(code) or one not in wire, (name, code)


def test_bad_weather_and_a_step_of_the_clock_hold_an_open_back_and_no_close(tmp_path: Path) -> None:
    async def story(street: RelayStreet) -> None:
        await opened(street, "M000002")
        street.tell_weather(lowest_c="-15", highest_c="-3")
        cold = await street.ask(street.an_order(Kind.OPEN, "M000001"))
        assert [one.rule for one in cold.refusals] == ["weather"]
        street.tell_weather()
        street.clock.step(600)
        stepped = await street.ask(street.an_order(Kind.OPEN, "M000001"))
        assert "clock" in [one.rule for one in stepped.refusals]
        await street.pays("M000002")
        await asyncio.sleep(60)
        debt = await street.debt_of("M000002")
        assert debt is not None
        assert debt.ended == "permitted"
        assert street.is_on("M000001")

    play(tmp_path, story)


def test_on_a_full_disk_nothing_is_opened_and_what_is_paid_is_given_back(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", 1 << 16)
    disk = DiskWatch(reserve)

    async def story(street: RelayStreet) -> None:
        await opened(street, "M000002")
        waiting = await street.ask(
            street.an_order(Kind.OPEN, "M000003", not_before=street.clock.now() + timedelta(seconds=20))
        )
        reserve.size = 1 << 60  # no disk has so much room
        disk.note_full()
        asked = await street.ask(street.an_order(Kind.OPEN, "M000001"))
        assert [one.rule for one in asked.refusals] == ["store"]
        await street.pays("M000002")
        await asyncio.sleep(60)
        debt = await street.debt_of("M000002")
        assert debt is not None
        assert debt.ended == "permitted"
        assert disk.is_full
        assert waiting.command is not None
        assert (await street.command(waiting.command.id)).state is State.SCHEDULED
        assert street.is_on("M000001")
        assert street.is_on("M000003")

    play(tmp_path, story, disk=disk)


def test_a_stolen_token_cuts_off_no_more_than_the_limit(tmp_path: Path) -> None:
    async def story(street: RelayStreet) -> None:
        await street.set_limits_lower(per_hour=3)
        for meter in street.meters:
            await street.ask(street.an_order(Kind.OPEN, meter, valid=timedelta(hours=6)))
        await asyncio.sleep(120)
        assert sum(not street.is_on(meter) for meter in street.meters) == 3
        alarms = [event["data"] for event in street.events() if event["data"]["about"] == "alarm"]
        assert [(one["alarm"], one["detail"]["count"]) for one in alarms] == [("quarantined", "9")]
        assert len(street.wire.orders) == 3
        assert street.room.rulebook.limits is not None
        assert street.room.rulebook.limits.of_fleet_per_day == Decimal(1)

    play(tmp_path, story, meters=12)
