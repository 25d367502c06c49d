"""Texts, plans, and channels: a file, a real HTTP endpoint, and Apprise's absence."""

import importlib.util
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import msgspec
import pytest

from headend.errors import ConfigError
from headend.prepayment.notices.plan import load_plan, parse_plan
from headend.prepayment.notices.texts import FIELDS, LANGUAGES, Figure, Money, load_texts
from headend.prepayment.outside.messengers import AppriseMessenger, FileMessenger, HttpMessenger
from headend.prepayment.ports import Message
from tests.servers import Answer, http_endpoint

ZONE = ZoneInfo("Asia/Shanghai")
MESSAGE = Message(
    key="A1/1/low/1", kind="low", account="A1", to="+8613812345678", language="zh", title="电费", text="余额不足"
)
PLAN_TEXT = (Path(__file__).parents[4] / "headend/prepayment/notices/plans/cn-residential.toml").read_text("utf-8")
FIGURES: dict[str, Figure] = {
    "balance": Money(-1205, "CNY"),
    "owed": Money(1205, "CNY"),
    "amount": Money(5000, "CNY"),
    "charged": Money(9001, "CNY"),
    "paid": Money(8000, "CNY"),
    "reminder": Money(1000, "CNY"),
    "topup": None,
    "days": Decimal("3.7"),
    "day": date(2026, 3, 2),
    "month": "2026-02",
    "used": Decimal("181.5"),
    "pay_by": datetime(2026, 3, 9, 16, tzinfo=UTC),
    "deadline": datetime(2026, 3, 9, 2, 30, tzinfo=UTC),
    "at": datetime(2026, 3, 9, 2, 31, tzinfo=UTC),
    "took": timedelta(minutes=14, seconds=40),
    "channel": "app",
    "receipt": "R-77",
    "reason": "no funds",
    "follows": "usual-notices",
    "kwh": "62.5",
    "found": "sudden-increase",
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_every_text_has_all_its_figures_and_no_brace_is_left(kind: str, language: str) -> None:
    written = load_texts(ZONE).write(kind, language, "A1", {name: FIGURES[name] for name in FIELDS[kind]})
    assert written.title
    assert "A1" in written.text
    assert not set("{}") & set(written.title + written.text)


def test_figures_are_written_as_people_read_them() -> None:
    texts = load_texts(ZONE)
    assert "欠费12.05元" in texts.write("used-up", "zh", "A1", FIGURES).text
    assert "2026-03-10 00:00" in texts.write("used-up", "zh", "A1", FIGURES).text
    assert "you owe 12.05 yuan" in texts.write("used-up", "en", "A1", FIGURES).text
    assert "covers 3 days" in texts.write("low", "en", "A1", FIGURES).text
    assert "14 min after" in texts.write("restored", "en", "A1", FIGURES).text
    assert "41 s after" in texts.write("restored", "en", "A1", FIGURES | {"took": timedelta(seconds=41)}).text
    soon = FIGURES | {"deadline": datetime(2026, 3, 9, 16, 0, 20, tzinfo=UTC)}
    assert "2026-03-10 00:00:20" in texts.write("last-warning", "zh", "A1", soon).text
    assert "（手机应用，" in texts.write("reversed", "zh", "A1", FIGURES).text
    assert texts.write("low", "fr", "A1", FIGURES) == texts.write("low", "zh", "A1", FIGURES)


def test_a_text_that_names_an_unknown_figure_is_refused_with_those_it_may_name(tmp_path: Path) -> None:
    template = (Path(__file__).parents[4] / "headend/prepayment/notices/templates/en.toml").read_text("utf-8")
    (tmp_path / "en.toml").write_text(template.replace("{days} days", "{dayz} days"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\[low\] text: \{dayz\}; expected one of account, balance, day, days"):
        load_texts(ZONE, tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ('name = "second"', 'name = "first"', "same name"),
        ('rest = "24h"', 'rest = "a day"', "lengths are written 30m"),
        ('after_previous = "24h"\nvalid = "30d"', 'after_previous = "5m"\nvalid = "30d"', "two steps at once"),
        ('valid = "24h"', 'valid = "2h"', "never fits"),
        ("low_days = 5", "low_dayz = 5", "low_dayz"),
        ('timezone = "Asia/Shanghai"', 'timezone = "Asia/Peking"', "IANA"),
        ('start = "20:00", end = "08:00"', 'start = "08:00", end = "08:00"', "no hour of the day"),
        ('"thu", "fri"], start = "09:00"', '"thu", "fry"], start = "09:00"', "fry"),
    ],
)
def test_a_plan_that_cannot_be_kept_is_refused_with_the_reason(before: str, after: str, why: str) -> None:
    assert before in PLAN_TEXT
    with pytest.raises(ConfigError, match=why):
        parse_plan(PLAN_TEXT.replace(before, after), "here")


def test_an_unknown_plan_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="cn-residential"):
        load_plan("cn-industrial")


def test_a_message_of_the_evening_waits_for_the_end_of_the_quiet_hours() -> None:
    plan = load_plan("cn-residential")
    evening = datetime(2026, 3, 2, 13, 7, 21, tzinfo=UTC)  # 21:07
    assert plan.when_to_send("low", evening) == datetime(2026, 3, 3, 0, 0, tzinfo=UTC)
    assert plan.when_to_send("restored", evening) == evening


def test_the_file_takes_a_message_once_also_after_a_restart_that_cut_a_line(tmp_path: Path) -> None:
    path = tmp_path / "messages.ndjson"
    first = FileMessenger(path).send(MESSAGE)
    assert (first.reference, first.delivered) == ("file:messages.ndjson:1", True)
    with path.open("ab") as file:
        file.write(b'{"reference":"file:messages.nd')
    again = FileMessenger(path)
    assert again.send(MESSAGE) == first
    other = again.send(msgspec.structs.replace(MESSAGE, key="A2/1/low/1"))
    assert other.reference == "file:messages.ndjson:2"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["message"]["key"] for line in lines] == ["A1/1/low/1", "A2/1/low/1"]


def test_an_endpoint_proves_what_it_says_and_nothing_more() -> None:
    with http_endpoint() as endpoint, httpx.Client() as client:
        messenger = HttpMessenger(client, endpoint.url)
        endpoint.answers.append(Answer(body=b'{"reference": "sms-1", "delivered": true}'))
        endpoint.answers.append(Answer(body=b'{"reference": "sms-2"}'))
        endpoint.answers.append(Answer())
        endpoint.answers.append(Answer(status=503, body=b"later"))
        proven, taken, nothing, refused = [messenger.send(MESSAGE) for _ in range(4)]
    assert (proven.reference, proven.delivered) == ("sms-1", True)
    assert (taken.reference, taken.delivered) == ("sms-2", False)
    assert (nothing.reference, nothing.problem) == ("", "its answer names no reference, so nothing is proven")
    assert (refused.reference, refused.problem) == ("", "it answered 503: later")
    assert {one.headers["idempotency-key"] for one in endpoint.requests} == {"A1/1/low/1"}
    assert msgspec.json.decode(endpoint.requests[0].body, type=Message) == MESSAGE
    gone = HttpMessenger(httpx.Client(), endpoint.url).send(MESSAGE)
    assert gone.problem.startswith("no answer")


@pytest.mark.skipif(importlib.util.find_spec("apprise") is not None, reason="Apprise is installed")
def test_without_apprise_the_configuration_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"headend\[notices\]"):
        AppriseMessenger("json://localhost/{to}")
