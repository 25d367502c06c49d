"""A scan from its first listening to its result: setting by setting, dialect by dialect.

    for each setting (rate and parity):  listen ─▶ narrow 2007 ─▶ narrow 1997 ─▶ listen for late ones
                                         ─▶ ask doubtful and planned addresses directly ─▶ report

A line on which somebody talks is left alone unless told otherwise. Every exchange is followed by a save, so that a scan that
was killed goes on where it was.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from headend.clock import Clock
from headend.drivers.transport import Connect, LineUrl
from headend.errors import HeadendError
from headend.scanning.ear import Ear, Heed, reply_window_s
from headend.scanning.planned import PlannedMeter
from headend.scanning.questions import (
    contract_hint,
    direct_question,
    is_meter_address,
    late_addresses,
    outcome_of,
    question_for,
)
from headend.scanning.state import Found, ScanState, Setting, SettingReport, save_state
from protocols.dlt645.control import Dialect
from protocols.dlt645.frame import Frame
from protocols.dlt645.messages import dialect_of
from protocols.dlt645.narrowing import QUESTIONS_MAX, Ask, Clean, Narrowing, NarrowingState, pattern_of

__all__ = [
    "BAUDS_FIRST",
    "DIALECTS",
    "PARITIES_FIRST",
    "SETTING_TUNNEL",
    "ScanOptions",
    "Scanner",
    "Step",
    "WrongScanState",
]

# Field practice: most RS-485 lines first; 8N1 is met in cheap submeters (fact sheet 1).
BAUDS_FIRST = (2400, 9600, 1200, 4800)
PARITIES_FIRST = ("E", "N")
SETTING_TUNNEL = Setting()
DIALECTS = (Dialect.V2007, Dialect.V1997)

LISTEN_S = 3.0  # before the first word at a setting
LATE_S = 1.5  # listening after the last word at a setting
TUNNEL_WAIT_S = 3.0  # until the tunnel's pace is known
TUNNEL_WAIT_S_MIN = 0.7  # what a meter may take, above the fastest reply seen
TALK_BYTES_MIN = 10  # heard while nobody asks: less is noise
DIRECT_TRIES = 3
EVIDENCE_MAX = 6


class WrongScanState(HeadendError):
    """The state file belongs to another scan."""


class _SecondMaster(Exception):
    def __init__(self, heed: Heed) -> None:
        super().__init__()
        self.heed = heed


class ScanOptions(Struct, frozen=True, kw_only=True):
    """wait_s: None derives it from the rate, or behind a tunnel from the replies seen. silences, thorough: see Narrowing.

    all_settings: go on after a setting at which meters were found. force: talk although somebody else does.
    """

    settings: tuple[Setting, ...]
    dialects: tuple[Dialect, ...] = DIALECTS
    wait_s: float | None = None
    listen_s: float = LISTEN_S
    silences: int = 1
    thorough: bool = False
    all_settings: bool = False
    force: bool = False
    planned: tuple[PlannedMeter, ...] = ()


class Step(Struct, frozen=True, kw_only=True):
    """share: of this setting's exchanges, 0..1. left_s: about, for this setting and the silent rest. newest: address just found."""

    setting: Setting
    number: int
    doing: str
    found: int
    exchanges: int
    share: float
    left_s: float
    newest: str = ""


class Scanner:
    """One scan of one line. state: None begins; a state that was saved goes on.

    `run` gives the state at its end; raises LineDown when the line breaks, BadScanState when it cannot be saved, WrongScanState.
    """

    def __init__(
        self,
        url: LineUrl,
        options: ScanOptions,
        *,
        connect: Connect,
        clock: Clock,
        state: ScanState | None = None,
        state_path: Path | None = None,
        on_progress: Callable[[Step], None] = lambda _: None,
    ) -> None:
        dialects = [dialect.value for dialect in options.dialects]
        fresh = ScanState(line=url.text, settings=list(options.settings), dialects=dialects)
        self.state = fresh if state is None else state
        if (self.state.line, self.state.settings, self.state.dialects) != (url.text, fresh.settings, dialects):
            raise WrongScanState(
                f"the saved scan is one of {self.state.line} at {', '.join(map(str, self.state.settings))}, dialects "
                f"{', '.join(self.state.dialects)}; expected the same line and restrictions, or remove the file to scan anew"
            )
        self._url = url
        self._options = options
        self._connect = connect
        self._clock = clock
        self._state_path = state_path
        self._on_progress = on_progress
        self._resumed_s = self.state.elapsed_s
        self._began_at = clock.monotonic()
        self._newest = ""

    async def run(self) -> ScanState:
        state = self.state
        self._save()  # before the line is opened: a file that cannot be written is better known now
        began_s = sum(report.elapsed_s for report in state.reports)
        while not state.finished and state.at < len(state.settings):
            setting = state.settings[state.at]
            report = await self._at(setting)
            report.elapsed_s = round(self._elapsed_s() - began_s, 3)
            began_s += report.elapsed_s
            state.reports.append(report)
            state.at += 1
            state.narrowings, state.overheard, state.checked = {}, {}, []
            state.stray_bytes = state.stray_most = state.parity_errors = 0
            enough = report.verdict == "found" and not self._options.all_settings
            state.finished = report.verdict == "busy" or enough or state.at == len(state.settings)
            self._save()
        return state

    # -------------------------------------------------------------------------------------------- one setting

    async def _at(self, setting: Setting) -> SettingReport:
        ear = Ear(_url_at(self._url, setting), connect=self._connect, clock=self._clock)
        await ear.connect()
        try:
            self._show(setting, "listening")
            heed = await ear.listen(self._options.listen_s)
            self._overhear(heed)
            if _somebody_talks(heed) and not self._options.force:
                return self._busy(heed, setting)
            for dialect in self._options.dialects:
                await self._narrow(ear, dialect, setting)
            self._show(setting, "listening for late answers")
            self._overhear(await ear.listen(LATE_S))
            await self._ask_directly(ear, setting)
        except _SecondMaster as error:
            return self._busy(error.heed, setting)
        finally:
            ear.close()
        return self._report(setting)

    async def _narrow(self, ear: Ear, dialect: Dialect, setting: Setting) -> None:
        narrowing = self._narrowing(dialect)
        while (ask := narrowing.ask()) is not None:
            heed = await self._exchange(ear, question_for(dialect, ask).frame(ask.pattern), self._wait_s(setting))
            outcome = outcome_of(heed, ask.pattern, dialect)
            trail, before = narrowing.state.trail, set(narrowing.state.found)
            pattern = pattern_of(narrowing.state.todo[-1])
            narrowing.take(outcome)
            self._overhear(heed)
            for address in late_addresses(heed, ask.pattern, dialect):
                narrowing.overhear(address)
            if isinstance(outcome, Clean):
                self._learn_pace(heed)
            for address in set(narrowing.state.found) - before:
                self._find(address, dialect, setting, question_for(dialect, ask).evidence(ask.pattern))
                for number, count in enumerate(trail.cleans[:QUESTIONS_MAX]):
                    if count:
                        self._find(
                            address, dialect, setting, question_for(dialect, Ask(pattern, number)).evidence(pattern)
                        )
            self._show(setting, f"{dialect.value}: {ask.pattern}")
            self._save()

    def _narrowing(self, dialect: Dialect) -> Narrowing:
        state = self.state.narrowings.setdefault(dialect.value, NarrowingState())
        return Narrowing(state, silences=self._options.silences, thorough=self._options.thorough)

    def _overhear(self, heed: Heed) -> None:
        """Every address in a right frame is kept; those that no pattern singles out are asked directly in the end."""
        self.state.stray_bytes += heed.stray
        self.state.stray_most = max(self.state.stray_most, heed.stray)
        self.state.parity_errors += heed.parity_errors
        for frame in heed.frames:
            if is_meter_address(frame.address):
                self.state.overheard.setdefault(frame.address, dialect_of(frame).value)

    async def _ask_directly(self, ear: Ear, setting: Setting) -> None:
        """Whoever was heard and not singled out, or is planned and missing."""
        state = self.state
        singled = {address for narrowing in state.narrowings.values() for address in narrowing.found}
        doubtful = {address: text for address, text in state.overheard.items() if address not in singled}
        for address, text in doubtful.items():
            if address in state.checked:
                continue
            if not await self._answers(ear, address, [Dialect(text)], setting, DIRECT_TRIES):
                state.unconfirmed.append(address)
            state.checked.append(address)
        for meter in self._options.planned:
            if meter.address in state.checked or any(found.address == meter.address for found in state.found):
                continue
            await self._answers(ear, meter.address, self._options.dialects, setting, self._options.silences)
            state.checked.append(meter.address)

    async def _answers(self, ear: Ear, address: str, dialects: Sequence[Dialect], setting: Setting, tries: int) -> bool:
        """Ask a full address, with patience for a meter that is late."""
        for dialect in dialects:
            question = direct_question(dialect)
            for _ in range(tries):
                self._show(setting, f"{dialect.value}: {address} directly")
                wait_s = max(self._wait_s(setting), LATE_S)
                heed = await self._exchange(ear, question.frame(address), wait_s, until=address)
                self._save()
                if any(frame.address == address for frame in heed.frames):
                    self._find(address, dialect, setting, question.evidence(address))
                    return True
        return False

    async def _exchange(self, ear: Ear, frame: Frame, wait_s: float, *, until: str = "") -> Heed:
        heed = await ear.ask(frame, wait_s, until=until)
        self.state.exchanges += 1
        if heed.second_master is not None and not self._options.force:
            raise _SecondMaster(heed)
        return heed

    # -------------------------------------------------------------------------------------------- what is known

    def _find(self, address: str, dialect: Dialect, setting: Setting, evidence: str) -> None:
        """A meter that speaks both editions is listed once, under the first, with the evidence of both."""
        for found in self.state.found:
            if found.address == address:
                if evidence not in found.evidence and len(found.evidence) < EVIDENCE_MAX:
                    found.evidence.append(evidence)
                return
        self._newest = address
        self.state.found.append(
            Found(
                address=address,
                dialect=dialect.value,
                contract_hint=contract_hint(dialect),
                evidence=[evidence],
                baud=setting.baud,
                parity=setting.parity,
            )
        )

    def _learn_pace(self, heed: Heed) -> None:
        if heed.first_s is not None:
            fastest = self.state.fastest_s
            self.state.fastest_s = heed.first_s if fastest is None else min(fastest, heed.first_s)

    def _wait_s(self, setting: Setting) -> float:
        """Serial: what the standard allows a meter. Tunnel: the same above the fastest reply, which holds the way there and back."""
        if self._options.wait_s is not None:
            return self._options.wait_s
        baud = setting.baud or self._url.baud
        if self._url.scheme == "serial" and baud:
            return reply_window_s(baud)
        fastest = self.state.fastest_s
        return TUNNEL_WAIT_S if fastest is None else min(TUNNEL_WAIT_S, TUNNEL_WAIT_S_MIN + fastest)

    def _busy(self, heed: Heed, setting: Setting) -> SettingReport:
        """Somebody talks. What meters told the other master is worth knowing, and costs nobody anything."""
        for address, dialect in self.state.overheard.items():
            self._find(address, Dialect(dialect), setting, "overheard answering another master")
        asked = f", asking {heed.second_master.address}" if heed.second_master is not None else ""
        what = (
            f"another master talks on this line{asked}"
            if heed.frames or heed.second_master is not None
            else f"{heed.stray} bytes came though nobody asked, and no right frame: another master at another rate, or a babbling "
            f"device"
        )
        return self._report(setting, "busy", f"{what}. Not disturbed further; stop it, or scan with --force")

    def _report(self, setting: Setting, verdict: str = "", text: str = "") -> SettingReport:
        state = self.state
        narrowings = list(state.narrowings.values())
        unresolved = [pattern for narrowing in narrowings for pattern in narrowing.unresolved]
        shared = [address for narrowing in narrowings for address in narrowing.shared]
        here = [found for found in state.found if (found.baud, found.parity) == (setting.baud, setting.parity)]
        if not verdict:
            if here:
                verdict, text = "found", _found_text(len(here), narrowings, unresolved, shared)
            elif unresolved or shared or state.stray_most >= TALK_BYTES_MIN:
                verdict, text = "unreadable", _unreadable_text(state)
            else:
                verdict, text = "empty", "nothing answered"
        return SettingReport(
            baud=setting.baud,
            parity=setting.parity,
            verdict=verdict,
            text=text,
            stray_bytes=state.stray_bytes,
            parity_errors=state.parity_errors,
            unresolved=unresolved,
            shared=shared,
        )

    # -------------------------------------------------------------------------------------------- around it

    def _elapsed_s(self) -> float:
        return self._resumed_s + self._clock.monotonic() - self._began_at

    def _save(self) -> None:
        self.state.elapsed_s = round(self._elapsed_s(), 3)
        if self._state_path is not None:
            save_state(self._state_path, self.state)

    def _show(self, setting: Setting, doing: str) -> None:
        state = self.state
        narrowings = {dialect: self.state.narrowings.get(dialect.value) for dialect in self._options.dialects}
        done = sum(narrowing.exchanges for narrowing in narrowings.values() if narrowing is not None)
        left = sum(3.0 if narrowing is None else Narrowing(narrowing).asks_left() for narrowing in narrowings.values())
        exchange_s = self._wait_s(setting) + 0.1
        rest = 0 if state.found and not self._options.all_settings else len(state.settings) - state.at - 1
        silent_s = self._options.listen_s + LATE_S + 3 * len(narrowings) * exchange_s
        newest, self._newest = self._newest, ""
        self._on_progress(
            Step(
                setting=setting,
                number=state.at + 1,
                doing=doing,
                found=len(state.found),
                exchanges=state.exchanges,
                share=done / (done + left) if done + left else 0.0,
                left_s=left * exchange_s + rest * silent_s,
                newest=newest,
            )
        )


def _somebody_talks(heed: Heed) -> bool:
    return bool(heed.frames) or heed.second_master is not None or heed.stray >= TALK_BYTES_MIN


def _found_text(count: int, narrowings: Sequence[NarrowingState], unresolved: list[str], shared: list[str]) -> str:
    text = f"{count} meter{'s' if count > 1 else ''}"
    if unresolved:
        places = ", ".join(unresolved)
        text += f"; below {places} meters collide, and none answers narrower patterns: with --plan they are asked by address"
    if shared:
        text += f"; replies of {', '.join(shared)} are damaged every time: two meters with one address?"
    if any(narrowing.abandoned for narrowing in narrowings):
        text += "; given up before the end, because something babbles: the list is not whole"
    return text


def _unreadable_text(state: ScanState) -> str:
    parity = f", {state.parity_errors} with a parity error" if state.parity_errors else ""
    return (
        f"{state.stray_bytes} bytes came{parity}, and no right frame: a device is there. Wrong rate or parity, missing termination, "
        f"swapped wires, or meters that collide and know no wildcard"
    )


def _url_at(url: LineUrl, setting: Setting) -> LineUrl:
    if setting.baud is None or setting.parity is None:
        return url
    return replace(url, baud=setting.baud, parity=setting.parity)
