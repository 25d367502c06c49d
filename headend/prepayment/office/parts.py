"""What the office works with: what the utility decided, what is outside, and the parts that are made of it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor

from msgspec import Struct
from sqlalchemy import Connection

from headend.clock import Clock
from headend.prepayment.books import autopay
from headend.prepayment.books.autopay import Autopay
from headend.prepayment.books.points_file import PointsRule
from headend.prepayment.days import LocalDays
from headend.prepayment.notices.mailroom import Mailroom
from headend.prepayment.notices.notices import Channel
from headend.prepayment.notices.plan import NoticePlan
from headend.prepayment.notices.texts import NoticeTexts
from headend.prepayment.office.duties import Desks
from headend.prepayment.office.letter_drafts import LetterDrafts
from headend.prepayment.office.till import Till
from headend.prepayment.outside.patience import PatientSwitchboard
from headend.prepayment.ports import Bank, Feed, Outbox, Switchboard
from headend.prepayment.settlement.outlook import SettledOutlook
from headend.prepayment.settlement.settlement import Settlement
from headend.prepayment.storage.database import Database
from headend.prepayment.supply.desk import SupplyDesk
from headend.prepayment.supply.relay_events import RelayFollower
from headend.prepayment.supply.store import touch, touch_all
from headend.prepayment.tariffs.tariff import Tariff
from headend.prepayment.usage.intake import Intake

__all__ = ["Outside", "Parts", "Settings", "parts_of"]


class Settings(Struct, frozen=True, kw_only=True):
    """What the utility decided. tariffs: all versions by name. rule: what top-ups earn, None for nothing. limits: of automatic top-up,
    None for those of the program. salt: for the digests of identity documents; another one, and nobody is known by his document."""

    plan: NoticePlan
    texts: NoticeTexts
    tariffs: Mapping[str, Sequence[Tariff]]
    rule: PointsRule | None = None
    limits: autopay.Limits | None = None
    salt: bytes


class Outside(Struct, frozen=True, kw_only=True):
    """What prepaid supply needs from elsewhere. bank: None where nobody draws. our_meters: asset numbers that the utility reads.

    senders: MAIL_THREADS threads for messages, ended by whoever made them; None: messages are sent one by one.
    """

    feed: Feed
    switch: Switchboard
    outbox: Outbox
    channels: Sequence[Channel]
    bank: Bank | None = None
    our_meters: Callable[[], Collection[str]]
    senders: Executor | None = None


class Parts(Struct, frozen=True, kw_only=True):
    desks: Desks
    till: Till
    outlook: SettledOutlook


def parts_of(database: Database, settings: Settings, outside: Outside, *, days: LocalDays, clock: Clock) -> Parts:
    plan, texts = settings.plan, settings.texts
    letters = LetterDrafts(plan, texts)
    outlook = SettledOutlook(days, tariffs=settings.tariffs if plan.count_today else None)
    patient = PatientSwitchboard(outside.switch, clock)
    desk = SupplyDesk(database, patient, plan=plan, texts=texts, outlook=outlook)
    till = Till(
        database,
        outside.switch,
        days,
        clock,
        rule=settings.rule,
        reversed_=desk.reversed,
        # Where only whole days count there is nothing beyond the books.
        counted=desk.counted_minor if plan.count_today else None,
    )

    def heard(connection: Connection, some: Sequence[str]) -> None:
        """Their balances may say something else now, in the middle of a day."""
        touch_all(connection, some, clock.now())

    desks = Desks(
        database=database,
        intake=Intake(database, outside.feed, days, heard=heard if plan.count_today else None),
        settlement=Settlement(database, settings.tariffs, days),
        autopay=None
        if outside.bank is None
        else Autopay(database, outside.bank, till.take, days, clock, limits=settings.limits, answered=letters.debit),
        follower=RelayFollower(database, outside.feed, plan=plan, texts=texts),
        desk=desk,
        mailroom=Mailroom(
            database,
            outside.channels,
            plan=plan,
            still=desk.still,
            settled=touch,
            clock=clock,
            senders=outside.senders,
        ),
        switch=patient,
        outbox=outside.outbox,
        letters=letters,
        clock=clock,
    )
    return Parts(desks=desks, till=till, outlook=outlook)
