"""The catalogue of untrue readings, said by simulated DL/T 645 meters on a line: each is held by its rule, and nothing else is.

Every entry is a meter with a contract of its own, whose register is wide enough for what was reported. What the head-end remembers of
the eight days before lies in its store when it starts. What this protocol cannot say is named below, and tested elsewhere.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from msgspec.structs import replace

from firmware_contracts.contract import load
from firmware_contracts.errors import UnknownItem
from headend.app import HeadEnd
from headend.config import load_config
from headend.intervals.history import second_of
from headend.model import JudgedRead, MeterClock
from headend.store.store import Store, open_store
from headend.store.writer import inline
from protocols.dlt645 import messages as m
from protocols.dlt645.items import encode
from protocols.values import MeterAddress, Obis
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.dlt645_values import Err, Refusal
from simulators.line import SimulatedLine
from simulators.meter import MeterModel
from simulators.virtual_time import VirtualClock, run
from tests.headend.intervals.catalogue import Entry, Scene, entries
from tests.headend.intervals.test_untrue_reads import told as told_by
from tests.headend.support import with_tables
from tests.scenarios.street import transport_to

START = datetime(2026, 11, 1, tzinfo=UTC)
SPARE_DI = "02FE0001"  # for quantities that DL/T 645 has no item for
NOT_SAID: dict[str, Callable[[Entry], bool]] = {
    "stale": lambda entry: bool(entry.label_age_s),  # replies to a poll carry no time
    "clock-off": lambda entry: bool(entry.label_age_s),
    "meter-swapped": lambda entry: bool(entry.serial_found),  # nobody reads serial numbers yet
    "busy-as-number": lambda entry: bool(entry.marks),  # marks of Modbus types
    "rollover-implausible": lambda entry: entry.modulus == "65.536",  # a binary modulus
    "phase-sum": lambda entry: entry.obis.endswith(
        ".7.0"
    ),  # powers are compared within one reply; here each has its own
}
SAID = [entry for entry in entries() if entry.rule not in NOT_SAID or not NOT_SAID[entry.rule](entry)]
PERIODS = {60: "1m", 300: "5m", 900: "15m", 3600: "60m"}


class ScriptedMeter(Dlt645Meter):
    """Says what the script has for an item at a moment; None: what the meter itself would say."""

    script: Callable[[str, datetime], Decimal | None]

    def _data_of(self, request: m.ReadRequest, now: datetime) -> list[bytes]:
        amount = self.script(request.di.text, now)
        return super()._data_of(request, now) if amount is None else [encode(amount, self.spec(request.di))]


class Part:
    """An entry as a meter of the street."""

    def __init__(self, number: int, entry: Entry, contracts: Path) -> None:
        self.id, self.address, self.entry = f"M{number:06}", f"{number:012}", entry
        self.scene = Scene(entry)
        for amount in entry.amounts_before()[:-1]:  # the last one is said first
            told_by(self.scene, str(amount), true=True)
        self.amounts = [entry.amounts_before()[-1], *(Decimal(text.split()[0]) for text in self.untrue), *self.after]
        text = self._contract()
        # Meters that are alike share a contract: each takes a third of a second to load.
        self.contract = contracts / f"{crc32(text.encode()):08x}.toml"
        if not self.contract.exists():
            self.contract.write_text(text, encoding="utf-8")
        contract = load(str(self.contract))
        self.di = contract.find_obis(Obis(entry.obis)).di.text
        self.others = {contract.find_obis(Obis(obis)).di.text: text for obis, text in entry.others.items()}
        model = MeterModel(MeterAddress(self.address), seed=number, clock_set_at=START, clock_offset_s=0, drift_ppm=0)
        self.meter = ScriptedMeter(model, contract)
        self.meter.script = self.said

    @property
    def untrue(self) -> list[str]:
        return self.entry.untrue * self.entry.repeat

    @property
    def after(self) -> list[Decimal]:
        return list(map(Decimal, self.entry.after))

    @property
    def quantities(self) -> list[str]:
        power = ["1-0:16.7.0"] if self.entry.power_w is not None else []
        return [self.entry.obis, *self.entry.others, *power]

    def slot(self, place: int) -> datetime:
        return START + place * timedelta(seconds=self.entry.period_s)

    def said(self, di: str, now: datetime) -> Decimal | None:
        place = (now - START) // timedelta(seconds=self.entry.period_s)
        if di == self.di:
            return self.amounts[min(place, len(self.amounts) - 1)]
        if di in self.others:
            if place == 0:
                raise Refusal(Err.NO_DATA)
            return Decimal(self.others[di].split()[0])
        if di == "02030000" and self.entry.power_w is not None:
            return Decimal(self.entry.power_w if place else 0).scaleb(-3)
        return None

    def _contract(self) -> str:
        whole = max(len(str(int(abs(amount)))) for amount in self.amounts)
        exponents = [amount.as_tuple().exponent for amount in (*self.amounts, Decimal(self.entry.step))]
        fraction = max(-exponent for exponent in exponents if isinstance(exponent, int))
        if self.entry.modulus:
            whole = len(self.entry.modulus) - 1
        elif whole > 2:
            whole += 2  # no rollover is near
        whole += (whole + fraction) % 2  # whole bytes
        unit = self.entry.untrue[0].partition(" ")[2] or self.entry.unit
        try:
            di = load("dlt645/base_2007").find_obis(Obis(self.entry.obis)).di.text
        except UnknownItem:
            di = SPARE_DI
        layout = "X" * whole + "." * (fraction > 0) + "X" * fraction
        return (
            '[contract]\nprotocol = "dlt645-2007"\nextends = "dlt645/base_2007"\nprovenance = "made for a test"\n'
            f'[[rows]]\ndi = "{di}"\nname = "what is told"\nlayout = "{layout}"\nunit = "{unit}"\naccess = "r"\n'
            f'source = "a test"\nobis = "{self.entry.obis}"\n'
        )

    @property
    def settings(self) -> str:
        """Its `[[meters]]` entry, its plan, and its ratio."""
        entry = self.entry
        amps = Decimal(entry.current_max_a)
        if entry.most:
            amps = Decimal(entry.most) * 1000 / (Decimal("1.2") * 230)
        text = (
            f'[[plans]]\nname = "{self.id}"\nperiod = "{PERIODS[entry.period_s]}"\nback_fill = "off"\n'
            f"quantities = {json.dumps(self.quantities)}\n"
            f'[[meters]]\nid = "{self.id}"\nline = "line"\naddress = "{self.address}"\nplan = "{self.id}"\n'
            f'contract = "{self.contract}"\n'
        )
        if amps:
            text += f"current_max_a = {amps:.3f}\nvoltage_v = 230\nphases = {entry.phases}\n"
        if entry.ratio:
            text += f'[[ratios]]\nmeter = "{self.id}"\nsince = 2026-01-01\nct = "{entry.ratio}"\n'
        return text

    def remember(self, store: Store) -> None:
        """What is known of it when the head-end starts."""
        before = self.slot(-1)
        assert self.scene.history is not None
        read = self.scene.next_read(str(self.entry.amounts_before()[-2]))
        read = replace(read, meter=self.id, interval_end=before, received_at=before, read_at=None)
        history = replace(self.scene.history, at=second_of(before), age_s=None)
        store.commit([JudgedRead(read, msgspec.msgpack.encode(history))])
        if self.entry.clock_offset_s is not None:
            store.set_clocks(
                {
                    self.id: MeterClock(
                        measured_at=START, offset_s=self.entry.clock_offset_s, uncertainty_s=1.0, drift_ppm=0.0
                    )
                }
            )


def events_of(store: Store) -> list[dict[str, Any]]:
    return [json.loads(event) for event in store.events_after(0, 1_000_000)]


async def told(parts: list[Part], folder: Path, clock: VirtualClock) -> Store:
    """Run until every meter has said all that is in its script."""
    path = folder / "street.toml"
    text = f'[headend]\nname = "street"\ntimezone = "Asia/Shanghai"\nstore = "sqlite:///{folder}/street.db"\n'
    text += '[[lines]]\nname = "line"\nurl = "tcp://line:1"\n' + "".join(part.settings for part in parts)
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    assert config.problems == ()
    store = open_store(with_tables(config.store), config.name)
    for part in parts:
        part.remember(store)
    line = SimulatedLine(Dlt645Bus([part.meter for part in parts]), clock.world, baud=None)
    head_end = HeadEnd(config, store, clock=clock, connect=transport_to({"line": line}), execute=inline, linger_s=2.0)
    stop = asyncio.Event()
    running = asyncio.create_task(head_end.run(stop))
    until = max(part.slot(len(part.amounts)) for part in parts)
    await asyncio.sleep((until - clock.world()).total_seconds() - 5)
    stop.set()
    await running
    return store


def played(parts: list[Part], folder: Path) -> Store:
    return run(lambda clock, _: told(parts, folder, clock), start=START)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Part, list[dict[str, Any]]]]:
    """By report: its meter, and the events of its street. One street for each period, so that few rounds are played."""
    found: dict[str, tuple[Part, list[dict[str, Any]]]] = {}
    by_length: dict[int, list[Entry]] = defaultdict(list)
    for entry in SAID:
        by_length[entry.period_s].append(entry)
    contracts = tmp_path_factory.mktemp("contracts")
    for period_s, alike in by_length.items():
        folder = tmp_path_factory.mktemp(f"street{period_s}")
        parts = [Part(number + 1, entry, contracts) for number, entry in enumerate(alike)]
        store = played(parts, folder)
        events = events_of(store)
        store.close()
        for part in parts:
            found[part.entry.report] = part, [event for event in events if event["subject"] == part.id]
    return found


@pytest.mark.parametrize("entry", SAID, ids=[entry.report for entry in SAID])
def test_an_untrue_reading_is_published_as_suspect_with_its_rule_and_the_next_good_one_is_clean(
    entry: Entry, streets: dict[str, tuple[Part, list[dict[str, Any]]]]
) -> None:
    part, events = streets[entry.report]
    reads: dict[tuple[str, datetime], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["type"] == "headend.read.v1":
            data = event["data"]
            reads[data["obis"], datetime.fromisoformat(data["interval_end"])].append(data)
    (first,) = reads[entry.obis, part.slot(0)]
    # A clock or a contract that is wrong is so from the start.
    is_first_good = entry.clock_offset_s is None and entry.rule != "unit-changed"
    assert ("suspect" not in first["quality"]) is (is_first_good or not entry.held)
    rules = []
    for place in range(len(part.untrue)):
        (data,) = reads[entry.obis, part.slot(place + 1)]
        assert Decimal(data["value"]) == part.amounts[place + 1]
        if place < entry.clean:
            assert "findings" not in data
            continue
        rules.append(data["findings"][0]["rule"])
        assert data["findings"][0]["evidence"]
        assert ("suspect" in data["quality"]) is entry.held
        assert data["findings"][0].get("is_held", True) is entry.held
    assert rules[0] == entry.rule
    assert rules[-1] == (entry.then or entry.rule)
    for place in range(len(part.after)):
        (data,) = reads[entry.obis, part.slot(len(part.untrue) + place + 1)]
        assert "findings" not in data
        assert data["quality"] == ["measured"]
    if entry.held:  # and nothing else is doubted
        assert not [
            data
            for (obis, _), several in reads.items()
            for data in several
            if obis != entry.obis and "suspect" in data["quality"]
        ]
    states = [
        (event["data"]["state"], event["data"]["rule"])
        for event in events
        if event["data"].get("kind") == "suspicion" and event["data"]["obis"] == entry.obis
    ]
    opened = [rule for state, rule in states if state == "opened"]
    assert opened == (list(dict.fromkeys(rules)) if entry.held else [])
    assert [state for state, _ in states].count("lifted") == (1 if entry.after and entry.held else 0)
    assert ("confirmed" in [state for state, _ in states]) is (entry.held and entry.rule != "clock-off")


def test_most_of_the_catalogue_is_said() -> None:
    assert len({entry.report for entry in SAID if entry.held}) >= 45
    assert {entry.rule for entry in SAID} >= {
        "backward-step",
        "busy-as-number",
        "clock-off",
        "phase-sum",
        "scale-changed",
        "spike-history",
        "spike-physical",
        "stuck",
        "tariff-sum",
        "unit-changed",
        "zero-glitch",
    }
