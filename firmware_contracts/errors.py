"""Everything that can leave `firmware_contracts`.

ContractError
├── UnknownContract     no such contract; names those there are
├── BadContract         a file that is no contract: says file, row and what is missing
├── UnknownItem         the contract has no such DI, point or OBIS code; names the nearest it has
│   └── NotOffered      the contract says that this meter does not have the item
├── BadRegister         text that names no Modbus register; also a BadText of `protocols`
└── OutOfReach          a point that no request within the limits of the contract can read
"""

from collections.abc import Sequence

from protocols.errors import BadText

__all__ = [
    "BadContract",
    "BadRegister",
    "ContractError",
    "NotOffered",
    "OutOfReach",
    "UnknownContract",
    "UnknownItem",
]


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
    """asked: the DI, point or OBIS code. near: what the contract has nearest to it, at most three, with names."""

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


class BadRegister(ContractError, BadText):
    def __init__(self, text: str, problem: str) -> None:
        super().__init__(
            f"{text!r} names no register: {problem}; expected reg:FUNCTION:ADDRESS:TYPE, for example "
            f"reg:4:0x0000:float32, or reg:4:0x0028:int32:little where the low word comes first"
        )
        self.text = text
        self.problem = problem


class OutOfReach(ContractError, ValueError):
    """point: its name."""

    def __init__(self, point: str, problem: str) -> None:
        super().__init__(f"{point} cannot be read: {problem}")
        self.point = point
        self.problem = problem
