"""Closing a day: how long, how much memory, and how long a consumer takes to prove its copy.

python -m tests.headend.ledger.measure [--meters 1000]
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from headend.ledger.bundle import bundles_of
from headend.ledger.copy import Copy
from headend.ledger.signing import SigningKey
from headend.ledger.verify import verify
from headend.model import Quality, Read
from protocols.values import Unit
from tests.headend.ledger.support import CLOSING, DAY, MIDNIGHT, Site, duty, slots
from tests.headend.ledger.verifier import PATH

QUANTITIES = (("1-0:1.8.0", Unit.KWH), ("1-0:32.7.0", Unit.V), ("1-0:31.7.0", Unit.A))


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


async def measure(folder: Path, meters: int) -> dict[str, object]:
    names = [f"M{number:06}" for number in range(meters)]
    owed = tuple(obis for obis, _ in QUANTITIES)
    duties = [
        duty(name, period_s=900, quantities=owed, line=f"line-{number // 32}") for number, name in enumerate(names)
    ]
    told: dict[str, object] = {"meters": meters}
    async with Site(folder, duties, key=SigningKey.new()).running() as site:
        for end in slots(period_s=900):
            group = [
                Read(
                    meter=name,
                    obis=obis,
                    amount=Decimal(number * 100 + place).scaleb(-2),
                    unit=unit,
                    interval_end=end,
                    read_at=None,
                    received_at=end + timedelta(milliseconds=number),
                    quality=(Quality.MEASURED,),
                    source="dlt645/base_2007:00010000",
                )
                for number, name in enumerate(names)
                for place, (obis, unit) in enumerate(QUANTITIES)
            ]
            for start in range(0, len(group), 1000):
                site.store.commit(group[start : start + 1000])
        told["events"], before = site.store.last_sequence(), peak_mb()
        began, busy = time.perf_counter(), time.process_time()
        assert await site.close_at(MIDNIGHT + DAY + CLOSING) == 1
        told["close_s"] = round(time.perf_counter() - began, 2)
        told["close_cpu_s"] = round(time.process_time() - busy, 2)
        told["close_more_mb"] = peak_mb() - before
        told["manifest_bytes"] = sum(map(len, site.book.body("2026-02-01") or []))
        assert site.key is not None
        key, copy = folder / "key.pem", folder / "copy.ndjson"
        key.write_text(site.key.public.pem)
        copy.write_bytes(b"\n".join(site.lines()) + b"\n")
        began = time.perf_counter()
        read = Copy.of_file(copy)
        bundles, problems = bundles_of(map(json.loads, read.manifests), [site.key.public])
        assert verify(read, bundles, problems=problems).is_good
        told["verify_s"] = round(time.perf_counter() - began, 2)
        told["stand_alone_verify_s"] = stand_alone_s(copy, key)
    return told


def stand_alone_s(copy: Path, key: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, PATH, copy, "--key", key], check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - began, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--meters", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(Path(folder), asked.meters))))


if __name__ == "__main__":
    main()
