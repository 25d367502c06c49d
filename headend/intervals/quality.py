"""Truth checks: whether what a meter says can be true, before anything is published. Nothing is repaired, nothing estimated.

A read that is a plausible movement from the channel's last good one passes at once. Any other is looked at by all rules; the first
that applies names the root. A suspect read is held: it never becomes the baseline. From then on

- a read that is a plausible movement from the baseline clears the suspicion (the suspect one was a glitch);
- a read that goes on from the suspect level is suspect too, whatever time has passed, under the same root and without a new alarm;
- a second read, taken at once, confirms or clears (`judge`); once confirmed, only a fact lifts the suspicion (`history.rebased`): a
  meter exchange, or an operator who accepts the amount.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal

from msgspec import Struct
from msgspec.structs import replace

from headend.feed.envelope import iso_utc
from headend.intervals import checks
from headend.intervals.clocks import FLAGGED_S, age_of, clock_off, stale
from headend.intervals.context import HISTORY_AFTER_H, Context, Seen, allowed_ticks, moment_of_read, usual_ticks
from headend.intervals.findings import Finding, Outcome
from headend.intervals.history import GREATEST, History, Suspicion, moment_of, second_of, shown
from headend.intervals.registers import TICKS, Kind, rolled_over, ticks_of
from headend.intervals.sums import flow_w, phase_sum, tariff_sum
from headend.model import Quality, Read

__all__ = ["TruthChecks", "Verdict", "judge"]

Check = Callable[[Read, History | None, Seen], Finding | None]

# In order of precedence.
_CHECKS: tuple[Check, ...] = (
    checks.meter_swapped,
    checks.unit_changed,
    checks.busy_as_number,
    checks.zero_glitch,
    checks.scale_changed,
    checks.rollover_implausible,
    checks.backward_step,
    checks.spike_physical,
    checks.spike_history,
    checks.stuck,
    stale,
    clock_off,
)
_LEVEL_CHECKS = frozenset(_CHECKS[2:9])
_OTHER_CHECKS = tuple(check for check in _CHECKS if check not in _LEVEL_CHECKS)
# Rules that leave a register at a level from which it may go on.
_LEVELS = frozenset(
    (
        "busy-as-number",
        "zero-glitch",
        "scale-changed",
        "rollover-implausible",
        "backward-step",
        "spike-physical",
        "spike-history",
        "meter-swapped",
    )
)
_LASTING = frozenset(("clock-off", "meter-swapped"))  # another read a second later says the same
_SUMS = frozenset(("tariff-sum", "phase-sum"))
PEAK_SECONDS_MIN = 300  # over less, the last digit looks like power
HOURS_AT_ONCE_MAX = 26
WATCHED_H_MAX = 255
POWER = ".7.0"  # of an OBIS code: measured anew each time
SMALL_STEP = 10_000_000  # ticks: 10 kWh, or a tenth of the register: too near for another meter's level


class Verdict(Struct, frozen=True, gc=False):
    """read: with quality SUSPECT when a finding holds it. history: what to give to the next examination of the channel.

    ask_again: a second read, taken now, would tell a glitch from a lasting level. is_news: the root was not known before; without
    it a suspect read is no alarm.
    """

    read: Read
    findings: tuple[Finding, ...]
    history: History | None
    ask_again: bool = False
    is_news: bool = False
    has_rolled_over: bool = False

    @property
    def is_held(self) -> bool:
        return bool(self.findings) and any(finding.is_held for finding in self.findings)


class TruthChecks:
    """All rules over one read, or over what one meter said in one round. Keeps nothing: histories are the caller's."""

    def examine(self, read: Read, context: Context) -> Verdict:
        """What the channel's own history says of a read. Missing reads, and those that came suspect, pass without a look."""
        return _examine(read, context, context.power_w)

    def examine_round(self, reads: Sequence[tuple[Read, Context]]) -> list[Verdict]:
        """Reads of one meter for one interval end, also against each other. Sums are made of reads that nothing else holds."""
        whole = {read.obis: read.amount for read, _ in reads if read.amount is not None}
        verdicts = []
        for read, context in reads:
            power_w = flow_w(read.obis, whole) if context.power_w is None else context.power_w
            verdicts.append(_examine(read, context, power_w))
        good = [verdict.read for verdict in verdicts if verdict.read.amount is not None and not verdict.is_held]
        amounts: dict[str, Decimal] = {read.obis: read.amount for read in good if read.amount is not None}
        if len(amounts) > 1:
            moments = [moment_of_read(read) for read in good]
            skew_s = -(-(max(moments) - min(moments)).total_seconds() // 1)
            for place, (read, context) in enumerate(reads):
                if read.obis not in amounts:
                    continue
                near, apart_s = (amounts, int(skew_s)) if not skew_s else _near(read, good, amounts, int(skew_s))
                for check in (tariff_sum, phase_sum):
                    finding = check(read.obis, near, context, apart_s)
                    if finding is not None:
                        verdicts[place] = _held(
                            read, context.history, _seen(read, context, context.power_w), (finding,)
                        )
                        break
        return verdicts


def judge(
    first: Finding, second: Read, context: Context, others: Sequence[tuple[Read, Context]] = ()
) -> tuple[Outcome, Verdict]:
    """What a second read, taken at once, says of a first that was held. context.history: as the first left it.

    A second read without a finding clears the first, and is the one to publish for its moment; one that is no better confirms it.
    others: the rest of its round; sums cannot be cleared without.
    """
    if first.rule in _SUMS and not others:
        raise ValueError(f"a second read alone says nothing of {first.rule}: expected the other registers of its round")
    verdict = TruthChecks().examine_round([(second, context), *others])[0]
    value = "none" if second.amount is None else shown(second.amount)
    evidence = {"rule": first.rule, "second": value, "second_at": iso_utc(second.received_at)}
    history = verdict.history
    if second.amount is None or Quality.SUSPECT in second.quality:
        return Outcome(False, evidence), verdict
    if not verdict.is_held or history is None or history.suspicion is None:
        return Outcome(True, evidence), verdict
    suspicion = replace(history.suspicion, is_confirmed=True)
    root = Finding(suspicion.rule, _told(suspicion, second))
    also = tuple(finding for finding in verdict.findings if finding.rule != root.rule)
    confirmed = replace(verdict, findings=(root, *also), history=replace(history, suspicion=suspicion), ask_again=False)
    return Outcome(False, evidence), confirmed


# ------------------------------------------------------------------------------------------------ looking


def _examine(read: Read, context: Context, power_w: int | None) -> Verdict:
    history = context.history
    if read.amount is None or Quality.SUSPECT in read.quality:
        return Verdict(read, (), history)
    seen = _seen(read, context, power_w)
    if history is not None and history.suspicion is None and seen.elapsed >= 0 and _is_plain(read, history, seen):
        return Verdict(read, (), _learned(read, history, seen), False, False, seen.has_rolled_over)
    return _examined(read, history, seen)


def _near(read: Read, good: Sequence[Read], amounts: dict[str, Decimal], skew_s: int) -> tuple[dict[str, Decimal], int]:
    """What a read can be held against, and how far apart that was captured: powers against those of the same reply only."""
    if not read.obis.endswith(POWER):
        return amounts, skew_s
    moment = moment_of_read(read)
    return {one.obis: one.amount for one in good if one.amount is not None and moment_of_read(one) == moment}, 0


def _seen(read: Read, context: Context, power_w: int | None) -> Seen:
    history = context.history
    assert read.amount is not None
    ticks, at = ticks_of(read.amount), second_of(moment_of_read(read))
    if history is None or not history.at:
        return Seen(context, power_w, ticks, at, 0, 0, 0)
    moved, elapsed = ticks - history.last, at - history.at
    allowed = allowed_ticks(context.register, history, abs(elapsed))
    seen = Seen(context, power_w, ticks, at, moved, elapsed, allowed)
    is_lower_later = moved < 0 if elapsed >= 0 else moved > 0
    if is_lower_later and context.register.modulus is not None and context.register.kind is Kind.CUMULATIVE:
        seen.has_rolled_over = _rolls_over(read, history, seen)
    return seen


def _rolls_over(read: Read, history: History, seen: Seen) -> bool:
    register = seen.context.register
    knows_most = register.power_max_w is not None or history.watched_h >= HISTORY_AFTER_H
    most = Decimal(seen.allowed) / TICKS if knows_most else None
    assert read.amount is not None
    baseline = Decimal(history.last) / TICKS
    before, after = (baseline, read.amount) if seen.elapsed >= 0 else (read.amount, baseline)
    return rolled_over(before, after, register, most) is not None


def _is_plain(read: Read, history: History, seen: Seen) -> bool:
    """Nothing to look at: the commonest case by far, so it is made of few comparisons."""
    context = seen.context
    if read.unit is not history.unit or not history.at or checks.serials_differ(context):
        return False
    if context.clock_offset_s is not None and abs(context.clock_offset_s) > FLAGGED_S:
        return False
    if read.read_at is not None and not (seen.elapsed > 0 < seen.at and _is_punctual(read, history)):
        return False
    if seen.moved == 0:  # it may stand still, unless it has done so for long
        is_young = history.still_h + seen.elapsed // 3600 + 1 < checks.STUCK_AFTER_H
        return (is_young or not history.peak_w) and history.flows + 1 < checks.STUCK_FLOWS
    return _is_plausible(history, seen)


def _is_punctual(read: Read, history: History) -> bool:
    """The label is the interval end itself, now and before, and not in the future."""
    return read.read_at == read.interval_end and not history.age_s and read.received_at >= read.interval_end


def _is_plausible(history: History, seen: Seen) -> bool:
    """A movement that the register can have made since the last good read."""
    register, moved = seen.context.register, seen.moved
    if register.kind is Kind.CUMULATIVE:
        if seen.elapsed < 0:  # an older one stands lower
            return -seen.allowed <= moved <= 0 or seen.has_rolled_over
        return 0 <= moved <= seen.allowed or seen.has_rolled_over
    if seen.ticks == 0 or register.marks or checks.is_wide_mark(seen.ticks):
        return False
    if register.kind is Kind.MOMENTARY:
        most = GREATEST if register.most_ticks is None else register.most_ticks
        return history.last < 2 * seen.ticks < 4 * history.last and seen.ticks <= most
    return register.kind is Kind.BALANCE and abs(moved) <= seen.allowed


def _examined(read: Read, history: History | None, seen: Seen) -> Verdict:
    baseline = None if history is None or not history.at else history
    suspicion = None if history is None else history.suspicion
    if suspicion is not None and baseline is not None and seen.elapsed >= 0 and _goes_on(baseline, suspicion, seen):
        return _still_held(read, baseline, suspicion, seen)
    is_ordered = seen.elapsed >= 0 or seen.context.register.kind is Kind.CUMULATIVE
    is_level_good = baseline is not None and is_ordered and _is_plausible(baseline, seen)
    rules = _OTHER_CHECKS if is_level_good else _CHECKS
    findings = [finding for check in rules if (finding := check(read, baseline, seen)) is not None]
    held = [finding for finding in findings if finding.is_held]
    flagged = tuple(finding for finding in findings if not finding.is_held)
    if held:
        return _held(read, history, seen, (held[0], *flagged))
    if seen.elapsed < 0:
        return Verdict(read, flagged, history)  # an older one, fetched later: the baseline is ahead of it
    learned = _begun(read, history, seen) if baseline is None else _learned(read, baseline, seen)
    return Verdict(read, flagged, learned, False, False, seen.has_rolled_over)


def _goes_on(history: History, suspicion: Suspicion, seen: Seen) -> bool:
    """Whether the read belongs to what is suspected already, so that no rule need look at it again."""
    context = seen.context
    if "serial_found" in suspicion.evidence:
        return not context.serial_found or context.serial_found != context.serial_expected
    if suspicion.rule == "stuck":
        return seen.moved == 0
    if suspicion.rule not in _LEVELS or context.register.kind not in (Kind.CUMULATIVE, Kind.BALANCE):
        return False
    if suspicion.level > history.last:
        return seen.ticks >= suspicion.level
    if seen.ticks < history.last:
        return seen.ticks >= suspicion.level
    if suspicion.reads < 2 or _is_small_step(history, suspicion):
        return False
    # It has climbed past the baseline from below. Time alone does not make another register this one; but one leap from the suspect
    # level to where it stood before is the end of a glitch, so that no more is allowed than is usual.
    room = usual_ticks(context.register, history, max(0, seen.at - suspicion.last_at))
    return suspicion.last <= seen.ticks <= suspicion.last + room


def _is_small_step(history: History, suspicion: Suspicion) -> bool:
    return history.last - suspicion.level <= min(SMALL_STEP, history.last // 10)


# ------------------------------------------------------------------------------------------------ holding


def _held(read: Read, history: History | None, seen: Seen, findings: tuple[Finding, ...]) -> Verdict:
    base = History(unit=seen.context.register.unit) if history is None else history
    root, known = findings[0], base.suspicion
    if seen.elapsed < 0:  # an older read says nothing of where the register stands now
        return Verdict(_suspect(read), findings, history, False, True)
    is_known = known is not None and known.rule == root.rule
    suspicion = Suspicion(
        rule=root.rule,
        evidence=root.evidence,
        since=known.since if known is not None and is_known else seen.at,
        level=_kept(seen.ticks),
        last=_kept(seen.ticks),
        last_at=seen.at,
        reads=known.reads + 1 if known is not None and is_known else 1,
        is_confirmed=known is not None and is_known and known.is_confirmed,
    )
    if is_known:
        findings = (Finding(root.rule, root.evidence | _standing(suspicion)), *findings[1:])
    ask_again = not is_known and root.rule not in _LASTING
    return Verdict(_suspect(read), findings, replace(base, suspicion=suspicion), ask_again, not is_known)


def _still_held(read: Read, history: History, suspicion: Suspicion, seen: Seen) -> Verdict:
    moves_on = seen.ticks > suspicion.level and suspicion.level < history.last
    is_another = (
        moves_on
        and suspicion.rule in ("zero-glitch", "backward-step")
        and (suspicion.is_confirmed or suspicion.reads >= 2)
        and not _is_small_step(history, suspicion)
    )
    following = Suspicion(
        rule="meter-swapped" if is_another else suspicion.rule,
        evidence=suspicion.evidence | {"first_rule": suspicion.rule} if is_another else suspicion.evidence,
        since=suspicion.since,
        level=suspicion.level,
        last=_kept(seen.ticks),
        last_at=seen.at,
        reads=suspicion.reads + 1,
        is_confirmed=suspicion.is_confirmed,
    )
    finding = Finding(following.rule, _told(following, read))
    return Verdict(_suspect(read), (finding,), replace(history, suspicion=following), False, is_another)


def _kept(ticks: int) -> int:
    """As it fits into a stored number; how far beyond all registers an amount lies is of no matter."""
    return max(-GREATEST, min(ticks, GREATEST))


def _told(suspicion: Suspicion, read: Read) -> dict[str, str]:
    assert read.amount is not None
    return suspicion.evidence | {"value": shown(read.amount)} | _standing(suspicion)


def _standing(suspicion: Suspicion) -> dict[str, str]:
    standing = {"since": iso_utc(moment_of(suspicion.since)), "reads": str(suspicion.reads)}
    return standing | {"confirmed": "true"} if suspicion.is_confirmed else standing


def _suspect(read: Read) -> Read:
    return replace(read, quality=(*read.quality, Quality.SUSPECT))


# ------------------------------------------------------------------------------------------------ learning


def _begun(read: Read, history: History | None, seen: Seen) -> History:
    """With a first good read; what an exchanged meter taught of the customer still holds."""
    known = History(unit=read.unit) if history is None else history
    return replace(
        known,
        unit=read.unit,
        last=seen.ticks,
        at=max(1, seen.at),
        age_s=age_of(read),
        still_h=0,
        flows=0,
        suspicion=None,
    )


def _learned(read: Read, history: History, seen: Seen) -> History:
    """The history after a good read, which is the baseline from now on."""
    moved, elapsed = seen.moved, seen.elapsed
    if elapsed == 0 and moved == 0:
        return history if history.suspicion is None else replace(history, suspicion=None)
    hours = checks.hours_between(history.at, seen.at)
    peak_w, still_h, idle_h, flowed = history.peak_w, history.still_h, history.idle_h, 0
    if moved:
        if still_h > idle_h:
            idle_h = still_h
        still_h = 0
        if seen.context.register.kind is Kind.MOMENTARY:
            peak_w = 1  # it has moved; how far means nothing
        elif moved > 0 and elapsed >= PEAK_SECONDS_MIN:
            average_w = moved * 18 // (5 * elapsed)
            peak_w = max(peak_w, average_w)
    else:
        still_h = checks.standing_still_h(history, seen)
        if checks.flows(seen):
            flowed = min(history.flows + 1, checks.STUCK_FLOWS)
        elif 2 * elapsed < seen.context.period_s:
            flowed = history.flows  # a read between two rounds says nothing
    return History(
        history.unit,
        seen.ticks,
        seen.at,
        age_of(read) if read.read_at is not None else None,
        peak_w,
        still_h,
        idle_h,
        min(history.watched_h + min(hours, HOURS_AT_ONCE_MAX), WATCHED_H_MAX),
        flowed,
        None,
        history.generation,
    )
