"""`[[listeners]]` of a configuration: how callers are recognised and limited where DTUs dial in.

A port that lines wait on needs no entry; the defaults recognise what the usual DTUs send (docs/dial-in.md).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from headend.configuration.reader import Entry
from headend.drivers.errors import BadLineUrl
from headend.drivers.listener_settings import (
    BadListener,
    ListenerSettings,
    TlsSettings,
    bytes_of,
    networks,
    tls_context,
)
from headend.drivers.transport import LineUrl

__all__ = ["ListenerTable", "Place", "listeners_of"]

Place = tuple[str, int]  # host, port


class ListenerTable(BaseModel):
    """url: listen://HOST:PORT, or listens:// with certificate and key. registration, heartbeat: regular expressions over what a DTU
    sends, the former with a group named id. …_reply: text, or hex digits after "hex:"."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str
    registration: str | None = None
    heartbeat: str | None = None
    registration_reply: str = ""
    heartbeat_reply: str = ""
    repeats_are_heartbeats: bool = True
    register_within_s: Annotated[float, Field(gt=0, le=300, strict=False)] = 15.0
    heartbeat_timeout_s: Annotated[float, Field(ge=0, le=86400, strict=False)] = 0.0
    dead_peer_s: Annotated[float, Field(ge=12, le=600, strict=False)] = 24.0
    allow: list[str] = []
    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None
    callers_max: Annotated[int, Field(ge=1, le=100_000)] = 1000
    unknown_max: Annotated[int, Field(ge=1, le=100_000)] = 1000
    connects_per_s: Annotated[float, Field(gt=0, le=10_000, strict=False)] = 200.0
    connects_per_s_and_peer: Annotated[float, Field(gt=0, le=10_000, strict=False)] = 50.0


def listeners_of(
    entries: Sequence[Entry], *, folder: Path, lines: Iterable[tuple[str, LineUrl]]
) -> dict[Place, ListenerSettings | None]:
    """By place; None for a place whose entry has a mistake: nobody may be let in there by weaker rules than were asked for.

    lines: name and URL of all lines. Paths start from `folder`.
    """
    found: dict[Place, ListenerSettings | None] = {}
    waited_on = {(url.host, url.port) for _, url in lines if url.scheme == "listen"}
    for entry in entries:
        place, problem = _place(entry.text("url"))
        if entry.good is not None and problem:
            entry.report("url", f"{problem}; nobody is let in there" if place is not None else problem)
        if place is None:
            continue
        if entry.good is None or problem:
            found[place] = None
            continue
        if place in found:
            entry.report("url", f"{entry.good.url!r} stands twice; the first is used")
            continue
        if place not in waited_on:
            entry.report("url", f"no line waits at {entry.good.url!r}; expected one whose url begins with it")
        try:
            found[place] = _settings(entry.good, folder)
        except BadListener as error:
            entry.report("", f"{error}; nobody is let in there, and the lines that wait there are left out")
            found[place] = None
    return found


def _place(text: str | None) -> tuple[Place | None, str]:
    """Which place is meant, also by a text that has a problem, and the problem."""
    try:
        url = LineUrl.parse(text or "")
    except BadLineUrl as error:
        return None, str(error)
    place = (url.host, url.port) if url.host else None
    if url.scheme != "listen" or url.dtu or url.baud:
        return place, f"{text!r}; expected listen://HOST:PORT or listens://HOST:PORT and nothing behind it"
    return place, ""


def _settings(table: ListenerTable, folder: Path) -> ListenerSettings:
    tls = None
    if table.certificate is not None or table.key is not None or table.client_ca is not None:
        if table.certificate is None:
            raise BadListener("certificate: missing; expected the PEM file of our certificate")
        tls = TlsSettings(
            certificate=folder / table.certificate,
            key=folder / (table.key or table.certificate),
            client_ca=None if table.client_ca is None else folder / table.client_ca,
        )
        tls_context(tls)  # a file that cannot be used is found now, not when the first DTU calls
    if table.url.startswith("listens:") and tls is None:
        raise BadListener("listens:// needs certificate and key")
    settings = ListenerSettings(
        registration_reply=bytes_of(table.registration_reply, what="registration_reply"),
        heartbeat_reply=bytes_of(table.heartbeat_reply, what="heartbeat_reply"),
        repeats_are_heartbeats=table.repeats_are_heartbeats,
        register_within_s=table.register_within_s,
        heartbeat_timeout_s=table.heartbeat_timeout_s,
        dead_peer_s=table.dead_peer_s,
        allow=networks(table.allow),
        tls=tls,
        callers_max=table.callers_max,
        unknown_max=table.unknown_max,
        connects_per_s_max=table.connects_per_s,
        peer_connects_per_s_max=table.connects_per_s_and_peer,
    )
    return settings.with_patterns(registration=table.registration, heartbeat=table.heartbeat)
