"""Names are shown as they are, whatever a terminal library would make of their brackets."""

import json
import subprocess
from pathlib import Path

from tests.system.processes import BIN


def headend(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [BIN / "headend", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_brackets_in_names_are_no_markup(tmp_path: Path) -> None:
    done = headend(tmp_path, "init", "site[/a]")
    assert done.returncode == 0
    assert "site[/a]/headend.toml" in done.stdout
    config = "site[/a]/headend.toml"
    done = headend(tmp_path, "token", "create", config, "--name", "[/x][bold]\\")
    assert done.returncode == 0
    assert "[/x][bold]" in done.stderr
    done = headend(tmp_path, "token", "list", config)
    assert "[/x][bold]\\" in done.stdout
    done = headend(tmp_path, "token", "revoke", "[/x][bold]\\", config)
    assert done.returncode == 0
    assert "[/x][bold]" in done.stdout
    assert headend(tmp_path, "token", "revoke", "[/y]", config).returncode == 2
    assert headend(tmp_path, "check", "[/b].toml").returncode == 2
    done = headend(tmp_path, "check", "[/b].toml", "--json")
    assert "[/b].toml" in json.loads(done.stdout)["problems"][0]
