"""A plan whose steps follow each other within minutes, and shops that stand at each place of an episode; each made once, and copied."""

from datetime import date, timedelta
from pathlib import Path

from headend.prepayment.notices.plan import NoticePlan, parse_plan
from tests.scenarios.prepaid_year.shop import Shop

__all__ = ["QUICK", "STATES", "Shelf", "quick_plan"]

START = date(2028, 3, 1)
MINUTE = timedelta(minutes=1)
STATES = ("well", "low", "used-up", "warned", "ordered", "disconnected")
TEXT = """
id = "quick"
version = "1"
timezone = "Asia/Shanghai"
trial = true
quiet = "none"
order_hours = {{ start = "00:00", end = "23:59" }}
rest = "1m"
pay_within = "4m"
order_pause = "1m"
order_valid = "8m"
again = "5m"
back_within = "4h"
pause_first = "1m"
wait_for = ["fence", "one-active-command"]
after_reversal = "{after_reversal}"
{more}
[low]
name = "first"
before = "3m"
valid = "10d"

[used_up]
name = "second"
before = "2m"
after_previous = "2m"
valid = "10d"

[last_warning]
name = "final"
before = "2m"
after_previous = "2m"
valid = "60m"
"""


def quick_plan(*, after_reversal: str = "usual-notices", more: str = "") -> NoticePlan:
    return parse_plan(TEXT.format(after_reversal=after_reversal, more=more), "quick")


QUICK = quick_plan()


class Shelf:
    """Homes that owe 45.00 yuan, one for each state that an episode can be in; with one meter or with two."""

    def __init__(self, folder: Path, *, plan: NoticePlan = QUICK, meters: tuple[str, ...] = ("M1",)) -> None:
        self._folder = folder
        self._count = 0
        self._shops: dict[str, Shop] = {}
        shop = Shop(folder / "first", start=START, plan=plan)
        shop.open(meters=meters)
        shop.office.take(shop.payment(5500, receipt="first"))
        shop.town.now = shop.at(START + timedelta(days=1), 0, 10)
        shop.run()
        self._keep("well", shop)
        for meter in meters:
            shop.tell(START, f"{200 // len(meters)}.00", meter=meter)
        wanted = list(STATES[1:])
        for _ in range(60):
            shop.pass_time(MINUTE, step=MINUTE / 2)
            state = shop.office.card("A1").supply.state
            if state in wanted:
                wanted.remove(state)
                self._keep(state, shop)
            if not wanted:
                break
        assert not wanted, f"never {wanted}"
        shop.aclose()

    def take_down(self, state: str) -> Shop:
        self._count += 1
        return self._shops[state].copied(self._folder / f"copy-{self._count}")

    def aclose(self) -> None:
        for shop in self._shops.values():
            shop.aclose()

    def _keep(self, state: str, shop: Shop) -> None:
        self._shops[state] = shop.copied(self._folder / state)
