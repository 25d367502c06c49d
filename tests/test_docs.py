"""The documentation: its examples run as they stand, and it leaves no key, command or metric out."""

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from headend import config
from headend.cli.main import app
from headend.model import Quality
from protocols.values import Unit
from tests.system.processes import BIN, HeadEndProcess, config_text, create_token, pull, simulated_lines

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
PROSE = "\n".join(PAGES.values())


class Site:
    """A head-end over a simulated line, as a reader of the documentation would run it."""

    def __init__(self, folder: Path, head_end: HeadEndProcess, token: str) -> None:
        client = head_end.wait_ready()
        self.folder = folder
        self.client: httpx.Client = client
        self.environment = os.environ | {"HEADEND_URL": str(client.base_url), "HEADEND_TOKEN": token}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--meters", "4", "--seed", "1") as lines:
        path = folder / "headend.toml"
        path.write_text(config_text(folder, lines, period="1h", quantities=["1-0:1.8.0", "1-0:32.7.0"]))
        token = create_token(path)
        head_end = HeadEndProcess(path, token)
        try:
            yield Site(folder, head_end, token)
        finally:
            head_end.stop()


def block(page: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)
    assert found is not None
    return found[1]


def eventually(condition: object, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def test_the_consumer_in_the_docs_gets_every_event_once_over_a_restart(site: Site, tmp_path: Path) -> None:
    program = tmp_path / "consumer.py"
    program.write_text(block("feed.md", "python"), encoding="utf-8")

    def kept() -> list[tuple[int, str]]:
        if not (tmp_path / "events.db").exists():
            return []
        with sqlite3.connect(tmp_path / "events.db") as database:
            try:
                return database.execute("SELECT sequence, id FROM events ORDER BY sequence").fetchall()
            except sqlite3.OperationalError:
                return []

    for _ in range(2):
        consumer = subprocess.Popen([sys.executable, program], cwd=tmp_path, env=site.environment)
        try:
            eventually(lambda: len(kept()) >= 8)
            time.sleep(0.3)
            assert consumer.poll() is None
        finally:
            consumer.kill()
            consumer.wait()
    events = [(int(event["sequence"]), event["id"]) for event in pull(site.client, 0)]
    assert kept() == events[: len(kept())]
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env=site.environment | {"HEADEND_TOKEN": "hdt_wrong"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "urn:headend:problem:unauthorized" in done.stderr


def test_the_event_in_the_docs_has_the_shape_of_real_ones(site: Site) -> None:
    shown = json.loads(block("feed.md", "json"))
    eventually(lambda: list(pull(site.client, 0)))
    event = next(pull(site.client, 0))
    assert list(shown) == list(event)
    assert list(shown["data"]) == list(event["data"])


def test_the_feeds_words_are_in_its_page() -> None:
    page = PAGES["feed.md"]
    for word in [*(unit.value for unit in Unit if unit is not Unit.BITS), *(quality.value for quality in Quality)]:
        assert not word or f"`{word}`" in page, word
    told = re.search(r"reason: of a missing read: (.*?)\(", (ROOT / "headend" / "model.py").read_text(), re.DOTALL)
    assert told is not None
    for reason in re.findall(r"[a-z-]{4,}", told[1]):
        assert f"`{reason}`" in page, reason


def test_every_key_of_the_configuration_is_documented() -> None:
    page = PAGES["configuration.md"]
    tables = config._FATAL_TABLES | config._ENTRY_TABLES
    for table, shape in tables.items():
        brackets = f"[{table}]" if table in config._FATAL_TABLES else f"[[{table}]]"
        start = page.find(f"| `{brackets}`")
        assert start >= 0, f"{brackets} is not in docs/configuration.md"
        rest = page[start + 4 :]
        section = rest[: end if (end := rest.find("| `[")) >= 0 else None]
        for key in shape.model_fields:
            assert f"`{key}`" in section, f"{key} of {brackets} is not in docs/configuration.md"


def commands(command: Any, path: str) -> Iterator[str]:
    """command: of click, or of the copy of it that some versions of typer carry."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path
        return
    for name, one in inner.items():
        yield from commands(one, f"{path} {name}")


def test_every_command_is_documented() -> None:
    known = list(commands(typer.main.get_command(app), "headend"))
    assert "headend token create" in known
    for command in known:
        assert re.search(rf"\b{re.escape(command)}\b", PROSE), f"`{command}` is in no page of the documentation"


def test_every_metric_is_documented(site: Site) -> None:
    metrics = re.findall(r"^# HELP (\w+) ", site.client.get("/metrics").text, re.MULTILINE)
    assert len(metrics) > 10
    for metric in metrics:
        assert f"`{metric}`" in PAGES["runbook.md"], f"{metric} is not in docs/runbook.md"


def test_what_the_readme_says_to_type_works(site: Site, tmp_path: Path) -> None:
    lines = [line.strip().partition("  #")[0].strip() for line in PAGES["README.md"].splitlines() if line[:4] == "    "]
    typed = [line for line in lines if re.match(r"\.venv/bin/headend (explain|init|check|token) ", line)]
    assert len(typed) >= 4
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(BIN, target_is_directory=True)
    for line in typed:
        done = subprocess.run(shlex.split(line), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    if shutil.which("curl"):
        (line,) = [line for line in lines if line.startswith("curl")]
        line = line.replace("http://127.0.0.1:8645", str(site.client.base_url).rstrip("/"))
        environment = site.environment | {"TOKEN": site.environment["HEADEND_TOKEN"]}
        done = subprocess.run(
            line, shell=True, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert "events" in json.loads(done.stdout)
