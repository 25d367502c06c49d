"""The power is cut at random moments: what was acknowledged is there afterwards, under its number."""

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headend.store.store import open_store
from tests.headend.store.cut_lives import Lost, Notes, check, live
from tests.headend.store.torn_disk import TornDisk
from tests.headend.support import a_read

CUTS_PER_STORE = 10  # then a new one, so that first starts and migrations are cut, too
STEPS = (40, 200, 400, 1500)  # a first start takes 176


def cut_again_and_again(folder: Path, cuts: int, seed: int, *, pragma: str = "") -> int:
    """Gives the number of items that were acknowledged. Raises Lost."""
    acknowledged = 0
    notes = Notes()
    here = folder / "0"
    here.mkdir()
    for number in range(cuts):
        dice = random.Random(f"{seed}:{number}")
        disk = live(here, notes, dice, cut_at=dice.randrange(dice.choice(STEPS)), pragma=pragma)
        there = folder / str(number + 1)
        there.mkdir()
        disk.survivors(there)
        shutil.rmtree(here)
        here = there
        try:
            if number % 2:
                check(f"sqlite:///{here}/store.db", notes)  # as the service opens it
            else:  # and once more with a disk that tears, since recovery writes, too
                with TornDisk(here, seed=number) as whole:
                    check(whole.url, notes)
        except Lost as error:
            raise Lost(f"cut {number} of seed {seed}: {error}") from error
        if number % CUTS_PER_STORE == CUTS_PER_STORE - 1:
            acknowledged += len(notes.acknowledged)
            notes = Notes()
            shutil.rmtree(here)
            here.mkdir()
    return acknowledged + len(notes.acknowledged)


@pytest.mark.timeout(1800)
def test_nothing_acknowledged_is_lost_by_power_cuts(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cuts = request.config.getoption("--power-cuts")
    acknowledged = cut_again_and_again(tmp_path, cuts, seed=7)
    print(f"{cuts} power cuts, {acknowledged} items acknowledged")
    assert acknowledged > 20 * cuts, "too little was acknowledged to prove something"


def test_a_store_that_does_not_sync_is_found_out(tmp_path: Path) -> None:
    """The test above can fail: the same cuts with one pragma less."""
    with pytest.raises(Lost):
        cut_again_and_again(tmp_path, 40, seed=7, pragma="synchronous=OFF")


def test_a_store_that_syncs_only_at_checkpoints_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(Lost):
        cut_again_and_again(tmp_path, 40, seed=7, pragma="synchronous=NORMAL")


def test_at_the_acknowledgement_nothing_of_the_log_is_unsynced(tmp_path: Path) -> None:
    with TornDisk(tmp_path, seed=1) as disk:
        store = open_store(disk.url, "cut")
        for slot in range(20):
            before = disk.steps
            store.commit([a_read(f"M{meter}", slot) for meter in range(30)])
            assert disk.steps > before
            assert disk.unsynced("-wal") == 0
            store.set_cursor("billing", slot)
            assert disk.unsynced("-wal") == 0
        store.close()


COMMITS = """
import os, sys
from headend.store.store import open_store
from tests.headend.support import a_read
store = open_store(sys.argv[1], "traced")
for slot in range(30):
    store.commit([a_read("M000001", slot)])
    os.write(1, b"acknowledged %d\\n" % slot)
"""


def test_the_kernel_is_asked_to_sync_before_each_acknowledgement(tmp_path: Path) -> None:
    """The same for the driver that the service uses, seen from outside."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    calls = "trace=pwrite64,write,fdatasync,fsync"
    done = subprocess.run(
        [strace, "-f", "-y", "-e", calls, "-o", trace, sys.executable, "-c", COMMITS, f"sqlite:///{tmp_path}/store.db"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    written = acknowledged = 0  # since the last sync; in all
    for line in trace.read_text().splitlines():
        if re.search(r"pwrite64\(\d+<[^>]*-wal>", line):
            written += 1
        elif re.search(r"f(data)?sync\(\d+<[^>]*-wal>\).* = 0", line):
            written = 0
        elif '"acknowledged' in line:
            assert written == 0, f"before {line}: {written} writes to the log were not synced"
            acknowledged += 1
    assert acknowledged == 30
