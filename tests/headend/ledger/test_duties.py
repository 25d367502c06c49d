"""What a configuration owes: of lines that are back-filled, of lines that are not, and behind concentrators."""

from pathlib import Path

from headend.config import load_config
from headend.ledger.duties import duties_of
from headend.ledger.duty import CONCENTRATOR, LINE
from headend.store.ledger import LedgerBook
from tests.headend.support import new_store

CONFIG = """
[headend]
store = "sqlite:///x.db"
[[lines]]
name = "serial"
url = "tcp://127.0.0.1:1"
[[lines]]
name = "modbus"
url = "tcp://127.0.0.1:2"
protocol = "modbus-tcp"
[[brokers]]
name = "west"
url = "mqtt://127.0.0.1:3"
[[concentrators]]
name = "TX-12"
broker = "west"
[[plans]]
name = "plan"
period = "15m"
quantities = ["1-0:1.8.0", "1-0:32.7.0", "1-0:99.99.9"]
back_fill = "7d"
[[meters]]
id = "M1"
line = "serial"
address = "000000000001"
plan = "plan"
[[meters]]
id = "M2"
line = "modbus"
address = "1"
contract = "modbus/eastron_sdm630"
plan = "plan"
[[meters]]
id = "M3"
line = "TX-12"
address = "000000000003"
plan = "plan"
"""


def test_every_meter_owes_what_its_contract_gives_of_its_plan(tmp_path: Path) -> None:
    path = tmp_path / "headend.toml"
    path.write_text(CONFIG, encoding="utf-8")
    found = {duty.meter: duty for duty in duties_of(load_config(path))}
    assert {meter: (duty.route, duty.line, duty.back_fill_s) for meter, duty in found.items()} == {
        "M1": (LINE, "serial", 7 * 86400),
        "M2": (LINE, "modbus", 0),
        "M3": (CONCENTRATOR, "TX-12", 7 * 86400),
    }
    assert found["M1"].quantities == ("1-0:1.8.0", "1-0:32.7.0")
    assert set(found["M2"].quantities) == {"1-0:1.8.0", "1-0:32.7.0"}
    assert found["M3"].quantities == ("1-0:1.8.0", "1-0:32.7.0", "1-0:99.99.9")
    assert found["M1"].period_s == 900


def test_duties_end_and_begin_when_they_change_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "headend.toml"
    path.write_text(CONFIG, encoding="utf-8")
    wanted = duties_of(load_config(path))
    store = new_store(tmp_path)
    book = LedgerBook(store.engine)
    assert book.first_duty() is None
    assert book.set_duties(wanted, 1000) == 3
    assert book.set_duties(wanted, 2000) == 0
    path.write_text(CONFIG.replace('line = "serial"', 'line = "TX-12"'), encoding="utf-8")
    moved = duties_of(load_config(path))
    assert book.set_duties(moved, 3000) == 2
    of_m1 = sorted((duty.since, duty.until, duty.line) for duty in book.duties(0, 10_000) if duty.meter == "M1")
    assert of_m1 == [(1000, 3000, "serial"), (3000, None, "TX-12")]
    # A clock that was set back: what has begun in the future has never been.
    assert book.set_duties(wanted, 2500) == 2
    of_m1 = sorted((duty.since, duty.until, duty.line) for duty in book.duties(0, 10_000) if duty.meter == "M1")
    assert of_m1 == [(1000, 3000, "serial"), (2500, None, "serial")]
    assert book.set_duties(moved[1:], 4000) == 1
    assert {duty.meter for duty in book.duties(4000, 5000)} == {"M2", "M3"}
    assert book.first_duty() == 1000
    store.close()
