"""Whose turn it is on a half-duplex line."""

import pytest

from protocols.discipline import State, Turn


def test_the_chunk_that_ends_an_exchange_does_not_cut_short_a_pause_that_is_longer_than_silence() -> None:
    turn = Turn()
    turn.wait(101.0, longest_s=1.0)
    turn.rest(100.1, pause_s=0.3)  # the reply is whole
    turn.heard(100.1, frame_deadline=None, quiet_s=0.1)  # and this is the chunk that it came in
    assert turn.until == pytest.approx(100.4)
    assert not turn.is_over(100.3)


def test_bytes_make_draining_longer_up_to_its_limit() -> None:
    turn = Turn()
    turn.rest(100.0, pause_s=0.1, pause_s_max=0.25)
    for now, until in ((100.05, 100.15), (100.14, 100.24), (100.2, 100.25), (100.24, 100.25)):
        turn.heard(now, frame_deadline=None, quiet_s=0.1)
        assert turn.until == pytest.approx(until)
    assert turn.state is State.DRAINING
