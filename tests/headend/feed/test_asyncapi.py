"""The AsyncAPI document: parsed by AsyncAPI's own parser (npm), and the ways to get it."""

import fcntl
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from headend.api import create_app, serve
from headend.api.feed_routes import LIMIT_MAX as PAGE_MAX
from headend.api.schema_routes import asyncapi_document, event_schema, list_schemas, name_quantity
from headend.cli.feed_schema import schema as schema_command
from headend.feed.asyncapi import LIMIT_MAX, document, document_json
from headend.feed.schemas import EVENT_TYPES, schema_of
from headend.feed.sinks.names import mqtt_topic, nats_subject
from tests.headend.api.test_api import Site

PARSER = "@asyncapi/parser@3.6.3"
PARSE = """
import { Parser } from '@asyncapi/parser';
import { readFileSync } from 'node:fs';
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));
console.log(JSON.stringify({
  diagnostics: diagnostics.map(one => ({ severity: one.severity, code: one.code, text: one.message, path: one.path })),
  version: document?.version(),
  channels: Object.fromEntries(document?.channels().all().map(one => [one.id(), one.messages().all().map(m => m.id())]) ?? []),
  operations: Object.fromEntries(document?.operations().all().map(one => [one.id(), one.action()]) ?? []),
  reply: document?.operations().get('pullFeed')?.reply()?.messages().all().map(m => m.id()),
}));
"""
NAMES = [event_type.name for event_type in EVENT_TYPES]
ROUTES = (asyncapi_document, list_schemas, event_schema, name_quantity)


@pytest.fixture(scope="module")
def parser() -> Path:
    """A folder with the parser, kept between runs; it is installed once per machine and version."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = Path(tempfile.gettempdir()) / f"headend-{PARSER.replace('/', '-')}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            done = subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", PARSER],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"npm cannot install {PARSER}: {done.stderr[-300:] or done.stdout[-300:]}")
            (folder / "installed").touch()
        (folder / "parse.mjs").write_text(PARSE)
    return folder


def parsed(folder: Path, text: bytes, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "asyncapi.json").write_bytes(text)
    done = subprocess.run(
        ["node", "parse.mjs", tmp_path / "asyncapi.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_asyncapis_own_parser_finds_nothing_wrong(parser: Path, tmp_path: Path) -> None:
    found = parsed(parser, document_json("1.2.3"), tmp_path)
    # It also recommends the newest version of AsyncAPI, whichever that is.
    assert [one for one in found["diagnostics"] if one["code"] != "asyncapi-latest-version"] == []
    assert found["version"] == "3.0.0"
    assert found["channels"] == {
        "feed": ["ask", "page"],
        "feedStream": NAMES,
        "webhook": ["batch"],
        "mqtt": NAMES,
        "nats": NAMES,
    }
    assert found["operations"]["pullFeed"] == "receive"
    assert {action for name, action in found["operations"].items() if name != "pullFeed"} == {"send"}
    assert found["reply"] == ["page"]


def test_the_parser_would_notice(parser: Path, tmp_path: Path) -> None:
    spoilt = document("1")
    spoilt["operations"]["streamFeed"]["messages"].append({"$ref": "#/channels/feedStream/messages/nobody"})
    spoilt["components"]["schemas"]["headend.read.v1"]["type"] = "record"
    errors = [
        one for one in parsed(parser, json.dumps(spoilt).encode(), tmp_path)["diagnostics"] if one["severity"] == 0
    ]
    assert errors


def test_every_event_type_is_a_message_with_the_schema_of_its_file() -> None:
    made = document("1")
    for event_type in EVENT_TYPES:
        schema = made["components"]["schemas"][event_type.name]
        assert schema == {key: value for key, value in schema_of(event_type).items() if key not in ("$id", "$schema")}
        Draft202012Validator.check_schema(schema)
    assert json.loads(document_json("1")) == made


def test_addresses_and_limits_are_those_of_the_code() -> None:
    made = document("1")
    mqtt_topic(made["channels"]["mqtt"]["address"], "x")
    nats_subject(made["channels"]["nats"]["address"], "x")
    limit = made["operations"]["pullFeed"]["bindings"]["http"]["query"]["properties"]["limit"]
    assert limit["maximum"] == LIMIT_MAX == PAGE_MAX


async def test_the_routes_give_document_schemas_and_names(tmp_path: Path) -> None:
    site = Site(tmp_path)
    app = create_app(site.deps, routes=ROUTES)
    async with (
        serve(app, "127.0.0.1:0") as listening,
        httpx.AsyncClient(base_url=listening.url, headers=site.token("read"), timeout=10) as client,
    ):
        answer = await client.get("/v1/asyncapi.json")
        assert answer.headers["content-type"].startswith("application/vnd.aai.asyncapi+json")
        assert answer.json()["asyncapi"] == "3.0.0"
        listed = (await client.get("/v1/schemas")).json()["types"]
        assert [one["type"] for one in listed] == NAMES
        for one in listed:
            assert (await client.get(one["schema"])).json()["title"] == one["type"]
        assert (await client.get("/v1/schemas/headend.nothing.v1")).status_code == 404
        assert (await client.get("/v1/asyncapi.json", headers={"Authorization": ""})).status_code == 401
        named = await client.get("/v1/reading-type", params={"obis": "1-0:1.8.0", "unit": "kWh", "period_s": 900})
        assert named.json()["reading_type"] == "0.0.2.4.1.1.12.0.0.0.0.0.0.0.0.3.72.0"
        assert named.json()["fields"]["measurementKind"] == 12
        read = {"obis": "1-0:1.8.0", "unit": "kWh", "side": "primary"}
        assert (await client.get("/v1/reading-type", params=read)).json()["reading_type"].split(".")[5] == "2"
        unknown = (await client.get("/v1/reading-type", params={"obis": "di:0280000A", "unit": "min"})).json()
        assert (unknown["reading_type"], unknown["kind"], unknown["fields"]) == (None, None, None)
        for name, value in {
            "unit": "furlong",
            "side": "left",
            "kind": "guess",
            "period_s": "0",
            "colour": "red",
        }.items():
            refused = await client.get("/v1/reading-type", params=read | {name: value})
            assert refused.status_code == 400, refused.text
        described = (await client.get("/schema/openapi.json")).json()["paths"]
        assert {"/v1/asyncapi.json", "/v1/schemas", "/v1/schemas/{event_type}", "/v1/reading-type"} <= described.keys()


def command(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(schema_command)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_prints_the_document_or_one_schema() -> None:
    assert json.loads(command().stdout)["asyncapi"] == "3.0.0"
    assert json.loads(command("headend.read.v1").stdout)["title"] == "headend.read.v1"
    wrong = command("headend.reed.v1")
    assert (wrong.exit_code, wrong.stdout) == (2, "")


def test_the_command_writes_all_files_into_a_folder(tmp_path: Path) -> None:
    assert command("--out", str(tmp_path / "made")).exit_code == 0
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert names == {"asyncapi.json", *(f"{name}.json" for name in NAMES)}
    (tmp_path / "file").write_text("")
    assert command("--out", str(tmp_path / "file")).exit_code == 2
