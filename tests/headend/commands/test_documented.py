"""docs/commands.md has the machine's table, every kind, state, end of a debt and alarm."""

import re
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from headend.commands.alarms import ALARMS
from headend.commands.events import AlarmData, ObligationData
from headend.commands.machine import TRANSITIONS, as_markdown
from headend.commands.model import Kind, State
from headend.feed.schema_gate import OPEN_WORDS

PAGE = (Path(__file__).parents[3] / "docs" / "commands.md").read_text(encoding="utf-8")


def told_words(hint: Any) -> list[str]:
    """The open word list of a field of the feed."""
    if get_origin(hint) is None:
        return list((getattr(hint, "extra_json_schema", None) or {}).get(OPEN_WORDS, ()))
    return [word for part in (*get_args(hint), *getattr(hint, "__metadata__", ())) for word in told_words(part)]


def rows_of(heading: str) -> list[str]:
    """First cells of the table under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].partition("What may follow what")[0]
    return [
        word
        for cell in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
        for word in re.findall(r"`([\w-]+)`", cell)
    ]


def test_the_table_of_the_machine_is_the_one_in_the_page() -> None:
    assert as_markdown() in PAGE


def test_every_state_has_its_meaning_once_and_no_other_has_one() -> None:
    assert sorted(rows_of("States")) == sorted(state.value for state in State)
    assert {state.value for state in TRANSITIONS} == set(rows_of("States"))


def test_every_alarm_of_the_feed_has_its_row_and_no_other_has_one() -> None:
    told = told_words(get_type_hints(AlarmData, include_extras=True)["alarm"])
    assert set(ALARMS) < set(told)
    assert sorted(rows_of("Alarms")) == sorted(set(told))


def test_every_end_of_a_debt_has_its_row() -> None:
    told = told_words(get_type_hints(ObligationData, include_extras=True)["ended"])
    assert set(told) <= set(rows_of("Payments and debts"))


@pytest.mark.parametrize("heading", ["States", "Alarms"])
def test_quarantine_is_one_alarm_for_each_caller_and_limit_and_says_so(heading: str) -> None:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    [row] = [line for line in section.splitlines() if line.startswith("| `quarantined` |") and "→" not in line]
    assert "each caller and limit" in row


def test_every_kind_state_and_alarm_is_explained() -> None:
    for word in [*(kind.value for kind in Kind), *(state.value for state in State), *ALARMS]:
        assert f"`{word}`" in PAGE.replace(as_markdown(), ""), word
