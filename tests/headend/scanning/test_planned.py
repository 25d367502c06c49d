"""Plans from CSV files, and what they say about a result."""

from pathlib import Path

import pytest

from headend.scanning.planned import BadPlan, PlannedMeter, compare, load_planned

HEADER = "id,line,address,contract,plan\n"


def plan(folder: Path, rows: str, header: str = HEADER) -> Path:
    path = folder / "meters.csv"
    path.write_text(header + rows, encoding="utf-8")
    return path


def test_the_same_file_serves_configuration_and_scan(tmp_path: Path) -> None:
    path = plan(tmp_path, "M1,line-1,000000000001,dlt645/base_2007,residential\n")
    assert load_planned(path, None) == [PlannedMeter("M1", "000000000001")]


def test_one_line_of_several_is_chosen_by_name(tmp_path: Path) -> None:
    path = plan(tmp_path, "M1,a,000000000001\nM2,b,000000000002\n")
    assert load_planned(path, "b") == [PlannedMeter("M2", "000000000002")]
    with pytest.raises(BadPlan, match="say which one with --plan-line"):
        load_planned(path, None)
    with pytest.raises(BadPlan, match="expected one of a, b"):
        load_planned(path, "c")


def test_every_bad_row_is_named_at_once(tmp_path: Path) -> None:
    path = plan(tmp_path, "M1,a,12\nM2,a,000000000002\nM3,a,000000000002\n")
    with pytest.raises(BadPlan) as caught:
        load_planned(path, None)
    assert "row 2: '12' is not a meter address" in str(caught.value)
    assert "row 4: address 000000000002 stands on this line already, as M2" in str(caught.value)


def test_a_missing_file_and_a_missing_column_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="cannot be read"):
        load_planned(tmp_path / "none.csv", None)
    with pytest.raises(BadPlan, match="missing column address"):
        load_planned(plan(tmp_path, "M1,a\n", header="id,line\n"), None)


def test_planned_and_found_are_compared_both_ways() -> None:
    planned = [PlannedMeter("M1", "000000000001"), PlannedMeter("M2", "000000000002")]
    result = compare(planned, ["000000000003", "000000000001"])
    assert result.matched == planned[:1]
    assert result.missing == planned[1:]
    assert result.unexpected == ["000000000003"]
