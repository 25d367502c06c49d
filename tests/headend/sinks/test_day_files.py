"""Files per day: whole or not there, what is in them, and that foreign tools read them."""

import asyncio
import csv
import errno
import json
import random
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from headend.feed.pusher_files import FilePusher
from headend.feed.sinks import day_files, formats
from headend.feed.sinks.day_files import DayFolder, Manifest
from headend.feed.sinks.settings import FileSettings
from headend.model import Event, Quality, Read
from headend.store import Store
from headend.store.writer import inline
from protocols.values import Unit
from simulators.virtual_time import VirtualClock, run
from tests.headend.feed.delivery_support import Site, settings, until
from tests.headend.support import new_store

SHANGHAI = ZoneInfo("Asia/Shanghai")
MIDNIGHT = datetime(2026, 1, 31, 16, 0, tzinfo=UTC)  # in Shanghai


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


def a_read(received_at: datetime, amount: str | None = "1.50", *, meter: str = "M000001", revision: int = 0) -> Read:
    return Read(
        meter=meter,
        obis="1-0:1.8.0",
        amount=None if amount is None else Decimal(amount),
        unit=Unit.KWH,
        interval_end=received_at.replace(second=0, microsecond=0),
        read_at=None,
        received_at=received_at,
        quality=(Quality.MISSING,) if amount is None else (Quality.MEASURED, Quality.LATE),
        source="dlt645/base_2007:00010000",
        revision=revision,
        reason="silent" if amount is None else "",
    )


def a_day(begin: datetime, count: int = 96) -> list[Read]:
    return [a_read(begin + timedelta(minutes=15 * slot, seconds=3), f"{slot}.50") for slot in range(count)]


def exporting(
    store: Store, folder: Path, kind: str = "ndjson", *, start: datetime = MIDNIGHT
) -> tuple[Callable[[Callable[[Site, FilePusher], object]], None], Path]:
    """Runs a test's main with a site and a pusher over `folder`."""

    def on_site(main: Callable[[Site, FilePusher], object]) -> None:
        async def begin(clock: VirtualClock, _: random.Random) -> None:
            site = Site(store, clock)
            far = FileSettings(folder=folder, format=kind, zone=SHANGHAI, name="west: 1", source="/headend/west")
            pusher = FilePusher(
                settings(kind="file"),
                DayFolder(far, site.cursors),
                book=site.book,
                signal=site.signal,
                clock=clock,
                execute=inline,
                seed=1,
            )
            task = asyncio.ensure_future(pusher.run())
            await main(site, pusher)  # type: ignore[misc]
            pusher.stop()
            async with asyncio.timeout(1):
                await task

        run(begin, start=start)

    return on_site, folder


def manifests(folder: Path) -> list[Manifest]:
    found = [msgspec.json.decode(path.read_bytes(), type=Manifest) for path in folder.glob("*.manifest.json")]
    return sorted(found, key=lambda one: one.first)


def test_a_day_is_written_after_its_midnight_and_holds_its_stretch_of_the_feed(store: Store, tmp_path: Path) -> None:
    on_site, folder = exporting(store, tmp_path / "days")

    async def main(site: Site, pusher: FilePusher) -> None:
        site.store_items(a_day(MIDNIGHT))
        await asyncio.sleep(86_400 + 599)
        assert list(folder.iterdir()) == []
        assert pusher.status().lag_events == 96
        await until(lambda: pusher.status().lag_events == 0, within_s=2)
        (manifest,) = manifests(folder)
        assert (manifest.day, manifest.timezone, manifest.format) == ("2026-02-01", "Asia/Shanghai", "ndjson")
        assert (manifest.count, manifest.first, manifest.last) == (96, 1, 96)
        (file,) = manifest.files
        content = (folder / file.name).read_bytes()
        assert file.name == "west__1-2026-02-01-1.ndjson"
        assert content == b"".join(event + b"\n" for event in store.events_after(0, 1000))
        assert (file.sha256, file.bytes, file.records) == (sha256(content).hexdigest(), len(content), 96)

    on_site(main)


def test_days_follow_each_other_without_gap_and_late_events_get_a_file_of_their_own(
    store: Store, tmp_path: Path
) -> None:
    on_site, folder = exporting(store, tmp_path / "days", start=MIDNIGHT + timedelta(days=1, minutes=20))

    async def main(site: Site, pusher: FilePusher) -> None:
        first = a_day(MIDNIGHT)
        second = a_day(MIDNIGHT + timedelta(days=1), 1)
        stray = a_read(
            MIDNIGHT + timedelta(hours=23, minutes=59, seconds=59), meter="M2"
        )  # committed after midnight's first
        site.store_items([*first, *second, stray])
        await until(lambda: pusher.status().delivered_up_to == 96)
        site.store_items([a_read(MIDNIGHT + timedelta(hours=20), "7", meter="M3")])
        await asyncio.sleep(86_400)
        site.store_items(a_day(MIDNIGHT + timedelta(days=2), 1))
        await asyncio.sleep(86_400)
        assert [(one.day, one.first, one.last) for one in manifests(folder)] == [
            ("2026-02-01", 1, 96),
            ("2026-02-02", 97, 99),
            ("2026-02-03", 100, 100),
        ]

    on_site(main)


def test_what_is_stored_after_its_day_was_written_gets_a_file_of_its_own(store: Store, tmp_path: Path) -> None:
    on_site, folder = exporting(store, tmp_path / "days", start=MIDNIGHT + timedelta(days=1, minutes=20))

    async def main(site: Site, pusher: FilePusher) -> None:
        site.store_items(a_day(MIDNIGHT))
        await until(lambda: pusher.status().lag_events == 0)
        site.store_items([a_read(MIDNIGHT + timedelta(hours=23), "9", meter="M2")])
        await until(lambda: pusher.status().lag_events == 0)
        assert [(one.day, one.first, one.last) for one in manifests(folder)] == [
            ("2026-02-01", 1, 96),
            ("2026-02-01", 97, 97),
        ]
        assert len(list(folder.glob("*.ndjson"))) == 2

    on_site(main)


def test_a_crash_before_the_cursor_was_kept_writes_nothing_anew_and_temporary_files_go(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "days"
    start = MIDNIGHT + timedelta(days=1, minutes=20)
    on_site, _ = exporting(store, folder, start=start)

    async def first_life(site: Site, pusher: FilePusher) -> None:
        site.store_items(a_day(MIDNIGHT))
        await until(lambda: pusher.status().lag_events == 0)
        site.cursors.forget("billing")

    async def second_life(site: Site, pusher: FilePusher) -> None:
        await until(lambda: pusher.status().lag_events == 0)

    on_site(first_life)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / ".west__1-2026-02-01-1.ndjson.tmp").write_bytes(b"half")
    # Something more was stored meanwhile: the file that may have been fetched already stays as it is.
    store.commit([a_read(MIDNIGHT + timedelta(hours=23), "9", meter="M2")])
    on_site, _ = exporting(store, folder, start=start)
    on_site(second_life)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before.keys()) == [
        "west__1-2026-02-01-97.ndjson",
        "west__1-2026-02-01-97.ndjson.manifest.json",
    ]
    damaged = folder / "west__1-2026-02-01-1.ndjson"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    folder_of = DayFolder(
        FileSettings(folder=folder, format="ndjson", zone=SHANGHAI, name="west: 1", source="/headend/west"),
        Site(store, _NoClock()).cursors,
    )
    written = folder_of.write_day(MIDNIGHT.astimezone(SHANGHAI).date(), 1, 97)
    assert written.count == 97
    assert sha256(damaged.read_bytes()).hexdigest() == written.files[0].sha256


class _NoClock:
    def now(self) -> datetime:
        return MIDNIGHT

    def monotonic(self) -> float:
        return 0.0


def test_a_folder_that_cannot_be_written_waits_and_leaves_nothing_half(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_site, folder = exporting(store, tmp_path / "days", start=MIDNIGHT + timedelta(days=1, minutes=20))

    async def main(site: Site, pusher: FilePusher) -> None:
        def full(path: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(day_files, "_sync_folder", full)  # the disk has no other way to be full here
        site.store_items(a_day(MIDNIGHT))
        await asyncio.sleep(100)
        assert "No space left" in pusher.status().problem
        assert pusher.status().state == "waiting"
        assert not list(folder.glob("*.manifest.json"))
        monkeypatch.undo()
        await until(lambda: pusher.status().lag_events == 0)
        assert manifests(folder)[0].count == 96

    on_site(main)


def the_day(store: Store, folder: Path, kind: str) -> tuple[Manifest, list[Path]]:
    """One day with all that can be odd in it, written in this format."""
    on_site, _ = exporting(store, folder, kind, start=MIDNIGHT + timedelta(days=1, minutes=20))
    told: dict[str, object] = {"meter": "M000001", "kind": "clock", "state": 'beyond, "limit"\n'}
    odd = [
        a_read(MIDNIGHT + timedelta(hours=1, milliseconds=250), None),
        a_read(MIDNIGHT + timedelta(hours=1), "1E+3", meter="表号"),
        a_read(MIDNIGHT + timedelta(hours=1), "0.1234567890123456789", meter="M7"),
        a_read(MIDNIGHT + timedelta(hours=1), "1.50", meter='M,"8"'),
    ]

    async def main(site: Site, pusher: FilePusher) -> None:
        status = Event(type="headend.meter-status.v1", subject="M000001", data=told, time=MIDNIGHT + timedelta(hours=2))
        site.store.commit([*a_day(MIDNIGHT, 4), status])
        site.store_items(odd)
        await until(lambda: pusher.status().lag_events == 0)

    on_site(main)
    (manifest,) = manifests(folder)
    assert (manifest.first, manifest.last, manifest.count) == (1, 9, 9)
    return manifest, [folder / file.name for file in manifest.files]


def test_csv_has_a_row_per_event_with_the_digits_of_the_meter(store: Store, tmp_path: Path) -> None:
    manifest, (path,) = the_day(store, tmp_path / "days", "csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == manifest.files[0].records == 9
    assert [row["sequence"] for row in rows] == [str(number) for number in range(1, 10)]
    assert (rows[0]["value"], rows[0]["quality"], rows[0]["interval_end"]) == (
        "0.50",
        "measured late",
        "2026-01-31T16:00:00Z",
    )
    assert (rows[5]["value"], rows[5]["reason"]) == ("", "silent")
    assert (rows[6]["meter"], rows[6]["value"]) == ("表号", "1000")
    assert rows[8]["meter"] == 'M,"8"'
    assert json.loads(rows[4]["data"])["state"] == 'beyond, "limit"\n'
    assert rows[0]["data"] == ""


def test_parquet_is_read_by_pyarrow_and_duckdb(store: Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: the extra headend[parquet]")
    _, (path,) = the_day(store, tmp_path / "days", "parquet")
    table = parquet.read_table(str(path))
    rows = table.to_pylist()
    assert len(rows) == 9
    assert rows[0]["amount"] == Decimal("0.5")
    assert rows[0]["value"] == "0.50"
    assert rows[0]["interval_end"] == datetime(2026, 1, 31, 16, 0, tzinfo=UTC)
    assert rows[5]["time"] == datetime(2026, 1, 31, 17, 0, 0, 250_000, tzinfo=UTC)
    assert (rows[5]["value"], rows[5]["amount"], rows[5]["quality"]) == (None, None, ["missing"])
    assert (rows[6]["meter"], rows[6]["amount"]) == ("表号", Decimal(1000))
    assert (rows[7]["value"], rows[7]["amount"]) == ("0.1234567890123456789", None)
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    with duckdb.connect() as database:
        found = database.sql(
            f"SELECT count(*), sum(amount), epoch_ms(max(interval_end)) FROM '{path}' WHERE meter = 'M000001'"
        )
        assert found.fetchall() == [(6, Decimal("8.0"), 1_769_878_800_000)]


def test_cim_documents_hold_so_many_events_each_and_say_what_they_cannot(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats.FORMATS["cim-xml"], "events_max", 4)
    manifest, paths = the_day(store, tmp_path / "days", "cim-xml")
    assert [path.name for path in paths] == [f"west__1-2026-02-01-1.000{number}.xml" for number in (1, 2, 3)]
    assert [(file.first, file.last) for file in manifest.files] == [(1, 4), (5, 8), (9, 9)]
    assert [file.records for file in manifest.files] == [4, 3, 1]  # event 5 is no reading
    root = ET.parse(paths[0]).getroot()
    space = "{http://iec.ch/TC57/2011/MeterReadings#}"
    assert root.tag == f"{space}MeterReadings"
    assert [value.text for value in root.iter(f"{space}value")] == ["0.50", "1.50", "2.50", "3.50"]


def test_a_large_day_is_written_in_little_memory(tmp_path: Path) -> None:
    """In a process of its own: 30,000 events, every format; the peak beyond the start is what a day costs."""
    program = Path(__file__).with_name("write_large_day.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    grown_mb = json.loads(done.stdout)
    print(grown_mb)
    assert grown_mb["ndjson"] < 25
    assert grown_mb["csv"] < 25
    assert all(grown < 70 for grown in grown_mb.values())
