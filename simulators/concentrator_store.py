"""What a concentrator has to say and nobody has acknowledged yet: bounded, and in a file if it shall outlive the process.

Messages leave in the order in which they came, answers to commands before readings and events. One that was taken is
kept until the broker has acknowledged it; after a lost connection everything that is kept is taken again. When the
store is full the oldest reading is given up, and counted.

The last command ids and their answers are kept beside them, so that a repeated command is answered and not done again.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from protocols.concentrator.messages import Outgoing, Retained

__all__ = ["Kept", "UnsentStore"]

CAPACITY = 100_000  # readings; a concentrator with 100 meters and a quarter hour holds out for ten days
IDS_MAX = 1000  # commands whose answers are remembered: more than a head-end sends in its longest redelivery
URGENT, USUAL = 0, 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS unsent (
    id INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL, is_data INTEGER NOT NULL, topic TEXT NOT NULL,
    payload BLOB NOT NULL, qos INTEGER NOT NULL, retain INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS unsent_by_lane ON unsent (lane, id);
CREATE TABLE IF NOT EXISTS answers (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL, answer BLOB);
CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, number INTEGER NOT NULL);
"""


class Kept(Struct, frozen=True):
    """One message on its way. is_data: a reading, which faults may repeat, move and damage."""

    key: int
    is_data: bool
    message: Outgoing


class UnsentStore:
    """path: None keeps it in memory. Raises sqlite3.Error for a file that is none of ours.

    dropped: readings given up because it was full.
    """

    def __init__(self, path: Path | None = None, *, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.dropped = 0
        self._connection = sqlite3.connect(":memory:" if path is None else path, isolation_level=None)
        # A lost power supply may cost the last messages, as on real concentrators; a killed process costs nothing.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)
        self._count: int = self._connection.execute("SELECT count(*) FROM unsent").fetchone()[0]
        self._taken = {URGENT: 0, USUAL: 0}

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        return self._count >= self.capacity

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done within the block is saved at once: all of it or nothing, and much faster."""
        self._connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def add(self, message: Outgoing, *, urgent: bool = False, is_data: bool = False) -> None:
        """urgent: an answer, which overtakes readings."""
        self._connection.execute(
            "INSERT INTO unsent (lane, is_data, topic, payload, qos, retain) VALUES (?, ?, ?, ?, ?, ?)",
            (URGENT if urgent else USUAL, is_data, message.topic, message.payload, message.qos, message.retain),
        )
        self._count += 1
        if self._count > self.capacity:
            oldest = "DELETE FROM unsent WHERE id = (SELECT id FROM unsent ORDER BY lane DESC, id LIMIT 1)"
            self._connection.execute(oldest)
            self._count -= 1
            self.dropped += 1

    def take(self, most: int) -> list[Kept]:
        """The next ones that are not on their way."""
        found: list[Kept] = []
        for lane in (URGENT, USUAL):
            rows = self._connection.execute(
                "SELECT id, is_data, topic, payload, qos, retain FROM unsent WHERE lane = ? AND id > ? ORDER BY id LIMIT ?",
                (lane, self._taken[lane], most - len(found)),
            )
            for key, is_data, topic, payload, qos, retain in rows:
                kind = Retained if retain else Outgoing
                found.append(Kept(key, bool(is_data), kind(topic=topic, payload=payload, qos=qos)))
                self._taken[lane] = key
        return found

    def has_more(self) -> bool:
        """Something is not on its way yet."""
        sql = "SELECT EXISTS (SELECT 1 FROM unsent WHERE lane = ? AND id > ?)"
        return any(self._connection.execute(sql, (lane, last)).fetchone()[0] for lane, last in self._taken.items())

    def acknowledged(self, key: int) -> None:
        self._count -= self._connection.execute("DELETE FROM unsent WHERE id = ?", (key,)).rowcount

    def give_back(self) -> None:
        """The connection is gone: what is on its way may not have arrived."""
        self._taken = {URGENT: 0, USUAL: 0}

    # ------------------------------------------------------------------------------------------ commands and numbers

    def begin(self, id: str, digest: bytes) -> None:
        """A command is going to be done; its answer comes later."""
        self._connection.execute("INSERT OR REPLACE INTO answers (id, digest) VALUES (?, ?)", (id, digest))
        self._connection.execute("DELETE FROM answers WHERE place <= (SELECT max(place) FROM answers) - ?", (IDS_MAX,))

    def finish(self, id: str, answer: bytes) -> None:
        self._connection.execute("UPDATE answers SET answer = ? WHERE id = ?", (answer, id))

    def find(self, id: str) -> tuple[bytes, bytes | None] | None:
        """Digest of the command and its final answer (None: not finished); None for an id that is new."""
        found: tuple[bytes, bytes | None] | None = self._connection.execute(
            "SELECT digest, answer FROM answers WHERE id = ?", (id,)
        ).fetchone()
        return found

    def number(self, name: str) -> int:
        """A number that goes on where it was; 0 at first."""
        row = self._connection.execute("SELECT number FROM numbers WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def set_number(self, name: str, number: int) -> None:
        self._connection.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (name, number))
