"""A copy of the feed over a restore of the head-end: void numbers are neither missing nor extra, all others are as always."""

import json

import pytest

from headend.ledger.compare import compare
from headend.ledger.copy import Copy
from headend.ledger.verify import verify
from headend.store.restores import STEP, Void, runs

FIRST = STEP + 1  # of the event that tells of the restore; the backup ended with event 5


def an_event(sequence: int, **data: object) -> dict[str, object]:
    return {"sequence": str(sequence), "id": f"event:{sequence}", "type": "x.v1", "data": data or {"n": sequence}}


def a_copy(*sequences: int, void_through: int = FIRST - 1) -> Copy:
    notice = an_event(FIRST, kind="restored", last_before=5, void_through=void_through)
    events = [*(an_event(one) for one in sequences), notice, an_event(FIRST + 1)]
    return Copy(b"\n".join(json.dumps(event).encode() for event in events))


@pytest.mark.parametrize(
    ("sequences", "missing"),
    [((1, 2, 3, 4, 5), []), ((1, 2, 3, 4, 5, 6, 7), []), ((1, 2, 3), [(4, 5)]), ((1, 2, 3, 6, 9), [(4, 5)])],
)
def test_only_what_is_not_void_is_missing(sequences: tuple[int, ...], missing: list[tuple[int, int]]) -> None:
    verdict = verify(a_copy(*sequences), [])
    assert [(finding.first, finding.last) for finding in verdict.findings] == missing
    assert any("restored from a backup" in note for note in verdict.notes)


def test_a_notice_that_does_not_end_at_its_own_place_hides_nothing() -> None:
    assert verify(a_copy(1, 2, void_through=FIRST + 7), []).findings
    assert verify(a_copy(1, 2, void_through=4), []).findings


def test_what_the_copy_has_of_void_numbers_is_not_extra() -> None:
    copy = a_copy(1, 2, 3, 4, 5, 6, 7)
    feed = [event for _, sequence, event in copy.events() if sequence not in (6, 7)]
    assert list(compare(copy, feed, after=0)) == []
    assert [finding.first for finding in compare(copy, [one for one in feed if one["sequence"] != "3"], after=0)] == [3]


def test_the_parts_between_voids_are_found() -> None:
    voids = [Void(6, 10), Void(20, 30)]
    assert list(runs(voids, 1, 40)) == [(1, 5), (11, 19), (31, 40)]
    assert list(runs(voids, 7, 9)) == []
    assert list(runs(voids, 8, 12)) == [(11, 12)]
    assert list(runs([], 1, 2)) == [(1, 2)]
    assert list(runs(voids, 2, 1)) == []
