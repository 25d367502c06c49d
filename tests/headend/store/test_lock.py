"""One head-end per store, told by the operating system and not by a file that a crash leaves behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headend.clock import SystemClock
from headend.errors import StoreInUse, StoreUnavailable
from headend.store import Role, Store, Tokens, migrate
from headend.store.lock import sole_owner
from tests.headend.support import store_url


@contextmanager
def holder(url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.headend.store.lock_holder", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_head_end_is_refused_and_told_who_holds_the_store(tmp_path: Path) -> None:
    url = store_url(tmp_path)
    with holder(url) as process:
        for _ in range(2):
            told = rf"process {process.pid}, runs on the store .*headend\.db"
            with pytest.raises(StoreInUse, match=told), sole_owner(url):
                pytest.fail("two held the store at once")
        migrate(url)
        assert Tokens(Store(url, "x"), SystemClock()).create_token("billing", [Role.READ])  # the tools go on working


def test_the_store_is_free_again_after_a_clean_end_and_after_a_kill(tmp_path: Path) -> None:
    url = store_url(tmp_path)
    with holder(url) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
        with sole_owner(url):
            pass
    with holder(url) as process:
        process.kill()
        process.wait()
        with sole_owner(url):
            assert Path(f"{tmp_path / 'headend.db'}.lock").read_text() == f"{os.getpid()}\n"


def test_the_same_file_by_another_name_is_the_same_store(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "real", target_is_directory=True)
    with sole_owner(store_url(tmp_path / "real")):
        with pytest.raises(StoreInUse), sole_owner(store_url(tmp_path / "other")):
            pass
        with sole_owner(f"sqlite:///{tmp_path / 'real' / 'second.db'}"):
            pass


def test_the_folder_of_a_new_store_is_made(tmp_path: Path) -> None:
    with sole_owner(f"sqlite:///{tmp_path}/new/deep/headend.db"):
        assert (tmp_path / "new" / "deep").is_dir()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "headend.db.lock").mkdir()
    with pytest.raises(StoreUnavailable, match=r"headend\.db\.lock cannot be opened"), sole_owner(store_url(tmp_path)):
        pass
