"""Finding every address on a line by narrowing the wildcard. Pure: which pattern to ask next, and what an outcome means.

A pattern keeps the low digit pairs and fills the rest with AA (DL/T 645-2007 §5.2.3: AA fills from the high end), so patterns
form a tree: the root is all AA, and a node has 100 children, one for each value of the next pair upward.

    AAAAAAAAAAAA ── AAAAAAAAAA00 … AAAAAAAAAA78 … AAAAAAAAAA99
                                        └── AAAAAAAA0078 … AAAAAAAA5678 … AAAAAAAA9978

Every pattern ends in one of three verdicts. EMPTY: nobody below. SINGLE: exactly one meter below, and its address is known.
COLLISION: at least two, and all 100 children are asked, depth first. Nobody can be told to keep quiet, so the children of a
collision cost 100 asks whoever is known already.

What counts as proof:

- Silence is empty, because every meter below would have answered; at the root three different questions must stay silent.
- Bytes without a right frame are noise or a collision: noise passes, a collision comes again. The same question damaged four
  times is a collision. Two addresses heard to one pattern are a collision at once.
- One right frame may hide a second meter: the stronger signal wins, or 0 bits of one reply cover the other's 1 bits. Such a cover
  fits one content, seldom another, so a second question with another DI (at the root four more) must bring the same address.
- A cover of two may even read as a third address that nobody has. So each address is asked by itself before the pattern is
  SINGLE; if it is silent there, the pattern was a collision. Every address found has answered to itself.

If meters below a pattern always make themselves heard in one of these ways, the verdicts are true, the children of a collision
share its meters out among them, and a full address cannot be narrowed: all addresses are found, and the work ends.

Loss is looked for, not assumed: when a collision brings fewer than two addresses to light, its silent children are asked once
more, and then the children of the pattern that seemed to hold the one; when a meter that answered fell silent once, all silent
patterns are asked again.

With C the patterns below which lie at least two addresses, asking each needed pattern once takes 1 + 100·|C| exchanges, and proof
two more for each address that a wildcard singles out (`exchanges_min`). Repeats come on top.
"""

import enum
from collections import Counter

from msgspec import Struct, field

from protocols.dlt645.frame import WILDCARD

__all__ = [
    "QUESTIONS_MAX",
    "Ask",
    "Clean",
    "Damaged",
    "Narrowing",
    "NarrowingState",
    "Outcome",
    "Several",
    "Silent",
    "Trail",
    "exchanges_min",
    "pattern_of",
]

ADDRESS_DIGITS = 12
PAIRS = [f"{pair:02}" for pair in range(100)]
QUESTIONS_MAX = 5  # different questions at the root, where they cost least and a meter overlooked most; two elsewhere
ROOT_SILENCES = 3  # questions that must stay silent before a line is empty
OWN = QUESTIONS_MAX  # the question to an address by itself, kept in the trail behind the others
DAMAGES_MAX = 4  # of one question; at 10 % damaged replies one pattern in ten thousand is split in vain, for 200 asks
NOISE_PROVEN = 2  # patterns where damage has passed
LOST_MAX = 2  # silences after which a further question is given up: this meter may not know it
OWN_SILENCES_MAX = 3  # an address silent to itself so often is none
UNREAD_MAX = 80  # damaged exchanges in a row and never a right frame: twenty neighbouring patterns cannot all collide
BARREN_MAX = 3  # collisions without any address below, and more of them than addresses: something babbles


class Silent(Struct, frozen=True):
    """Not a byte, or too few to be the rest of a reply."""


class Clean(Struct, frozen=True):
    """One right frame from an address within the pattern, and nothing beside it."""

    address: str


class Damaged(Struct, frozen=True):
    """Bytes and no right frame, or a right frame beside the rest of another."""


class Several(Struct, frozen=True):
    """Right frames from two or more addresses within the pattern."""

    addresses: tuple[str, ...]


Outcome = Silent | Clean | Damaged | Several


class Ask(Struct, frozen=True):
    """pattern: 12 hex digits. question: below QUESTIONS_MAX, each to be asked with another DI or function."""

    pattern: str
    question: int


class Trail(Struct, kw_only=True):
    """What the present pattern has brought so far, by question."""

    address: str = ""  # the first clean one; empty: none yet
    is_collision: bool = False
    cleans: list[int] = field(default_factory=lambda: [0] * (OWN + 1))
    silences: list[int] = field(default_factory=lambda: [0] * (OWN + 1))
    damages: list[int] = field(default_factory=lambda: [0] * (OWN + 1))


class NarrowingState(Struct, kw_only=True):
    """Everything a narrowing knows, fit to be written to a file after every exchange.

    todo: low digits of patterns not decided yet, the next one last. found: address -> pattern that singled it out.
    seen: heard in a collision, not necessarily real. late: heard whole, but not within the pattern it belongs to.
    unresolved: patterns where meters collide and none of the narrower ones brings an address.
    shared: full addresses where replies collide: two meters with the same address, or one on a bad line.
    decided: patterns with a verdict. lost: times a meter that answers fell silent. passed: patterns whose damage did not come again.
    unread: damaged exchanges in a row before anything was understood. barren: collisions with no address below, the deepest only.
    unreadable: much was heard and nothing understood. abandoned: some addresses were found, and then it babbled.
    """

    todo: list[str] = field(default_factory=lambda: [""])
    trail: Trail = field(default_factory=Trail)
    found: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    collided: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    exchanges: int = 0
    decided: int = 0
    lost: int = 0
    passed: int = 0
    unread: int = 0
    barren: list[str] = field(default_factory=list)
    swept: bool = False
    unreadable: bool = False
    abandoned: bool = False


class _Verdict(enum.Enum):
    EMPTY = enum.auto()
    SINGLE = enum.auto()
    COLLISION = enum.auto()


class Narrowing:
    """Ask what `ask` says, report with `take`, until `ask` gives None.

    silences: how often a pattern must stay silent to be empty; more than one for lines that lose requests.
    thorough: children are asked below every single meter, too, for lines where a strong meter drowns a weak one.
    """

    def __init__(self, state: NarrowingState | None = None, *, silences: int = 1, thorough: bool = False) -> None:
        self.state = NarrowingState() if state is None else state
        self._silences = silences
        self._thorough = thorough

    @property
    def done(self) -> bool:
        return not self.state.todo

    def ask(self) -> Ask | None:
        """The next exchange; the same until its outcome has been taken. None: all is decided."""
        state = self.state
        if not state.todo:
            return None
        low = state.todo[-1]
        question = self._judge(low)
        assert not isinstance(question, _Verdict), "a decided pattern is left at once"
        return Ask(state.trail.address, 0) if question == OWN else Ask(pattern_of(low), question)

    def take(self, outcome: Outcome) -> None:
        """The outcome of the last `ask`."""
        asked = self.ask()
        assert asked is not None, "nothing was asked"
        state, low = self.state, self.state.todo[-1]
        state.exchanges += 1
        is_own = asked.pattern == state.trail.address and len(low) < ADDRESS_DIGITS
        self._note(outcome, OWN if is_own else asked.question)
        verdict = self._judge(low)
        if isinstance(verdict, _Verdict):
            self._decide(low, verdict)
        if state.todo and (state.unread >= UNREAD_MAX or len(state.barren) > max(BARREN_MAX, len(state.found))):
            state.unreadable, state.abandoned = not state.found, bool(state.found)
            state.todo, state.open = [], []
            self._close()

    def overhear(self, address: str) -> None:
        """A right frame from outside the pattern asked: a meter that is too slow, found by other means."""
        if address not in self.state.late:
            self.state.late.append(address)

    def asks_left(self) -> float:
        """About how many more, if what is left collides as often as what has been decided."""
        state = self.state
        below_root = max(state.decided - 1, 1)
        rate = max(len(state.collided) - 1, 0) / below_root
        return len(state.todo) * (1 + 100 * rate)

    def _note(self, outcome: Outcome, question: int) -> None:
        state, trail = self.state, self.state.trail
        if isinstance(outcome, Damaged):
            trail.damages[question] += 1
            never_read = not state.found and not state.seen and not trail.address
            state.unread = state.unread + 1 if never_read else 0
            return
        state.unread = 0
        if isinstance(outcome, Silent):
            trail.silences[question] += 1
        elif isinstance(outcome, Several):
            trail.is_collision = True
            self._see(*outcome.addresses)
        else:
            trail.cleans[question] += 1
            if trail.address and trail.address != outcome.address:
                trail.is_collision = True
                self._see(trail.address, outcome.address)
            trail.address = trail.address or outcome.address

    def _decide(self, low: str, verdict: _Verdict) -> None:
        state, trail = self.state, self.state.trail
        state.todo.pop()
        state.decided += 1
        state.trail = Trail()
        state.passed += verdict is not _Verdict.COLLISION and any(trail.damages)
        if verdict is _Verdict.EMPTY:
            state.silent.append(low)
        elif verdict is _Verdict.SINGLE:
            self._find(low, trail)
        elif len(low) == ADDRESS_DIGITS:
            state.shared.append(low)
        else:
            self._see(*([trail.address] if trail.address else []))
            self._split(low)
        while state.open and not (state.todo and state.todo[-1].endswith(state.open[-1])):
            self._leave(state.open.pop())
        if not state.todo:
            self._sweep()

    def _find(self, low: str, trail: Trail) -> None:
        state = self.state
        state.found[trail.address] = pattern_of(low)
        if any(silent and clean for silent, clean in zip(trail.silences, trail.cleans, strict=True)):
            state.lost += 1
        if trail.damages[OWN] and not trail.cleans[OWN]:
            state.shared.append(trail.address)
        if self._thorough and len(low) < ADDRESS_DIGITS:
            state.todo += [pair + low for pair in reversed(PAIRS)]

    def _leave(self, low: str) -> None:
        """All below a collision is decided. Those above a barren one are not barren once more."""
        state = self.state
        if not self._below(low) and not (state.barren and state.barren[-1].endswith(low)):
            state.barren.append(low)

    def _split(self, low: str) -> None:
        state = self.state
        state.collided.append(low)
        state.open.append(low)
        state.todo += [pair + low for pair in reversed(PAIRS)]

    def _below(self, low: str) -> int:
        """Addresses known for certain; one where only damage was heard might be noise."""
        state = self.state
        known = {*state.found, *state.late, *(address for address in state.shared if address in state.seen)}
        return sum(address.endswith(low) for address in known)

    def _judge(self, low: str) -> _Verdict | int:
        """The verdict, or the question to ask next."""
        trail = self.state.trail
        if trail.is_collision or max(trail.damages[:OWN]) >= DAMAGES_MAX or trail.silences[OWN] >= OWN_SILENCES_MAX:
            return _Verdict.COLLISION
        is_root, is_exact = not low, len(low) == ADDRESS_DIGITS
        if trail.address:
            if is_exact or trail.cleans[OWN] or trail.damages[OWN] >= DAMAGES_MAX:
                return _Verdict.SINGLE
            for question in range(QUESTIONS_MAX if is_root else 2):
                if not trail.cleans[question] and trail.silences[question] < LOST_MAX:
                    return question
            return OWN
        # After something was heard, one silence proves less.
        needed = self._silences + (1 if any(trail.damages) else 0)
        for question in range(ROOT_SILENCES if is_root else 1):
            if trail.silences[question] < needed:
                return question
        return _Verdict.EMPTY

    def _see(self, *addresses: str) -> None:
        self.state.seen += [address for address in addresses if address not in self.state.seen]

    def _sweep(self) -> None:
        """All patterns are decided: ask once more where something must have been overlooked, then close."""
        state = self.state
        short = {low for low in state.collided if self._below(low) < 2}
        if not state.swept:
            state.swept = True
            again = [low for low in state.silent if low and (state.lost or low[2:] in short)]
            if again:
                state.silent = [low for low in state.silent if low not in set(again)]
                state.todo = again[::-1]
                return
        if state.passed < NOISE_PROVEN:
            # Two collided, and one is known: the other hides behind it, where the pattern seemed to hold one only.
            for address, pattern in list(state.found.items()):
                low = pattern.lstrip("A")
                if (
                    low not in state.collided
                    and len(low) < ADDRESS_DIGITS
                    and any(address.endswith(two) for two in short)
                ):
                    self._split(low)
                    return
        self._close()

    def _close(self) -> None:
        state = self.state
        if state.unreadable:
            state.shared = []
            return
        nothing_below = [low for low in state.collided if not self._below(low)]
        state.unresolved = [
            pattern_of(low)
            for low in nothing_below
            if not any(other != low and other.endswith(low) for other in nothing_below)
        ]


def pattern_of(low: str) -> str:
    """AA before the low digits: `5678` is AAAAAAAA5678."""
    return (WILDCARD + low)[-ADDRESS_DIGITS:] if low else WILDCARD


def exchanges_min(addresses: set[str], *, confirmed: bool = True) -> int:
    """What finding exactly these takes at the least when nothing is lost or damaged and collisions are known at once.

    The root, 100 children wherever two share their low digits, and with `confirmed` a second question and the one by itself for each
    address that a wildcard singles out (five and one for a meter alone on the line).
    """
    collided, exact = 0, 0
    for size in range(0, ADDRESS_DIGITS, 2):
        low = Counter(address[ADDRESS_DIGITS - size :] for address in addresses)
        collided += sum(count > 1 for count in low.values())
        if size == ADDRESS_DIGITS - 2:
            exact = sum(count for count in low.values() if count > 1)
    proof = 2 * (len(addresses) - exact) if collided else QUESTIONS_MAX * len(addresses)
    return 1 + 100 * collided + (proof if confirmed else 0)
