"""Progress against the obvious model: a set of settled numbers."""

from hypothesis import given
from hypothesis import strategies as st

from headend.feed.pusher_progress import Progress

stretches = st.tuples(st.integers(1, 60), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(stretches, max_size=30), st.integers(1, 80))
def test_progress_is_the_set_of_what_was_settled(settled: list[tuple[int, int]], end: int) -> None:
    progress, model = Progress(), set[int]()
    for first, last in settled:
        progress = progress.settled(first, last)
        model.update(range(first, last + 1))
        assert (
            set(range(1, progress.low + 1))
            | {number for start, stop in progress.ranges for number in range(start, stop + 1)}
            == model
        )
        assert progress.low + 1 not in model
        assert all(start - 1 not in model and stop + 1 not in model for start, stop in progress.ranges)
        assert list(progress.ranges) == sorted(progress.ranges)
    assert progress.head == max(model, default=0)
    assert progress.open_up_to(end) == len(set(range(1, end + 1)) - model)
    open_ = sorted(set(range(1, end + 1)) - model)
    gap = progress.gap(end)
    if not open_:
        assert gap is None
    else:
        assert gap is not None
        assert gap[0] == open_[0]
        assert set(range(gap[0], gap[1] + 1)) <= set(open_)
        assert gap[1] == end or gap[1] + 1 in model


def test_settling_nothing_changes_nothing() -> None:
    assert Progress(5, ((9, 12),)).settled(7, 6) == Progress(5, ((9, 12),))
