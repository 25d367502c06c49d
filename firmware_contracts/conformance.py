"""Holding a device against its contract: which checks there are, and running them one exchange at a time.

An `Examination` is a state machine without I/O and without a clock, like the protocol sessions: take its next request
with `ask`, carry it to the meter, give back what came with `take`, until `ask` gives None; `findings` grow on the way.
What carries the requests, a serial line or a simulated one, makes no difference to the verdicts.

A check is a script (`conformance_scripts`, `device_scripts`): a generator that yields requests, is sent answers, ends with a verdict.
Nothing here can switch a relay: a script may only send what `ALLOWED` lists, and what writes needs `writes=True`.
"""

import fnmatch
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime

from msgspec import Struct

from firmware_contracts import device_scripts as scripts
from firmware_contracts.conformance_scripts import item_script
from firmware_contracts.contract import Contract
from firmware_contracts.families import RELAY, family_of
from firmware_contracts.fetching import Judged, Kit, Script
from firmware_contracts.findings import Answer, Ask, Device, Exchange, Finding
from protocols.dlt645.frame import HEADER_SIZE
from protocols.dlt645.items import ItemSpec
from protocols.dlt645.messages import (
    FollowUpRequest,
    FreezeRequest,
    ReadAddressRequest,
    ReadRequest,
    RepeatRequest,
    TimeSync,
)

__all__ = ["ALLOWED", "ALLOWED_WITH_WRITES", "Check", "Examination", "ForbiddenRequest", "checks", "matching"]

ALLOWED = (ReadRequest, FollowUpRequest, RepeatRequest, ReadAddressRequest)
ALLOWED_WITH_WRITES = (*ALLOWED, TimeSync, FreezeRequest)


class ForbiddenRequest(AssertionError):
    """A script wanted to send what it may not: a bug of ours, and nothing has left."""


class Check(Struct, frozen=True, kw_only=True):
    """One thing to find out. name: a DI, or a word; unique within a contract. writes: changes something in the meter."""

    name: str
    family: str
    title: str
    script: Script
    di: str = ""
    writes: bool = False


def checks(contract: Contract, *, writes: bool = False) -> list[Check]:
    """Everything that can be found out about a meter of this contract, in the order in which it should be asked."""
    return [check for check in _all_checks(contract) if writes or not check.writes]


def matching(found: Sequence[Check], patterns: Sequence[str]) -> list[Check]:
    """Those whose name or family fits a pattern with * and ?; for a pattern that fits none, whose title contains it.

    Without patterns: all.
    """
    chosen: set[str] = set()
    for pattern in (pattern.lower() for pattern in patterns):
        by_name = {check.name for check in found if _is_named(check, pattern)}
        chosen |= by_name or {check.name for check in found if pattern in check.title.lower()}
    return [check for check in found if not patterns or check.name in chosen]


def _is_named(check: Check, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for name in (check.name, check.family))


def _all_checks(contract: Contract) -> Iterator[Check]:
    edition_2007 = contract.protocol == "dlt645-2007"
    if edition_2007:
        yield _own("address", "addressing", "Tells its address (13H)", scripts.read_address)
    yield _own("wildcard", "addressing", "Answers to its last digits behind AAH", scripts.wildcard)
    yield _own("unknown-item", "refusals", "Refuses an item that nobody has", scripts.unknown_item)
    yield _own("passwords", "refusals", "Never gives a password away", scripts.passwords)
    yield _own("clock", "clock", "Its clock is right", scripts.clock)
    if not edition_2007:
        yield _own("repeat", "reading", "Repeats its last reply (03H)", scripts.repeat)
    for spec in sorted(contract.samples(), key=_order):
        if "r" in spec.access:
            yield _item(spec)
    yield _own("sum-of-tariffs", "consistency", "Total energy is the sum of its tariffs", scripts.sum_of_tariffs)
    yield _own("power", "consistency", "Power agrees with voltage and current", scripts.power)
    if edition_2007:
        yield _own(
            "freeze", "consistency", "Present energy agrees with the last daily freeze", scripts.energy_and_freeze
        )
        yield _own("block-count", "reading", "Reads the number of blocks as the contract says", scripts.block_count)
    yield _own("follow-up", "reading", "Long replies come in several frames", scripts.follow_up)
    if edition_2007 and contract.limits.follow_up:
        yield _own("repeated-follow-up", "reading", "A SEQ asked for twice", scripts.repeated_follow_up)
    if edition_2007:  # 1997 knows the time as a broadcast only, and that is no test of one meter
        yield _own("time-sync", "writing", "Takes its own time (08H)", scripts.time_sync, writes=True)
        yield _own("freeze-now", "writing", "Freezes now (16H)", scripts.freeze_now, writes=True)


def _own(name: str, family: str, title: str, script: Script, *, writes: bool = False) -> Check:
    return Check(name=name, family=family, title=title, script=script, writes=writes)


def _item(spec: ItemSpec) -> Check:
    di = spec.di.text
    return Check(name=di, family=family_of(di), title=spec.name, script=item_script(spec), di=di)


def _order(spec: ItemSpec) -> tuple[bool, bool, str]:
    """Single items before the blocks that are compared with them, the relay last: it is what people look for at the end."""
    return family_of(spec.di.text) == RELAY, bool(spec.members), spec.di.text


class Examination:
    """The checks of one run.

    heard: whether this very meter has answered anything at all. asked: requests given out.
    """

    def __init__(self, contract: Contract, device: Device, wanted: Sequence[Check], *, writes: bool = False) -> None:
        self.findings: list[Finding] = []
        self.total = len(wanted)
        self.asked = 0
        self.heard = False
        self._kit = Kit(contract, device)
        self._allowed = ALLOWED_WITH_WRITES if writes else ALLOWED
        self._waiting = list(reversed(wanted))
        self._check: Check | None = None
        self._running: Generator[Ask, Answer, Judged] | None = None
        self._answer: Answer | None = None
        self._frames: list[Exchange] = []
        self._elapsed_s = 0.0

    @property
    def current(self) -> str:
        """What is being checked, for people."""
        return f"{self._check.di} {self._check.title}".strip() if self._check is not None else ""

    def ask(self, now: datetime) -> Ask | None:
        """The next request, or None when all is done. now: aware wall time."""
        self._kit.now = now
        while True:
            if self._running is None:
                if not self._waiting:
                    return None
                self._check = self._waiting.pop()
                self._running = self._check.script(self._kit)
                self._frames, self._elapsed_s, self._answer = [], 0.0, None
            try:
                ask = self._running.send(self._answer)  # type: ignore[arg-type]  # None starts a generator
            except StopIteration as end:
                self._finish(end.value)
                continue
            if not isinstance(ask.message, self._allowed):
                raise ForbiddenRequest(f"{type(ask.message).__name__} in check {self.current}")
            self.asked += 1
            return ask

    def take(self, answer: Answer) -> None:
        self.heard = self.heard or (answer.message is not None and answer.address == self._kit.device.address)
        self._answer = answer
        self._frames.append(Exchange(answer.wire_sent, answer.wire_received))
        self._elapsed_s += answer.elapsed_s

    def _finish(self, judged: Judged) -> None:
        check = self._check
        assert check is not None
        self._running = None
        self.findings.append(
            Finding(
                check=check.name,
                family=check.family,
                title=check.title,
                di=check.di,
                verdict=judged.verdict,
                expected=judged.expected,
                came=judged.came,
                frames=tuple(_without_data(frame) if judged.secret else frame for frame in self._frames),
                elapsed_s=self._elapsed_s,
            )
        )


def _without_data(frame: Exchange) -> Exchange:
    return Exchange(frame.sent, frame.received[:HEADER_SIZE])
