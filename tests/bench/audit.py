"""Proving an audit log: both verifiers, from the store and from a file, beside plain SHA-256 over the same bytes.

A record is one of a sending, with its bytes as hex: the longest that there are many of. The log is checkpointed and signed every 1,000
records, and the signatures are looked at, too. All of it is one thread's work, so CPU time is what counts.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from headend.audit.entries import RecordEntry, entries_in_file, entries_in_store
from headend.audit.evidence import log_lines
from headend.audit.record import NO_HASH
from headend.audit.verify import verify_log
from headend.database.engine import reading
from headend.keys import SigningKey
from tests.bench.figures import Figure, Goal, ratio, spread
from tests.headend.audit.support import Rig, a_record, verify_audit

__all__ = ["measure_audit"]

RECORDS = 50_000
BATCH = 500
METERS = 500
WIRE = "68 ** ** ** ** ** ** 68 1C 10 " + "** " * 16 + "** 16"
PLAIN = "plain SHA-256"
GOAL = Goal(least=50_000)


def measure_audit(*, rounds: int, records: int = RECORDS, note: Callable[[str], None] = lambda _: None) -> list[Figure]:
    """Raises AssertionError where a verifier finds the log to be anything but whole and signed."""
    with tempfile.TemporaryDirectory(prefix="headend-bench-") as name:
        note(f"audit: writing {records:,} records")
        key, folder = SigningKey.new(), Path(name)
        rig = _log_of(records, folder, key)
        lines = list(log_lines(rig.store, key=key.public))
        path = folder / "log.ndjson"
        path.write_bytes(b"\n".join(lines))
        bodies = [entry.body.encode() for entry in entries_in_file(lines[1:]) if isinstance(entry, RecordEntry)]
        seen = rig.checkpoints()[-1:]
        keys, witness = [verify_audit.public_key(key.public.pem)], [one.to_data() for one in seen]

        def in_store() -> None:
            with reading(rig.store.engine, "measuring") as connection:
                verdict = verify_log(entries_in_store(connection), [key.public], seen)
            assert (verdict.is_good, verdict.records, verdict.through) == (True, records, records), verdict.findings

        def in_file() -> None:
            verdict = verify_log(entries_in_file(path.read_bytes().split(b"\n")[1:]), [key.public], seen)
            assert (verdict.is_good, verdict.records, verdict.through) == (True, records, records), verdict.findings

        def alone(there: Path) -> None:
            findings, _ = verify_audit.verify(there, keys, witness)
            assert findings == [], findings

        ways: dict[str, Callable[[], None]] = {
            PLAIN: lambda: _chain(bodies, seen[0].hash),
            "store": in_store,
            "file": in_file,
            "store, stand-alone": lambda: alone(rig.path),
            "file, stand-alone": lambda: alone(path),
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds):
            for way, verify in ways.items():
                note(f"audit, round {number + 1} of {rounds}: {way}")
                began = time.process_time()
                verify()
                found[way].append(records / (time.process_time() - began))
        rig.store.close()
    plain, *verified = (
        spread(f"audit: {way}", "records/CPU s", rates, None if way == PLAIN else GOAL) for way, rates in found.items()
    )
    return [plain, *verified, *(ratio(f"{figure.name} / {PLAIN}", figure, plain) for figure in verified)]


def _log_of(records: int, folder: Path, key: SigningKey) -> Rig:
    rig = Rig(folder, key=key, strict=False)
    many = [a_record("sending", f"M{n % METERS:06}", wire=WIRE, state="sending", n=n) for n in range(BATCH)]
    for start in range(0, records, BATCH):
        rig.append(*many[: records - start], at_once=True)
    rig.checkpoint()
    return rig


def _chain(bodies: Sequence[bytes], end: str) -> None:
    """What nobody who proves a chain can do without: one SHA-256 for each record, over the one before and its bytes."""
    before = NO_HASH
    for body in bodies:
        before = hashlib.sha256(before.encode() + b"\n" + body).hexdigest()
    assert before == end
