"""`headend audit verify | export` as typed, with good and bad input, and the stand-alone verifier as anyone runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headend.audit.keeper import checkpoint_event
from headend.cli.main import app
from headend.keys import SigningKey, make_key_files
from tests.headend.audit.support import PATH, Rig, a_record
from tests.headend.support import store_url
from tests.system.processes import BIN

CONFIG = """[headend]
name = "luoyang-west"
store = "{store}"
[audit]
signing_key = "file:audit-key.pem"
witness = "witness.ndjson"
"""


class House:
    """A configuration, its store with a log of 40 records, and keys."""

    def __init__(self, folder: Path) -> None:
        private, self.public = make_key_files(folder, "audit-key")
        self.rig = Rig(folder, key=SigningKey.from_pem(private.read_text()))
        self.rig.story(40)
        self.rig.store.close()
        self.folder = folder
        self.config = folder / "headend.toml"
        self.config.write_text(CONFIG.format(store=store_url(folder)))
        self.witness = folder / "seen.ndjson"
        self.witness.write_text("".join(f"{one.body}\n" for one in self.rig.checkpoints()))

    def run(self, *words: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, ["audit", *map(str, words)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            return 2, result.stdout, str(result.exception)  # `main` prints it so
        return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def alone(*words: object) -> tuple[int, str]:
    """As a stranger runs it: from nowhere, without our environment."""
    done = subprocess.run(
        [sys.executable, "-I", PATH, *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_a_store_is_proven_and_damage_is_named(house: House) -> None:
    code, out, _ = house.run("verify", house.config)
    assert (code, "proven: 40 records" in out) == (0, True)
    code, out, _ = house.run("verify", house.config, "--witness", house.witness, "--json")
    assert code == 0
    assert json.loads(out)["ok"] is True
    assert alone(house.rig.path, "--key", house.public, "--witness", house.witness)[0] == 0
    house.rig.meddle("UPDATE audit_records SET body = replace(body, 'billing', 'nobody') WHERE number = 7")
    code, out, _ = house.run("verify", house.config)
    assert code == 6
    assert "record 7 or the one before it was changed" in out
    code, out = alone(house.rig.path, "--key", house.public)
    assert (code, "record 7 or the one before it was changed" in out) == (6, True)


def test_what_the_configured_witness_and_the_feed_have_seen_is_looked_at(house: House) -> None:
    (house.folder / "witness.ndjson").write_text(house.witness.read_text())
    house.rig.meddle("DELETE FROM audit_records WHERE number > 30")
    house.rig.meddle("DELETE FROM audit_checkpoints WHERE number > 30")
    code, out, _ = house.run("verify", house.config)
    assert code == 6
    assert "checkpoint 40 was witnessed, and is gone" in out


def test_the_feed_of_the_store_is_a_witness(house: House) -> None:
    newest = house.rig.checkpoints()[-1]
    house.rig.store.commit([checkpoint_event(newest.body, house.rig.clock.now())])
    house.rig.meddle("DELETE FROM audit_records WHERE number > 30")
    house.rig.meddle("DELETE FROM audit_checkpoints WHERE number > 30")
    assert house.run("verify", house.config, "--no-feed")[0] == 0
    code, out, _ = house.run("verify", house.config)
    assert code == 6
    assert "checkpoint 40 was witnessed, and is gone" in out


def test_one_evidence_file_holds_a_meter_and_its_proof(house: House) -> None:
    file = house.folder / "evidence.ndjson"
    code, out, error = house.run(
        "export", house.config, "M000001", "--to", file, "--actor", "court", "--reason", "case 12"
    )
    assert code == 0, error
    assert "audit verify" in out
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    records = [line["record"] for line in lines if "record" in line]
    assert lines[0]["meter"] == "M000001"
    assert {record["meter"] for record in records} == {"M000001"}
    assert [record["meter_number"] for record in records] == list(range(1, len(records) + 1))
    assert (records[-1]["kind"], records[-1]["actor"]) == ("evidence-exported", "court")
    for key in ([], ["--key", house.public]):
        assert house.run("verify", file, *key)[0] == 0
        assert alone(file, *key)[0] == 0
    assert house.run("export", house.config, "M000001", "--to", file)[0] == 2, "evidence is never overwritten"
    text = file.read_text()
    assert records[2]["kind"] in text
    file.write_text(text.replace(f'"kind":"{records[2]["kind"]}"', '"kind":"approved"', 1))
    assert house.run("verify", file, "--key", house.public)[0] == 6
    assert alone(file, "--key", house.public)[0] == 6
    assert house.run("verify", house.config)[0] == 0, "the export itself is a good record"


def test_the_whole_log_is_exported_and_proven(house: House) -> None:
    file = house.folder / "log.ndjson"
    code, out, _ = house.run("export", house.config, "--to", file, "--json")
    assert code == 0
    assert json.loads(out)["lines"] == 1 + 40 + len(house.rig.checkpoints())
    words = (file, "--key", house.public, "--witness", house.witness)
    assert house.run("verify", *words)[0] == 0
    code, told = alone(*words)
    assert (code, told.splitlines()[-1]) == (0, "proven")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-5]))
    assert house.run("verify", *words)[0] == 6
    assert alone(*words)[0] == 6


def test_bad_input_says_what_was_expected(house: House) -> None:
    empty, other = house.folder / "empty", house.folder / "other.json"
    empty.write_bytes(b"")
    other.write_text('{"format":"something.v9"}\n')
    key = house.folder / "key.pem"
    key.write_text("-----BEGIN NOTHING-----\n")
    file = house.folder / "e.ndjson"
    for words, told in (
        (("verify", house.folder / "nothing"), "cannot be read"),
        (("verify", empty), "exported audit log"),
        (("verify", other), "expected the format"),
        (("verify", house.folder), "cannot be read"),
        (("verify", house.config, "--key", key), "expected PEM"),
        (("verify", house.config, "--witness", other), "holds no checkpoint"),
        (("verify", house.folder / "no.toml"), "cannot be read"),
        (("export", house.config, "M000001"), "--to FILE"),
        (("export", house.config, "M999999", "--to", file), "no record of a meter 'M999999'"),
        (("export", house.config, "M000001", "--to", house.folder / "no" / "e"), "cannot be written"),
    ):
        code, _, error = house.run(*words)
        assert (code, told in error) == (2, True), (words, error)
    assert not file.exists()
    for bad in (house.folder / "nothing", empty, other, house.folder, key):
        code, told = alone(bad)
        assert (code, told.startswith("error: ")) == (2, True), (bad, told)
    assert alone(house.rig.path, "--key", house.folder / "nothing")[0] == 2


def test_the_verifier_says_what_it_needs_for_signatures(house: House) -> None:
    program = f"""
import runpy, sys
sys.modules["cryptography"] = None
sys.argv = ["verify_audit.py", *sys.argv[1:]]
runpy.run_path({str(PATH)!r}, run_name="__main__")
"""
    cases: list[tuple[list[str | Path], int, str]] = [
        (["--key", house.public], 2, "pip install cryptography"),
        ([], 0, "signatures were not checked"),
    ]
    for key, code, told in cases:
        done = subprocess.run(
            [sys.executable, "-c", program, house.rig.path, *key],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        assert told in done.stdout + done.stderr


def test_the_verifier_can_be_read_in_one_sitting() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert "import headend" not in text
    assert "from headend" not in text


def test_no_secret_is_in_anything_that_the_log_leaves_behind(house: House) -> None:
    """A canary in every place where a careless caller could put it; then every file is searched."""
    canaries = ("111111canary", "hdt_canarycanarycanarycanary", "C0FFEE42")
    rig = house.rig
    rig.strict = False
    rig.log = rig.new_log()
    rig.append(
        a_record("frame", password=canaries[0], note=f"token {canaries[1]}", frame={"operator_code": canaries[2]}),
        a_record("token-created", None, token=canaries[1], created={"apiToken": canaries[1]}),
    )
    rig.checkpoint()
    rig.store.close()
    assert house.run("export", house.config, "--to", house.folder / "log.ndjson")[0] == 0
    assert house.run("export", house.config, "M000001", "--to", house.folder / "m.ndjson")[0] == 0
    private = (house.folder / "audit-key.pem").read_text().splitlines()[1]
    searched = [path for path in house.folder.rglob("*") if path.is_file() and path.name != "audit-key.pem"]
    assert len(searched) >= 5
    for path in searched:
        wire = path.read_bytes()
        for canary in (*canaries, private):
            assert canary.encode() not in wire, path


@pytest.mark.skipif(not (BIN / "headend").exists(), reason="the console script is not installed")
def test_the_command_as_it_is_installed(house: House) -> None:
    done = subprocess.run(
        [BIN / "headend", "audit", "verify", house.config],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert (done.returncode, "proven" in done.stdout) == (0, True), done.stderr
