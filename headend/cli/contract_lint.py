"""`headend contract lint`: what is wrong with contracts, before a meter says so."""

from typing import Annotated

import typer

from firmware_contracts.errors import UnknownContract
from firmware_contracts.files import read
from firmware_contracts.library import contract_names
from firmware_contracts.lint import lint as findings_of
from headend.cli.output import ExitCode, fail, print_json, stderr, stdout

__all__ = ["lint"]


def lint(
    contracts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONTRACT]…", help="Names or files.  [default: all that come with the head-end]"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Find what is wrong with contracts: overlapping points, impossible widths, missing units, limits that do not fit.

    Each finding stands on a line of its own. Exit code 0: nothing found; 2: something found, or there is no such contract.
    """
    names = contracts or contract_names()
    for name in names:
        try:
            read(name)
        except UnknownContract as error:
            fail(str(error))
        except ValueError:
            pass  # a file that cannot be read as TOML is a finding like others
    found = [finding for name in names for finding in findings_of(name)]
    if json:
        print_json(found)
    else:
        for finding in found:
            stdout.print(str(finding), markup=False)
        outcome = f"{len(found)} findings" if found else "nothing found"
        stderr.print(f"{len(names)} contracts, {outcome}")
    raise typer.Exit(ExitCode.USAGE if found else ExitCode.GOOD)
