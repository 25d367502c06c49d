"""How fast the log is written and proven, on this machine:  python -m tests.headend.audit.measure [RECORDS]"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection

from headend.audit.entries import entries_in_file, entries_in_store
from headend.audit.evidence import evidence_lines, log_lines, record_export
from headend.audit.verify import verify_evidence, verify_log
from headend.database.engine import reading
from headend.keys import SigningKey
from headend.model import Item
from tests.headend.audit.support import Rig, a_record, verify_audit

BATCH = 500


def main(records: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        key = SigningKey.new()
        rig = Rig(Path(folder), key=key, strict=False)
        wires = "68 ** 68 ".join(["FE FE FE FE", "01 00 00 00 00 00", "1C 10 ** ** ** ** ** ** ** **"])
        many = [a_record("sending", f"M{n % 500:06}", wire=wires, state="sending", n=n) for n in range(BATCH)]

        def one_by_one(connection: Connection) -> tuple[None, Sequence[Item]]:
            for record in many:
                rig.log.append(connection, record, rig.clock.now())
            return None, ()

        _tell(
            "append, one by one in one transaction",
            BATCH * 4,
            lambda: [rig.store.transact(one_by_one, "") for _ in range(4)],
        )
        _tell("append, many at once", BATCH * 20, lambda: [rig.append(*many, at_once=True) for _ in range(20)])
        _tell("append, a transaction each (with its sync)", 100, lambda: [rig.append(record) for record in many[:100]])
        while rig.book.last_number() < records:
            rig.append(*many, at_once=True)
        rig.checkpoint()
        count = rig.book.last_number()
        seen = rig.checkpoints()[-1:]
        lines = list(log_lines(rig.store, key=key.public))
        with reading(rig.store.engine, "measuring") as connection:
            _tell("verify the store", count, lambda: verify_log(entries_in_store(connection), [key.public], seen))
        _tell("verify a file", count, lambda: verify_log(entries_in_file(lines[1:]), [key.public], seen))
        keys, witness = [verify_audit.public_key(key.public.pem)], [one.to_data() for one in seen]
        _tell("stand-alone, the store", count, lambda: verify_audit.verify(rig.path, keys, witness))
        path = Path(folder) / "log.ndjson"
        path.write_bytes(b"\n".join(lines))
        _tell("stand-alone, a file", count, lambda: verify_audit.verify(path, keys, witness))
        through = record_export(rig.store, rig.log, "M000001", actor="x", reason="", now=rig.clock.now())
        found: list[bytes] = []
        mine = rig.book.records(meter="M000001")
        _tell(
            f"export {len(mine)} of {count} records",
            len(mine),
            lambda: found.extend(evidence_lines(rig.book, "M000001", through=through, key=None)),
        )
        _tell("verify them", len(mine), lambda: verify_evidence("M000001", entries_in_file(found[1:]), [key.public]))


def _tell(what: str, count: int, work: object) -> None:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    took_s = time.perf_counter() - began
    print(f"{what:<45} {count / took_s:>10.0f} /s   {took_s / count * 1e6:>8.1f} µs each")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
