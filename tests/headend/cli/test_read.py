"""`headend read` against far ends that answer, hang up and come back."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadReply, encode
from tests.system.processes import BIN, simulated_lines

METER = "123456789012"
REPLY = encode(ReadReply(di=Di("00010000"), data=bytes.fromhex("56341200")), METER).to_bytes(4)
HANG_UP = None


@contextmanager
def far_end(*replies: bytes | None) -> Iterator[str]:
    """A serial server: the n-th request, over all connections, gets the n-th reply and then hears the line drop; when replies are
    used up nobody listens any more."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for reply in replies:
            connection, _ = server.accept()
            with connection:
                connection.recv(300)
                if reply is not HANG_UP:
                    connection.sendall(reply)
        server.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    finally:
        thread.join(timeout=10)
        server.close()


def read(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [BIN / "headend", "read", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(("reply", "code"), [(HANG_UP, 3), (b"\xfe\xfe", 3), (REPLY[:12], 4)])
def test_a_far_end_that_hangs_up_leaves_its_evidence(reply: bytes | None, code: int) -> None:
    with far_end(reply) as url:
        done = read(url, METER, "--retries", "0", "--json")
    assert done.returncode == code, done.stderr
    (shown,) = json.loads(done.stdout)
    assert shown["kind"] == "line-down"
    assert "closed by the other side" in shown["problem"]
    assert bytes.fromhex(shown["wire_received"]) == (reply or b"")
    assert bytes.fromhex(shown["wire_sent"]).startswith(b"\xfe\xfe\xfe\xfeh")
    assert shown["elapsed_ms"] > 0


def test_a_far_end_that_comes_back_is_asked_again() -> None:
    with far_end(HANG_UP, REPLY) as url:
        done = read(url, METER, "--retries", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["value"] == "1234.56"


def test_evidence_outlives_a_vain_reconnect() -> None:
    with far_end(REPLY[:12]) as url:
        done = read(url, METER, "--retries", "2", "--json")
    assert done.returncode == 4
    assert bytes.fromhex(json.loads(done.stdout)[0]["wire_received"]) == REPLY[:12]


def test_a_far_end_that_hangs_up_after_each_reply_is_asked_for_all_quantities() -> None:
    exported = encode(ReadReply(di=Di("00020000"), data=bytes.fromhex("00000000")), METER).to_bytes(4)
    with far_end(REPLY, exported) as url:
        done = read(url, METER, "1-0:1.8.0", "1-0:2.8.0", "--retries", "1", "--json")
    assert [read["value"] for read in json.loads(done.stdout)] == ["1234.56", "0.00"]
    assert done.returncode == 0


def test_a_line_that_never_opens_is_a_matter_of_usage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = read(f"tcp://127.0.0.1:{port}", METER, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (2, [])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("tcp://[::1:90", "IPv6"),
        ("tcp://x[y]:90", "an IPv6 address as"),
        ("tcp://a..b:90", "no host name"),
        ("tcp://h\u200b\u0007:9", "cannot be printed"),
        ("tcp://" + "a" * 64 + ":9", "no host name"),
    ],
)
def test_a_line_that_is_none_is_said_without_a_traceback(line: str, says: str) -> None:
    done = read(line, METER)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert says in done.stderr


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"tables = 1\n", b"[contract]\nextends = 5\n"])
def test_a_contract_file_that_is_none_is_said_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    done = read("tcp://127.0.0.1:9", METER, "--contract", str(path))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "own.toml" in done.stderr.replace("\n", "")


def test_a_table_through_a_pipe_is_whole_and_an_empty_text_is_no_missing_value() -> None:
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--meters", "1", "--seed", "1") as (line,):
        done = read(line["url"], line["meters"][0], "di:0001FF00", "di:04000403", "di:04000101", PYTHONIOENCODING="gbk")
        told = read(line["url"], line["meters"][0], "di:0001FF00", "di:04000403", "di:04000101", "--json")
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    shown = json.loads(told.stdout)
    assert len(rows) == 1 + len(shown)
    for row, one in zip(rows[1:], shown, strict=True):
        assert one["name"] in row
        assert (one["value"] is None) == ("not measured" in row)
        assert "…" not in row
