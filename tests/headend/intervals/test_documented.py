"""Every published word of this room stands in its page."""

from pathlib import Path

import pytest

from headend.intervals.findings import RULES
from headend.intervals.model import REASONS, Interval, Mark

PAGE = (Path(__file__).parents[3] / "docs" / "intervals.md").read_text(encoding="utf-8")
FIELDS = {"meter", "obis", "start", "end", "period_s", "unit", "source"}  # explained by the prose


@pytest.mark.parametrize(
    "word",
    [
        *RULES,
        *REASONS,
        *(mark.value for mark in Mark),
        *(field for field in Interval.__struct_fields__ if field not in FIELDS),
    ],
)
def test_a_published_word_is_explained(word: str) -> None:
    assert f"`{word}`" in PAGE
