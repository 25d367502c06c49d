"""`headend dtu` against head-ends with odd callers, without any, unwell, gone, or something else. Against a real one: tests/system."""

import json
import os
import subprocess

import pytest

from tests.headend.cli.test_feed_tail import BLIND, Answer, head_end
from tests.system.processes import BIN, free_port

SEEN = "2026-01-31T16:00:00Z"
CALLER = {"address": "192.0.2.7:4000", "first_seen": SEEN, "last_seen": SEEN, "connects": 3, "bytes": 9}
CALLERS = {
    "listeners": [
        {"listen": "0.0.0.0:9001", "connected": 7, "unowned": 1, "unknown": 2, "forgotten": 0, "counters": {}}
    ],
    "unknown": [
        CALLER | {"dtu": "AB[/]CD/01", "heard": "AB[/]CD/01", "is_connected": True},
        CALLER | {"dtu": "", "heard": "GET / HTTP", "is_connected": False},
    ],
}
NOBODY: dict[str, list[str]] = {"listeners": [], "unknown": []}


def good(body: object) -> Answer:
    return (200, "application/json", body)


def dtu(url: str, *arguments: str, token: str | None = "hdt_x") -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "HEADEND_TOKEN"}
    done = subprocess.run(
        [BIN / "headend", "dtu", *arguments, "--url", url, *(("--token", token) if token is not None else ())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment | {"COLUMNS": "200"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_odd_callers_are_shown_as_they_are() -> None:
    with head_end(callers=good(CALLERS)) as (url, asked):
        done = dtu(url, "list")
        as_json = dtu(url, "list", "--json")
    assert done.returncode == 0, done.stderr
    assert "0.0.0.0:9001: 7 DTUs on their lines, 2 unknown" in done.stdout
    first, second = (line for line in done.stdout.splitlines() if "192.0.2.7" in line)
    assert ("AB[/]CD/01" in first, "yes" in first) == (True, True)
    assert ("(did not say)" in second, "GET / HTTP" in second, "no" in second) == (True, True, True)
    assert json.loads(as_json.stdout) == CALLERS
    assert asked == ["/v1/callers?limit=1000"] * 2


def test_a_head_end_that_nobody_dials_in_to_says_so() -> None:
    with head_end(callers=good(NOBODY)) as (url, _):
        done = dtu(url, "list")
    assert (done.returncode, "none has a url that begins with listen://" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        ((401, "application/problem+json", {"title": "No token", "detail": "it was revoked"}), 2, "it was revoked"),
        (BLIND, 3, "the store cannot be read"),
        ((200, "text/html", "<h1>It works</h1>"), 2, "is no head-end"),
        (good([]), 2, "is no head-end"),
        ((404, "text/plain", "nothing here"), 2, "refused"),
    ],
)
def test_a_list_that_cannot_be_had_ends_with_its_reason(answer: Answer, code: int, says: str) -> None:
    with head_end(callers=answer) as (url, _):
        done = dtu(url, "list", "--json")
    assert (done.returncode, done.stdout) == (code, "")
    assert says in " ".join(done.stderr.split())


@pytest.mark.parametrize("arguments", [("list",), ("adopt", "86000001", "line-1")])
def test_nobody_there_is_three_and_no_token_is_two(arguments: tuple[str, ...]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    gone = dtu(url, *arguments)
    assert (gone.returncode, "does not answer" in " ".join(gone.stderr.split())) == (3, True)
    bare = dtu(url, *arguments, token=None)
    assert (bare.returncode, "no token: create one" in " ".join(bare.stderr.split())) == (2, True)
