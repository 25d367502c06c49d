"""Families of items, as people speak of them: by the beginning of the DI, the longest that fits."""

__all__ = ["RELAY", "family_of"]

RELAY = "relay"

_2007 = {
    "00": "energies",
    "0090": "prepayment",
    "01": "max demands",
    "02": "variables",
    "0280000B": "prepayment",
    "0280002": "prepayment",
    "03": "events",
    "0332": "prepayment",
    "0333": "prepayment",
    "0334": "prepayment",
    "0336": RELAY,
    "04": "parameters",
    "040005": "status words",
    "04000F": "prepayment",
    "040010": "prepayment",
    "040014": RELAY,
    "0401": "tariff tables",
    "0402": "tariff tables",
    "0405": "prepayment",
    "0406": "prepayment",
    "05": "freezes",
    "06": "load records",
    "1D": RELAY,
    "1E": RELAY,
}
_1997 = {
    "9": "energies",
    "A": "max demands",
    "B0": "max demands",
    "B1": "max demands",
    "B4": "max demands",
    "B5": "max demands",
    "B8": "max demands",
    "B9": "max demands",
    "B2": "events",
    "B3": "events",
    "B6": "variables",
    "C": "parameters",
    "C02": "status words",
    "C3": "tariff tables",
    "C4": "tariff tables",
    "D": "load records",
}


def family_of(di: str) -> str:
    table = _2007 if len(di) == 8 else _1997
    for size in range(len(di), 0, -1):
        if di[:size] in table:
            return table[di[:size]]
    return "events" if len(di) == 8 and "10" <= di[:2] <= "22" else "other items"
