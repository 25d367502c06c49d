"""Contracts of concentrators: what ships loads and says where it comes from; what is wrong in a file is named."""

import os
from pathlib import Path

import pytest

from firmware_contracts.concentrator_contract import about_concentrator, concentrator_names, load_concentrator
from firmware_contracts.errors import BadContract, UnknownContract
from protocols.concentrator.codec import ConcentratorContract
from protocols.concentrator.messages import Op

SITE = '[contract]\nprotocol = "mqtt"\nextends = "concentrator/neuron"\n'
ALONE = '[contract]\nprotocol = "mqtt"\n'
DATA = """
[[up]]
kind = "data"
topic = "t/{concentrator}/{meter}"
payload = '''{"at": "{at:ms}", "v": {"{name}": "{amount:number}"}}'''
"""


def load(folder: Path, text: str) -> ConcentratorContract:
    path = folder / "site.toml"
    path.write_text(text, encoding="utf-8")
    return load_concentrator(str(path))


def test_the_families_ship() -> None:
    assert concentrator_names() == [
        f"concentrator/{name}" for name in ("aliyun", "hes_v1", "neuron", "state_grid", "tasmota_sml", "thingsboard")
    ]


@pytest.mark.parametrize("name", concentrator_names())
def test_every_contract_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    about = about_concentrator(name)
    assert about.protocol == "mqtt"
    assert all((about.maker, about.model, about.description, about.provenance))
    contract = load_concentrator(name)
    assert contract.name == name
    assert {Op.OPEN, Op.CLOSE, Op.READ} <= contract.offers
    assert all("#" not in topic for topic in contract.topics_up)
    assert contract is load_concentrator(name)


@pytest.mark.parametrize("name", concentrator_names())
def test_no_filter_for_what_comes_up_takes_in_commands(name: str) -> None:
    """But where a family sends both ways on one topic, and in the topics that Neuron names by driver and group."""
    contract = load_concentrator(name)
    up = {tuple(topic.split("/")) for topic in contract.topics_up}
    taken = [
        "/".join(down)
        for down in (topic.split("/") for topic in contract.topics_down("C1"))
        for filter in up
        if len(filter) == len(down) and all(a in ("+", b) for a, b in zip(filter, down, strict=True))
    ]
    shared = {"concentrator/thingsboard": ["v1/gateway/rpc"]}
    shared["concentrator/neuron"] = ["/neuron/C1/write/req", "/neuron/C1/read/req"]
    assert taken == shared.get(name, [])


def test_a_site_replaces_settings_names_zone_and_prefix(tmp_path: Path) -> None:
    text = SITE + '[settings]\ngroup = "g7"\n[names]\nkwh = { obis = "1-0:1.8.0", unit = "Wh", source = "x" }\n'
    contract = load_concentrator("concentrator/neuron", prefix="site-7", settings={"group": "g7"})
    assert contract.topics_down("C1") == ("site-7/neuron/C1/write/req", "site-7/neuron/C1/read/req")
    assert load(tmp_path, text).quantities.quantity_of("kwh") == "1-0:1.8.0"


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    first = load(tmp_path, SITE)
    assert load_concentrator(str(tmp_path / "site.toml")) is first
    os.utime(tmp_path / "site.toml", (1, 1))
    assert load_concentrator(str(tmp_path / "site.toml")) is not first


def test_what_is_not_there_is_named_with_what_there_is() -> None:
    for name in ("concentrator/nothing", "concentrator/../dlt645/base_2007", "/no/such/file.toml"):
        with pytest.raises(UnknownContract, match="concentrator/hes_v1"):
            load_concentrator(name)
    with pytest.raises(BadContract, match="expected mqtt"):
        load_concentrator("dlt645/base_2007")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[contract]\nprotocol = 'dlt645-2007'\n", "expected mqtt"),
        ("[contract]\nprotocol = 'mqtt'\nzone = 'x'\n", "zone"),
        (SITE + "[oddity]\n", "oddity"),
        (SITE + "[commands]\nid = 'guess'\n", "guess"),
        (SITE + "[marks]\nbad = ['1']\n", "bad"),
        (SITE + "[names]\nx = { obis = '1-0:1.8.0', unit = 'kWh' }\n", "source"),
        (SITE + "[names]\nx = { obis = '1.8.0', unit = 'kWh', source = 'x' }\n", "not an OBIS code"),
        (SITE + "[names]\nx = { obis = '1-0:1.8.0', unit = 'V', source = 'x' }\n", "contradicts"),
        (SITE + "[names]\nx = { obis = '1-0:1.8.0', unit = 'furlong', source = 'x' }\n", "furlong"),
        (SITE + "[names]\nx = { obis = '1-0:1.8.0', unit = 'kWh', scale = 0, source = 'x' }\n", "scale 0"),
        (ALONE + DATA.replace("{amount:number}", "{amount:furlong}"), "no such way to write a field"),
        (ALONE + DATA.replace("{amount:number}", "{amuont:number}"), "no field 'amuont'"),
        (ALONE + DATA.replace("{amount:number}", "{amount number}"), "expected a field"),
        (ALONE + DATA.replace("/{meter}", ""), "must tell meter"),
        (ALONE + DATA.replace("{concentrator}", "x"), "nothing tells the concentrator"),
        (ALONE + DATA.replace("t/{c", "#/{c"), "without wildcards"),
        (ALONE + DATA.replace('"data"', '"date"'), "no such kind"),
        (ALONE + DATA.replace("'''{", "'''"), "expected JSON"),
        (ALONE + "[[down]]\nop = 'trip'\ntopic = 'x/{concentrator}'\npayload = '{}'\n", "no such operation"),
        (ALONE + "[[down]]\nop = ['open', 'close']\ntopic = 'x/{concentrator}'\npayload = '{}'\n", "must tell op"),
        (SITE + "timezone = 'Europe/Atlantis'\n", "Atlantis"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(BadContract, match=problem):
        load(tmp_path, text)


def test_a_setting_that_the_contract_does_not_have_is_refused() -> None:
    with pytest.raises(BadContract, match="gruop"):
        load_concentrator("concentrator/neuron", settings={"gruop": "x"})


def test_a_contract_that_extends_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(f'[contract]\nprotocol = "mqtt"\nextends = "{path}"\n')
    with pytest.raises(BadContract, match="extends itself"):
        load_concentrator(str(path))
