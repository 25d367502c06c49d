"""A bell for readers that wait: it rings when a commit is durable, and they pull from the store by their own cursor.

No event passes through here, so a slow reader costs one flag, not a queue.
"""

import asyncio
from types import TracebackType

from headend.errors import TooManySubscribers

__all__ = ["FeedSignal", "Subscription"]

SUBSCRIBERS_MAX = 100  # each holds an HTTP connection; dashboards and pushers of one site are far fewer


class FeedSignal:
    """Wakes waiting readers. Belongs to one event loop; `advance` is called there after each commit."""

    def __init__(self, *, subscribers_max: int = SUBSCRIBERS_MAX) -> None:
        self.sequence = 0
        self.closed = False
        self._subscribers_max = subscribers_max
        self._subscriptions: set[Subscription] = set()

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    def advance(self, sequence: int) -> None:
        """Events up to `sequence` are durable."""
        self.sequence = max(self.sequence, sequence)
        for subscription in self._subscriptions:
            subscription.bell.set()

    def close(self) -> None:
        """The service stops: every waiting reader wakes, and finds `closed`."""
        self.closed = True
        for subscription in self._subscriptions:
            subscription.bell.set()

    def subscribe(self) -> "Subscription":
        """A place for one reader, given back when its `with` block ends. Raises TooManySubscribers."""
        if len(self._subscriptions) >= self._subscribers_max:
            raise TooManySubscribers(
                f"at most {self._subscribers_max} readers may wait on the feed at once and all "
                f"places are taken: close one, or pull GET /v1/feed instead"
            )
        subscription = Subscription(self)
        self._subscriptions.add(subscription)
        return subscription

    def forget(self, subscription: "Subscription") -> None:
        self._subscriptions.discard(subscription)


class Subscription:
    """One reader's place at the bell."""

    def __init__(self, signal: FeedSignal) -> None:
        self.bell = asyncio.Event()
        self._signal = signal

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Give the place back."""
        self._signal.forget(self)

    async def wait(self, after: int, timeout_s: float) -> bool:
        """True once something after `after` may be pulled or the signal closed; False when the time is up first."""
        if self._signal.closed or self._signal.sequence > after:
            return True
        self.bell.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self.bell.wait()
        except TimeoutError:
            return False
        return True
