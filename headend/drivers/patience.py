"""How long each meter takes to answer, learnt from its replies: silent ones are given up sooner, slow ones are waited for.

Pure. The estimate is the one TCP uses (RFC 6298): a smoothed reply time and its deviation; the time-out is their sum with a
margin, within bounds. A reply that came after its time-out counts, too: that is how a slow meter behind a slow gateway gets the
time it needs instead of being taken for dead.
"""

from msgspec import Struct

__all__ = ["FLOOR_S", "TUNNEL_FLOOR_S", "Patience"]

SMOOTHING = 1 / 8
DEVIATION_SMOOTHING = 1 / 4
DEVIATIONS = 4
MARGIN_S = 0.1
FLOOR_S = 0.6  # the standard allows a meter 500 ms
TUNNEL_FLOOR_S = 1.5  # a tunnel may keep a reply until it is whole: 140 bytes at 1200 baud are 1.3 s
CEILING_FACTOR = 5.0  # of the line's time-out
METERS_MAX = 4096  # on one line; beyond that the newest are not learnt


class _Pace(Struct):
    smoothed_s: float
    deviation_s: float


class Patience:
    """Reply times by meter address. line_timeout_s: what holds until a meter is known. floor_s: never less."""

    def __init__(self, line_timeout_s: float, *, floor_s: float = FLOOR_S) -> None:
        self._line_timeout_s = line_timeout_s
        self._floor_s = min(floor_s, line_timeout_s)
        self._paces: dict[str, _Pace] = {}

    def timeout_s(self, address: str) -> float | None:
        """None while nothing is known: the line's own."""
        pace = self._paces.get(address)
        if pace is None:
            return None
        wanted = pace.smoothed_s + DEVIATIONS * pace.deviation_s + MARGIN_S
        return max(self._floor_s, min(wanted, CEILING_FACTOR * self._line_timeout_s))

    @property
    def typical_s(self) -> float | None:
        """The mean over the meters known; None before the first."""
        if not self._paces:
            return None
        return sum(pace.smoothed_s for pace in self._paces.values()) / len(self._paces)

    def replied(self, address: str, waited_s: float) -> None:
        """waited_s: from the end of the request to the reply, in time or late."""
        pace = self._paces.get(address)
        if pace is None:
            if len(self._paces) < METERS_MAX:
                self._paces[address] = _Pace(waited_s, waited_s / 2)
            return
        pace.deviation_s += (abs(waited_s - pace.smoothed_s) - pace.deviation_s) * DEVIATION_SMOOTHING
        pace.smoothed_s += (waited_s - pace.smoothed_s) * SMOOTHING

    def late(self, address: str, waited_s: float) -> None:
        """A reply came after we had given up: wait that long at once, and let later replies bring it down again."""
        pace = self._paces.get(address)
        if pace is None:
            self.replied(address, waited_s)
        else:
            pace.smoothed_s = max(pace.smoothed_s, waited_s)
