"""Cursors of all destinations, made durable together: while one save is under way, the next ones gather."""

import asyncio

from msgspec import Struct

from headend.errors import StoreError
from headend.store.cursors import Cursors, Saved
from headend.store.writer import Execute

__all__ = ["CursorBook"]


class _Group(Struct):
    changes: dict[str, Saved]
    is_saved: bool = False
    error: StoreError | None = None


class CursorBook:
    """One for all destinations of a process. execute: where the writing is done; that of the store's writer is best."""

    def __init__(self, cursors: Cursors, execute: Execute) -> None:
        self.cursors = cursors
        self._execute = execute
        self._group = _Group({})
        self._one_at_a_time = asyncio.Lock()

    async def save(self, destination: str, change: Saved) -> None:
        """Durable at return. A destination saves one change after the other. Raises StoreUnavailable: then nothing is saved."""
        group = self._group
        group.changes[destination] = change
        async with self._one_at_a_time:
            if not group.is_saved:  # nobody has done it for us meanwhile
                if group is self._group:
                    self._group = _Group({})
                try:
                    await self._execute(lambda: self.cursors.save(group.changes))
                except StoreError as error:
                    group.error = error
                group.is_saved = True
        if group.error is not None:
            raise group.error

    async def forget(self, destination: str) -> bool:
        """False when nothing is known of it. Raises StoreUnavailable."""
        return await self._execute(lambda: self.cursors.forget(destination))
