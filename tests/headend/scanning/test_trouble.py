"""Lines that are not as they should be: somebody talks, garbage, cuts, kills; and going on from a saved state."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from headend.drivers.errors import LineDown
from headend.scanning.scanner import Step, WrongScanState
from headend.scanning.state import BadScanState, ScanState, Setting, load_state
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadReply, ReadRequest, encode
from simulators.faults import Fault, FaultKind
from tests.headend.scanning.support import AT_2400, Place, addresses_of, random_addresses, scan

ENERGY = Di("00010000")
ASKED = encode(ReadRequest(di=ENERGY), "000000000042").to_bytes(4)
ANSWERED = encode(ReadReply(di=ENERGY, data=bytes(4)), "000000000042").to_bytes(4)


class Talkers:
    """A bus that talks by itself: `wires` one after the other, every `every_s`, and to a request what `reply` says."""

    def __init__(self, *wires: bytes, every_s: float = 1.0, first_s: float = 0.5, reply: bytes = b"") -> None:
        self._wires = wires
        self._every_s = every_s
        self._next_at: float | None = first_s if wires else None
        self._reply = reply
        self._reply_at: float | None = None
        self._count = 0
        self._output: list[bytes] = []
        self.byte_s = 0.0
        self.on_wake: Callable[[], None] | None = None

    @property
    def deadline(self) -> float | None:
        return min((at for at in (self._next_at, self._reply_at) if at is not None), default=None)

    def receive(self, chunk: bytes, monotonic: float, now: datetime) -> None:
        if self._reply:
            self._reply_at = monotonic + 0.1

    def tick(self, monotonic: float, now: datetime) -> None:
        if self._reply_at is not None and monotonic >= self._reply_at:
            self._output.append(self._reply)
            self._reply_at = None
        if self._next_at is not None and monotonic >= self._next_at:
            self._output.append(self._wires[self._count % len(self._wires)])
            self._count += 1
            self._next_at = monotonic + self._every_s

    def take_output(self) -> list[bytes]:
        output, self._output = self._output, []
        return output


def talking(*wires: bytes, reply: bytes = b"", every_s: float = 1.0, first_s: float = 0.5) -> Place:
    return Place(make_bus=lambda _, __: Talkers(*wires, every_s=every_s, first_s=first_s, reply=reply))


def test_a_line_with_a_talking_master_is_reported_and_not_disturbed() -> None:
    place = talking(ASKED, ANSWERED)
    state = scan(place, AT_2400 * 2)
    assert place.requests == 0
    assert [report.verdict for report in state.reports] == ["busy"]
    assert "another master talks on this line, asking 000000000042" in state.reports[0].text
    assert state.finished


def test_what_meters_tell_another_master_is_noted() -> None:
    state = scan(talking(ASKED, ANSWERED))
    (found,) = state.found
    assert (found.address, found.evidence) == ("000000000042", ["overheard answering another master"])


def test_garbage_while_nobody_asks_is_taken_for_a_master_at_another_rate() -> None:
    place = talking(bytes(range(0x70, 0x90)))
    state = scan(place)
    assert place.requests == 0
    assert state.reports[0].verdict == "busy"
    assert "at another rate" in state.reports[0].text


def test_a_few_noise_bytes_are_nobody_talking() -> None:
    state = scan(talking(b"\x00\x7f"))
    assert state.reports[0].verdict == "empty"


def test_a_talking_line_is_scanned_when_forced() -> None:
    place = talking(ASKED, ANSWERED)
    state = scan(place, force=True)
    assert place.requests > 0
    assert state.reports[0].verdict != "busy"


def test_a_master_that_begins_to_talk_ends_the_scan() -> None:
    place = talking(ASKED, ANSWERED, every_s=60.0, first_s=5.0)
    state = scan(place)
    assert state.reports[0].verdict == "busy"
    assert place.requests < 6


def test_bytes_that_are_no_frame_tell_a_wrong_rate_from_an_empty_line() -> None:
    state = scan(talking(reply=bytes(range(0x70, 0x90))))
    assert state.found == []
    assert state.reports[0].verdict == "unreadable"
    assert "a device is there" in state.reports[0].text
    assert state.exchanges < 200


@pytest.mark.parametrize("seed", range(3))
def test_a_babbling_device_makes_an_end_and_no_meters(seed: int) -> None:
    place = Place(seed=seed, faults=[Fault(kind=FaultKind.BABBLE, parameters={"duty": 0.3})])
    assert scan(place).reports[0].verdict == "busy"
    assert scan(place, force=True).found == []


def test_a_scan_killed_anywhere_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed after every seventh exchange; each life has a new process and a new connection."""
    place = Place(*random_addresses(4, 9), seed=9)
    whole = scan(place)
    path = tmp_path / "scan.json"
    lives = 0
    while (state := _live_for(place, path, exchanges=7)) is None:
        lives += 1
    assert lives >= whole.exchanges // 7 - 1
    assert addresses_of(state) == addresses_of(whole) == set(place.addresses)
    # A kill between an answer and its save costs that one exchange again.
    assert whole.exchanges <= state.exchanges + lives
    assert state.exchanges <= whole.exchanges + lives
    saved = load_state(path)
    assert saved is not None
    assert saved.finished
    before = place.requests
    assert addresses_of(scan(place, state_path=path)) == addresses_of(whole)
    assert place.requests == before, "a finished scan tells its result and asks nobody"


class _Killed(BaseException):
    pass


class _Life(list[Step]):
    def __init__(self, exchanges: int) -> None:
        super().__init__()
        self._left = exchanges

    def append(self, step: Step) -> None:
        if self and step.exchanges != self[-1].exchanges:
            self._left -= 1
        super().append(step)
        if self._left <= 0:
            raise _Killed


def _live_for(place: Place, path: Path, exchanges: int) -> ScanState | None:
    try:
        return scan(place, state_path=path, steps=_Life(exchanges))
    except _Killed:
        return None


def test_a_line_that_breaks_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    place = Place("000000000001", "000000000002", break_after=20)
    with pytest.raises(LineDown):
        scan(place, state_path=path)
    saved = load_state(path)
    assert saved is not None
    assert saved.exchanges == 19
    assert addresses_of(scan(place, state_path=path)) == set(place.addresses)


def test_the_state_of_another_scan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    scan(Place(), state_path=path)
    with pytest.raises(WrongScanState, match="2400 8E1"):
        scan(Place(), (Setting(9600, "E"),), state_path=path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 1, "line": 5}', "\x00"])
def test_a_file_that_is_no_state_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scan.json"
    path.write_text(text)
    with pytest.raises(BadScanState):
        load_state(path)
    assert path.read_text() == text


def test_the_wires_of_these_tests_are_frames() -> None:
    assert Frame.from_bytes(ASKED).address == Frame.from_bytes(ANSWERED).address == "000000000042"
