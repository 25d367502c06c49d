"""One day of prepaid accounts: fed in, and settled. Four time-of-use registers, prices stepped by the year; SQLite on the disk.

Each size is measured in a process of its own, which settles one day to be warm and the next one to be measured: what a day costs when
everything that it builds on is there. CPU time is what counts on a shared machine; the wall time is told beside it.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, insert

from headend.prepayment.books.books import check_books
from headend.prepayment.days import LocalDays, day_number
from headend.prepayment.settlement.settlement import Settlement
from headend.prepayment.storage.database import Database, open_database
from headend.prepayment.storage.tables import account_meters, accounts, customers, premises
from headend.prepayment.usage.intake import PAGE, Intake
from tests.bench.far_end import REPOSITORY
from tests.bench.figures import Figure, Goal, spread
from tests.headend.prepayment.example_tariffs import STEPPED_TOU

__all__ = ["measure_settlement"]

ZONE = ZoneInfo("Asia/Shanghai")
SIZES = (15_000, 50_000, 150_000)
GOAL_S = 20.0  # of 150,000 accounts, on one core
FIRST = date(2026, 3, 2)
REGISTERS = 5  # the total, too, as meters tell it
MEGABYTE = 1 << 20


def measure_settlement(*, note: Callable[[str], None], sizes: Sequence[int] = SIZES) -> list[Figure]:
    figures = []
    for size in sizes:
        note(f"settlement of {size:,} accounts")
        found = _in_a_process(size)
        goal = Goal(most=GOAL_S * size / SIZES[-1])
        for name, unit, key, its in (
            ("settled", "s CPU", "settle_cpu_s", goal),
            ("settled", "s", "settle_s", None),
            ("fed in", "s CPU", "intake_cpu_s", None),
            ("memory", "MB", "memory_mb", None),
        ):
            figures.append(spread(f"{size:,} accounts: {name}", unit, [found[key]], its))
    return figures


def _in_a_process(size: int) -> dict[str, float]:
    result = subprocess.run(
        [sys.executable, "-m", "tests.bench.settlement", str(size)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"settling {size} accounts failed: {result.stderr[-2000:]}")
    found: dict[str, float] = json.loads(result.stdout)
    return found


class _DayFeed:
    """What the head-end tells of one day; made page by page, so that it takes no memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.making_s = 0.0  # CPU time that is not the consumer's

    def events_after(self, sequence: int, limit: int) -> Sequence[bytes]:
        began = time.process_time()
        page = [self._event(number) for number in range(sequence, min(sequence + limit, 2 * self.size * REGISTERS))]
        self.making_s += time.process_time() - began
        return page

    def _event(self, number: int) -> bytes:
        day, place = divmod(number, self.size * REGISTERS)
        meter, register = divmod(place, REGISTERS)
        start = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=ZoneInfo("UTC")) + timedelta(days=day, hours=-8)
        end = start + timedelta(days=1)
        kwh = (meter * 7919 + register * 104729 + day * 31) % 600
        meter_name, obis, until = f"M{meter:06}", f"1-0:1.8.{register}", f"{end:%Y-%m-%dT%H:%M:%SZ}"
        return (
            f'{{"specversion":"1.0","id":"interval:{meter_name}:{obis}:86400:{until}:0","source":"/headend/bench",'
            f'"type":"headend.interval.v1","subject":"{meter_name}","time":"{until}","sequence":"{number + 1}",'
            f'"data":{{"meter":"{meter_name}","obis":"{obis}","start":"{start:%Y-%m-%dT%H:%M:%SZ}","end":"{until}",'
            f'"period_s":86400,"amount":"{kwh // 100}.{kwh % 100:02}","unit":"kWh","quality":["measured"],'
            f'"source":"dlt645/base_2007:00010000","revision":0}}}}'
        ).encode()


def _enrol(connection: Connection, size: int) -> None:
    opened = day_number(FIRST)
    connection.execute(insert(customers), [{"id": "C1", "name": "Bench", "identity_digest": "", "identity_tail": ""}])
    connection.execute(insert(premises), [{"id": "P1", "address": "1", "is_submetered": 0}])
    for rows in _portions(size):
        connection.execute(
            insert(accounts),
            [
                {
                    "number": number, "id": f"A{number:06}", "customer": "C1", "premises": "P1", "currency": "CNY",
                    "tariff": "both", "state": "active", "opened_on": opened, "closed_on": None,
                    "reminder_minor": 2000, "topup_minor": 0, "bank": "", "is_large_household": 0,
                }
                for number in rows
            ],
        )  # fmt: skip
        connection.execute(
            insert(account_meters),
            [{"account": f"A{number:06}", "meter": f"M{number:06}", "since": opened, "until": None} for number in rows],
        )


def _portions(size: int) -> Iterator[range]:
    for start in range(0, size, 1000):
        yield range(start, min(start + 1000, size))


def _measure(size: int, database: Database) -> dict[str, float]:
    with database.writing("enrolling") as connection:
        _enrol(connection, size)
    days, feed = LocalDays(ZONE), _DayFeed(size)
    intake = Intake(database, feed, days)
    settlement = Settlement(database, {"both": (STEPPED_TOU,)}, days)
    found: dict[str, float] = {}
    for day in range(2):
        pages = -(-size * REGISTERS // PAGE)
        cpu, made = time.process_time(), feed.making_s
        intake.catch_up(pages_max=pages)
        found["intake_cpu_s"] = time.process_time() - cpu - (feed.making_s - made)
        now = datetime(2026, 3, 3 + day, 0, 30, tzinfo=ZONE)
        cpu, wall = time.process_time(), time.perf_counter()
        settled = settlement.run(now)
        found |= {"settle_cpu_s": time.process_time() - cpu, "settle_s": time.perf_counter() - wall}
        if settled.days != size:
            raise AssertionError(f"{settled} of {size} accounts")
    with database.reading("checking") as connection:
        if problems := check_books(connection):
            raise AssertionError(problems)
    return found | {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{Path(folder)}/prepayment.db")
        try:
            print(json.dumps(_measure(int(sys.argv[1]), database)))
        finally:
            database.dispose()


if __name__ == "__main__":
    main()
