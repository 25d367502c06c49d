"""A day at the payment desks: who pays what where, and how badly it is told. The same seed gives the same day."""

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from simulators.payment_desk import PaidIn, PaymentDesk

__all__ = ["CHANNELS", "Habits", "Telling", "Traffic", "plan_traffic", "play"]

CHANNELS = ("app", "bank", "counter", "collection-point", "agent")
# People pay round amounts, and odd ones now and then.
AMOUNTS = (1000, 2000, 3000, 5000, 5000, 10000, 10000, 20000, 50000)
AT_ONCE = 8  # tellings under way
MISTYPED = "0000"  # put behind an account's number: it is nobody's then
REASON = "paid twice by mistake"


class Habits(Struct, frozen=True, kw_only=True):
    """repeats_max: a payment is told so many times at most, answered or not. late_max_s: a telling may come so much later, so that a
    later payment overtakes it. Of a thousand payments: reversed_, mistyped (the account's number is wrong).
    """

    repeats_max: int = 3
    late_max_s: float = 2.0
    reversed_: int = 20
    mistyped: int = 10


class Telling(Struct, frozen=True, kw_only=True):
    """at_s: from the start. line: of the two on which channels tell the same payment. is_reversal: that it is taken back."""

    at_s: float
    paid: PaidIn
    line: int = 0
    is_reversal: bool = False


class Traffic(Struct, frozen=True, kw_only=True):
    """paid: as it was paid. tellings: in the order in which they are made; a reversal comes behind a telling of its payment."""

    paid: tuple[PaidIn, ...]
    tellings: tuple[Telling, ...]


def plan_traffic(
    accounts: Sequence[str],
    count: int,
    *,
    seed: int,
    start: datetime,
    span_s: float,
    habits: Habits | None = None,
    currency: str = "CNY",
    run: str = "",
) -> Traffic:
    """count: payments, spread over span_s from `start` on. run: part of the receipts, so that another run has others. Pure.

    Raises ValueError without accounts.
    """
    if not accounts:
        raise ValueError("no accounts; expected one at least")
    habits = Habits() if habits is None else habits
    draw = random.Random(f"{seed}/payments")
    moments = sorted(draw.uniform(0, span_s) for _ in range(count))
    paid: list[PaidIn] = []
    tellings: list[Telling] = []
    for number, moment in enumerate(moments, 1):
        account, channel = draw.choice(accounts), draw.choice(CHANNELS)
        amount = draw.choice(AMOUNTS) if draw.randrange(5) else draw.randrange(1, 30_000)
        one = PaidIn(
            channel=channel,
            receipt=f"{run or seed}-{number:06}",
            account=account + MISTYPED if draw.randrange(1000) < habits.mistyped else account,
            amount_minor=amount,
            currency=currency,
            paid_at=start + timedelta(seconds=int(moment)),
        )
        paid.append(one)
        told = [
            Telling(at_s=moment + draw.uniform(0, habits.late_max_s), paid=one, line=draw.randrange(2))
            for _ in range(draw.randint(1, max(1, habits.repeats_max)))
        ]
        tellings += told
        if draw.randrange(1000) < habits.reversed_:
            last = max(telling.at_s for telling in told)
            tellings.append(Telling(at_s=last + draw.uniform(0.1, 1.0), paid=one, is_reversal=True))
    return Traffic(paid=tuple(paid), tellings=tuple(sorted(tellings, key=lambda one: one.at_s)))


async def play(traffic: Traffic, lines: Sequence[PaymentDesk]) -> None:
    """At their moments, several at once. lines: desks that share what they have told, each with a connection of its own."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    gate = asyncio.Semaphore(AT_ONCE)
    first_told: dict[tuple[str, str], asyncio.Event] = {}

    async def tell(telling: Telling) -> None:
        paid, desk = telling.paid, lines[telling.line % len(lines)]
        done = first_told.setdefault((paid.channel, paid.receipt), asyncio.Event())
        if telling.is_reversal:
            await done.wait()  # nobody takes back what was never told
        async with gate:
            if telling.is_reversal:
                await desk.reverse(paid.channel, paid.receipt, REASON)
                return
            await desk.pay(paid)
            done.set()

    async with asyncio.TaskGroup() as group:
        for telling in traffic.tellings:
            await asyncio.sleep(max(0.0, began + telling.at_s - loop.time()))
            group.create_task(tell(telling))
