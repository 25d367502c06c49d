"""`[prepayment]`: what is wrong in it is told line by line, before anybody is charged by it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from headend.assembly.prepaid_settings import prepayment_problems, settings_of
from headend.config import Config, load_config
from headend.configuration.prepayment import BankSettings, ChannelSettings, DebitLimits
from headend.errors import ConfigError

HEAD = '[headend]\nname = "x"\ntimezone = "Asia/Shanghai"\n'
SALT = 'identity_salt = "file:salt"\n'
WHOLE = f"""\
[prepayment]
enabled = true
{SALT}tariffs = ["residential-step", "own.toml"]
points = "top-up-bonus"
[[prepayment.channels]]
name = "sms"
kind = "http"
url = "https://sms.example/send"
token = "file:salt"
[[prepayment.channels]]
name = "paper"
kind = "file"
path = "out/paper.ndjson"
counts_as_delivered = false
[prepayment.bank]
url = "https://bank.example/debits"
token = "env:BANK_TOKEN"
[prepayment.debit_limits]
per_month = 3
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Config]:
    (tmp_path / "salt").write_text("a salt of thirty-two characters.\n")

    def loaded(text: str) -> Config:
        path = tmp_path / "headend.toml"
        path.write_text(HEAD + text)
        return load_config(path)

    return loaded


def test_it_is_off_unless_somebody_turns_it_on(load: Callable[[str], Config]) -> None:
    own = load("").prepayment
    assert not own.enabled
    assert own.channels == ()


def test_everything_that_can_be_named_is_taken(load: Callable[[str], Config], tmp_path: Path) -> None:
    own = load(WHOLE).prepayment
    assert own.enabled
    assert own.store == f"sqlite:///{tmp_path}/prepayment.db"
    assert own.tariffs == ("residential-step", "own.toml")
    assert own.channels == (
        ChannelSettings(name="sms", kind="http", url="https://sms.example/send", token="file:salt"),
        ChannelSettings(name="paper", kind="file", path="out/paper.ndjson", counts_as_delivered=False),
    )
    assert own.bank == BankSettings(url="https://bank.example/debits", token="env:BANK_TOKEN")
    assert own.limits == DebitLimits(per_day_minor=500_000, per_month=3, per_month_minor=1_000_000)


MISTAKES = {
    "unknown key": ("enable = true\n", "headend.toml:5 prepayment.enable: unknown key; expected one of enabled,"),
    "no salt": ("enabled = true\n", 'prepayment.identity_salt: missing; expected "env:NAME" or "file:PATH"'),
    "a salt in the open": ('identity_salt = "s3cret"\n', "secrets are never written into this file"),
    "the head-end's store": (
        f'enabled = true\n{SALT}store = "sqlite:///headend.db"\n',
        "expected a database of its own",
    ),
    "no store": ('store = "prepayment.db"\n', "is no store; expected sqlite:///"),
    "a channel that is none": ("channels = [3]\n", "prepayment.channels[0]: expected a valid dictionary"),
    "an unknown kind": (
        '[[prepayment.channels]]\nname = "a"\nkind = "pigeon"\n',
        "prepayment.channels[0].kind: expected 'file', 'http' or 'apprise', got 'pigeon'",
    ),
    "no address": ('[[prepayment.channels]]\nname = "a"\nkind = "http"\n', "channels[0].url: missing"),
    "a key of another kind": (
        '[[prepayment.channels]]\nname = "a"\nkind = "file"\npath = "x"\nurl = "http://x"\n',
        "prepayment.channels[0].url: has no meaning for kind file",
    ),
    "a misspelt key": (
        '[[prepayment.channels]]\nname = "a"\nkind = "file"\npaht = "x"\n',
        "channels[0].paht: unknown key; expected one of name, kind, path",
    ),
    "a password in an address": (
        '[[prepayment.channels]]\nname = "a"\nkind = "http"\nurl = "https://me:pw@x/"\n',
        "put a bearer token behind `token`",
    ),
    "an Apprise address in the open": (
        '[[prepayment.channels]]\nname = "a"\nkind = "apprise"\nurl = "sinch://TOKEN@PLAN/{to}"\n',
        "addresses of Apprise hold secrets",
    ),
    "a name twice": (
        '[[prepayment.channels]]\nname = "a"\nkind = "file"\npath = "x"\n' * 2,
        "prepayment.channels: 'a' stands twice",
    ),
    "a bank without address": ("[prepayment.bank]\n", "prepayment.bank.url: missing"),
    "a bank by another way": ('[prepayment.bank]\nurl = "ftp://bank"\n', "expected https://host/path"),
    "less than nothing": (
        "[prepayment.debit_limits]\nper_day_minor = -1\n",
        "prepayment.debit_limits.per_day_minor: expected greater than or equal to 0, got -1",
    ),
    "money with a point": ("[prepayment.debit_limits]\nper_day_minor = 50.0\n", "expected a valid integer, got 50.0"),
}


@pytest.mark.parametrize(("text", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_stops_the_start_and_says_where_and_what_was_expected(
    load: Callable[[str], Config], text: str, told: str
) -> None:
    with pytest.raises(ConfigError) as found:
        load(f"[prepayment]\n{text}")
    assert told in str(found.value)
    assert "s3cret" not in str(found.value)
    assert "TOKEN@PLAN" not in str(found.value)


def test_every_mistake_has_a_line_of_its_own(load: Callable[[str], Config]) -> None:
    with pytest.raises(ConfigError) as found:
        load('[prepayment]\nenabled = true\n[prepayment.bank]\nurl = "x"\n[prepayment.debit_limits]\nper_month = -1\n')
    assert len(str(found.value).splitlines()) == 3


# ------------------------------------------------------------------------------------------------ what it names


def test_what_is_named_is_loaded(load: Callable[[str], Config]) -> None:
    config = load(f'[prepayment]\nenabled = true\n{SALT}tariffs = ["residential-step"]\npoints = "top-up-bonus"\n')
    settings = settings_of(config)
    assert len(settings.tariffs) == 1
    assert settings.rule is not None
    assert settings.plan.id == "cn-residential"
    assert settings.limits is None  # nobody draws
    assert settings.salt == b"a salt of thirty-two characters."


def test_check_names_every_file_that_cannot_be_used(load: Callable[[str], Config], tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('[tariff]\nname = "own"\ncurrency = "XYZ"\n')
    config = load(
        '[prepayment]\ntariffs = ["own.toml", "nowhere.toml"]\nplan = "no-such"\ntexts = "words"\npoints = "bonus"\n'
        'identity_salt = "env:NO_SUCH_SALT"\n'
        '[[prepayment.channels]]\nname = "a"\nkind = "http"\nurl = "env:NO_SUCH_URL"\n'
        '[prepayment.bank]\nurl = "https://bank"\ntoken = "env:NO_SUCH_TOKEN"\n'
    )
    told = prepayment_problems(config)
    for words in (
        "plan: notice plan 'no-such'",
        "texts: there is no folder 'words'",
        "tariffs: there is no 'nowhere.toml'; expected one of commercial-tou, residential-step",
        "points: there is no 'bonus'; expected one of top-up-bonus",
        "identity_salt: identity_salt 'env:NO_SUCH_SALT'",
        "channels a: url of a 'env:NO_SUCH_URL'",
        "bank: token of the bank 'env:NO_SUCH_TOKEN'",
    ):
        assert any(words in one and one.startswith("[prepayment] ") for one in told), (words, told)
    config = load('[prepayment]\ntariffs = ["own.toml"]\n')
    assert any("own.toml" in one and "currency" in one for one in prepayment_problems(config))


@pytest.mark.parametrize("url", ["sms.example/send", "https://sms.example:post/", "https://", "ftp://sms.example/"])
def test_an_address_behind_a_reference_is_looked_at_before_the_first_message(
    load: Callable[[str], Config], tmp_path: Path, url: str
) -> None:
    """And is not told: it may hold a secret."""
    (tmp_path / "url").write_text(url)
    config = load('[prepayment]\n[[prepayment.channels]]\nname = "a"\nkind = "http"\nurl = "file:url"\n')
    told = [one for one in prepayment_problems(config) if "channels a" in one]
    assert told == ["[prepayment] channels a: url of a 'file:url': expected https://host/path"]
    (tmp_path / "url").write_text("https://sms.example/send?key=1")
    assert not [one for one in prepayment_problems(config) if "channels a" in one]


def test_a_short_salt_is_no_salt(load: Callable[[str], Config], tmp_path: Path) -> None:
    (tmp_path / "short").write_text("1234")
    [told] = prepayment_problems(load('[prepayment]\nidentity_salt = "file:short"\n'))
    assert "it holds 4 characters; expected 16 or more" in told


def test_check_says_what_nobody_would_notice_until_it_matters(load: Callable[[str], Config]) -> None:
    told = prepayment_problems(load(f"[prepayment]\nenabled = true\n{SALT}"))
    assert [one.partition(":")[0] for one in told] == [
        "[prepayment] tariffs",
        "[prepayment] channels",
        "[prepayment] [control] is off",
    ]
    whole = (
        f'[prepayment]\nenabled = true\n{SALT}tariffs = ["residential-step"]\n'
        '[[prepayment.channels]]\nname = "letter"\nkind = "file"\npath = "x"\n'
        '[control]\nenabled = true\npolicy = "policy.toml"\n'
        '[[lines]]\nname = "l"\nurl = "tcp://127.0.0.1:1"\n[[plans]]\nname = "p"\nperiod = "1h"\nquantities = ["1-0:1.8.0"]\n'
        '[[meters]]\nid = "M1"\nline = "l"\naddress = "000000000001"\nplan = "p"\n'
    )
    config = load(whole)
    policy = config.path.parent / "policy.toml"
    builtin = Path(__file__).parents[3] / "headend" / "commands" / "policies" / "cn-residential.toml"
    policy.write_text(builtin.read_text("utf-8"), "utf-8")
    told = prepayment_problems(config)
    assert any('[control.operators] has no code for "prepaid-supply"' in one for one in told)
    assert not any("which no step of the plan is" in one for one in told)


def test_hours_of_another_zone_than_the_days_are_told(load: Callable[[str], Config], tmp_path: Path) -> None:
    plan = Path(__file__).parents[3] / "headend" / "prepayment" / "notices" / "plans" / "cn-residential.toml"
    (tmp_path / "plan.toml").write_text(plan.read_text("utf-8").replace("Asia/Shanghai", "Europe/Berlin"), "utf-8")
    told = prepayment_problems(load(f'[prepayment]\nenabled = true\n{SALT}plan = "plan.toml"\n'))
    assert any("its hours are those of Europe/Berlin, and days are settled in Asia/Shanghai" in one for one in told)
