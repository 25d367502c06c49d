"""Looks at supplies that are off, from time to time: whether they are, whether somebody has paid, whether energy is counted.

It only looks, behind everything else on the line. An alarm is told when it is raised and when it is cleared; after a restart those
that stand are told again.
"""

import asyncio
from decimal import Decimal

import structlog
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from headend.clock import Clock
from headend.commands.alarms import Sight, alarms_of, changes
from headend.commands.carry import Lines
from headend.commands.journal import NEWER_MAX, Journal, Page
from headend.commands.lookout import SeenReads
from headend.commands.model import CLOSES, IN_FLIGHT, SWITCHES, CapturedRegister, Command, Kind, State
from headend.drivers.errors import DriverError
from headend.drivers.relay import ENERGY, Contact, Witness
from headend.errors import StoreUnavailable
from headend.store import commands as rows
from headend.store.commands import Supply
from headend.store.commands_debts import open_obligation_of

__all__ = ["Patrol"]

FIRST_S = 960.0  # after a supply was opened, or its customer has paid: a reconnection takes less
ROUND_S = 6 * 3600.0
PAID_ROUND_S = 900.0
SPREAD_S = 2.0  # between the first looks at two supplies, after a start
TICK_S = 30.0
AT_ONCE = 4

log = structlog.get_logger(__name__)


class _Known(Struct):
    """What the tables say beside the supply. register: as it stood when it was opened, None when it was not read.

    is_owed: a payment's debt is open. is_reconnecting: a close is to be sent, or was. is_moving: bytes of one may have left, and
    what is seen may be its work already. is_in_doubt, is_our_open: see `Sight`.
    """

    is_owed: bool
    is_reconnecting: bool
    is_moving: bool
    is_in_doubt: bool
    is_our_open: bool
    register: CapturedRegister | None


class _Baseline(Struct):
    """What a register stood at when the supply was off already. by: the command that proved that it was."""

    by: str
    amount: Decimal
    unit: str


class Patrol:
    """`load` first, then `run` in a task until cancelled. standing: alarms that are raised, by meter."""

    def __init__(self, journal: Journal, lines: Lines, *, clock: Clock) -> None:
        self._journal = journal
        self._lines = lines
        self._clock = clock
        self._due: dict[str, float] = {}
        self._seen: list[tuple[str, Witness]] = []
        self._over: list[str] = []  # on again, with alarms that are to be cleared
        self._telling = asyncio.Lock()
        self._baselines: dict[str, _Baseline] = {}
        self.standing: dict[str, set[str]] = {}
        journal.listen(self._saw_page)

    def saw(self, meter: str, witness: Witness) -> None:
        """Somebody else has looked."""
        if meter in self._due and len(self._seen) < 10 * AT_ONCE:
            self._seen.append((meter, witness))

    async def saw_reads(self, meter: str, seen: SeenReads) -> None:
        """What was stored of a supply that is off, see `Lookout`. It raises alarms; a look at the meter itself clears them."""
        supply = self._journal.supply(meter)
        if meter not in self._due or not self._is_news(meter, alarms_of(supply, await self._sight(supply, seen))):
            return
        known = await self._journal.read(lambda connection: _known(connection, supply), "looking up a supply")
        if known.is_moving or self._journal.supply(meter) != supply:
            return
        sight = await self._sight(supply, seen)
        await self._tell(
            meter,
            alarms_of(
                supply,
                replace(
                    sight,
                    is_reconnecting=known.is_reconnecting,
                    is_owed=known.is_owed,
                    is_in_doubt=known.is_in_doubt,
                    is_our_open=known.is_our_open,
                ),
            ),
            is_judged=False,
        )

    def _is_news(self, meter: str, found: dict[str, str]) -> bool:
        return not found.keys() <= self.standing.get(meter, set())

    async def _sight(self, supply: Supply, seen: SeenReads) -> Sight:
        used = None
        if seen.energy is not None:
            amount, unit = seen.energy
            baseline = await self._baseline(supply, amount, unit)
            if baseline.unit == unit == "kWh":
                used = amount - baseline.amount
        contact: Contact = "open" if seen.contact == "open" else "closed" if seen.contact == "closed" else "unknown"
        return Sight(
            at=self._clock.now(),
            witness=Witness(contact=contact, at=seen.at, current_a=seen.current_a),
            energy_kwh_since_cut=used,
            power_w=seen.power_w,
            is_owed=True,  # as it may be; the tables are asked where that makes a difference
        )

    async def _baseline(self, supply: Supply, amount: Decimal, unit: str) -> _Baseline:
        """The register captured with the open; where there is none, the first that was read since."""
        there = self._baselines.get(supply.meter)
        if there is None or there.by != supply.by:
            known = await self._journal.read(lambda connection: _known(connection, supply), "looking up a supply")
            captured = known.register
            if captured is not None and captured.obis == ENERGY:
                amount, unit = captured.amount, captured.unit
            there = self._baselines[supply.meter] = _Baseline(supply.by, amount, unit)
        return there

    async def load(self) -> None:
        """Supplies that are off; the journal must have been loaded."""
        off = sorted(meter for meter, supply in self._journal.supplies.items() if supply.contact == "open")
        for place, meter in enumerate(off):
            self._due[meter] = self._clock.monotonic() + FIRST_S + place * SPREAD_S

    async def run(self) -> None:
        while True:
            seen, self._seen = self._seen, []
            now = self._clock.monotonic()
            due = [meter for meter, at in self._due.items() if at <= now]
            try:
                while self._over:
                    meter = self._over[0]
                    await self._tell(meter, {}, is_judged=True)
                    self._over.remove(meter)  # by name: others may have come behind it meanwhile
                for meter, witness in seen:
                    await self._judge(meter, witness, None)
                for start in range(0, len(due), AT_ONCE):
                    await asyncio.gather(*(self._look(meter) for meter in due[start : start + AT_ONCE]))
            except StoreUnavailable as error:
                log.error("alarms cannot be recorded", problem=str(error))
            await asyncio.sleep(TICK_S)

    async def _look(self, meter: str) -> None:
        supply = self._journal.supply(meter)
        is_paid = supply.paid_at is not None and (supply.at is None or supply.paid_at >= supply.at)
        self._due[meter] = self._clock.monotonic() + (PAID_ROUND_S if is_paid else ROUND_S)
        record = self._lines.record(meter)
        if not self._lines.is_up(record.line):
            return
        switch = self._lines.switch(meter)
        try:
            witness = await switch.look_back(record)
            register = await switch.register(record)
        except DriverError as error:
            log.debug("could not look at a supply that is off", problem=str(error))
            return
        await self._judge(meter, witness, register)

    async def _judge(self, meter: str, witness: Witness, register: CapturedRegister | None) -> None:
        supply = self._journal.supply(meter)
        if meter not in self._due:
            return  # it is on again
        known = await self._journal.read(lambda connection: _known(connection, supply), "looking up a supply")
        if known.is_moving:
            return  # what is seen may be the work of a close already
        sight = Sight(
            at=self._clock.now(),
            witness=witness,
            energy_kwh_since_cut=_used(known.register, register),
            is_reconnecting=known.is_reconnecting,
            is_owed=known.is_owed,
            is_in_doubt=known.is_in_doubt,
            is_our_open=known.is_our_open,
        )
        await self._tell(meter, alarms_of(supply, sight), is_judged=witness.contact != "unknown")

    async def _tell(self, meter: str, found: dict[str, str], *, is_judged: bool) -> None:
        async with self._telling:  # a look and a read may say the same at the same time
            await self._tell_changes(meter, found, is_judged=is_judged)

    async def _tell_changes(self, meter: str, found: dict[str, str], *, is_judged: bool) -> None:
        before = self.standing.get(meter, set())
        told = [(alarm, is_raised) for alarm, is_raised in changes(before, set(found)) if is_raised or is_judged]
        if not told:
            return

        def tell(page: Page) -> None:
            for alarm, is_raised in told:
                page.alarm(meter, alarm, is_raised=is_raised, detail={"why": found.get(alarm, "not so any more")})

        await self._journal.write(tell, "telling of alarms")
        for alarm, is_raised in told:
            log.warning("alarm", alarm=alarm, meter=meter, raised=is_raised)
            before = before | {alarm} if is_raised else before - {alarm}
        self.standing[meter] = before
        if not before:
            del self.standing[meter]

    def _saw_page(self, page: Page) -> None:
        now = self._clock.monotonic()
        for meter, supply in page.supplies.items():
            if supply.contact == "open":
                self._due[meter] = min(self._due.get(meter, now + FIRST_S), now + FIRST_S)
            elif meter in self._due:
                del self._due[meter]
                self._baselines.pop(meter, None)
                if meter in self.standing:
                    self._over.append(meter)


def _known(connection: Connection, supply: Supply) -> _Known:
    cut = rows.command(connection, supply.by) if supply.by else None
    debt = open_obligation_of(connection, supply.meter)
    closes = [command for _, command in rows.active_of(connection, supply.meter) if command.kind in CLOSES]
    return _Known(
        is_owed=debt is not None and debt.cause == "payment",
        is_reconnecting=bool(closes),
        is_moving=any(command.state in IN_FLIGHT for command in closes),
        is_in_doubt=_is_doubtful(connection, supply),
        is_our_open=_is_our_open(connection, supply, cut),
        register=None if cut is None else cut.register,
    )


def _is_doubtful(connection: Connection, supply: Supply) -> bool:
    """Nobody knows what a close has done that came after the supply was seen off."""
    return any(
        one.kind in CLOSES and (supply.at is None or supply.at < one.changed_at)
        for one in rows.unconfirmed_of(connection, supply.meter)
    )


def _is_our_open(connection: Connection, supply: Supply, by: Command | None) -> bool:
    """Whether the newest command that moved the contact was an open, whoever has looked since."""
    if by is not None and by.kind is Kind.OPEN:
        return True
    for one in rows.commands_of(connection, meter=supply.meter, limit=NEWER_MAX):
        if one.kind in SWITCHES and one.attempts and one.state in (State.VERIFIED, State.CONTRADICTED):
            return one.kind is Kind.OPEN
    return False


def _used(then: CapturedRegister | None, now: CapturedRegister | None) -> Decimal | None:
    """None: not known, or not the same register."""
    if then is None or now is None or (then.obis, then.unit) != (now.obis, now.unit):
        return None
    return now.amount - then.amount
