"""Carrying a conformance run to a meter: the examination decides what to ask, the line asks it."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta

from firmware_contracts.conformance import Check, Examination, checks, matching
from firmware_contracts.contract import Contract
from firmware_contracts.findings import Answer, Ask, Device, Report
from headend.clock import Clock
from headend.drivers.errors import LineDown, NoAnswer
from headend.drivers.line import Line, Priority
from headend.drivers.patience import Patience
from headend.errors import HeadendError
from protocols.dlt645.messages import ReadRequest, Refused
from protocols.exchange import NoReply, Replied, Request, Silence

__all__ = ["NothingToCheck", "SilentMeter", "chosen_checks", "examine"]

NEVER = float("-inf")
LATE_FACTOR = 6.0  # time-outs; replies have been seen up to five late
DOUBLE_S_MAX = 1.0  # after a refusal, its double may still come
PAUSE_S_MIN, PAUSE_S_MAX = 0.03, 0.15  # a fast device doubles fast; what comes later than this is met by asking again
SILENT_ASKS_MAX = 4  # address, wildcard, two plain requests: a meter that answers none of them is not there


class NothingToCheck(HeadendError):
    def __init__(self, patterns: list[str]) -> None:
        super().__init__(f"no check fits {', '.join(patterns)}: give a DI, a family such as freezes, or part of a name")


class SilentMeter(HeadendError):
    """The meter answered none of the first requests. error: of the last one, with advice."""

    def __init__(self, error: NoAnswer) -> None:
        super().__init__(str(error))
        self.error = error


def chosen_checks(contract: Contract, only: list[str], *, writes: bool = False) -> list[Check]:
    """The checks to run. only: patterns by DI, family or name; all without. Raises NothingToCheck."""
    wanted = matching(checks(contract, writes=writes), only)
    if not wanted:
        raise NothingToCheck(only)
    return wanted


async def examine(
    line: Line,
    contract: Contract,
    device: Device,
    *,
    clock: Clock,
    wanted: list[Check] | None = None,
    writes: bool = False,
    retries: int = 1,
    progress: Callable[[Examination], None] = lambda _: None,
) -> Report:
    """Run the checks of `contract` on one meter, on a line of its own; `progress` is called before each request.

    wanted: as `chosen_checks` gives them; all unless given. writes: also those that set the meter's clock to its own time
    and freeze now. Raises SilentMeter, LineDown.
    """
    line.patience = _SamePatience(line.timing.reply_timeout_s)
    examination = Examination(contract, device, wanted or chosen_checks(contract, [], writes=writes), writes=writes)
    began_at, began_s = clock.now(), clock.monotonic()
    carrier = _Carrier(line, retries, clock)
    error: NoAnswer | None = None
    while (ask := examination.ask(clock.now())) is not None:
        progress(examination)
        answer, error = await carrier.carry(ask)
        examination.take(answer)
        if error is not None and not examination.heard and examination.asked >= SILENT_ASKS_MAX:
            raise SilentMeter(error)
    progress(examination)
    if not examination.heard and error is not None:
        raise SilentMeter(error)
    return Report(
        contract=contract.name,
        description=contract.description,
        line=line.url.text,
        meter=device.address,
        began_at=began_at,
        took=timedelta(seconds=clock.monotonic() - began_s),
        findings=tuple(examination.findings),
    )


class _SamePatience(Patience):
    """The line's own time-out for every item: what a meter needs for four bytes says nothing about its longest record."""

    def timeout_s(self, address: str) -> float | None:
        return None


class _Carrier:
    """Sends what the examination asks.

    A refusal does not say what it refuses, and a device that lacks much refuses often: a refusal like one of a moment ago may
    be its double, and after a time-out any may be late. It counts when it comes again, after a pause in which surplus frames show
    themselves. Once one has, the pauses are as long as doubles may take.
    """

    def __init__(self, line: Line, retries: int, clock: Clock) -> None:
        self._line = line
        self._retries = retries
        self._clock = clock
        self._refused_at: dict[bytes, float] = {}
        self._unanswered_at = NEVER
        self._surplus = line.counters.unmatched_frames

    async def carry(self, ask: Ask) -> tuple[Answer, NoAnswer | None]:
        """The answer, and why there is none. Only plain reads are repeated: the rest means something else the second time.

        Raises LineDown when the line cannot be connected anew.
        """
        began_s = self._clock.monotonic()
        tries = 1 + (self._retries if isinstance(ask.message, ReadRequest) else 0)
        error: NoAnswer | None = None
        for number in range(tries):
            if not self._line.is_up:
                await (
                    self._line.connect()
                )  # the line hangs up on a far end that stays silent, and far ends hang up, too
            try:
                replied = await self._exchange(ask, None if number == 0 else began_s)
                if self._may_refuse_another(replied):
                    await self._let_doubles_pass(replied)
                    with contextlib.suppress(NoAnswer):
                        replied = await self._exchange(ask, began_s)
            except NoAnswer as no_answer:
                error, self._unanswered_at = no_answer, self._clock.monotonic()
                continue
            except LineDown as broken:
                error = _as_silence(ask, broken, self._clock.monotonic() - began_s)
                continue
            if isinstance(replied.message, Refused):
                self._refused_at[replied.wire_received] = self._clock.monotonic()
            return _answer(replied), None
        assert error is not None
        elapsed_s = self._clock.monotonic() - began_s
        return (
            Answer(
                message=None,
                silence=error.kind,
                wire_sent=error.wire_sent,
                wire_received=error.wire_received,
                elapsed_s=elapsed_s,
            ),
            error,
        )

    def _may_refuse_another(self, replied: Replied) -> bool:
        """The double of a refusal, or a late one of something that seemed to stay without answer."""
        if not isinstance(replied.message, Refused):
            return False
        now = self._clock.monotonic()
        doubles_until = self._refused_at.get(replied.wire_received, NEVER) + DOUBLE_S_MAX
        late_until = self._unanswered_at + LATE_FACTOR * self._line.timing.reply_timeout_s
        return now < max(doubles_until, late_until)

    async def _let_doubles_pass(self, replied: Replied) -> None:
        await asyncio.sleep(min(max(replied.elapsed_s, PAUSE_S_MIN), PAUSE_S_MAX))
        if self._line.counters.unmatched_frames > self._surplus:
            await asyncio.sleep(DOUBLE_S_MAX)

    async def _exchange(self, ask: Ask, began_at: float | None) -> Replied:
        request = Request(ask.address, ask.message, began_at, takes_repeats=True)
        replied = await self._line.exchange(request, Priority.ON_DEMAND)
        assert isinstance(replied, Replied)
        return replied


def _answer(replied: Replied) -> Answer:
    return Answer(
        message=replied.message,
        address=replied.address,
        wire_sent=replied.wire_sent,
        wire_received=replied.wire_received,
        elapsed_s=replied.elapsed_s,
    )


def _as_silence(ask: Ask, broken: LineDown, elapsed_s: float) -> NoAnswer:
    """A far end that hangs up instead of answering has not answered."""
    heard = broken.wire_received
    return NoAnswer(
        NoReply(
            request=Request(ask.address, ask.message),
            silence=Silence.CORRUPT if heard else Silence.SILENT,
            wire_sent=broken.wire_sent,
            heard=heard,
            elapsed_s=elapsed_s,
        )
    )
