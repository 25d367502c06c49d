"""The clock that limits are counted on: it moves only while this process is seen to run, and never backwards.

Its position is milliseconds of observed running time since the store was made. It is the last durable position, plus monotonic
progress since. So

- setting the wall clock changes nothing: it is not asked;
- a restart gives nothing back: the clock goes on where it was durable last, at most a minute behind, and the time in between does not
  count, however long it was;
- a machine that slept, or a process that stood still, gains at most `STEP_MS_MAX` by it, since that is all that one observation
  may add.

The price: opens of before a stop of the head-end count longer than an hour or a day. That is the safe side.
"""

__all__ = ["STEP_MS_MAX", "GovernorClock"]

STEP_MS_MAX = 90_000  # it is observed three times a minute


class GovernorClock:
    """position_ms: durable last. monotonic: seconds."""

    def __init__(self, position_ms: int, monotonic: float) -> None:
        self._position_ms = position_ms
        self._seen = monotonic
        self._rest_ms = 0.0

    @property
    def position_ms(self) -> int:
        """As it was observed last. It moves nothing, so any thread may ask; `observe` is for the store's alone."""
        return self._position_ms

    def observe(self, monotonic: float) -> int:
        """The position now."""
        progress_ms = min(max(monotonic - self._seen, 0.0) * 1000, STEP_MS_MAX) + self._rest_ms
        self._seen = max(self._seen, monotonic)
        whole = int(progress_ms)
        self._rest_ms = progress_ms - whole
        self._position_ms += whole
        return self._position_ms

    def catch_up(self, position_ms: int) -> None:
        """Another process wrote a later position: nothing that it counted may look as if it were in the future."""
        self._position_ms = max(self._position_ms, position_ms)
