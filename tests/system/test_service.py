"""The service as a process: it reads, it stops cleanly, and it keeps running for what is good."""

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from tests.system.processes import BIN, HeadEndProcess, config_text, create_token, eventually, pull, simulated_lines

QUANTITIES = ["1-0:1.8.0", "1-0:32.7.0"]


def reads(client: httpx.Client) -> list[dict[str, Any]]:
    return [event for event in pull(client, 0) if event["type"] == "headend.read.v1"]


def intervals(client: httpx.Client) -> list[dict[str, Any]]:
    return [event for event in pull(client, 0) if event["type"] == "headend.interval.v1"]


def test_reads_arrive_and_a_clean_stop_loses_none(tmp_path: Path) -> None:
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--meters", "12", "--lines", "2", "--seed", "1") as lines:
        config = tmp_path / "headend.toml"
        config.write_text(config_text(tmp_path, lines, period="1h", quantities=QUANTITIES))
        head_end = HeadEndProcess(config, create_token(config))
        client = head_end.wait_ready()
        eventually(lambda: len(reads(client)) >= 8)
        assert client.get("/v1/meters").json()["meters"][0]["id"] == "M000001"
        assert 'headend_line_up{line="line-0"} 1.0' in client.get("/metrics").text
        assert head_end.stop() == 0
        assert "Traceback" not in head_end.log.read_text()

        again = HeadEndProcess(config, create_token(config))
        client = again.wait_ready()
        eventually(lambda: len(reads(client)) == 24)
        time.sleep(0.5)
        events = reads(client)
        assert len(events) == 24  # what the first run had read is not read again in the same interval
        assert all(event["data"]["quality"][0] == "measured" for event in events)
        assert again.stop() == 0


def test_it_runs_for_what_is_good_and_says_what_is_not(tmp_path: Path) -> None:
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--meters", "2", "--seed", "1") as lines:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            nobody = probe.getsockname()[1]
        config = tmp_path / "headend.toml"
        good = config_text(tmp_path, lines, period="1h", quantities=QUANTITIES)
        config.write_text(
            good
            + f"""
[[lines]]
name = "dead"
url = "tcp://127.0.0.1:{nobody}"

[[meters]]
id = "M9"
line = "dead"
address = "000000000009"
plan = "plan"

[[meters]]
id = "M10"
line = "line-0"
address = "10"
plan = "plan"

[[meters]]
id = "M11"
line = "line-0"
address = "000000000011"
plan = "plan"
color = "red"
"""
        )
        head_end = HeadEndProcess(config, create_token(config))
        client = head_end.wait_ready()
        eventually(lambda: len(reads(client)) == 4)
        found = {line["name"]: line for line in client.get("/v1/lines").json()["lines"]}
        assert (found["line-0"]["state"], found["dead"]["state"]) == ("up", "down")
        assert "is something listening" in found["dead"]["problem"]
        eventually(lambda: client.get("/v1/lines").json()["lines"][1]["counters"]["failed_connects"] >= 2)
        assert client.get("/healthz").status_code == 200
        assert head_end.stop() == 0
        log = head_end.log.read_text()
        assert "meters[3].address" in log
        assert "meters[4].color: unknown key" in log
        assert "Traceback" not in log


def test_a_read_on_demand_goes_before_the_plan(tmp_path: Path) -> None:
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--meters", "60", "--seed", "1") as lines:
        config = tmp_path / "headend.toml"
        config.write_text(config_text(tmp_path, lines, period="1h", quantities=QUANTITIES))
        head_end = HeadEndProcess(config, create_token(config))
        client = head_end.wait_ready()
        eventually(lambda: len(list(pull(client, 0))) >= 1)
        answer = client.post("/v1/meters/M000060/reads", json={"quantities": ["1-0:14.7.0"]})
        assert answer.status_code in (200, 201), answer.text
        (read,) = answer.json()["reads"]
        assert (read["meter"], read["unit"], read["quality"]) == ("M000060", "Hz", ["measured"])
        assert 49 < float(read["value"]) < 51
        assert len(list(pull(client, 0))) < 120  # the plan was still under way
        answer = client.post(
            "/v1/meters/M000060/reads", json={"quantities": ["di:04000101", "di:04000501", "di:0201FF00"]}
        )
        date, status, *phases = answer.json()["reads"]
        assert (date["name"], date["quality"], date["obis"]) == ("Date and weekday", ["measured"], "0-0:1.0.0")
        assert date["value"]
        assert len(status["value"]) == 4  # a status word, as hex
        assert [phase["obis"] for phase in phases] == ["1-0:32.7.0", "1-0:52.7.0", "1-0:72.7.0"]
        assert phases[0]["wire_received"].startswith("68 ")
        answer = client.post("/v1/meters/M000060/reads", json={"quantities": ["1-0:1.8.0", "volts"]})
        assert (answer.status_code, "volts" in answer.json()["detail"]) == (400, True)
        assert [read["unit"] for read in client.post("/v1/meters/M000060/reads", json={}).json()["reads"]] == [
            "kWh",
            "V",
        ]
        assert client.post("/v1/meters/M999/reads", json={}).status_code == 404
        assert head_end.stop() == 0


def test_feed_tail_shows_events_and_says_what_is_wrong(tmp_path: Path) -> None:
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--meters", "2", "--seed", "1") as lines:
        config = tmp_path / "headend.toml"
        config.write_text(config_text(tmp_path, lines, period="1h", quantities=QUANTITIES))
        token = create_token(config)
        head_end = HeadEndProcess(config, token)
        url = str(head_end.wait_ready().base_url)

        def tail(*arguments: str) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                [BIN / "headend", "feed", "tail", "--url", url, *arguments],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        done = tail("--token", token, "--after", "0", "--limit", "4", "--json")
        assert done.returncode == 0, done.stderr
        assert [json.loads(line)["sequence"] for line in done.stdout.splitlines()] == ["1", "2", "3", "4"]
        done = tail("--token", token, "--after", "2", "--no-follow")
        assert len(done.stdout.splitlines()) >= 2
        assert "kWh" in done.stdout or " V" in done.stdout
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
            eventually(lambda: len(list(intervals(client))) == 2)
        told = [
            line for line in tail("--token", token, "--after", "2", "--no-follow").stdout.splitlines() if " to " in line
        ]
        assert len(told) == 2
        assert all("not known: before-first-read" in line for line in told)
        done = tail("--token", "hdt_wrong")
        assert done.returncode == 2
        assert "refused" in done.stderr
        assert "no token" in tail().stderr
        assert head_end.stop() == 0
        done = tail("--token", token)
        assert done.returncode == 3
        assert "does not answer" in done.stderr


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = tmp_path / "headend.toml"
        config.write_text(f'[api]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n')
        done = subprocess.run([BIN / "headend", "run", config], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stream_ends_when_the_service_stops(tmp_path: Path) -> None:
    config = tmp_path / "headend.toml"
    config.write_text('[api]\nlisten = "127.0.0.1:0"\n')
    head_end = HeadEndProcess(config, create_token(config))
    client = head_end.wait_ready()
    with client.stream("GET", "/v1/feed/stream") as answer:
        assert answer.status_code == httpx.codes.OK
        started = time.monotonic()
        head_end.process.terminate()
        list(answer.iter_raw())
        assert time.monotonic() - started < 10
    assert head_end.process.wait(timeout=10) == 0
