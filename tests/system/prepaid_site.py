"""A head-end with prepaid supply, its one meter simulated, with the rules of the demo; started as users start it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from headend.config import load_config
from headend.keys import make_key_files
from headend.ledger.signing import make_keys
from simulators.demo import PEOPLE
from simulators.demo_home import ADDRESS, CONTRACT, Home, Pace, config_of, write_rules
from simulators.demo_parts import SITE, config_text
from tests.databases import database_url
from tests.system.processes import HeadEndProcess, make_tokens, simulated_lines

__all__ = ["PACE", "site"]

PACE = Pace(apart_s=1, first_s=3, second_s=2, final_s=1, first_minor=100, reminder_minor=90, dark_s=0)


@contextmanager
def site(folder: Path) -> Iterator[tuple[HeadEndProcess, dict[str, str]]]:
    """A meter, a head-end; and tokens by who uses them."""
    simulated_meter = simulated_lines(
        "--listen", "tcp://127.0.0.1:0", "--contract", CONTRACT, "--first-address", ADDRESS, "--seed", "6",
        "--constant-w", str(PACE.constant_w), "--haste", str(PACE.haste),
    )  # fmt: skip
    with simulated_meter as [line]:
        home = Home(url=line["url"], pace=PACE)
        make_keys(folder)
        make_key_files(folder, "audit-key")
        write_rules(folder, home, today=datetime.now(ZoneInfo(SITE)).date())
        config = folder / "headend.toml"
        text = config_text([], config_of(home))
        for part, name in (("[headend]", "store"), ("[prepayment]", "accounts")):
            if (url := database_url(folder, name)).startswith("postgresql"):
                assert text.count(f"{part}\n") == 1
                text = text.replace(f"{part}\n", f'{part}\nstore = "{url}"\n')
        config.write_text(text, encoding="utf-8")
        assert load_config(config).problems == ()
        tokens = make_tokens(config, PEOPLE)
        head_end = HeadEndProcess(config, tokens["reader"])
        head_end.wait_ready()
        yield head_end, tokens
