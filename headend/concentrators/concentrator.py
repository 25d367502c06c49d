"""One concentrator as we know it: presence, counters, its commands."""

from datetime import datetime

from msgspec import Struct

from headend.concentrators.commands import ConcentratorCommands
from headend.concentrators.presence import EVENT_TYPE, PresenceState
from headend.concentrators.settings import ConcentratorSettings
from headend.model import Event

__all__ = ["Concentrator", "ConcentratorCounters"]

NAMES_KEPT_MAX = 50


class ConcentratorCounters(Struct):
    """Since the start. values: given to the store, repeats included. unmapped_values: whose quantity no contract names."""

    messages: int = 0
    values: int = 0
    events: int = 0
    unknown_meters: int = 0
    unmapped_values: int = 0
    retained_commands: int = 0


class Concentrator:
    """listed: how many meters it says it has; None until it does. unmapped: names of values nobody knows, some of them."""

    def __init__(
        self, settings: ConcentratorSettings, contract_name: str, meters: int, commands: ConcentratorCommands
    ) -> None:
        self.name = settings.name
        self.contract_name = contract_name
        self.meters = meters
        self.commands = commands
        self.counters = ConcentratorCounters()
        self.presence = PresenceState(settings.silent_after_s)
        self.listed: int | None = None
        self.software = ""
        self.last_data_at: datetime | None = None
        self.unmapped: set[str] = set()

    def note_unmapped(self, name: str) -> None:
        if len(self.unmapped) < NAMES_KEPT_MAX:
            self.unmapped.add(name[:64])

    def retained_command(self, topic: str, size: int, now: datetime) -> Event:
        """Told once a run: whoever left it there can make this concentrator do it again at any reconnection."""
        return Event(
            type=EVENT_TYPE,
            subject=self.name,
            data={
                "meter": None,
                "concentrator": self.name,
                "kind": "retained-command",
                "state": "found",
                "topic": topic[:512],
                "size": size,
            },
            time=now,
        )
