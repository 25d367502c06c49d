"""The ledger as others look at it: issued manifests, and the collection rate of any day. Any thread may ask."""

import threading
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from headend.clock import Clock
from headend.ledger.account import Window
from headend.ledger.closing import DayLook
from headend.ledger.collection import TARGET, CollectionReport, report_of
from headend.ledger.signing import PublicKey
from headend.store.ledger import Issued, LedgerBook

__all__ = ["LedgerView"]

DAYS_REMEMBERED = 8
STALE_AFTER = timedelta(minutes=5)
_decode = msgspec.json.Decoder().decode


class _Known(Struct, frozen=True):
    last: int
    at: datetime
    report: CollectionReport


class LedgerView:
    """key: what manifests are signed with now; None when they are not. Every method may raise StoreUnavailable."""

    def __init__(
        self,
        book: LedgerBook,
        *,
        zone: ZoneInfo,
        clock: Clock,
        key: PublicKey | None = None,
        target: Decimal = TARGET,
    ) -> None:
        self.key = key
        self._book = book
        self._zone = zone
        self._clock = clock
        self._target = target
        self._known: dict[date, _Known] = {}
        self._one_at_a_time = threading.Lock()  # a day of a large fleet is a second of work

    @property
    def today(self) -> date:
        """At the site."""
        return self._clock.now().astimezone(self._zone).date()

    @property
    def yesterday(self) -> date:
        return self.today - timedelta(days=1)

    def issued(self, *, after: int, limit: int) -> Sequence[Issued]:
        """Manifests in the order of the feed, those whose event is behind `after`."""
        return self._book.issued(after=after, limit=limit)

    def manifest(self, day: date, *, revision: int | None = None, meter: str | None = None) -> list[bytes] | None:
        """The event of the whole, then those of its parts; None when that day has none, or not in this revision.

        revision: None is the newest. meter: only the part that holds it, or none.
        """
        body = self._book.body(day.isoformat(), revision)
        if body is None or meter is None:
            return body
        entries = _decode(body[0])["data"]["parts"]
        held = (
            part
            for part, entry in zip(body[1:], entries, strict=True)
            if entry["first_meter"] <= meter <= entry["last_meter"]
        )
        return [body[0], *held]

    def collection(self, day: date) -> CollectionReport:
        """As of now; of today, the intervals whose time has passed."""
        with self._one_at_a_time:
            last, now = self._book.last_sequence(), self._clock.now()
            known = self._known.get(day)
            # What is open changes with time alone, too.
            if known is not None and known.last == last and (known.report.is_final or now - known.at < STALE_AFTER):
                return known.report
            look = DayLook(Window(day, self._zone, now), last)
            for _ in look.count(self._book):
                pass
            report = report_of(look.window, look.accounts.values(), target=self._target)
            if len(self._known) >= DAYS_REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[day] = _Known(last, now, report)
            return report
