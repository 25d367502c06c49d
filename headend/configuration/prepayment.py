"""`[prepayment]`: whether this head-end supplies prepaid accounts, by which tariffs and notices, and who carries its messages.

A mistake in it stops the start: with half of it, somebody would be charged or warned wrongly.
"""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from pydantic import AfterValidator, Field, ValidationError

from headend.configuration.reader import Reader, Where, explain_errors
from headend.configuration.store import check_store_url, resolve_store_url
from headend.configuration.words import ConfigTable, Name, Secret
from headend.secrets import BadSecret, is_reference

__all__ = ["BankSettings", "ChannelSettings", "DebitLimits", "PrepaymentSettings", "PrepaymentTable", "prepayment_of"]

_KEYS = {
    "file": {"name", "kind", "path", "counts_as_delivered"},
    "http": {"name", "kind", "url", "token"},
    "apprise": {"name", "kind", "url"},
}
_MUST = {"file": "path", "http": "url", "apprise": "url"}
Minor = Annotated[int, Field(ge=0, le=10**12)]


def _web_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good, parts = False, urlsplit("")
    if not is_good:
        raise ValueError(f"{text!r}; expected https://host/path")
    if "@" in parts.netloc:
        raise ValueError("user names and passwords do not belong here: put a bearer token behind `token`")
    return text


class ChannelTable(ConfigTable):
    """`[[prepayment.channels]]`: tried in turn. Keys that a kind has no use for are a mistake."""

    name: Name
    kind: Literal["file", "http", "apprise"]
    path: str | None = None
    url: str | None = None
    token: Secret | None = None
    counts_as_delivered: bool = True


class BankTable(ConfigTable):
    """`[prepayment.bank]`."""

    url: Annotated[str, AfterValidator(_web_url)]
    token: Secret | None = None


class LimitsTable(ConfigTable):
    """`[prepayment.debit_limits]`, of one account; money in minor units."""

    per_day_minor: Minor = 500_000
    per_month: Annotated[int, Field(ge=0, le=1000)] = 8
    per_month_minor: Minor = 1_000_000


class PrepaymentTable(ConfigTable):
    """As written; the tables in it are checked one by one, see `prepayment_of`."""

    enabled: bool = False
    store: Annotated[str, AfterValidator(check_store_url)] = "sqlite:///prepayment.db"
    plan: Annotated[str, Field(min_length=1)] = "cn-residential"
    texts: str = ""
    tariffs: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    points: str = ""
    identity_salt: Secret | None = None
    channels: list[Any] = Field(default_factory=list)
    bank: Any = None
    debit_limits: Any = None
    count_today: bool | None = None


class ChannelSettings(Struct, frozen=True, kw_only=True):
    """path: of a file. url: or a reference to it; with {to} for Apprise. token: reference, "" for none."""

    name: str
    kind: str
    path: str = ""
    url: str = ""
    token: str = ""
    counts_as_delivered: bool = True


class BankSettings(Struct, frozen=True, kw_only=True):
    url: str
    token: str = ""


class DebitLimits(Struct, frozen=True, kw_only=True):
    per_day_minor: int = 500_000
    per_month: int = 8
    per_month_minor: int = 1_000_000


class PrepaymentSettings(Struct, frozen=True, kw_only=True):
    """store: SQLAlchemy URL, absolute. Names of what comes with the program, or files relative to the configuration.

    identity_salt: reference, "" for none. count_today: instead of the plan's own; None leaves it.
    """

    enabled: bool = False
    store: str = ""
    plan: str = "cn-residential"
    texts: str = ""
    tariffs: tuple[str, ...] = ()
    points: str = ""
    identity_salt: str = ""
    channels: tuple[ChannelSettings, ...] = ()
    bank: BankSettings | None = None
    limits: DebitLimits = DebitLimits()
    count_today: bool | None = None


def prepayment_of(reader: Reader, table: PrepaymentTable, *, store: str) -> PrepaymentSettings:
    """store: of the head-end. Every problem is fatal."""
    url = ""
    try:
        url = resolve_store_url(table.store, reader.path)
    except (BadSecret, ValueError) as error:
        _report(reader, ("store",), str(error))
    if table.enabled and url and url == store:
        _report(reader, ("store",), f"{table.store!r} is the store of [headend]; expected a database of its own")
    if table.enabled and table.identity_salt is None:
        _report(
            reader,
            ("identity_salt",),
            'missing; expected "env:NAME" or "file:PATH", some 32 random characters that never change: '
            "numbers of documents are kept only as digests with it",
        )
    found = [
        one
        for index, raw in enumerate(table.channels)
        if (one := _channel(reader, ("channels", index), raw)) is not None
    ]
    names = [one.name for one in found]
    for index, name in enumerate(names):
        if name in names[:index]:
            _report(reader, ("channels",), f"{name!r} stands twice; expected a name for each")
    bank = None
    if table.bank is not None and (written := _checked(reader, ("bank",), table.bank, BankTable)) is not None:
        bank = BankSettings(url=written.url, token=written.token or "")
    limits = DebitLimits()
    if table.debit_limits is not None:
        named = _checked(reader, ("debit_limits",), table.debit_limits, LimitsTable)
        limits = DebitLimits() if named is None else DebitLimits(**named.model_dump())
    return PrepaymentSettings(
        enabled=table.enabled,
        store=url,
        plan=table.plan,
        texts=table.texts,
        tariffs=tuple(dict.fromkeys(table.tariffs)),
        points=table.points,
        identity_salt=table.identity_salt or "",
        channels=tuple(found),
        bank=bank,
        limits=limits,
        count_today=table.count_today,
    )


def _report(reader: Reader, where: Where, text: str) -> None:
    """where: below [prepayment]."""
    reader.problem(("prepayment", *where), text, fatal=True)


def _checked(reader: Reader, where: Where, raw: object, shape: type[ConfigTable]) -> Any:
    """None, when there is something wrong, which is reported."""
    try:
        return shape.model_validate(raw)
    except ValidationError as error:
        for inner, text in explain_errors(error, shape):
            _report(reader, (*where, *inner), text)
        return None


def _channel(reader: Reader, where: Where, raw: object) -> ChannelSettings | None:
    table: ChannelTable | None = _checked(reader, where, raw, ChannelTable)
    if table is None:
        return None
    unfit = sorted(table.model_fields_set - _KEYS[table.kind])
    for key in unfit:
        text = f"has no meaning for kind {table.kind}; expected of {', '.join(sorted(_KEYS[table.kind]))}"
        _report(reader, (*where, key), text)
    if not getattr(table, must := _MUST[table.kind]):
        _report(reader, (*where, must), f"missing; a channel of kind {table.kind} needs it")
        return None
    if table.kind == "http" and table.url is not None and not is_reference(table.url):
        try:
            _web_url(table.url)
        except ValueError as error:
            _report(reader, (*where, "url"), str(error))
    if table.kind == "apprise" and table.url is not None and not is_reference(table.url):
        # Its addresses hold the service's token.
        text = 'expected "env:NAME" or "file:PATH"; addresses of Apprise hold secrets, which never stand here'
        _report(reader, (*where, "url"), text)
    return ChannelSettings(
        name=table.name,
        kind=table.kind,
        path=table.path or "",
        url=table.url or "",
        token=table.token or "",
        counts_as_delivered=table.counts_as_delivered,
    )
