"""The clock in a meter: it drifts, is set, steps, and may stand still without power.

What it shows is a chain of settings, each from one true moment on. The chain is kept, so that a value recorded at
10:00 by the meter's clock stays where it was recorded after the clock has been corrected.
"""

from datetime import UTC, datetime, timedelta, tzinfo

from msgspec import Struct

__all__ = ["STOPPED_PPM", "MeterClock"]

SETTINGS_MAX = 500  # more than a year of daily corrections; what lies before belongs to the oldest kept
STOPPED_PPM = -1_000_000


class _Setting(Struct, frozen=True):
    """Until the next one. offset: how far ahead of local time the clock was at `since`; ppm: how fast it gains."""

    since: datetime
    offset: timedelta
    ppm: int


class MeterClock:
    """Wall time of one meter, without zone, as a function of true time (aware UTC)."""

    def __init__(self, timezone: tzinfo, *, set_at: datetime, offset: timedelta, drift_ppm: int) -> None:
        self._timezone = timezone
        self._settings = [_Setting(set_at, offset, drift_ppm)]
        self.drift_ppm = drift_ppm

    def shown(self, at: datetime) -> datetime:
        return self._show(self._setting(at), at)

    def set(self, local: datetime, now: datetime) -> None:
        """Make it show `local` now; it drifts on from there."""
        self._append(now, local - self._local(now), self._settings[-1].ppm)

    def step(self, by: timedelta, now: datetime) -> None:
        self.set(self.shown(now) + by, now)

    def drift(self, ppm: int, now: datetime) -> None:
        """Gain `ppm` from now on; STOPPED_PPM stands still."""
        self._append(now, self.shown(now) - self._local(now), ppm)

    def true_time(self, local: datetime) -> datetime:
        """When it showed, or will show, `local`; the later moment if twice.

        For a time that a step left out it is the moment of the step: what a meter should have done then it does there.
        """
        until: datetime | None = None
        for setting in reversed(self._settings):
            first = setting is self._settings[0]
            if first or local >= self._show(setting, setting.since):
                at = self._inverse(setting, local)
                return at if until is None or at < until else until
            until = setting.since
        raise AssertionError("the oldest setting reaches back for ever")

    def showed(self, local: datetime, at: datetime) -> bool:
        """Whether the clock was at `local` at the true time `at`, to the second."""
        return abs(self.shown(at) - local) < timedelta(seconds=1)

    def _append(self, now: datetime, offset: timedelta, ppm: int) -> None:
        self._settings = [*self._settings, _Setting(now, offset, ppm)][-SETTINGS_MAX:]

    def _setting(self, at: datetime) -> _Setting:
        for setting in reversed(self._settings):
            if setting.since <= at:
                return setting
        return self._settings[0]

    def _show(self, setting: _Setting, at: datetime) -> datetime:
        return self._local(at) + setting.offset + (at - setting.since) * setting.ppm // 1_000_000

    def _inverse(self, setting: _Setting, local: datetime) -> datetime:
        shown = (local - setting.offset).replace(tzinfo=self._timezone).astimezone(UTC)
        if setting.ppm == STOPPED_PPM:
            return setting.since
        at = shown
        if abs(setting.ppm) > 10_000:  # so fast that the turns below would not end
            return setting.since + (shown - setting.since) * 1_000_000 // (1_000_000 + setting.ppm)
        for _ in range(3):  # each turn leaves some thousandths of the error before it
            at = shown - (at - setting.since) * setting.ppm // 1_000_000
        return at

    def _local(self, at: datetime) -> datetime:
        return at.astimezone(self._timezone).replace(tzinfo=None)
