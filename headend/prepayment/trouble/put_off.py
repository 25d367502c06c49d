"""Accounts whose turn raised an error: left out for a while, so that they hold up nobody, and told for as long as they are."""

from collections.abc import Callable, Hashable, Sequence
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import structlog
from msgspec import Struct

from headend.prepayment.errors import PrepaymentError
from headend.prepayment.trouble.faults import is_own_fault

__all__ = ["PutOff"]

AWAY = timedelta(hours=1)
_TOLD_FOR = timedelta(minutes=15)  # behind that hour: not everybody's turn comes at once
_TELL_EVERY = timedelta(minutes=1)
_HOPELESS = 16  # faults one after the other, and nobody without: that is not theirs
_Key = TypeVar("_Key", bound=Hashable)
_log = structlog.get_logger(__name__)


class _Fault(Struct, frozen=True):
    until: datetime
    problem: str


class PutOff(Generic[_Key]):
    """Of one kind of work. name: what a person calls an account. In memory: what is forgotten is tried again.

    What the database does wrong is nobody's fault here: StoreError passes, unless it is a value that cannot be stored. So does what
    everybody's turn raises.
    """

    def __init__(self, doing: str, *, name: Callable[[_Key], str] = str) -> None:
        self._doing = doing
        self._name = name
        self._faults: dict[_Key, _Fault] = {}
        self._tell_at: datetime | None = None

    def waits(self, key: _Key, now: datetime) -> bool:
        fault = self._faults.get(key)
        return fault is not None and fault.until - AWAY <= now < fault.until  # a clock that was set back ends it

    def waiting(self, now: datetime) -> list[_Key]:
        return [key for key in self._faults if self.waits(key, now)]

    def pick(self, page_after: Callable[[_Key | None], Sequence[_Key]], now: datetime) -> list[_Key]:
        """The first page with somebody who does not wait, without those who do. page_after: some of those behind that one."""
        after: _Key | None = None
        while page := page_after(after):
            some = [key for key in page if not self.waits(key, now)]
            if some:
                return some
            after = page[-1]
        return []

    def do(self, some: Sequence[_Key], work: Callable[[Sequence[_Key]], int], now: datetime) -> int:
        """work: in one transaction, which leaves nothing when it fails. Then it is tried by halves, until the fault stands alone.

        Gives the sum of what it gave. Raises StoreError, and what it raises of everybody.
        """
        total, is_well = 0, False
        failed: list[tuple[_Key, Exception]] = []
        parts = [some]
        while parts:
            part = parts.pop()
            try:
                total += work(part)
            except Exception as error:
                # Whatever it is: days, statements and supplies of others must not wait for it.
                if not is_own_fault(error):
                    raise
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                failed.append((part[0], error))
                if len(failed) == _HOPELESS and not is_well:
                    raise
            else:
                is_well = True
                for key in part:
                    self._faults.pop(key, None)
        for number, (key, fault) in enumerate(failed):
            self._note(key, fault, now, is_told_whole=number == 0)
        return total

    def tell(self, now: datetime) -> None:
        """`check`, once a minute: the service shows a problem for longer than that, and counts and logs each time."""
        if self._tell_at is None or not self._tell_at - _TELL_EVERY <= now < self._tell_at:
            self.check(now)

    def check(self, now: datetime) -> None:
        """Raises PrepaymentError while somebody is put off; what nobody tries any more is forgotten."""
        self._faults = {
            key: fault
            for key, fault in self._faults.items()
            if fault.until - AWAY - _TOLD_FOR <= now < fault.until + _TOLD_FOR
        }
        if self._faults:
            self._tell_at = now + _TELL_EVERY
            first = next(iter(self._faults.values()))
            raise PrepaymentError(f"{self._doing}: {len(self._faults)} put off; the first: {first.problem}")

    def _note(self, key: _Key, error: Exception, now: datetime, *, is_told_whole: bool) -> None:
        problem = f"{self._name(key)}: {type(error).__name__}: {error}"
        _log.error(
            "an account is put off", doing=self._doing, problem=problem, exc_info=error if is_told_whole else None
        )
        self._faults[key] = _Fault(now + AWAY, problem)
