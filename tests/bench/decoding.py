"""Frames decoded per second, ours beside PyPI `dlt645`, on frames of real meters.

Both get the same reply frames as chunks of a stream and must come out with the value that the vector states: for ours Framer,
Frame, message and item with the contract dlt645/base_2007; for the foreign one `deserialize_with_remaining` and what its client
makes of the frame (`handle_response`), with its logging off.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec import Struct

from protocols.dlt645 import items, messages
from protocols.dlt645.frame import Frame
from protocols.dlt645.framer import Framer, Heard
from protocols.dlt645.items import ItemSpec
from protocols.dlt645.messages import ReadReply
from tests.bench.figures import Figure, ratio, spread
from tests.bench.prepared import contract
from tests.vectors import dlt645_vectors

__all__ = ["measure_decoding"]

REPOSITORY = Path(__file__).parents[2]
FAMILIES = ("00", "02")  # energies and momentary values: families of which both decode single amounts
NOT_FOREIGN = ("00900200",)  # remaining energy of a prepaid meter, which the foreign table does not have
CHILD_S_MAX = 120.0


class _Case(Struct, frozen=True):
    wire: bytes
    value: float
    spec: ItemSpec


def _cases() -> list[_Case]:
    """Right 2007 read replies of one amount; of blocks the foreign client takes only the first value."""
    return [
        _Case(bytes.fromhex(vector["hex"]), vector["value"], contract().find(items.Di(vector["di"])))
        for vector in dlt645_vectors()
        if vector["valid"]
        and (vector["ver"], vector["fn"], vector["dir"]) == ("2007", "read data", "s2m")
        and isinstance(vector["value"], float)
        and vector["di"][:2] in FAMILIES
        and vector["di"] not in NOT_FOREIGN
    ]


# ------------------------------------------------------------------------------------------------ the two


def _ours(cases: list[_Case], framer: Framer) -> list[Decimal | str | None]:
    contents = []
    for case in cases:
        for heard in framer.receive(case.wire, 0.0):
            assert type(heard) is Heard
            message = messages.decode(heard.frame)
            assert type(message) is ReadReply
            contents.append(items.decode(message.data, case.spec)[0].content)
    return contents


class _Foreign:
    def __init__(self) -> None:
        from dlt645 import disable_logging
        from dlt645.aio import AsyncMeterClientService, AsyncTcpClient
        from dlt645.protocol.protocol import DLT645Protocol

        disable_logging()
        self._service: Any = AsyncMeterClientService(AsyncTcpClient())
        self._take: Any = DLT645Protocol.deserialize_with_remaining

    def decode(self, cases: list[_Case]) -> list[float]:
        service, values = self._service, []
        for case in cases:
            _, frame = self._take(case.wire)
            service.address = frame.addr  # it checks the address, and there are many meters here
            values.append(service.handle_response(frame).value)
        return values


# ------------------------------------------------------------------------------------------------ stages of ours


def _stages(cases: list[_Case]) -> dict[str, Callable[[], object]]:
    framer = Framer()
    frames = [Frame.from_bytes(case.wire) for case in cases]
    replies = [(messages.decode(frame), case.spec) for frame, case in zip(frames, cases, strict=True)]
    data = [(reply.data, spec) for reply, spec in replies if isinstance(reply, ReadReply)]
    return {
        "framer and frame": lambda: [framer.receive(case.wire, 0.0) for case in cases],
        "frame alone": lambda: [Frame.from_bytes(case.wire) for case in cases],
        "message": lambda: [messages.decode(frame) for frame in frames],
        "item values": lambda: [items.decode(one, spec) for one, spec in data],
    }


# ------------------------------------------------------------------------------------------------ measuring


def _rates(rounds: int, seconds: float) -> dict[str, list[float]]:
    """Frames per second of each part, the parts in turn, as often as there are rounds."""
    cases, framer, foreign = _cases(), Framer(), _Foreign()
    stated = [case.value for case in cases]
    assert len(cases) >= 10
    assert [float(content) for content in _ours(cases, framer) if isinstance(content, Decimal)] == stated
    assert [round(value, 6) for value in foreign.decode(cases)] == stated
    parts: dict[str, Callable[[], object]] = {
        "headend": lambda: _ours(cases, framer),
        "PyPI dlt645": lambda: foreign.decode(cases),
        **_stages(cases),
    }
    rates: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            rates[name].append(len(cases) * _repeat(part, seconds))
    return rates


def _repeat(part: Callable[[], object], seconds: float) -> float:
    """How often per CPU second of this process, which has one thread: other work of the machine does not count."""
    begin = time.process_time()
    count = 0
    while (used := time.process_time() - begin) < seconds:
        for _ in range(20):
            part()
        count += 20
    return count / used


def measure_decoding(*, rounds: int, seconds: float) -> list[Figure]:
    """In a process of its own, so that nothing the benchmark did before is in its caches or its garbage collector."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.decoding", str(rounds), str(seconds)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=CHILD_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rates: dict[str, list[float]] = json.loads(done.stdout)
    whole = _figure("headend: frames decoded", rates.pop("headend"))
    other = _figure("PyPI dlt645: frames decoded", rates.pop("PyPI dlt645"))
    return [
        whole,
        other,
        ratio("headend over PyPI dlt645, decoding", whole, other),
        *(_figure(f"headend, {stage}", stage_rates) for stage, stage_rates in rates.items()),
    ]


def _figure(name: str, rates: Iterable[float]) -> Figure:
    return spread(name, "/CPU s", rates)


if __name__ == "__main__":
    print(json.dumps(_rates(int(sys.argv[1]), float(sys.argv[2]))))
