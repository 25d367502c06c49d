"""Writes a large day in each format and prints by how many MB the process grew at most. See test_day_files."""

import importlib
import importlib.util
import json
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil

sys.path.insert(0, str(Path(__file__).parents[3]))
from headend.feed.sinks.day_files import DayFolder, Manifest
from headend.feed.sinks.formats import FORMATS
from headend.feed.sinks.settings import FileSettings
from headend.store.cursors import Cursors
from tests.headend.support import START, day_of_reads, new_store

EVENTS = 30_000


def main(folder: Path) -> None:
    store = new_store(folder)
    reads = []
    for read in day_of_reads(meters=400, slots=96, seed=1):
        reads.append(read)
        if len(reads) == 1000:
            store.commit(reads)
            reads.clear()
        if store.last_sequence() >= EVENTS:
            break
    zone = ZoneInfo("Asia/Shanghai")
    grown = {}
    for kind in FORMATS:
        if kind == "parquet":
            if importlib.util.find_spec("pyarrow") is None:
                continue
            importlib.import_module("pyarrow.parquet")  # its own size does not count
        settings = FileSettings(folder=folder / kind, format=kind, zone=zone, name="west", source="/headend/west")
        days = DayFolder(settings, Cursors(store.engine))
        days.tidy()
        day = days.day_of(START + timedelta(days=1))  # no event is of a later one: all of it is one file
        grown[kind] = measured(partial(days.write_day, day, 1, EVENTS))
    print(json.dumps(grown))


def measured(work: Callable[[], Manifest]) -> float:
    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    manifest = work()
    done.set()
    watcher.join()
    assert manifest.count == EVENTS
    return round((peak - before) / 1e6, 1)


main(Path(sys.argv[1]))
