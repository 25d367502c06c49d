"""Patterns for the packets that a DTU sends by itself, matched on a stream that may stop anywhere.

Pure. The patterns are Python regular expressions over bytes, but `re` cannot say the one thing a stream needs: whether bytes
yet to come could turn what is there into a match, or a match into a longer one. So the expression is also made into a state
machine, which says it, and whose time is linear in the bytes whatever a hostile caller sends.

What the machine cannot hold is refused when the pattern is loaded: look-ahead, back references, word borders. A match is always
the longest, and always begins where it is asked for; ^ and $ say nothing more and are allowed.
"""

import importlib
import re
from collections.abc import Iterable
from typing import Any

from headend.errors import HeadendError

__all__ = ["PACKET_MAX", "BadPattern", "PacketPattern"]

PACKET_MAX = 256  # bytes; packets are an id or a short text, serial servers allow 40 (USR-N580 manual, 5.6)
STATES_MAX = 4096  # repeats are written out; this is 16 times the longest packet
BYTES = 256

_parser: Any = importlib.import_module("re._parser")  # typeshed knows it only under its old, deprecated name


class BadPattern(HeadendError):
    """what: which setting it is."""

    def __init__(self, what: str, text: str, problem: str) -> None:
        super().__init__(f"{what} {text!r}: {problem}")


class PacketPattern:
    """One kind of packet. Equal to another of the same text. Raises BadPattern.

    group: a named group that the expression has to have, such as "id"; "" for none.
    """

    def __init__(self, text: str, *, what: str = "pattern", group: str = "") -> None:
        self.text = text
        try:
            source = text.encode("ascii")
        except UnicodeEncodeError as error:
            raise BadPattern(what, text, "expected ASCII; other bytes are written as \\xNN") from error
        try:
            self._whole = re.compile(source, re.DOTALL)
        except (re.error, OverflowError, RecursionError) as error:
            raise BadPattern(what, text, f"no regular expression: {error}") from error
        if group and group not in self._whole.groupindex:
            raise BadPattern(what, text, f"has no group {group!r}; expected one such as (?P<{group}>[0-9]{{15}})")
        try:
            self._machine = _Machine(
                _parser.parse(source, re.DOTALL), is_caseless=bool(self._whole.flags & re.IGNORECASE)
            )
        except _NotHeld as error:
            raise BadPattern(what, text, str(error)) from error
        if self._machine.accept in self._machine.start:
            raise BadPattern(what, text, "matches nothing at all, and so would match everywhere")

    def __repr__(self) -> str:
        return f"PacketPattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PacketPattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def first_bytes(self) -> frozenset[int]:
        """What a packet can begin with."""
        return frozenset(byte for byte in range(BYTES) if self._machine.step(self._machine.start, byte))

    def ends(self, buffer: bytes | bytearray, start: int = 0) -> tuple[list[int], bool]:
        """Where packets that begin at `start` end, ascending; and whether bytes to come could make one, or a longer one."""
        machine, states = self._machine, self._machine.start
        ends: list[int] = []
        limit = start + PACKET_MAX
        for at in range(start, min(len(buffer), limit)):
            states = machine.step(states, buffer[at])
            if not states:
                return ends, False
            if machine.accept in states:
                ends.append(at + 1)
        return ends, len(buffer) < limit and machine.can_go_on(states)

    def group(self, packet: bytes, name: str) -> bytes | None:
        """What the group holds in a whole packet; None when it took no part in the match, or `packet` is none."""
        match = self._whole.fullmatch(packet)
        return match[name] if match is not None else None


class _NotHeld(Exception):
    """A construct that a state machine without memory cannot hold."""


class _Machine:
    """Thompson's construction. A state is a number; one that reads has a mask of the bytes it takes, and where it leads."""

    def __init__(self, tree: Any, *, is_caseless: bool) -> None:
        self._is_caseless = is_caseless
        self._masks: list[int] = []  # 0: reads nothing, goes on by itself
        self._nexts: list[tuple[int, ...]] = []
        self.accept = self._add(0)
        self.start = self._closure([self._sequence(tree, self.accept)])

    def step(self, states: frozenset[int], byte: int) -> frozenset[int]:
        reached = [self._nexts[state][0] for state in states if self._masks[state] >> byte & 1]
        return self._closure(reached) if reached else frozenset()

    def can_go_on(self, states: frozenset[int]) -> bool:
        return any(self._masks[state] for state in states)

    def _add(self, mask: int, *nexts: int) -> int:
        if len(self._masks) >= STATES_MAX:
            raise _NotHeld(f"is too large; a packet has {PACKET_MAX} bytes at most")
        self._masks.append(mask)
        self._nexts.append(nexts)
        return len(self._masks) - 1

    def _closure(self, states: Iterable[int]) -> frozenset[int]:
        reached, waiting = set[int](), list(states)
        while waiting:
            state = waiting.pop()
            if state not in reached:
                reached.add(state)
                if not self._masks[state]:
                    waiting.extend(self._nexts[state])
        return frozenset(reached)

    def _sequence(self, nodes: Any, then: int) -> int:
        for operator, argument in reversed(list(nodes)):
            then = self._node(str(operator), argument, then)
        return then

    def _node(self, operator: str, argument: Any, then: int) -> int:
        match operator:
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                return self._add(self._mask(operator, argument), then)
            case "SUBPATTERN" if not argument[1] and not argument[2]:  # no flags of its own
                return self._sequence(argument[3], then)
            case "ATOMIC_GROUP":
                return self._sequence(argument, then)
            case "BRANCH":
                return self._add(0, *(self._sequence(branch, then) for branch in argument[1]))
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                return self._repeat(argument[0], argument[1], argument[2], then)
            case "AT" if str(argument) in ("AT_BEGINNING", "AT_BEGINNING_STRING", "AT_END", "AT_END_STRING"):
                return then
        raise _NotHeld(f"uses {operator.lower().replace('_', ' ')}, which cannot be followed on a stream")

    def _repeat(self, least: int, most: Any, body: Any, then: int) -> int:
        if least > PACKET_MAX:
            raise _NotHeld(f"asks for {least} repeats; a packet has {PACKET_MAX} bytes at most")
        if most > PACKET_MAX:  # as good as endless
            loop = self._add(0)
            self._nexts[loop] = (self._sequence(body, loop), then)
            then = loop
        else:
            last = then
            for _ in range(int(most) - least):
                then = self._add(0, self._sequence(body, then), last)
        for _ in range(least):
            then = self._sequence(body, then)
        return then

    def _mask(self, operator: str, argument: Any) -> int:
        every = (1 << BYTES) - 1
        match operator:
            case "ANY":
                return every
            case "LITERAL":
                return self._both_cases(1 << argument)
            case "NOT_LITERAL":
                return every & ~self._both_cases(1 << argument)
        mask, is_negated = 0, False
        for kind, what in argument:
            match str(kind):
                case "NEGATE":
                    is_negated = True
                case "LITERAL":
                    mask |= 1 << what
                case "RANGE":
                    mask |= sum(1 << byte for byte in range(what[0], what[1] + 1))
                case "CATEGORY":
                    mask |= _CATEGORIES[str(what)]
        mask = self._both_cases(mask)
        return every & ~mask if is_negated else mask

    def _both_cases(self, mask: int) -> int:
        if not self._is_caseless:
            return mask
        upper, lower = mask >> ord("A") & _LETTERS, mask >> ord("a") & _LETTERS
        return mask | upper << ord("a") | lower << ord("A")


_LETTERS = (1 << 26) - 1


def _of_class(expression: bytes) -> int:
    taken = re.compile(expression)
    return sum(1 << byte for byte in range(BYTES) if taken.match(bytes([byte])))


_CATEGORIES = {
    "CATEGORY_DIGIT": _of_class(rb"\d"),
    "CATEGORY_NOT_DIGIT": _of_class(rb"\D"),
    "CATEGORY_SPACE": _of_class(rb"\s"),
    "CATEGORY_NOT_SPACE": _of_class(rb"\S"),
    "CATEGORY_WORD": _of_class(rb"\w"),
    "CATEGORY_NOT_WORD": _of_class(rb"\W"),
}
