"""The table of supported meters in README.md, made from the contracts: `python -m firmware_contracts.table README.md`.

It replaces what stands between the two marker lines. Without a file name the table goes to standard output.
"""

import sys
from pathlib import Path

from firmware_contracts.contract import Contract, contract_names, load
from firmware_contracts.modbus_contract import ModbusContract, load_modbus, modbus_names
from firmware_contracts.sections import QuirkName, Quirks
from protocols.modbus.points import WordOrder

__all__ = ["BEGIN", "END", "supported_meters", "updated"]

BEGIN = "<!-- supported meters: made by `python -m firmware_contracts.table README.md` -->"
END = "<!-- end of supported meters -->"
_COLUMNS = (
    "Contract",
    "Meter",
    "Protocol",
    "Serial",
    "Phases",
    "Items",
    "Relay",
    "Does differently",
)
_EDITIONS = {"dlt645-2007": "DL/T 645-2007", "dlt645-1997": "DL/T 645-1997"}


def supported_meters() -> str:
    """The table in Markdown, a line for each contract of a meter. What concentrators speak stands in their own document."""
    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    lines += [_line(_cells(load(name))) for name in contract_names()]
    lines += [_line(_modbus_cells(load_modbus(name))) for name in modbus_names()]
    return "\n".join(lines)


def _cells(contract: Contract) -> list[str]:
    families = sum(1 for _ in contract.items())
    ways = [name for name, is_taken in (("plain", contract.relay.plain), ("secure", contract.relay.secure)) if is_taken]
    usual = load(contract.extends).quirks if contract.extends else Quirks()
    values = {name.value: getattr(contract.quirks, name.value) for name in QuirkName}
    quirks = [f"`{name}` {value}" for name, value in values.items() if getattr(usual, name) != value]
    if not contract.limits.follow_up:
        quirks.append("no reply in several frames")
    return [
        f"`{contract.name}`",
        contract.description,
        _EDITIONS[contract.protocol],
        contract.serial.text,
        str(contract.limits.phases) if contract.offers else "any",
        f"{families} kinds{', promised' if contract.offers else ''}",
        ", ".join(ways) or "–",
        "; ".join(quirks) or "–",
    ]


def _modbus_cells(contract: ModbusContract) -> list[str]:
    limits = contract.limits
    differs = [f"{limits.registers_max} registers a request{', even only' if limits.even_only else ''}"]
    if limits.holes == "allowed":
        differs.append("holes allowed")
    if any(point.word_order is WordOrder.LITTLE for point in contract.points):
        differs.append("low word first")
    if any(point.ratio for point in contract.points):
        differs.append("values of the secondary side")
    return [
        f"`{contract.name}`",
        f"{contract.maker} {contract.model}",
        "Modbus",
        contract.serial.text if contract.port == "rs485" else "Ethernet",
        str(limits.phases),
        f"{len(contract.points)} points, confidence {contract.confidence}",
        contract.relay.kind if contract.relay else "–",
        "; ".join(differs),
    ]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def updated(text: str) -> str:
    """`text` with the table of today between the markers. Raises ValueError without markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"expected one line {BEGIN} and one line {END}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{supported_meters()}\n\n{END}{after}"


def main() -> None:
    if len(sys.argv) == 1:
        sys.stdout.write(supported_meters() + "\n")
        return
    path = Path(sys.argv[1])
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
