"""Starting what users start, on free ports, and ending it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx

from headend.clock import SystemClock
from headend.config import load_config
from headend.database.engine import writing
from headend.store.governor_protections import set_person
from headend.store.store import open_store
from headend.store.tokens import Tokens
from tests.headend.support import with_tables

__all__ = [
    "BIN",
    "HeadEndProcess",
    "config_text",
    "create_token",
    "eventually",
    "free_port",
    "make_tokens",
    "pull",
    "simulated",
    "simulated_lines",
]

BIN = Path(sys.executable).parent


@contextmanager
def simulated_lines(*arguments: str) -> Iterator[list[dict[str, Any]]]:
    """`meter-sim dlt645 --json …`: what it printed, one object per line of meters."""
    count = int(arguments[arguments.index("--lines") + 1]) if "--lines" in arguments else 1
    with simulated("dlt645", *arguments, count=count) as lines:
        yield lines


@contextmanager
def simulated(kind: str, *arguments: str, count: int = 1) -> Iterator[list[dict[str, Any]]]:
    """`meter-sim KIND --json …`: the first `count` objects that it printed."""
    process = subprocess.Popen([BIN / "meter-sim", kind, "--json", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield [json.loads(process.stdout.readline()) for _ in range(count)]
    finally:
        process.terminate()
        process.wait(timeout=10)


def free_port() -> int:
    """For something that has to be told where to find what starts after it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def config_text(folder: Path, lines: list[dict[str, Any]], *, period: str, quantities: list[str]) -> str:
    parts = [
        f'[headend]\nname = "under-test"\ntimezone = "Asia/Shanghai"\nstore = "sqlite:///{folder}/store.db"\n',
        '[api]\nlisten = "127.0.0.1:0"\n',
        f'[[plans]]\nname = "plan"\nperiod = "{period}"\nquantities = {json.dumps(quantities)}\n',
    ]
    for number, line in enumerate(lines):
        parts.append(f'[[lines]]\nname = "line-{number}"\nurl = "{line["url"]}"\n')
        parts += [
            f'[[meters]]\nid = "M{address[-6:]}"\nline = "line-{number}"\naddress = "{address}"\nplan = "plan"\n'
            for address in line["meters"]
        ]
    return "\n".join(parts)


def make_tokens(config: Path, wanted: Mapping[str, tuple[Sequence[str], str]]) -> dict[str, str]:
    """Tokens by name, as `headend token create` makes them. wanted: the roles of each, and the person who holds it, or ""."""
    loaded = load_config(config)
    store = open_store(with_tables(loaded.store), loaded.name)
    tokens = Tokens(store, SystemClock())
    made = {name: tokens.create_token(name, roles) for name, (roles, _) in wanted.items()}
    with writing(store.engine, "naming people") as connection:
        for name, (_, person) in wanted.items():
            if person:
                set_person(connection, name, person)
    store.close()
    return made


def create_token(config: Path, role: str = "read") -> str:
    """One for somebody without a name."""
    name = f"{role} of {time.time_ns()}"
    return make_tokens(config, {name: ((role,), "")})[name]


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


class HeadEndProcess:
    """`headend run CONFIG --json` and a client that may read its feed. alive: those that nobody has ended yet."""

    alive: ClassVar[set["HeadEndProcess"]] = set()

    def __init__(self, config: Path, token: str) -> None:
        self.log = config.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "headend", "run", config, "--json"], stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._token = token
        self.client: httpx.Client | None = None
        self.alive.add(self)

    def wait_ready(self) -> httpx.Client:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the head-end ended before it was ready: {self.log.read_text()[-2000:]}"
        self.client = httpx.Client(
            base_url=json.loads(line)["api"], headers={"Authorization": f"Bearer {self._token}"}, timeout=30
        )
        return self.client

    def kill(self) -> None:
        self.process.kill()
        self._gone()

    def stop(self) -> int:
        """SIGTERM, as a service manager does; gives the exit code."""
        os.kill(self.process.pid, signal.SIGTERM)
        code = self.process.wait(timeout=30)
        self._gone()
        return code

    def _gone(self) -> None:
        self.process.wait(timeout=30)
        self.alive.discard(self)
        if self.client is not None:
            self.client.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


def pull(client: httpx.Client, after: int) -> Iterator[dict[str, Any]]:
    """Everything behind `after`, page by page."""
    while True:
        page = client.get("/v1/feed", params={"after": after, "limit": 1000}).raise_for_status().json()
        yield from page["events"]
        if not page["events"]:
            return
        after = page["next"]
