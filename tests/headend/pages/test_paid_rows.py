"""What a top-up earned stands beside it, in the words of its customer."""

from datetime import UTC, datetime

import pytest

from headend.pages.paid_rows import paid_rows
from headend.pages.words import load_words
from headend.prepayment.books.points import Award
from headend.prepayment.model import Payment
from tests.headend.prepayment.fleet import SHANGHAI

NOW = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("points", "bonus_minor", "is_taken_back", "en", "zh"),
    [
        (20, 0, False, "20 points", "20 积分"),
        (1, 50, False, "1 point, 0.50 yuan bonus", "1 积分，赠送 0.50 元"),
        (0, 50, False, "0.50 yuan bonus", "赠送 0.50 元"),
        (20, 0, True, "Taken back: 20 points", "已收回：20 积分"),
        (0, 0, False, "", ""),
    ],
)
def test_points_and_bonus_stand_beside_the_payment_that_earned_them(
    points: int, bonus_minor: int, is_taken_back: bool, en: str, zh: str
) -> None:
    paid = [
        Payment(
            channel=channel,
            receipt="R1",
            account="A1",
            amount_minor=10000,
            currency="CNY",
            paid_at=NOW,
            received_at=NOW,
        )
        for channel in ("bank", "app")
    ]
    award = Award(
        account="A1",
        month="2026-03",
        rule="spring",
        points=points,
        bonus_minor=bonus_minor,
        channel="app",
        receipt="R1",
        is_taken_back=is_taken_back,
    )
    for language, words in (("en", en), ("zh", zh)):
        rows = paid_rows(paid, [award], load_words(language, SHANGHAI))
        assert [(row.payment.channel, row.earned) for row in rows] == [("bank", ""), ("app", words)]
