"""The console script `headend`."""

import logging

import typer

from headend.cli import (
    account,
    approvals,
    audit,
    backup,
    contract,
    dtu,
    explain,
    feed,
    read,
    relay,
    report,
    scan,
    service,
    sink,
    token,
)
from headend.cli.output import ExitCode, fail, forgive_encoding
from headend.errors import HeadendError
from headend.observability import configure_logs

__all__ = ["app", "main"]

app = typer.Typer(
    name="headend",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Smart-meter head-end: reads meters, keeps every read, feeds billing.",
    rich_markup_mode="rich",
)
service.register(app)
read.register(app)
explain.register(app)
dtu.register(app)
feed.register(app)
sink.register(app)
report.register(app)
backup.register(app)
token.register(app)
contract.register(app)
scan.register(app)
audit.register(app)
relay.register(app)
approvals.register(app)
account.register(app)


def main() -> None:
    """Errors of ours become one line and an exit code; a traceback means a bug."""
    forgive_encoding()
    configure_logs(level=logging.WARNING)  # commands speak for themselves; `run` asks for more
    try:
        app()
    except HeadendError as error:
        try:
            fail(str(error))
        except typer.Exit:
            raise SystemExit(ExitCode.USAGE) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
