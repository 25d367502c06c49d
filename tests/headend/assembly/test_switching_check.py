"""What `headend check` says of meters that could not be switched as somebody may expect."""

from datetime import UTC, datetime
from pathlib import Path

from headend.assembly.switching import shared_addresses
from headend.assembly.switching_check import control_problems
from headend.commands.policy_file import POLICIES
from headend.config import load_config

NOW = datetime(2025, 6, 4, tzinfo=UTC)


def problems(folder: Path, meters: str) -> list[str]:
    """Of a site with two serial lines, a concentrator that forwards frames and one that does not."""
    path = folder / "headend.toml"
    path.write_text(
        f'[headend]\nname = "site"\nstore = "sqlite:///{folder}/site.db"\n'
        '[[lines]]\nname = "east"\nurl = "tcp://far.end:1"\n[[lines]]\nname = "west"\nurl = "tcp://far.end:2"\n'
        '[[brokers]]\nname = "b"\nurl = "mqtt://far.end"\n'
        '[[concentrators]]\nname = "C1"\nbroker = "b"\ncontract = "concentrator/hes_v1"\n'
        '[[concentrators]]\nname = "C2"\nbroker = "b"\ncontract = "concentrator/neuron"\ntimezone = "Asia/Shanghai"\n'
        '[[plans]]\nname = "plan"\nperiod = "15m"\nquantities = ["1-0:1.8.0"]\n'
        f'[control]\nenabled = true\npolicy = "{POLICIES / "cn-residential.toml"}"\n{meters}'
    )
    config = load_config(path)
    assert config.problems == ()
    return control_problems(config, NOW)


def a_meter(identity: str, line: str, address: str, contract: str = "dlt645/base_2007") -> str:
    row = f'[[meters]]\nid = "{identity}"\nline = "{line}"\naddress = "{address}"\nplan = "plan"\n'
    return row + f'contract = "{contract}"\ncustomer_class = "resident"\n'


def test_meters_of_one_address_on_two_lines_are_named(tmp_path: Path) -> None:
    same = a_meter("M1", "east", "000000000001") + a_meter("M2", "west", "000000000001")
    told = problems(tmp_path, same + a_meter("M3", "west", "000000000003"))
    assert [one for one in told if "another meter has" in one and one.endswith(": M1, M2")] != []
    assert not any("another meter has" in one and "M3" in one for one in told)
    assert shared_addresses(load_config(tmp_path / "headend.toml")) == {"000000000001"}


def test_meters_that_nobody_could_identify_before_an_open_are_named(tmp_path: Path) -> None:
    told = problems(tmp_path, a_meter("M1", "C1", "000000000001") + a_meter("M2", "C2", "000000000002"))
    assert [one for one in told if "can be closed and never opened" in one and one.endswith(": M2")] != []
