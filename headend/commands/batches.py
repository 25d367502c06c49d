"""The canary of a batch: one open is carried out and verified before any other of its list. Pure."""

from collections.abc import Iterable

from msgspec import Struct

from headend.commands.model import Command, Kind, State

__all__ = ["Batch"]

# Ends of a command that say nothing about the next one: it never reached the wire.
_UNTRIED = frozenset({State.CANCELLED, State.EXPIRED, State.QUARANTINED})
# Nothing was switched where the contact was open before: it says nothing about the others either.
_OFF_ALREADY = frozenset({"open", "permitted"})
_BAD = frozenset({State.FAILED, State.REFUSED, State.UNCONFIRMED, State.CONTRADICTED})


class Batch(Struct):
    """canary: id of the open that goes first; "" before one is chosen. stopped: why no other may go; "" while they may.

    under_way: ids of its opens that have not ended. With the last of them the batch is over: another list may come under the same
    name, and what was proven of the first says nothing about it.
    """

    canary: str = ""
    is_proven: bool = False
    stopped: str = ""
    under_way: set[str] = set()

    @property
    def is_over(self) -> bool:
        return not self.under_way

    @classmethod
    def of(cls, commands: Iterable[Command]) -> "Batch":
        """As its commands stand, after a restart. commands: of one list, the one made first first."""
        batch = cls()
        for command in commands:
            if command.attempts:
                batch.canary = batch.canary or command.id
            batch.saw(command)
        return batch

    def may_go(self, command: Command) -> bool:
        """Whether this open may go now; the first one that asks is the canary. Not to be asked when it is stopped."""
        if command.kind is not Kind.OPEN or self.is_proven:
            return True
        self.canary = self.canary or command.id
        return self.canary == command.id

    def saw(self, command: Command) -> None:
        """A command of the batch took a step."""
        if command.kind is Kind.OPEN and command.is_active:
            self.under_way.add(command.id)
        else:
            self.under_way.discard(command.id)
        if self.is_proven or command.kind is not Kind.OPEN:
            return
        if command.attempts and command.state is State.VERIFIED:
            if command.detail.get("contact_before") in _OFF_ALREADY:
                self.canary = "" if self.canary == command.id else self.canary
            else:
                self.is_proven, self.stopped = True, ""
        elif command.id != self.canary:
            return
        elif command.state in _BAD:
            self.stopped = f"command {command.id} of {command.meter}, which went first, ended {command.state.value}"
        elif command.state in _UNTRIED:
            self.canary = ""
