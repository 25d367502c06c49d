"""Everything that can leave `firmware_contracts`.

ContractError
├── UnknownContract     no such contract; names those there are
├── BadContract         a file that is no contract: says file, row and what is missing
└── UnknownItem         the contract has no such DI or OBIS code; names the nearest it has
    └── NotOffered      the contract says that this meter does not have the item
"""

from collections.abc import Sequence

__all__ = ["BadContract", "ContractError", "NotOffered", "UnknownContract", "UnknownItem"]


class ContractError(Exception):
    """Root of the tree."""


class UnknownContract(ContractError, LookupError):
    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no contract {name!r}: there are {', '.join(known)}; a path must end in .toml")
        self.name = name


class BadContract(ContractError, ValueError):
    """file: name or path; where: the row or section, "" for the file as a whole."""

    def __init__(self, file: str, where: str, problem: str) -> None:
        super().__init__(f"{file}: {where + ': ' if where else ''}{problem}")
        self.file = file
        self.where = where
        self.problem = problem


class UnknownItem(ContractError, LookupError):
    """asked: the DI or OBIS code. near: what the contract has nearest to it, at most three, with names."""

    def __init__(self, contract: str, asked: str, near: Sequence[str]) -> None:
        hint = f"; nearest: {', '.join(near)}" if near else ""
        super().__init__(f"{contract} has no {asked}{hint}")
        self.contract = contract
        self.asked = asked
        self.near = tuple(near)


class NotOffered(UnknownItem):
    def __init__(self, contract: str, asked: str, name: str) -> None:
        super().__init__(contract, asked, ())
        self.args = (f"{contract} has no {asked} ({name}): its section [offers] leaves it out",)
