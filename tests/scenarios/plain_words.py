"""Scenes in plain words: a text file of titles and lines, and the steps that the lines are.

    Story: at night nobody is cut off
      Given it is midnight
      When Ann asks for M000001 to be opened
      Then no switching frame was on the wire

A line that begins with # is a remark. Each line is one step, whatever its first word.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["Scene", "Steps", "read_scenes"]

WORDS = re.compile(r"(Given|When|Then|And) (.*)")
Work = TypeVar("Work", bound=Callable[..., object])


class Scene:
    """lines: as in the file, without their first words."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.lines: list[str] = []

    def __repr__(self) -> str:
        return self.title


def read_scenes(path: Path, heading: str) -> list[Scene]:
    """heading: what stands before a title, "Story: "."""
    found: list[Scene] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(heading):
            found.append(Scene(line.removeprefix(heading)))
        elif line.strip() and not line.startswith("#"):
            match = WORDS.fullmatch(line.strip())
            assert match is not None, f"no step: {line!r}"
            found[-1].lines.append(match[2])
    return found


class Steps(Generic[Work]):
    """Called with a pattern, it takes down what such a line does."""

    def __init__(self) -> None:
        self._known: list[tuple[re.Pattern[str], Work]] = []

    def __call__(self, words: str) -> Callable[[Work], Work]:
        def note(work: Work) -> Work:
            self._known.append((re.compile(words), work))
            return work

        return note

    def find(self, line: str) -> tuple[Work, tuple[str, ...]]:
        """The one step that the line is, and what it says in the pattern's groups."""
        found = [(work, match.groups()) for words, work in self._known if (match := words.fullmatch(line))]
        assert len(found) == 1, f"{len(found)} steps for {line!r}"
        return found[0]

    def untold(self, scenes: Sequence[Scene]) -> list[str]:
        """Patterns that no line is."""
        lines = [line for scene in scenes for line in scene.lines]
        return [words.pattern for words, _ in self._known if not any(map(words.fullmatch, lines))]
