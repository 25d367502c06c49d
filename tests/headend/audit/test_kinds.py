"""The table in the documentation is that of the code."""

from pathlib import Path

from headend.audit.kinds import KINDS, kinds_table
from headend.commands.model import State

PAGE = (Path(__file__).parents[3] / "docs" / "audit.md").read_text(encoding="utf-8")


def test_the_table_of_kinds_in_the_page_is_made_from_the_code() -> None:
    assert PAGE.endswith(kinds_table()), "put what `kinds_table()` gives at the end of docs/audit.md"


def test_every_state_of_a_command_has_a_kind() -> None:
    known = {kind for kinds in KINDS.values() for kind in kinds}
    assert {state.value for state in State} <= known


def test_a_kind_is_listed_once() -> None:
    kinds = [kind for kinds in KINDS.values() for kind in kinds]
    assert len(kinds) == len(set(kinds))
