"""Head-ends that live briefly: `headend` processes that a nursery forks in a quarter of a second, to be killed often."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

__all__ = ["Life", "Nursery"]

ROOT = Path(__file__).parents[2]
READY_S = 60.0


class Nursery:
    """tests/system/nursery.py, with its arguments."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.nursery", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._alive: set[int] = set()
        assert self._told() == "ready"

    def start(self, *arguments: str | Path) -> int:
        pid = int(self._ask([str(argument) for argument in arguments]))
        self._alive.add(pid)
        return pid

    def end(self, pid: int, number: signal.Signals) -> int:
        """How it ended."""
        os.kill(pid, number)
        code = int(self._ask(pid))
        self._alive.discard(pid)
        return code

    def close(self) -> None:
        for pid in list(self._alive):
            self.end(pid, signal.SIGKILL)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _ask(self, asked: object) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._told()

    def _told(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery has ended"
        return line.strip()


class Life:
    """`headend run CONFIG --json`, born in a nursery: as `HeadEndProcess`, but it comes up in a quarter of the time."""

    def __init__(self, nursery: Nursery, config: Path) -> None:
        self.log = config.with_name("nursery.log")
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        self._nursery = nursery
        self._pid = nursery.start("run", config, "--json")
        self.client: httpx.Client | None = None

    def wait_ready(self, token: str = "") -> httpx.Client:
        until = time.monotonic() + READY_S
        while (api := self._api()) is None:
            assert time.monotonic() < until, f"it does not come up: {self.log.read_text()[-2000:]}"
            time.sleep(0.01)
        self.client = httpx.Client(base_url=api, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        return self.client

    def kill(self) -> None:
        assert self._end(signal.SIGKILL) == -signal.SIGKILL, "it had ended by itself"

    def stop(self) -> int:
        """SIGTERM, as a service manager does; gives the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        code = self._nursery.end(self._pid, number)
        if self.client is not None:
            self.client.close()
        return code

    def _api(self) -> str | None:
        """Where it serves, once it has said so: a whole line among what it logs."""
        said = self.log.read_bytes()[self._said_before :] if self.log.exists() else b""
        for line in said.splitlines(keepends=True):
            if line.startswith(b'{"api":') and line.endswith(b"\n"):
                api: str = json.loads(line)["api"]
                return api
        return None
