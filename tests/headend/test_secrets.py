"""Where passwords come from, and that only their names are ever shown."""

from pathlib import Path

import pytest

from headend.config import load_config
from headend.errors import ConfigError, HeadendError
from headend.secrets import BadSecret, SecretRefs, SecretStore
from protocols.dlt645.fields import Password

CANARY = "04C53A9E"


def test_a_password_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "operator").write_text("7d e1 4b 92\n")
    refs = SecretRefs(password="env:METERS", operator="file:operator", passwords={"M2": "file:missing"})
    store = SecretStore(refs, base=tmp_path, environ={"METERS": "04 11 22 33"})
    authority = store.authority("M1")
    assert authority.password == Password(4, b"\x11\x22\x33")
    assert authority.operator == bytes.fromhex("7DE14B92")
    with pytest.raises(BadSecret, match=r"password of meter M2 'file:missing': cannot be read: No such file"):
        store.authority("M2")
    (tmp_path / "missing").write_text("02000000")
    assert store.authority("M2").password == Password(2, bytes(3)), "a file that comes later needs no restart"


def test_without_a_reference_the_operator_is_zero_and_a_password_is_asked_for(tmp_path: Path) -> None:
    store = SecretStore(SecretRefs(passwords={"M1": "env:P"}), base=tmp_path, environ={"P": CANARY})
    assert store.authority("M1").operator == bytes(4)
    with pytest.raises(BadSecret, match=r"'M2': none is configured; set `password`"):
        store.authority("M2")


@pytest.mark.parametrize("held", [CANARY + "0", CANARY[:-1] + "x", "", f"password {CANARY}"])
def test_a_secret_of_the_wrong_shape_is_named_and_not_shown(held: str, tmp_path: Path) -> None:
    store = SecretStore(SecretRefs(password="env:P"), base=tmp_path, environ={"P": held})
    with pytest.raises(BadSecret, match="expected 8 hex digits") as caught:
        store.authority("M1")
    assert "env:P" in str(caught.value)
    assert not held or held not in str(caught.value)
    assert CANARY[2:] not in repr(caught.value)


def test_a_secret_in_the_place_of_a_reference_is_not_shown(tmp_path: Path) -> None:
    store = SecretStore(SecretRefs(password=CANARY), base=tmp_path, environ={})
    with pytest.raises(BadSecret) as caught:
        store.authority("M1")
    assert CANARY not in str(caught.value)


def test_nothing_that_holds_a_secret_shows_it(tmp_path: Path) -> None:
    store = SecretStore(SecretRefs(password="env:P", operator="env:P"), base=tmp_path, environ={"P": CANARY})
    authority = store.authority("M1")
    for text in (repr(store), str(store), repr(authority), str(authority), repr(authority.password), f"{[authority]}"):
        assert CANARY[2:].lower() not in text.lower()
        assert repr(bytes.fromhex(CANARY)[1:])[2:-1] not in text


CONFIG = """
[headend]
store = "sqlite:///x.db"
[secrets]
password = {password}
operator = "file:/run/secrets/operator"
[[lines]]
name = "a"
url = "tcp://127.0.0.1:1"
[[plans]]
name = "p"
period = "15m"
quantities = ["1-0:1.8.0"]
[[meters]]
id = "M1"
line = "a"
address = "000000000001"
plan = "p"
password = {own}
"""


def written(folder: Path, password: str, own: str) -> Path:
    path = folder / "headend.toml"
    path.write_text(CONFIG.format(password=password, own=own))
    return path


def test_the_configuration_takes_references_for_all_meters_and_for_one(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, '"env:ALL"', '"env:ONE"'))
    assert config.problems == ()
    assert config.secrets == SecretRefs(
        password="env:ALL", operator="file:/run/secrets/operator", passwords={"M1": "env:ONE"}
    )


@pytest.mark.parametrize(("password", "own"), [(f'"{CANARY}"', '"env:X"'), ("12345678", '"env:X"')])
def test_a_password_written_into_the_file_stops_the_start_and_is_not_repeated(
    password: str, own: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, password, own))
    assert "secrets.password" in str(caught.value)
    assert password.strip('"') not in str(caught.value)


@pytest.mark.parametrize("own", [f'"{CANARY}"', "12345678"])
def test_a_password_written_beside_a_meter_leaves_the_meter_out_and_is_not_repeated(own: str, tmp_path: Path) -> None:
    config = load_config(written(tmp_path, '"env:ALL"', own))
    assert config.meters == ()
    (problem,) = config.problems
    assert "meters[0].password" in str(problem)
    assert own.strip('"') not in str(problem)


def test_bad_secrets_are_errors_of_ours() -> None:
    assert issubclass(BadSecret, HeadendError)
