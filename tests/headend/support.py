"""What tests of the head-end share: a clock that stands still, and reads."""

import random
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine, inspect, text

from headend.clock import Clock
from headend.intervals.guard import Guard, GuardedMeter
from headend.model import Event, Quality, Read
from headend.prepayment.storage.database import open_database
from headend.ratios import Ratios
from headend.store import Store, migrate
from protocols.values import Unit
from tests.databases import database_url

START = datetime(2026, 1, 31, 16, 0, tzinfo=UTC)
PERIOD = timedelta(minutes=15)
IMPORT = "1-0:1.8.0"
VOLTAGE = "1-0:32.7.0"
SQLITE = "sqlite:///"


class StillClock:
    """A Clock that moves only when told."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - START).total_seconds()


def a_read(
    meter: str = "M000001",
    slot: int = 0,
    amount: str | None = "123456.78",
    *,
    obis: str = IMPORT,
    revision: int = 0,
    unit: Unit = Unit.KWH,
) -> Read:
    """A read of the slot-th interval end after START; amount None makes a missing one."""
    end = START + slot * PERIOD
    return Read(
        meter=meter,
        obis=obis,
        amount=None if amount is None else Decimal(amount),
        unit=unit,
        interval_end=end,
        read_at=None,
        received_at=end + timedelta(seconds=2, milliseconds=250),
        quality=(Quality.MISSING,) if amount is None else (Quality.MEASURED,),
        source="dlt645/base_2007:00010000",
        revision=revision,
        reason="silent" if amount is None else "",
    )


def a_guard(clock: Clock, *meters: GuardedMeter) -> Guard:
    """That remembers nothing yet. Reads of other meters pass without a look."""
    return Guard(meters, histories={}, clock=clock, clocks={}, ratios=Ratios(()))


def an_event(subject: str = "M000001") -> Event:
    data: dict[str, object] = {"meter": subject, "state": "silent"}
    return Event(type="headend.meter-status.v1", subject=subject, data=data, time=START)


def new_store(folder: Path) -> Store:
    url = store_url(folder)
    if url.startswith(SQLITE) and not (folder / "headend.db").exists():
        with_tables(url)
    else:
        migrate(url)
    return Store(url, "luoyang-west", busy_timeout_s=0.2)


def with_tables(url: str) -> str:
    """The URL of a store as it was given; if its tables were not there, they are now, and empty."""
    return _laid_out(url, migrate)


def with_account_tables(url: str) -> str:
    """The same for the database of prepaid supply."""
    return _laid_out(url, _make_accounts)


def _laid_out(url: str, make: Callable[[str], None]) -> str:
    if not url.startswith(SQLITE):
        make(url)
    elif not (path := Path(url.removeprefix(SQLITE))).exists():
        path.write_bytes(_empty(make))
    return url


@cache
def _empty(make: Callable[[str], None]) -> bytes:
    """A file that `make` made: each of many migrations waits for the disk, and tests want hundreds of such files."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        make(f"{SQLITE}{path}")
        assert [one.name for one in path.parent.iterdir()] == [path.name], "something of it is not in the file"
        return path.read_bytes()


def _make_accounts(url: str) -> None:
    open_database(url).dispose()


def store_url(folder: Path) -> str:
    return database_url(folder, "headend")


def dump(engine: Engine, *, without: Collection[str] = ()) -> dict[str, list[tuple[object, ...]]]:
    """A whole database, table by table."""
    with engine.connect() as connection:
        return {
            name: sorted((tuple(row) for row in connection.execute(text(f'SELECT * FROM "{name}"'))), key=repr)
            for name in sorted(inspect(connection).get_table_names())
            if name not in without
        }


def day_of_reads(meters: int, slots: int, seed: int) -> Iterator[Read]:
    """What a polled fleet gives: slots in order, meters in order, energy and voltage, replies after some seconds."""
    random_ = random.Random(seed)
    energy = [Decimal(random_.randrange(10**8)).scaleb(-2) for _ in range(meters)]
    for slot in range(slots):
        end = START + slot * PERIOD
        for meter in range(meters):
            energy[meter] += Decimal(random_.randrange(60)).scaleb(-2)
            received_at = end + timedelta(milliseconds=random_.randrange(600_000))
            voltage = Decimal(2200 + random_.randrange(200)).scaleb(-1)
            for obis, unit, amount, di in (
                (IMPORT, Unit.KWH, energy[meter], "00010000"),
                (VOLTAGE, Unit.V, voltage, "02010100"),
            ):
                yield Read(
                    meter=f"M{meter:06d}",
                    obis=obis,
                    amount=amount,
                    unit=unit,
                    interval_end=end,
                    read_at=received_at.replace(microsecond=0),
                    received_at=received_at,
                    quality=(Quality.MEASURED,),
                    source=f"dlt645/base_2007:{di}",
                )
