"""How much of a line's time its plans take, pure: known before anything runs.

An exchange costs what is on the wire, 11 bits a byte at the line's rate, and what nobody can speed up: the meter's reply delay
and the pause before the next request. How many bytes those are is the question's affair: of DL/T 645, each way, the wake-up bytes,
12 bytes of frame and DATA: the DI going out, the DI and the item coming back (DL/T 645-2007 §5.2).

A round is one read of every quantity of every meter of a plan. A line whose rounds take more than `SHARE_MAX` of their periods
has no room for retries, for back-filling and for meters that do not answer, and is reported as too full.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from headend.drivers.reading import Question
from protocols.dlt645.frame import FRAME_SIZE_MIN, PREAMBLE_DEFAULT
from protocols.exchange import BITS_PER_BYTE, Timing

__all__ = ["LineBudget", "PlanLoad", "PlanTime", "exchange_s", "line_budget", "line_rate", "read_s"]

REPLY_DELAY_S_TYPICAL = 0.15  # Td is 20 to 500 ms by the standard, and nearer to 20 in most meters
BAUD_ASSUMED = 9600  # behind a tunnel whose rate nobody has told: serial servers are mostly set to it
SHARE_MAX = 0.9
_FASTER = (1200, 2400, 4800, 9600, 19200)
_LONGER_S = (60, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


class PlanLoad(Struct, frozen=True, kw_only=True):
    """What one plan asks on one line. questions: per meter what is asked of it; meters of one contract share the tuple."""

    plan: str
    period_s: int
    questions: Sequence[tuple[Question, ...]]


class PlanTime(Struct, frozen=True, kw_only=True):
    """round_s: one read of everything. share: of the period, 1.0 is all of it."""

    plan: str
    period_s: int
    meters: int
    reads: int
    round_s: float
    share: float


class LineBudget(Struct, frozen=True, kw_only=True):
    """baud_assumed: the line's rate is not known, `baud` is a guess. reply_delay_s: what was reckoned with, `learnt` or typical.

    share: of the line's time, all plans together. fits: there is room for all rounds and a tenth to spare. advice: what would
    help, in words; "" when it fits.
    """

    line: str
    baud: int
    baud_assumed: bool
    reply_delay_s: float
    learnt: bool
    plans: tuple[PlanTime, ...]
    share: float
    fits: bool
    advice: str

    @property
    def text(self) -> str:
        """One line for people."""
        parts = [
            f"{plan.plan}: {plan.meters} meters, {plan.reads} reads, {plan.round_s:.1f} s of every {_duration(plan.period_s)}"
            for plan in self.plans
        ]
        rate = f"{self.baud} baud{' (assumed: the URL says no rate)' if self.baud_assumed else ''}"
        told = f"line {self.line!r} at {rate}: {'; '.join(parts) or 'no meters'}; {self.share:.0%} of the line's time"
        return told if self.fits else f"{told}. Expected at most {SHARE_MAX:.0%}: {self.advice}"


def exchange_s(sent_data: int, received_data: int, timing: Timing, *, baud: int, reply_delay_s: float) -> float:
    """Seconds of one exchange of DL/T 645. sent_data, received_data: bytes of DATA, DI included."""
    wire_bytes = PREAMBLE_DEFAULT + 2 * FRAME_SIZE_MIN + sent_data + received_data
    return _wire_s(wire_bytes, timing, baud, reply_delay_s)


def _wire_s(wire_bytes: int, timing: Timing, baud: int, reply_delay_s: float) -> float:
    return (timing.preamble + wire_bytes) * BITS_PER_BYTE / baud + reply_delay_s + timing.turnaround_s


def read_s(question: Question, timing: Timing, *, baud: int, reply_delay_s: float = REPLY_DELAY_S_TYPICAL) -> float:
    """Seconds to have one question answered; of an item of open size, its least."""
    return _wire_s(question.wire_bytes, timing, baud, reply_delay_s)


def line_rate(timing: Timing) -> tuple[int, bool]:
    """The line's rate, and whether it is only assumed."""
    return (timing.baud, False) if timing.baud else (BAUD_ASSUMED, True)


def line_budget(
    line: str, timing: Timing, loads: Sequence[PlanLoad], *, reply_delay_s: float | None = None
) -> LineBudget:
    """reply_delay_s: as learnt on this line while it ran; None: a typical one is taken."""
    baud, assumed = line_rate(timing)
    delay_s = REPLY_DELAY_S_TYPICAL if reply_delay_s is None else reply_delay_s
    plans = tuple(_plan_time(load, timing, baud, delay_s) for load in loads)
    share = sum(plan.share for plan in plans)
    fits = share <= SHARE_MAX

    def share_at(other_baud: int) -> float:
        return sum(_plan_time(load, timing, other_baud, delay_s).share for load in loads)

    return LineBudget(
        line=line,
        baud=baud,
        baud_assumed=assumed,
        reply_delay_s=round(delay_s, 3),
        learnt=reply_delay_s is not None,
        plans=plans,
        share=round(share, 4),
        fits=fits,
        advice="" if fits else _advice(plans, share, baud, share_at),
    )


def _plan_time(load: PlanLoad, timing: Timing, baud: int, reply_delay_s: float) -> PlanTime:
    known: dict[int, float] = {}  # meters of one contract share the tuple: reckoned once
    round_s = 0.0
    for questions in load.questions:
        if id(questions) not in known:
            known[id(questions)] = sum(
                read_s(question, timing, baud=baud, reply_delay_s=reply_delay_s) for question in questions
            )
        round_s += known[id(questions)]
    return PlanTime(
        plan=load.plan,
        period_s=load.period_s,
        meters=len(load.questions),
        reads=sum(len(question.registers) for questions in load.questions for question in questions),
        round_s=round(round_s, 3),
        share=round(round_s / load.period_s, 4),
    )


def _advice(plans: Sequence[PlanTime], share: float, baud: int, share_at: Callable[[int], float]) -> str:
    """What would help, the least intrusive first."""
    ways = []
    if faster := next((rate for rate in _FASTER if rate > baud and share_at(rate) <= SHARE_MAX), None):
        ways.append(f"{faster} baud ({share_at(faster):.0%})")
    heaviest = max(plans, key=lambda plan: plan.share)
    room = SHARE_MAX - (share - heaviest.share)
    if longer := next((s for s in _LONGER_S if s > heaviest.period_s and heaviest.round_s / s <= room), None):
        ways.append(f"a period of {_duration(longer)} for plan {heaviest.plan!r}")
    if room > 0 and heaviest.reads:
        fitting = int(heaviest.reads * room / heaviest.share)
        ways.append(f"at most {fitting} of the {heaviest.reads} reads of plan {heaviest.plan!r}")
    meters = sum(plan.meters for plan in plans)
    if (lines := -int(-share // SHARE_MAX)) <= meters:
        ways.append(f"{lines} lines for these meters")
    return "what would help: " + ", or ".join(ways)


def _duration(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
