"""`headend init`, `headend check`, `headend run`."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from headend.cli.output import ExitCode, fail, print_json, print_table, stderr, stdout
from headend.clock import SystemClock
from headend.errors import ConfigError, HeadendError
from headend.observability import configure_logs

if TYPE_CHECKING:
    from headend.api.server import Listening
    from headend.config import Config
    from headend.scheduling.budget import LineBudget

__all__ = ["register"]

LINES_SHOWN_MAX = 20
SHARE_TIGHT = 0.6

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file, headend.toml.")]

FIRST_CONFIG = """\
# headend: first configuration. `headend check headend.toml` says what is wrong in it, `headend run headend.toml` runs it.

[headend]
name = "headend"                  # stands in every event: /headend/NAME
timezone = "Asia/Shanghai"        # interval ends are even in this zone
store = "sqlite:///headend.db"    # relative to this file

[api]
listen = "127.0.0.1:8645"

# One entry per RS-485 line or serial server. tcp:// is a transparent serial server, Modbus gateway or DTU.
[[lines]]
name = "line-1"
url = "serial:///dev/ttyUSB0?baud=2400&parity=E"
protocol = "dlt645"
# reply_timeout_s = 1.0           # seconds to the first byte of a reply; 3 s by default on tcp://
# retries = 2

[[plans]]
name = "residential"
period = "15m"
quantities = ["1-0:1.8.0", "1-0:32.7.0"]   # OBIS codes, or di:00010000

# Many meters are easier kept in a table: write  meters = "meters.csv"  above [headend], with columns id,line,address,contract,plan.
[[meters]]
id = "M000001"                    # asset number
line = "line-1"
address = "000000000001"          # the 12 digits printed on the meter
contract = "dlt645/base_2007"
plan = "residential"

# Where the feed is pushed to; it can always be pulled from /v1/feed.
# [[sinks]]
# name = "billing"
# kind = "webhook"                # webhook | mqtt | nats | file
# url = "https://billing.example/reads"
# secret = "env:BILLING_SECRET"   # signs every push

[ledger]
signing_key = "file:manifest-key.pem"   # signs the daily manifests; billing gets manifest-key.pub.pem once

[audit]
signing_key = "file:audit-key.pem"      # signs the audit log; auditors get audit-key.pub.pem once

[control]
enabled = false                   # a fresh installation cannot switch anything
# policy = "policy.toml"          # who may be cut off, when, after which warnings; nothing is opened without one

[prepayment]
enabled = false                   # accounts that pay first: settled daily, warned, disconnected and reconnected (docs/prepayment.md)
# tariffs = ["residential-step"]  # names of what comes with the program, or files
# plan = "cn-residential"         # who is warned when
# identity_salt = "file:identity-salt"   # some 32 random characters that never change
# [[prepayment.channels]]         # who carries the messages; tried in turn
# name = "sms"
# kind = "http"                   # file | http | apprise
# url = "https://sms.example/send"
# token = "env:SMS_TOKEN"
"""


def register(app: typer.Typer) -> None:
    app.command("init")(init_command)
    app.command("check")(check_command)
    app.command("run")(run_command)


def init_command(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write headend.toml.")] = Path(),
) -> None:
    """Write a commented headend.toml, and the keys that its manifests and its audit log are signed with."""
    from headend.keys import make_key_files
    from headend.ledger.signing import make_keys

    path = directory / "headend.toml"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(FIRST_CONFIG)
        with contextlib.suppress(FileExistsError):  # those of a configuration that was removed: billing has them
            make_keys(directory)
        with contextlib.suppress(FileExistsError):
            make_key_files(directory, "audit-key")
    except FileExistsError:
        fail(f"{path} exists already and is left as it is; remove it first, or give another directory")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}")
    stdout.print(escape(f"wrote {path}; next: edit the line and the meters, then `headend check {path}`"))


def check_command(
    config: ConfigFile,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Validate configuration, contracts and line-time budget; every problem on its own line. Exit code 2 when there is one."""
    from headend.budgets import budgets_of
    from headend.config import load_config

    loaded: Config | None = None
    budgets: list[LineBudget] = []
    try:
        loaded = load_config(config)
        budgets = budgets_of(loaded)
        problems = [str(problem) for problem in loaded.problems]
        problems += _key_problems(loaded)
        problems += _control_problems(loaded)
        problems += _prepayment_problems(loaded)
        problems += [f"line-time budget: {budget.text}" for budget in budgets if not budget.fits]
    except ConfigError as error:
        problems = str(error).splitlines()
    if json:
        print_json(
            {
                "ok": not problems,
                "problems": problems,
                "lines": len(loaded.lines) if loaded else 0,
                "meters": len(loaded.meters) if loaded else 0,
                "budget": [msgspec.to_builtins(budget) for budget in budgets],
            }
        )
    else:
        for problem in problems:
            stdout.print(escape(problem))
        if loaded is not None:
            _print_budgets(budgets)
            verdict = "[green]ok:[/]" if not problems else f"[red]{len(problems)} problem(s);[/] usable all the same:"
            stdout.print(f"{verdict} {len(loaded.lines)} lines, {len(loaded.meters)} meters, {len(loaded.plans)} plans")
    if problems:
        raise typer.Exit(ExitCode.USAGE)


def _key_problems(config: "Config") -> list[str]:
    from headend.assembly.upstream import signing_key_of  # what runs is not loaded for a check that stops earlier

    try:
        signing_key_of(config)
    except HeadendError as error:
        return [f"{config.path}: {error}"]
    return []


def _control_problems(config: "Config") -> list[str]:
    from headend.assembly.switching_check import control_problems

    return [f"{config.path}: {problem}" for problem in control_problems(config, SystemClock().now())]


def _prepayment_problems(config: "Config") -> list[str]:
    from headend.configuration.prepayment import PrepaymentSettings

    if config.prepayment == PrepaymentSettings(store=config.prepayment.store):
        return []  # nothing is named in it, so its room need not be loaded
    from headend.assembly.prepaid_settings import prepayment_problems

    return [f"{config.path}: {problem}" for problem in prepayment_problems(config)]


def _print_budgets(budgets: "Sequence[LineBudget]") -> None:
    """What the plans take of each line's time, the fullest lines first."""
    if not any(budget.plans for budget in budgets):
        return
    table = Table(title="line-time budget", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("line", overflow="fold")
    table.add_column("baud", justify="right")
    table.add_column("plan", overflow="fold")
    for heading in ("meters", "round", "of period", "of line"):
        table.add_column(heading, justify="right", no_wrap=True)
    for budget in sorted(budgets, key=lambda budget: -budget.share)[:LINES_SHOWN_MAX]:
        colour = "red" if not budget.fits else "yellow" if budget.share > SHARE_TIGHT else "green"
        for number, plan in enumerate(budget.plans):
            table.add_row(
                escape(budget.line) if number == 0 else "",
                f"{budget.baud}{'?' if budget.baud_assumed else ''}" if number == 0 else "",
                escape(plan.plan),
                str(plan.meters),
                f"{plan.round_s:.1f} s",
                f"{plan.share:.1%}",
                f"[{colour}]{budget.share:.1%}[/]" if number == 0 else "",
            )
    print_table(table)
    if len(budgets) > LINES_SHOWN_MAX:
        stdout.print(f"and {len(budgets) - LINES_SHOWN_MAX} lines that are less full; --json shows all")
    if any(budget.baud_assumed and budget.plans for budget in budgets):
        stdout.print(
            "? the rate behind the tunnel is not known and was assumed: write tcp://host:port?baud=2400 to say it"
        )


def run_command(
    config: ConfigFile,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output once it is running.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log frames that answer nothing, too.")] = False,
) -> None:
    """Run the service until SIGTERM or Ctrl-C; what is wrong in one line or meter does not keep the others from being read."""
    from headend.config import load_config

    configure_logs(level=logging.DEBUG if verbose else logging.INFO)
    loaded = load_config(config)
    for problem in loaded.problems:
        stderr.print(f"[bold yellow]left out:[/] {escape(str(problem))}")

    def on_ready(listening: "Listening") -> None:
        if json:
            print_json({"api": listening.url, "lines": len(loaded.lines), "meters": len(loaded.meters)})

    try:
        _run(loaded, on_ready)
    except* HeadendError as group:
        fail("; ".join(str(error) for error in group.exceptions))


def _run(config: "Config", on_ready: "Callable[[Listening], None]") -> None:
    from headend.serving import run_service  # loads the web server, which no other command should wait for

    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):  # not on Windows
        from uvloop import new_event_loop

        loop_factory = new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run_service(config, on_ready=on_ready))
