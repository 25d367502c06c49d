"""`[[sinks]]`: what is usable of them, and what is said of the rest."""

import importlib.util
import tomllib
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from headend.configuration.reader import Reader
from headend.configuration.sinks import SinkTable, sinks_of
from headend.feed.sinks.settings import FileSettings, MqttSettings, NatsSettings, SinkConfig, WebhookSettings
from tests.brokers import make_certificates

SHANGHAI = ZoneInfo("Asia/Shanghai")


def read(tmp_path: Path, text: str) -> tuple[dict[str, SinkConfig], list[str]]:
    reader = Reader(tmp_path / "headend.toml", text)
    entries = reader.entries(tomllib.loads(text), "sinks", SinkTable)
    return sinks_of(reader, entries, head_end="west", zone=SHANGHAI), [str(problem) for problem in reader.problems]


def one(tmp_path: Path, keys: str) -> tuple[SinkConfig | None, list[str]]:
    found, problems = read(tmp_path, f'[[sinks]]\nname = "billing"\n{keys}\n')
    return found.get("billing"), problems


def test_a_webhook_with_what_it_has_by_default(tmp_path: Path) -> None:
    sink, problems = one(tmp_path, 'kind = "webhook"\nurl = "https://billing.example/reads"')
    assert problems == []
    assert sink is not None
    assert isinstance(sink.far_end, WebhookSettings)
    assert (sink.far_end.url, sink.far_end.gzip, sink.far_end.timeout_s) == (
        "https://billing.example/reads",
        True,
        30.0,
    )
    push = sink.push
    assert (push.batch_max, push.live_within, push.live_age_s, push.live_per_s) == (500, 2000, 900.0, 0.0)
    assert (push.back_fill_per_s, push.from_beginning, push.protect_s, push.park_max) == (2000.0, True, None, 100)


def test_everything_that_can_be_said_of_a_webhook(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    sink, problems = one(
        tmp_path,
        f"""kind = "webhook"
url = "https://127.0.0.1:8443/reads"
secret = "env:BILLING_SECRET"
token = "file:token"
ca = "certificates/{certificates.ca.name}"
certificate = "{certificates.client_certificate}"
key = "{certificates.client_key}"
gzip = false
timeout_s = 10
batch = 1000
live_within = 500
live_age = "1h"
live_rate = 50
back_fill_rate = 100
start = "now"
protect = "14d"
park_max = 10""",
    )
    assert problems == []
    assert sink is not None
    push = sink.push
    assert (push.batch_max, push.live_within, push.live_age_s, push.live_per_s) == (1000, 500, 3600.0, 50.0)
    assert (push.back_fill_per_s, push.from_beginning, push.protect_s, push.park_max) == (100.0, False, 1_209_600.0, 10)
    assert isinstance(sink.far_end, WebhookSettings)
    assert (sink.far_end.secret, sink.far_end.token, sink.far_end.gzip) == ("env:BILLING_SECRET", "file:token", False)
    assert sink.far_end.tls is not None


def test_a_broker_upstream_and_its_topics(tmp_path: Path) -> None:
    sink, problems = one(tmp_path, 'kind = "mqtt"\nurl = "mqtt://10.0.0.1"\ntopic = "utility/{subject}"')
    assert problems == []
    assert sink is not None
    assert isinstance(sink.far_end, MqttSettings)
    broker = sink.far_end.broker
    assert (broker.client_id, broker.version, broker.session_expiry_s) == ("headend-west-to-billing", 5, 0)
    assert sink.far_end.topic == "utility/{subject}"


def test_a_stream_of_nats(tmp_path: Path) -> None:
    if importlib.util.find_spec("nats") is None:
        sink, problems = one(tmp_path, 'kind = "nats"\nurl = "nats://10.0.0.1"')
        assert "headend[nats]" in problems[0]
        return
    sink, problems = one(
        tmp_path, 'kind = "nats"\nurl = "nats://10.0.0.1, nats://10.0.0.2:4223"\nstream = "READS"\ntoken = "env:TOKEN"'
    )
    assert problems == []
    assert sink is not None
    assert isinstance(sink.far_end, NatsSettings)
    assert sink.far_end.servers == ("nats://10.0.0.1", "nats://10.0.0.2:4223")
    assert sink.far_end.subject == "headend.{name}.{kind}.{subject}"


@pytest.mark.parametrize("url", ["days", "file:days", "file:///{tmp}/days"])
def test_a_folder_of_days(tmp_path: Path, url: str) -> None:
    sink, problems = one(tmp_path, f'kind = "file"\nurl = "{url.format(tmp=str(tmp_path).strip("/"))}"\nformat = "csv"')
    assert problems == []
    assert sink is not None
    assert isinstance(sink.far_end, FileSettings)
    assert (sink.far_end.folder, sink.far_end.format, sink.far_end.zone) == (tmp_path / "days", "csv", SHANGHAI)
    assert sink.push.url == (tmp_path / "days").as_uri()


@pytest.mark.parametrize(
    ("keys", "place", "expected"),
    [
        ('kind = "webhook"\nurl = "billing.example"', "url", "expected https://host/path"),
        ('kind = "webhook"\nurl = "https://me:pass@billing.example/"', "url", "behind `token`"),
        ('kind = "webhook"\nurl = "http://x.example/"\nca = "ca.pem"', "url", "has no TLS"),
        ('kind = "webhook"\nurl = "https://x.example/"\nca = "ca.pem"', "ca", "cannot be used"),
        (
            'kind = "webhook"\nurl = "https://x.example/"\nsecret = "whsec_abc"',
            "secret",
            "never written into this file",
        ),
        ('kind = "webhook"\nurl = "https://x.example/"\ntopic = "a"', "topic", "has no meaning for kind webhook"),
        ('kind = "webhook"\nurl = "https://x.example/"\nprotect = "forever"', "protect", "such as"),
        ('kind = "webhook"\nurl = "https://x.example/"\nbatch = 0', "batch", "greater than or equal to 1"),
        ('kind = "mqtt"\nurl = "http://x.example/"', "url", "mqtt://"),
        ('kind = "mqtt"\nurl = "mqtt://x.example"\ntopic = "a/#"', "topic", "without + and #"),
        ('kind = "mqtt"\nurl = "mqtt://x.example"\ntopic = "a/{meter}"', "topic", "name, type, kind, subject"),
        ('kind = "nats"\nurl = "nats://x.example"\ntopic = "a..b"', "topic", "expected a subject"),
        ('kind = "nats"\nurl = "http://x.example"', "url", "nats://host:4222"),
        ('kind = "file"\nurl = "https://x.example/"', "url", "expected a folder"),
        ('kind = "file"\nurl = "days"\nformat = "xlsx"', "format", "expected"),
        ('kind = "fax"\nurl = "x"', "kind", "expected"),
    ],
)
def test_what_cannot_be_used_is_left_out_and_told_with_its_place(
    tmp_path: Path, keys: str, place: str, expected: str
) -> None:
    if 'kind = "nats"' in keys and importlib.util.find_spec("nats") is None:
        pytest.skip("nats-py is not installed")
    sink, problems = one(tmp_path, keys)
    assert sink is None
    assert len(problems) == 1
    assert f"sinks[0].{place}" in problems[0]
    assert expected in problems[0]
    assert "whsec_abc" not in problems[0]
    assert "me:pass" not in problems[0]


def test_a_token_over_a_plain_connection_is_told_and_used_all_the_same(tmp_path: Path) -> None:
    sink, problems = one(tmp_path, 'kind = "webhook"\nurl = "http://billing.example/"\ntoken = "env:T"')
    assert sink is not None
    assert "in the clear" in problems[0]
