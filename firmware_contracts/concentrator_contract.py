"""Contracts of MQTT concentrators: TOML files that `protocols.concentrator` reads and writes messages with.

Sections: `[contract]` (protocol = "mqtt", maker, model, firmware, description, provenance, extends, timezone, prefix,
concentrator), `[settings]` (constants for templates), `[commands]` (ids and expiry, see `CommandRules`), `[marks]` (how
values are marked), `[maps]` (words of the wire and ours), `[names]` (what names of values mean), `[[up]]` and `[[down]]`
(messages, see `UpMessage` and `DownMessage`). The notation of payloads is that of `protocols.concentrator.shapes`.

A contract that extends another one holds the differences only: its keys, settings, maps and names replace those of the
same name; `[[up]]` and `[[down]]` replace the whole list. So a site whose tags have names of their own writes:

    [contract]
    protocol = "mqtt"
    extends = "concentrator/neuron"

    [names]
    kwh_total = { obis = "1-0:1.8.0", unit = "kWh", source = "tag list of the site, 2026-03" }
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Struct

from firmware_contracts.errors import BadContract
from firmware_contracts.files import Layer, known_keys, layers, merged, names, section, stamp
from protocols.concentrator.codec import CommandRules, ConcentratorContract, DownMessage, UpMessage
from protocols.concentrator.fields import MapRow, Marks
from protocols.concentrator.quantities import NamedQuantity
from protocols.errors import BadText

__all__ = ["ConcentratorAbout", "about_concentrator", "concentrator_names", "load_concentrator"]

ROOM = "concentrator"
SECTIONS = {"contract", "settings", "commands", "marks", "maps", "names", "up", "down"}
Setting = str | int | bool


class ConcentratorAbout(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[contract]. timezone: of times without zone; "": the site tells it. prefix: what stands before each topic.

    concentrator: whose messages they are where topics do not name it.
    """

    protocol: str = ""
    extends: str | None = None
    maker: str = ""
    model: str = ""
    firmware: str = ""
    description: str = ""
    provenance: str = ""
    timezone: str = ""
    prefix: str = ""
    concentrator: str = ""


def concentrator_names() -> list[str]:
    """Names of the contracts that come with the package."""
    return names(ROOM)


def about_concentrator(name: str) -> ConcentratorAbout:
    """Raises UnknownContract, BadContract."""
    return _about(name, layers(name))


def load_concentrator(
    name: str,
    *,
    timezone: str | None = None,
    prefix: str | None = None,
    concentrator: str | None = None,
    settings: Mapping[str, Setting] | None = None,
) -> ConcentratorContract:
    """A contract by its name, "concentrator/hes_v1", or by the path of a .toml file; what is given replaces what it says.

    prefix: for brokers that put a site's topics under a level of its own, "{concentrator}/" or "site-7/".
    Raises UnknownContract, BadContract. Kept once loaded, until the file changes.
    """
    return _load(name, stamp(name), timezone, prefix, concentrator, tuple(sorted((settings or {}).items())))


@lru_cache(maxsize=256)
def _load(
    name: str,
    changed: int,
    timezone: str | None,
    prefix: str | None,
    concentrator: str | None,
    settings: tuple[tuple[str, Setting], ...],
) -> ConcentratorContract:
    files = layers(name)
    about = _about(name, files)
    for file, content in files:
        known_keys(file, "", content, SECTIONS)
    constants = section(name, "settings", merged(files, "settings"), dict[str, Setting])
    known_keys(name, "settings", dict(settings), constants)
    zone = about.timezone if timezone is None else timezone
    try:
        return ConcentratorContract(
            name,
            up=_messages(name, "up", files, tuple[UpMessage, ...]),
            down=_messages(name, "down", files, tuple[DownMessage, ...]),
            names=section(name, "names", merged(files, "names"), dict[str, NamedQuantity]),
            maps=section(name, "maps", merged(files, "maps"), dict[str, tuple[MapRow, ...]]),
            marks=section(name, "marks", merged(files, "marks"), Marks),
            rules=section(name, "commands", merged(files, "commands"), CommandRules),
            constants=constants | dict(settings),
            zone=_zone(name, zone) if zone else None,
            prefix=about.prefix if prefix is None else prefix,
            concentrator=about.concentrator if concentrator is None else concentrator,
        )
    except BadText as error:
        raise BadContract(name, "", str(error)) from error


def _about(name: str, files: list[Layer]) -> ConcentratorAbout:
    about: ConcentratorAbout = section(name, "contract", merged(files, "contract"), ConcentratorAbout)
    if about.protocol != "mqtt":
        raise BadContract(name, "contract", f"protocol {about.protocol!r}: expected mqtt")
    own = files[0][1]["contract"]
    return msgspec.structs.replace(
        about,
        extends=own.get("extends"),
        description=own.get("description", ""),
        provenance=own.get("provenance", ""),
    )


def _messages(name: str, key: str, files: list[Layer], shape: Any) -> Any:
    """The list of the most particular file that has one."""
    given: Any = next((content[key] for _, content in files if key in content), [])
    return section(name, key, given, shape)


def _zone(name: str, zone: str) -> ZoneInfo:
    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadContract(name, "contract", f"timezone {zone!r}: expected a name such as Asia/Shanghai") from error
