"""Many customers who have paid at the same moment, on many lines that are polled as fast as they can be: who has power again when.

Real meters behind simulated lines at 2400 baud, the whole head-end, virtual time. Some lines are down when the payments come, and
return one after the other. What is measured begins at the payment's own stamp and ends with the read-back.
"""

import asyncio
import json
import random
import statistics
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Connection

from firmware_contracts.contract import load
from headend.app import HeadEnd
from headend.commands.desk import Desk, Payment
from headend.commands.room import NotOpenYet
from headend.config import Config, load_config
from headend.store import commands as rows
from headend.store.commands import Supply
from headend.store.commands_debts import open_obligations
from headend.store.store import Store, open_store
from headend.store.writer import inline
from protocols.values import MeterAddress
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.line import SimulatedLine
from simulators.load_curve import Kind
from simulators.meter import MeterModel
from simulators.relay import Relay
from simulators.virtual_time import VirtualClock
from tests.headend.support import with_tables
from tests.scenarios.street import transport_to

__all__ = ["Fleet", "Reconnections", "reconnect_fleet", "table_of"]

CONTRACT = "dlt645/generic_single_phase_fee_control_2013"
LINES_PER_FEEDER = 4
# So much more is asked of a line than it can carry that something always waits.
QUANTITIES = ("1-0:1.8.0", "1-0:32.7.0", "1-0:31.7.0", "1-0:1.7.0")
WARM_UP_S = 40.0  # polling is under way
RETURNS_S = (60.0, 240.0)  # after the payments, when lines come back
GIVE_UP_S = 1800.0


class Fleet(Struct, frozen=True, kw_only=True):
    """close: how the policy gives supplies back, "directly", or "permit-close" when customers are to press a button themselves."""

    lines: int
    meters_per_line: int
    paid: int
    lines_down: int
    close: str = "directly"

    @property
    def meters(self) -> int:
        return self.lines * self.meters_per_line


class Reconnections(Struct, frozen=True, kw_only=True):
    """took_s: from the stamp to the read-back, of meters whose line was up. after_return_s: from the moment in which a line could be
    reached again, of the others. polls_per_line_s: reads that were stored, per line and second, while reconnections were under way."""

    fleet: Fleet
    took_s: list[float]
    after_return_s: list[float]
    missing: list[str]
    polls_per_line_s: float

    def took_at(self, share: float) -> float:
        return sorted(self.took_s)[min(len(self.took_s) - 1, int(share * len(self.took_s)))]


class _Site(Struct):
    config: Config
    store: Store
    lines: dict[str, SimulatedLine]
    meters: dict[str, Dlt645Meter]


async def reconnect_fleet(
    folder: Path,
    clock: VirtualClock,
    random_: random.Random,
    fleet: Fleet,
    note: Callable[[str], None] = lambda _: None,
) -> Reconnections:
    """Cut some off, let them pay at once, and wait until all of them have power."""
    note(f"building {fleet.meters:,} meters on {fleet.lines} lines")
    site = _build(folder, clock, fleet)
    paid = random_.sample(sorted(site.meters), fleet.paid)
    _cut_off(site, paid, clock)
    head_end = HeadEnd(
        site.config,
        site.store,
        clock=clock,
        connect=transport_to(site.lines),
        execute=inline,
        linger_s=2.0,
        synchronised=lambda: True,
        new_id=_numbered(),
        random_=random.Random(random_.random()),
    )
    stop = asyncio.Event()
    running = asyncio.create_task(head_end.run(stop))
    try:
        desk = await _desk_of(head_end)
        down = random_.sample(sorted(site.lines), fleet.lines_down)
        await asyncio.sleep(WARM_UP_S / 2)
        for name in down:
            site.lines[name].reachable = False
            site.lines[name].drop()
        await asyncio.sleep(WARM_UP_S / 2)
        note(f"{fleet.paid:,} payments at once")
        reads_before, paid_at = site.store.last_sequence(), clock.now()
        await asyncio.gather(*(_pay(desk, meter, clock) for meter in paid))
        returned = await _return_lines(site, down, clock, random_, note)
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVE_UP_S):
                await _until_nothing_is_owed(head_end)
        reads = site.store.last_sequence() - reads_before
        took_s = (clock.now() - paid_at).total_seconds()
    finally:
        stop.set()
        await running
    return _found(site, fleet, paid, returned, reads / took_s / fleet.lines, clock.world())


def table_of(found: Reconnections) -> str:
    """For people."""
    fleet = found.fleet
    rows_ = [
        ("median", found.took_at(0.5), 30.0),
        ("95 %", found.took_at(0.95), 180.0),
        ("slowest", max(found.took_s), 900.0),
        ("line was down: median after its return", statistics.median(found.after_return_s), None),
        ("line was down: slowest after its return", max(found.after_return_s), 60.0),
    ]
    title = (
        f"Reconnection of {fleet.paid:,} of {fleet.meters:,} meters on {fleet.lines} lines, {fleet.lines_down} of them down, "
        f"{found.polls_per_line_s:.1f} polls a second and line"
    )
    lines = [title, f"{'from payment to read-back':42}{'seconds':>10}{'goal':>10}"]
    for name, seconds, goal in rows_:
        lines.append(f"{name:42}{seconds:>10.1f}{'' if goal is None else f'≤ {goal:g}':>10}")
    lines.append(f"{'not reconnected':42}{len(found.missing):>10}{'0':>10}")
    return "\n".join(lines)


def _build(folder: Path, clock: VirtualClock, fleet: Fleet) -> _Site:
    source = Path(rows.__file__).parents[1] / "commands" / "policies" / "cn-residential.toml"
    policy = source.read_text(encoding="utf-8").replace('close = "permit-close"', f'close = "{fleet.close}"')
    (folder / "policy.toml").write_text(policy, encoding="utf-8")
    (folder / "password").write_text("02000000", encoding="ascii")
    parts = [
        f'[headend]\nname = "fleet"\ntimezone = "Asia/Shanghai"\nstore = "sqlite:///{folder}/fleet.db"\n',
        '[control]\nenabled = true\npolicy = "policy.toml"\nclock = "vouched"\n',
        '[secrets]\npassword = "file:password"\n',
        f'[[plans]]\nname = "plan"\nperiod = "1m"\nquantities = {json.dumps(QUANTITIES)}\n',
    ]
    contract = load(CONTRACT)
    lines: dict[str, SimulatedLine] = {}
    meters: dict[str, Dlt645Meter] = {}
    for line in range(fleet.lines):
        parts.append(f'[[lines]]\nname = "line-{line}"\nurl = "tcp://line-{line}:1?baud=2400"\n')
        on_line = []
        for place in range(fleet.meters_per_line):
            number = line * fleet.meters_per_line + place + 1
            model = MeterModel(
                MeterAddress(f"{number:012}"), seed=number, kind=Kind.HOUSEHOLD, clock_set_at=clock.world()
            )
            meter = Dlt645Meter(model, contract)
            on_line.append(meter)
            meters[f"M{number:06}"] = meter
            parts.append(
                f'[[meters]]\nid = "M{number:06}"\nline = "line-{line}"\naddress = "{number:012}"\nplan = "plan"\n'
                f'contract = "{CONTRACT}"\nfeeder = "transformer-{line // LINES_PER_FEEDER}"\n'
            )
        lines[f"line-{line}"] = SimulatedLine(Dlt645Bus(on_line), clock.world, baud=2400)
    path = folder / "fleet.toml"
    path.write_text("\n".join(parts), encoding="utf-8")
    config = load_config(path)
    return _Site(config, open_store(with_tables(config.store), config.name), lines, meters)


def _cut_off(site: _Site, meters: list[str], clock: VirtualClock) -> None:
    """As they were found: the contact is open, and the head-end has proven it."""
    since = clock.now() - timedelta(hours=20)
    for meter in meters:
        site.meters[meter].model.relay.open(clock.world(), bytes(4))

    def note(connection: Connection) -> tuple[None, tuple[()]]:
        for meter in meters:
            rows.set_supply(connection, Supply(meter=meter, contact="open", at=since, by=f"cut-{meter}"))
        return None, ()

    site.store.transact(note, "noting supplies that are off")


def _numbered() -> Callable[[], str]:
    numbers = iter(range(1, 10_000_000))
    return lambda: f"c{next(numbers):07}"


async def _desk_of(head_end: HeadEnd) -> Desk:
    while True:
        try:
            return head_end.switchgear.room.desk
        except NotOpenYet:
            await asyncio.sleep(0.5)


async def _pay(desk: Desk, meter: str, clock: VirtualClock) -> None:
    payment = Payment(
        meters=(meter,), reference=f"P-{meter}", paid_at=clock.now(), amount_minor=100_00, currency="CNY", fence=1
    )
    taken = await desk.payment(payment)
    assert meter in taken.obligations, taken


async def _until_nothing_is_owed(head_end: HeadEnd) -> None:
    journal = head_end.switchgear.room.journal
    while await journal.read(open_obligations, "looking"):  # noqa: ASYNC110  nobody tells when the last debt is paid
        await asyncio.sleep(5.0)


async def _return_lines(
    site: _Site, down: list[str], clock: VirtualClock, random_: random.Random, note: Callable[[str], None]
) -> dict[str, datetime]:
    returned: dict[str, datetime] = {}
    waits_s = sorted(random_.uniform(*RETURNS_S) for _ in down)
    began = clock.monotonic()
    for name, wait_s in zip(down, waits_s, strict=True):
        await asyncio.sleep(began + wait_s - clock.monotonic())
        site.lines[name].reachable = True
        returned[name] = clock.now()
        note(f"{len(returned)} of {len(down)} lines have come back")
    return returned


def _found(
    site: _Site, fleet: Fleet, paid: list[str], returned: dict[str, datetime], polls_per_line_s: float, now: datetime
) -> Reconnections:
    """From the feed, as whoever was promised it sees it; and from the meters, whether it is so."""
    line_of = {meter.id: meter.line for meter in site.config.meters}
    took_s, after_return_s, done = [], [], set()
    proof = "verified" if fleet.close == "directly" else "permitted"
    first = 1
    while texts := site.store.events_after(first - 1, 10_000):
        first += len(texts)
        for text in texts:
            if b'"obligation"' not in text:
                continue
            data = json.loads(text)["data"]
            if data.get("about") != "obligation" or data["state"] != "ended" or data["ended"] != proof:
                continue
            done.add(data["meter"])
            back_at = returned.get(line_of[data["meter"]])
            if back_at is None:
                took_s.append(data["took_s"])
            else:
                after_return_s.append((datetime.fromisoformat(data["at"]) - back_at).total_seconds())

    def is_off(relay: Relay) -> bool:
        return relay.is_open(now) if proof == "verified" else not relay.close_permitted

    missing = [one for one in paid if one not in done or is_off(site.meters[one].model.relay)]
    site.store.close()
    return Reconnections(
        fleet=fleet,
        took_s=took_s,
        after_return_s=after_return_s,
        missing=missing,
        polls_per_line_s=polls_per_line_s,
    )
