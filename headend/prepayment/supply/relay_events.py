"""What the feed tells of supply switches, `headend.relay.v1`: whose order has ended, whose supply is back, who has to press a button.

Nothing is decided on an event; the account is looked at, and the command interface is asked. So an event that is lost costs time only.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import Connection

from headend.prepayment.accounts.accounts import account_of, of_meter
from headend.prepayment.books.books import balance_of
from headend.prepayment.errors import FeedBroken, FeedPruned
from headend.prepayment.notices.notices import Draft, post
from headend.prepayment.notices.plan import NoticePlan
from headend.prepayment.notices.texts import Money, NoticeTexts
from headend.prepayment.ports import Feed
from headend.prepayment.storage.database import Database, put_rows
from headend.prepayment.storage.supply_tables import HEARD, cursor_of, supply_cursors
from headend.prepayment.supply.store import touch
from headend.prepayment.trouble.faults import is_own_fault

__all__ = ["RelayFollower"]

RELAY_TYPE = "headend.relay.v1"
PAGE = 5_000  # most of the feed is reads, of which only the heads are looked at
_log = structlog.get_logger(__name__)


class _Data(Struct):
    about: str = ""
    meter: str | None = None
    command: str = ""
    kind: str = ""
    state: str = ""
    waiting_for_customer: bool = False


class _Head(Struct):
    type: str
    sequence: str


class _Event(Struct):
    data: _Data


class RelayFollower:
    """Follows the feed with a cursor of its own."""

    def __init__(self, database: Database, feed: Feed, *, plan: NoticePlan, texts: NoticeTexts) -> None:
        self._database = database
        self._feed = feed
        self._plan = plan
        self._texts = texts

    def tick(self, now: datetime, *, pages_max: int = 10) -> int:
        """Gives how many events there were; begins with the oldest that there is.

        One that nothing can be done about holds up no other, and is not heard again; in the end the first of their problems is raised.
        Raises FeedUnavailable, FeedBroken, StoreUnavailable.
        """
        with self._database.reading("looking up how far the feed was heard") as connection:
            after = cursor_of(connection, HEARD)
        heard, is_noted = 0, True
        problem: Exception | None = None
        for _ in range(pages_max):
            try:
                page = self._feed.events_after(after or 0, PAGE)
            except FeedPruned as pruned:
                if after is not None:
                    raise
                page = self._feed.events_after(pruned.first - 1, PAGE)
            if not page:
                break
            after, told = _relays(page)
            heard += len(page)
            is_noted = bool(told)
            if told:
                first = self._take(told, after, now)
                problem = problem or first
        if not is_noted:
            # Pages without anything for us need no transaction each: whoever dies before this one reads them again.
            self._take((), after or 0, now)
        if problem is not None:
            raise problem
        return heard

    def _take(self, told: Sequence[_Data], last: int, now: datetime) -> Exception | None:
        """The first problem with one of them."""
        first: Exception | None = None
        with self._database.writing("hearing about supply switches") as connection:
            for data in told:
                try:
                    self._hear(connection, data, now)
                except Exception as problem:
                    # Whatever it is: those behind it wait for the word that they may press the button.
                    if not is_own_fault(problem):
                        raise
                    _log.error(
                        "what became of a supply switch could not be heard",
                        meter=data.meter,
                        command=data.command,
                        exc_info=problem,
                    )
                    first = first or problem
            put_rows(connection, supply_cursors, [(HEARD, last)])
        return first

    def _hear(self, connection: Connection, data: _Data, now: datetime) -> None:
        if data.meter is None:
            return
        # Whose it measures today, also where its exchange is noted ahead; else whose it is going to be.
        today = now.astimezone(self._plan.zone).date()
        account = of_meter(connection, data.meter, on=today) or of_meter(connection, data.meter)
        if account is None:
            return
        touch(connection, account, now)
        if (
            data.about == "command"
            and data.kind == "permit-close"
            and data.state == "verified"
            and data.waiting_for_customer
        ):
            currency = account_of(connection, account).currency
            draft = Draft(
                id=f"{account}/permitted/{data.command}",
                account=account,
                kind="permitted",
                figures={"balance": Money(balance_of(connection, account, currency), currency)},
            )
            # A server gives a transaction up in which a value was refused, up to the last point that was saved.
            with connection.begin_nested():
                post(connection, draft, now, plan=self._plan, texts=self._texts)


def _relays(page: Sequence[bytes]) -> tuple[int, list[_Data]]:
    """The last sequence, and what is told of supply switches. Raises FeedBroken."""
    last, found = 0, []
    for text in page:
        try:
            head = msgspec.json.decode(text, type=_Head)
            last = int(head.sequence)
            if head.type == RELAY_TYPE:
                found.append(msgspec.json.decode(text, type=_Event).data)
        except (msgspec.DecodeError, ValueError) as error:
            raise FeedBroken(f"an event of the feed cannot be read: {error}; expected {RELAY_TYPE}") from error
    return last, found
