"""`[[brokers]]` and `[[concentrators]]` of a configuration: their shapes, and what they refer to.

[[brokers]]
name = "west"
url = "mqtts://broker.example:8883"
username = "headend"
password = "env:BROKER_PASSWORD"
ca = "broker-ca.pem"

[[concentrators]]
name = "TX-12"                     # as in its topics; meters name it as their line
broker = "west"
contract = "concentrator/hes_v1"
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from firmware_contracts.concentrator_contract import load_concentrator
from firmware_contracts.errors import ContractError
from headend.concentrators.errors import BadBrokerUrl
from headend.concentrators.settings import BrokerSettings, BrokerUrl, ConcentratorSettings
from headend.configuration.reader import Entry, Reader, names
from headend.configuration.words import ConfigTable, Name, Secret, Zone
from protocols.errors import ProtocolError

__all__ = ["BrokerTable", "ConcentratorTable", "brokers_of", "concentrators_of"]

_DURATION_S = {"m": 60, "h": 3600, "d": 86400}


def _url(text: str) -> str:
    try:
        BrokerUrl.parse(text)
    except BadBrokerUrl as error:
        raise ValueError(str(error)) from error
    return text


def _duration(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,3}[mhd]", text):
        raise ValueError(f"{text!r}; expected minutes, hours or days such as 90m, 36h or 7d")
    return text


def _client_id(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,128}", text):
        raise ValueError(f"{text!r}; expected 1 to 128 printable ASCII characters without blanks")
    return text


Duration = Annotated[str, AfterValidator(_duration)]


class BrokerTable(ConfigTable):
    """client_id: "" makes one of the head-end's name and the broker's. version: "5", or "3.1.1" for brokers that know no more."""

    name: Name
    url: Annotated[str, AfterValidator(_url)]
    version: Literal["5", "3.1.1"] = "5"
    client_id: Annotated[str, AfterValidator(_client_id)] | None = None
    username: str = ""
    password: Secret | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    session_expiry: Duration = "7d"
    keep_alive_s: Annotated[int, Field(ge=5, le=300)] = 15
    in_flight: Annotated[int, Field(ge=20, le=2000)] = 500
    clear_retained_commands: bool = False


class ConcentratorTable(ConfigTable):
    """timezone, prefix: instead of what the contract says. settings: constants of its templates. silent_after: no message for this
    long is an alarm."""

    name: Name
    broker: str
    contract: str = "concentrator/hes_v1"
    timezone: Zone | None = None
    prefix: str | None = None
    settings: Annotated[dict[str, str | int | bool], Field(default_factory=dict)]
    silent_after: Duration = "15m"


def brokers_of(reader: Reader, entries: Sequence[Entry], head_end: str) -> dict[str, BrokerSettings]:
    """The usable ones, by name. entries: uniquely named. head_end: its name, for the client id. Paths start from the file's folder."""
    folder = reader.path.resolve().parent
    found: dict[str, BrokerSettings] = {}
    for entry in entries:
        if (table := entry.good) is None:
            continue
        url = BrokerUrl.parse(table.url)
        if not url.tls and (given := next((key for key in ("ca", "certificate", "key") if getattr(table, key)), None)):
            entry.report(given, f"{table.url} has no TLS; expected mqtts://, so the broker is left out")
            continue
        if table.password is not None and not url.tls and url.host not in ("127.0.0.1", "::1", "localhost"):
            entry.report(
                "password", f"goes to {url.host} in the clear, because {table.url} has no TLS; mqtts:// hides it"
            )
        settings = BrokerSettings(
            name=table.name,
            url=url,
            client_id=table.client_id or f"headend-{head_end}-{table.name}",
            version=5 if table.version == "5" else 4,
            username=table.username,
            password=table.password or "",
            ca=_file(folder, table.ca),
            certificate=_file(folder, table.certificate),
            key=_file(folder, table.key),
            session_expiry_s=_seconds(table.session_expiry),
            keep_alive_s=table.keep_alive_s,
            in_flight_max=table.in_flight,
            clear_retained_commands=table.clear_retained_commands,
        )
        try:
            settings.tls()
        except BadBrokerUrl as error:
            entry.report("ca" if "authority" in str(error) else "certificate", f"{error}; the broker is left out")
            continue
        found[table.name] = settings
    return found


def concentrators_of(
    entries: Sequence[Entry],
    *,
    brokers: Mapping[str, BrokerSettings],
    written_brokers: Sequence[Entry],
    taken: Mapping[str, object],
    folder: Path = Path(),
) -> dict[str, ConcentratorSettings]:
    """The usable ones, by name. entries: uniquely named. taken: the lines' names; a meter's `line` must mean one thing. Paths of
    contracts start from `folder`.

    Those of a broker with a mistake of its own are left out, too; that is reported at the broker.
    """
    declared = {entry.text("name") for entry in written_brokers}
    found: dict[str, ConcentratorSettings] = {}
    nameless: dict[tuple[str, tuple[str, ...]], list[Entry]] = {}  # by what they share: broker and topics
    for entry in entries:
        if (table := entry.good) is None:
            continue
        if table.name in taken:
            entry.report("name", f"{table.name!r} is the name of a line, too; expected another one, so it is left out")
            continue
        if table.broker not in brokers:
            if table.broker not in declared:
                entry.report("broker", f"no broker is named {table.broker!r}; expected one of {names(brokers)}")
            continue
        settings = ConcentratorSettings(
            name=table.name,
            broker=table.broker,
            contract=str(folder / table.contract) if table.contract.endswith(".toml") else table.contract,
            timezone=table.timezone,
            prefix=table.prefix,
            settings=table.settings,
            silent_after_s=float(_seconds(table.silent_after)),
        )
        try:
            contract = load_concentrator(
                settings.contract, timezone=table.timezone, prefix=table.prefix, settings=table.settings
            )
            contract.topics_down(table.name)
        except (ContractError, ProtocolError) as error:
            entry.report("contract", f"{error}; the concentrator is left out")
            continue
        found[table.name] = settings
        if contract.topics_down("1") == contract.topics_down("2"):
            nameless.setdefault((table.broker, contract.topics_up), []).append(entry)
    for sharing in nameless.values():
        if len(sharing) > 1:
            for entry in sharing:
                entry.report(
                    "prefix",
                    f"{len(sharing)} concentrators of {entry.good.contract} share the topics of broker {entry.good.broker!r}, which "
                    f"do not tell whose they are; each needs a prefix of its own, so none of them is used",
                )
                del found[entry.good.name]
    return found


def _file(folder: Path, text: str | None) -> Path | None:
    return None if text is None else folder / text


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * _DURATION_S[duration[-1]]
