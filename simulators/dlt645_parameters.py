"""Parameters of a simulated meter, as it comes from the factory: 04xxxxxx, and Cxxx of 1997.

Only what differs from nothing is listed; any other parameter of the contract is there, and zero. What is written stays
in an overlay: writing a tariff table changes what is read back, not how the meter counts.
"""

from datetime import datetime
from decimal import Decimal

from firmware_contracts.contract import Contract
from protocols.dlt645.items import ItemSpec
from simulators.dlt645_registers import HARMONICS_MAX
from simulators.dlt645_series import INTERVAL_MIN
from simulators.dlt645_values import NoSuchItem, Values, blank
from simulators.meter import MeterModel
from simulators.prepayment import ALARM_1, ALARM_2, PRICES
from simulators.quirks import MeterQuirks

__all__ = ["NEVER", "Parameters"]

NEVER = "9999"
DAY_TABLES = 8
_CLOCK_97 = {"C010": "04000101", "C011": "04000102"}
_PLATE_97 = 0x36  # the bits of status word 1 that both editions share


class Parameters:
    """rate_word: Z of the port's rate."""

    def __init__(self, model: MeterModel, contract: Contract, quirks: MeterQuirks) -> None:
        self._model = model
        self._cover_bit = quirks.contract.cover_bit
        self.rate_word = 0x08 if contract.protocol == "dlt645-2007" else 0x00
        make = _fixed_2007 if contract.protocol == "dlt645-2007" else _fixed_1997
        self.fixed = make(model, contract.limits.tariffs)

    def value(self, spec: ItemSpec, now: datetime) -> Values:
        di = spec.di.text
        clock = self._model.clock(now)
        if di in ("04000101", "04000102", "0400010C"):
            return [_clock_digits(clock, di)]
        if di in _CLOCK_97:
            return [_clock_digits(clock, _CLOCK_97[di])]
        if di.startswith("040005"):
            return [self._status(int(di[6:], 16), now, di)]
        if di.startswith("040007") and 1 <= int(di[6:], 16) <= 5:
            return [f"{self.rate_word:02X}"]
        if di == "04000401":
            return [self._model.address.digits]
        if di == "C020":
            return [f"{self._words(now)[0] & _PLATE_97:02X}"]
        if di in self.fixed:
            return list(self.fixed[di])
        if "r" not in spec.access:
            raise NoSuchItem(di)
        return blank(spec)

    def _status(self, number: int, now: datetime, di: str) -> str:
        if not 1 <= number <= 7:
            raise NoSuchItem(di)
        return f"{self._words(now)[number - 1]:04X}"

    def _words(self, now: datetime) -> tuple[int, ...]:
        return self._model.status_words(now, cover_bit=self._cover_bit)


def _clock_digits(clock: datetime, di: str) -> str:
    day = f"{clock:%y%m%d}{clock.isoweekday() % 7:02}"
    time = f"{clock:%H%M%S}"
    return {"04000101": day, "04000102": time, "0400010C": day + time}[di]


def _slots(model: MeterModel) -> Values:
    return [f"{start // 3600:02}{start % 3600 // 60:02}{tariff:02}" for start, tariff in model.curve.slots]


def _fixed_2007(model: MeterModel, tariffs: int) -> dict[str, Values]:
    three = model.phases == 3
    slots = _slots(model)
    zones: Values = ["010101"]
    fixed: dict[str, Values] = {
        "04000103": [15],
        "04000104": [15],
        "04000105": [80],
        "04000201": [len(zones)],
        "04000202": [1],
        "04000203": [len(slots)],
        "04000204": [tariffs],
        "04000206": [HARMONICS_MAX],
        "04000301": [5],
        "04000302": [5],
        "04000303": [2],
        "04000304": [4],
        "04000305": [10],
        "04000306": [1],
        "04000307": [1],
        "04000308": [5],
        "04000402": [model.number],
        "04000403": [f"SIM-{model.number}"],
        "04000404": ["3*220V" if three else "220V"],
        "04000405": ["10A" if three else "5A"],
        "04000406": ["100A" if three else "60A"],
        "04000407": ["1.0"],
        "04000408": ["2.0"],
        "04000409": [400 if three else 1200],
        "0400040A": [400 if three else 1200],
        "0400040B": ["DTZY-SIM" if three else "DDZY-SIM"],
        "0400040C": ["2025-01-01"],
        "0400040D": ["DLT645-2007"],
        "04000601": ["05"],
        "04000602": ["05"],
        "04000603": ["50"],
        "04000801": ["7F"],
        "04000802": [1],
        "04000901": ["3F"],
        "04000902": ["FF"],
        "04000903": ["FF"],
        "04000904": ["FF"],
        "04000905": ["03"],
        "04000906": ["FF"],
        "04000A01": ["01010000"],
        "04000B01": ["0100"],
        "04000B02": [NEVER],
        "04000B03": [NEVER],
        "04000E01": [Decimal("60.0000" if three else "13.2000")],
        "04000E02": [Decimal("60.0000" if three else "13.2000")],
        "04000E03": [Decimal("264.0")],
        "04000E04": [Decimal("176.0")],
        "04000F01": [(ALARM_1 / PRICES[0]).quantize(Decimal("0.01"))],
        "04000F02": [(ALARM_2 / PRICES[0]).quantize(Decimal("0.01"))],
        "04000F03": [Decimal("9999.00")],
        "04001001": [ALARM_1],
        "04001002": [ALARM_2],
        "04001004": [Decimal("9999.00")],
        "04001202": [60],
        "04001204": ["99999999"],
        "04010000": zones,
        "04020000": zones,
        "04040101": ["00010000"],
        "04040201": ["00010000"],
        "04800001": ["meter-sim"],
        "04800002": ["virtual"],
        "04800003": ["SIM"],
    }
    fixed |= {f"04000A{record:02}": [INTERVAL_MIN] for record in range(2, 8)}
    fixed |= {f"04{table:02}00{day:02}": slots for table in (1, 2) for day in range(1, DAY_TABLES + 1)}
    fixed |= {f"0405{table:02}{tariff:02}": [PRICES[tariff]] for table in (1, 2) for tariff in range(1, len(PRICES))}
    return fixed


def _fixed_1997(model: MeterModel, tariffs: int) -> dict[str, Values]:
    slots = _slots(model)
    fixed: dict[str, Values] = {
        "C021": ["00"],
        "C022": ["7F"],
        "C030": [1200],
        "C031": [1200],
        "C032": [model.address.digits],
        "C111": [15],
        "C112": [15],
        "C113": [5],
        "C114": [30],
        "C115": [2],
        "C116": [4],
        "C117": ["0100"],
        "C118": [1],
        "C211": [80],
        "C310": [1],
        "C311": [1],
        "C312": [len(slots)],
        "C313": [tariffs],
        "C321": ["010101"],
        "C41E": [1],
        "C510": ["01010000"],
        "C511": [INTERVAL_MIN],
    }
    fixed |= {f"C33{index:X}": [slot] for index, slot in enumerate(slots, 1)}
    return fixed
