"""docs/commands.md has the machine's table, every kind, state, end of a debt and alarm."""

from pathlib import Path

from headend.commands.alarms import ALARMS
from headend.commands.machine import as_markdown
from headend.commands.model import Kind, State

PAGE = (Path(__file__).parents[3] / "docs" / "commands.md").read_text(encoding="utf-8")


def test_the_table_of_the_machine_is_the_one_in_the_page() -> None:
    assert as_markdown() in PAGE


def test_every_kind_state_and_alarm_is_explained() -> None:
    for word in [*(kind.value for kind in Kind), *(state.value for state in State), *ALARMS]:
        assert f"`{word}`" in PAGE.replace(as_markdown(), ""), word
