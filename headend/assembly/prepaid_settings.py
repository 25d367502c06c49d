"""What `[prepayment]` names, loaded: tariffs, notice plan, texts, rule of points, salt, channels, bank. And what `check` says of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
from msgspec.structs import replace

from headend.assembly.switching import policy_of
from headend.config import Config
from headend.configuration.prepayment import ChannelSettings
from headend.errors import ConfigError, HeadendError
from headend.prepayment.books import autopay
from headend.prepayment.books.points_file import RULES, PointsRule, load_points_rule
from headend.prepayment.notices.notices import Channel
from headend.prepayment.notices.plan import NoticePlan, load_plan
from headend.prepayment.notices.texts import NoticeTexts, load_texts
from headend.prepayment.office.office import Settings
from headend.prepayment.outside.bank_http import HttpBank
from headend.prepayment.outside.messengers import AppriseMessenger, FileMessenger, HttpMessenger
from headend.prepayment.ports import Bank, Messenger
from headend.prepayment.tariffs.tariff import Tariff
from headend.prepayment.tariffs.tariff_file import TARIFFS, load_tariffs
from headend.secrets import BadSecret, SecretStore, is_reference

__all__ = ["PERSON", "bank_of", "channels_of", "prepayment_problems", "settings_of"]

PERSON = "prepaid-supply"  # who orders disconnections, in the audit log and under [control.operators]
SALT_MIN = 16  # characters
TIMEOUT_S = 15.0  # of channels and bank: a duty waits for each answer
_BUILT_IN = {"tariffs": TARIFFS, "rules": RULES}

T = TypeVar("T")


def settings_of(config: Config) -> Settings:
    """Raises ConfigError, BadSecret with the first thing that is wrong."""
    own = config.prepayment
    return Settings(
        plan=_plan(config),
        texts=_texts(config),
        tariffs=_tariffs(config),
        rule=_rule(config),
        limits=None
        if own.bank is None
        else autopay.Limits(
            per_day_minor=own.limits.per_day_minor,
            per_month=own.limits.per_month,
            per_month_minor=own.limits.per_month_minor,
        ),
        salt=_salt(config),
    )


def channels_of(config: Config, closing: ExitStack) -> list[Channel]:
    """closing: ends their connections. Raises ConfigError, BadSecret."""
    return [Channel(one.name, _messenger(config, one, closing)) for one in config.prepayment.channels]


def bank_of(config: Config, closing: ExitStack) -> Bank | None:
    """Raises BadSecret, also for an address that none is."""
    bank = config.prepayment.bank
    if bank is None:
        return None
    _check_url("url of the bank", bank.url, bank.url)
    return HttpBank(_client(config, bank.token, "token of the bank", closing), bank.url)


def prepayment_problems(config: Config) -> list[str]:
    """For `headend check`. What is named must be right, also where it is not enabled yet."""
    own = config.prepayment
    found: list[str] = []
    plan = _tried(found, "plan", lambda: _plan(config))
    _tried(found, "texts", lambda: _texts(config))
    _tried(found, "tariffs", lambda: _tariffs(config))
    _tried(found, "points", lambda: _rule(config))
    if own.identity_salt:
        _tried(found, "identity_salt", lambda: _salt(config))
    with ExitStack() as closing:
        for channel in own.channels:
            if channel.kind != "file":  # which would be made
                _tried(found, f"channels {channel.name}", partial(_messenger, config, channel, closing))
        _tried(found, "bank", lambda: bank_of(config, closing))
    if own.enabled:
        found += _warnings(config, plan)
    return [f"[prepayment] {problem}" for problem in found]


def _warnings(config: Config, plan: NoticePlan | None) -> Iterator[str]:
    """What is no mistake, and hardly meant."""
    own = config.prepayment
    if not own.tariffs:
        yield f"tariffs: there is none, so no account can be enrolled; expected of {', '.join(_built_in('tariffs'))}, or files"
    if not own.channels:
        yield "channels: there is none, so nobody can be warned, and nobody is disconnected; name a [[prepayment.channels]]"
    if plan is not None and plan.timezone != config.zone.key:
        yield f"plan: its hours are those of {plan.timezone}, and days are settled in {config.zone.key}"
    if not config.control.enabled:
        yield "[control] is off: accounts are settled and customers are warned, and nobody is disconnected or given back"
        return
    if any(meter.protocol == "dlt645" for meter in config.meters) and PERSON not in config.control.operators:
        yield (
            f'[control.operators] has no code for "{PERSON}", which DL/T 645 meters record with a disconnection: they are not '
            f"disconnected without one"
        )
    if plan is not None:
        yield from _steps(config, plan)


def _steps(config: Config, plan: NoticePlan) -> Iterator[str]:
    try:
        policy = policy_of(config)
    except HeadendError:
        return  # told with [control]
    if policy is None:
        return
    names, channels = {step.name for step in plan.steps}, {one.name for one in config.prepayment.channels}
    for rules in (policy.data.rules, *policy.data.groups.values()):
        for step in rules.notices:
            if step.step not in names:
                yield (
                    f"plan: the policy of [control] asks for a notice {step.step!r}, which no step of the plan is; nobody is "
                    f"disconnected"
                )
            elif step.channels and not channels & set(step.channels):
                yield (
                    f"channels: the policy of [control] counts a notice {step.step!r} only by {', '.join(step.channels)}; nobody is "
                    f"disconnected"
                )


def _tried(found: list[str], what: str, load: Callable[[], T]) -> T | None:
    try:
        return load()
    except HeadendError as error:
        found += [f"{what}: {line}" for line in str(error).splitlines()]
        return None


# ------------------------------------------------------------------------------------------------ the parts


def _folder(config: Config) -> Path:
    return config.path.resolve().parent


def _built_in(kind: str) -> Mapping[str, Path]:
    """By name, what comes with the program."""
    return {path.stem: path for path in sorted(_BUILT_IN[kind].glob("*.toml"))}


def _place(config: Config, name: str, kind: str) -> Path:
    known = _built_in(kind)
    path = known.get(name) or _folder(config) / name
    if not path.exists():
        raise ConfigError(
            f"there is no {name!r}; expected one of {', '.join(known)}, or a file beside the configuration"
        )
    return path


def _plan(config: Config) -> NoticePlan:
    plan, own = load_plan(config.prepayment.plan, base=_folder(config)), config.prepayment
    return plan if own.count_today is None else replace(plan, count_today=own.count_today)


def _texts(config: Config) -> NoticeTexts:
    texts = config.prepayment.texts
    folder = _folder(config) / texts if texts else None
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"there is no folder {texts!r}; expected one with zh.toml or en.toml in it")
    return load_texts(config.zone, folder)


def _tariffs(config: Config) -> Mapping[str, tuple[Tariff, ...]]:
    return load_tariffs(_place(config, name, "tariffs") for name in config.prepayment.tariffs)


def _rule(config: Config) -> PointsRule | None:
    points = config.prepayment.points
    return load_points_rule(_place(config, points, "rules")) if points else None


def _salt(config: Config) -> bytes:
    salt = _secret(config, config.prepayment.identity_salt, "identity_salt").encode()
    if len(salt) < SALT_MIN:
        raise ConfigError(f"it holds {len(salt)} characters; expected {SALT_MIN} or more, random ones")
    return salt


def _secret(config: Config, reference: str, what: str) -> str:
    return SecretStore(config.secrets, base=_folder(config)).resolve(reference, what)


def _messenger(config: Config, channel: ChannelSettings, closing: ExitStack) -> Messenger:
    if channel.kind == "file":
        return FileMessenger(_folder(config) / channel.path, counts_as_delivered=channel.counts_as_delivered)
    url = _secret(config, channel.url, f"url of {channel.name}") if is_reference(channel.url) else channel.url
    if channel.kind == "apprise":
        return AppriseMessenger(url)
    _check_url(f"url of {channel.name}", channel.url, url)
    return HttpMessenger(_client(config, channel.token, f"token of {channel.name}", closing), url)


def _check_url(what: str, told: str, url: str) -> None:
    """told: as it stands in the configuration; what is behind a reference is a secret. Raises BadSecret."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise BadSecret(what, told, "expected https://host/path")


def _client(config: Config, token: str, what: str, closing: ExitStack) -> httpx.Client:
    headers = {"Authorization": f"Bearer {_secret(config, token, what)}"} if token else {}
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        raise BadSecret(what, token, "expected printable ASCII characters, on one line")
    return closing.enter_context(httpx.Client(headers=headers, timeout=TIMEOUT_S))
