"""Forecasts out of a file: each entry for itself."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from headend.commands.forecasts import PROBLEMS_MAX, Forecasts
from headend.store.writer import inline
from tests.headend.commands.rules_support import NOON


def an_entry(feeder: str, *, age_h: int = 1, lowest_c: float = -3, source: str = "weather.example") -> dict[str, Any]:
    issued = NOON - timedelta(hours=age_h)
    return {
        "issued_at": issued.isoformat(),
        "reaches": (issued + timedelta(hours=48)).isoformat(),
        "lowest_c": lowest_c,
        "highest_c": 5,
        "source": source,
        "feeder": feeder,
    }


async def test_an_entry_that_cannot_be_used_keeps_none_of_the_others_out(tmp_path: Path) -> None:
    file = tmp_path / "weather.json"
    forecasts = Forecasts(file=file, execute=inline)
    file.write_text(json.dumps(an_entry("north")))
    await forecasts.look()
    assert forecasts.problem == ""
    entries = [
        an_entry("north", age_h=9),
        an_entry("south"),
        an_entry("east", lowest_c=900),
        an_entry("west", age_h=9),
        an_entry("", source=""),
    ]
    file.write_text(json.dumps(entries))
    await forecasts.look()
    assert forecasts.told.keys() == {"north", "south", "west"}
    assert forecasts.told["north"].issued_at == NOON - timedelta(hours=1)
    for words in ("feeder north: it is of", "feeder east: lowest_c 900", "source is empty"):
        assert words in forecasts.problem
    file.write_text(json.dumps([an_entry(name, lowest_c=900) for name in "abcdefghij"]))
    await forecasts.look()
    assert forecasts.problem.count("feeder") == PROBLEMS_MAX
    file.write_text(json.dumps([an_entry("north", age_h=0)]))
    await forecasts.look()
    assert forecasts.problem == ""


async def test_an_entry_of_the_wrong_shape_keeps_none_of_the_others_out(tmp_path: Path) -> None:
    file = tmp_path / "weather.json"
    forecasts = Forecasts(file=file, execute=inline)
    short = an_entry("short")
    del short["reaches"]
    entries = [an_entry("north"), short, an_entry("misspelt") | {"lowest": 1}, 7, an_entry("south")]
    file.write_text(json.dumps(entries))
    await forecasts.look()
    assert forecasts.told.keys() == {"north", "south"}
    for words in ("entry 2: ", "`reaches`", "entry 3: ", "`lowest`", "entry 4: Expected `object`, got `int`"):
        assert words in forecasts.problem
    # A list keeps its good entries also beside bytes that are no text.
    file.write_bytes(json.dumps([an_entry("A"), an_entry("east")]).encode().replace(b'"A"', b'"\xff"'))
    await forecasts.look()
    assert forecasts.told.keys() == {"north", "south", "east"}
    assert "entry 1: " in forecasts.problem


async def test_a_file_that_is_no_forecast_at_all_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "weather.json"
    forecasts = Forecasts(file=file, execute=inline)
    file.write_text(json.dumps([an_entry("south")]))
    await forecasts.look()
    for text in ("[", '{"feeder": 1}', "\xff"):
        file.write_text(text, encoding="latin-1")
        await forecasts.look()
        assert "cannot be used" in forecasts.problem
        assert forecasts.told.keys() == {"south"}
