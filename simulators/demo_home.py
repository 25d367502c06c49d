"""A tenant's home for the demo: one meter with a relay, and the rules under which its supply may be switched within minutes.

The rules are files like those of any head-end: a policy for the switch, a calendar, a plan of notices. What is unusual in them are the
waits, which are seconds where a utility has days, and that opens are allowed at any hour. They must never be used for anybody's supply.
"""

import json
from datetime import date
from pathlib import Path

from msgspec import Struct

from simulators.demo_parts import SITE

__all__ = ["ADDRESS", "CONTRACT", "MESSAGES", "METER", "TARIFF", "Home", "Pace", "config_of", "write_rules"]

METER = "T000401"
ADDRESS = "000000000401"
CONTRACT = "dlt645/generic_single_phase_fee_control_2013"
MESSAGES = "messages.ndjson"
TARIFF = "residential-step"
OPERATOR, PREPAID_OPERATOR = "00000040", "00000041"  # one of them stands in the meter's record of every order
CHANNEL = "sms"

_CALENDAR = """\
name = "{name}"
title = "No holidays at all: for a demonstration"
"""
_YEAR = """
[[years]]
year = {year}
source = "made up for a demonstration"
holidays = []
"""
_POLICY = """\
# For a demonstration with a simulated meter. Its waits are seconds, and it knows no night, weekend, holiday or weather:
# whoever uses it for a real supply cuts people off without a warning that they could act on.
[policy]
id = "demo"
version = "1"
title = "Demonstration"
timezone = "{zone}"
calendars = ["calendar.toml"]
sources = ["nobody's rules: for a demonstration"]

[opens]
windows = [{{ days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], start = "00:00", end = "24:00" }}]
no_opens_on = []
rest_days = []
on_holidays = true
eves_of_holidays = 0

[debt]
currency = "CNY"
minimum_minor = 1
grace_minor = 0
proof_age_max = "5m"

[notices]
steps = [
  {{ step = "first", before = "{first_s}s", age_max = "1h" }},
  {{ step = "second", before = "{second_s}s", after_previous = "{apart_s}s", age_max = "1h" }},
  {{ step = "final", before = "{final_s}s", after_previous = "{apart_s}s", age_max = "1h", channels = ["{channel}"] }},
]

[[protected]]
customer_class = "medical"
reason = "life support"
until = "never"

[reconnect]
close = "directly"
spread = "1s"
"""
_PLAN = """\
# For a demonstration with a simulated meter: what takes a utility days takes seconds here.
id = "demo"
version = "1"
timezone = "{zone}"
trial = true
count_today = true

low_days = 1
good_days = 1
rest = "0s"
owed_more_than_minor = 0
pay_within = "{second_s}s"
order_valid = "4m"
order_pause = "5s"
again = "1m"
wait_for = ["proof-age", "fence", "one-active-command", "unconfirmed", "store", "clock", "audit"]
quiet = "none"
order_hours = {{ start = "00:00", end = "00:00" }}

[low]
name = "first"
before = "{first_s}s"
valid = "1h"

[used_up]
name = "second"
before = "{second_s}s"
after_previous = "{apart_s}s"
valid = "1h"

[last_warning]
name = "final"
before = "{final_s}s"
after_previous = "{apart_s}s"
valid = "1h"
"""


class Pace(Struct, frozen=True, kw_only=True):
    """Seconds. apart_s: between two warnings at least. first_s, second_s, final_s: before the disconnection at least.

    period_s: from read to read. haste: how many hours' use the meter counts in an hour. first_minor: what is paid at the beginning.
    reminder_minor: below it the first warning goes out. dark_s: from the disconnection to the payment.
    """

    apart_s: int = 6
    first_s: int = 10
    second_s: int = 8
    final_s: int = 8
    period_s: int = 5
    haste: int = 300
    constant_w: int = 3500
    first_minor: int = 1000
    reminder_minor: int = 600
    dark_s: int = 6


class Home(Struct, frozen=True):
    """url: of the line of its meter."""

    url: str
    pace: Pace


def write_rules(folder: Path, home: Home, *, today: date) -> None:
    """Policy, calendar, plan, and the secrets that the configuration names; the audit key is there already (`headend init`)."""
    years = "".join(_YEAR.format(year=year) for year in (today.year - 1, today.year, today.year + 1))
    pace = {name: getattr(home.pace, name) for name in home.pace.__struct_fields__}
    files = {
        "calendar.toml": _CALENDAR.format(name="none") + years,
        "policy.toml": _POLICY.format(zone=SITE, channel=CHANNEL, **pace),
        "notices.toml": _PLAN.format(zone=SITE, **pace),
        "password.txt": "02000000",
        "operator.txt": OPERATOR,
        "prepaid.txt": PREPAID_OPERATOR,
        "salt.txt": "a demonstration, nobody's documents",
    }
    for name, text in files.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)


def config_of(home: Home) -> str:
    """The tables of the configuration; those of the street, [headend] and [api] stand elsewhere."""
    quantities = json.dumps(["1-0:1.8.0", "1-0:16.7.0", "1-0:32.7.0"])
    tables = [
        '[secrets]\npassword = "file:password.txt"\noperator = "file:operator.txt"\n',
        '[audit]\nsigning_key = "file:audit-key.pem"\n',
        '[ledger]\nsigning_key = "file:manifest-key.pem"\n',
        '[control]\nenabled = true\npolicy = "policy.toml"\nclock = "vouched"\n\n[control.operators]\n'
        'prepaid-supply = "file:prepaid.txt"\n',
        f'[prepayment]\nenabled = true\nplan = "notices.toml"\ntariffs = ["{TARIFF}"]\nidentity_salt = "file:salt.txt"\n'
        "count_today = true\n",
        f'[[prepayment.channels]]\nname = "{CHANNEL}"\nkind = "file"\npath = "{MESSAGES}"\n',
        f'[[lines]]\nname = "home"\nurl = "{home.url}"\nprotocol = "dlt645"\n',
        f'[[plans]]\nname = "closely"\nperiod = "{home.pace.period_s}s"\nquantities = {quantities}\nback_fill = "off"\n',
        f'[[meters]]\nid = "{METER}"\nline = "home"\naddress = "{ADDRESS}"\ncontract = "{CONTRACT}"\nplan = "closely"\n'
        'customer_class = "resident"\nfeeder = "F1"\n',
    ]
    return "\n".join(tables)
