"""Every supply switch that this head-end can reach, by protocol. Where `[control]` is off none of it exists."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import tzinfo

from headend.clock import Clock
from headend.commands.policy import Policy
from headend.commands.policy_file import load_policy
from headend.concentrators.meters import ConcentratorMeters
from headend.concentrators.park import ConcentratorPark
from headend.concentrators.relay import ConcentratorSwitch
from headend.config import Config
from headend.drivers.dlt645_relay import Dlt645Switch
from headend.drivers.line import Line
from headend.drivers.modbus_relay import ModbusSwitch
from headend.drivers.relay import Expected, OperatorCodes, Switch
from headend.errors import ConfigError
from headend.keys import PublicKey
from headend.model import MeterClock, MeterRecord
from headend.secrets import NO_OPERATOR, BadSecret, SecretStore

__all__ = ["ReachableSwitches", "operators_of", "policy_of", "shared_addresses", "switches_of"]

NOWHERE = "(not configured)"  # the line of a meter that is not served any more


class ReachableSwitches:
    """What `headend.commands.carry.Lines` asks. switches: by line or concentrator.

    A meter that is not configured any more is on a line that is never up: what is owed to it stays owed, and is told.
    """

    def __init__(
        self,
        meters: Mapping[str, MeterRecord],
        switches: Mapping[str, Switch],
        *,
        lines: Mapping[str, Line],
        parks: Mapping[str, ConcentratorPark],
    ) -> None:
        self._meters = meters
        self._switches = switches
        self._lines = lines
        self._parks = parks

    def record(self, meter: str) -> MeterRecord:
        known = self._meters.get(meter)
        if known is not None:
            return known
        return MeterRecord(id=meter, line=NOWHERE, address="", contract="", plan="", protocol="")

    def switch(self, meter: str) -> Switch:
        return self._switches[self.record(meter).line]

    def is_up(self, line: str) -> bool:
        if (owner := self._lines.get(line)) is not None:
            return owner.is_up
        return line in self._parks and self._parks[line].is_up(line)


def switches_of(
    config: Config,
    *,
    lines: Mapping[str, Line],
    behind: ConcentratorMeters,
    parks: Mapping[str, ConcentratorPark],
    clock: Clock,
    clocks: Mapping[str, MeterClock],
    operators: OperatorCodes,
    new_id: Callable[[], str],
) -> dict[str, Switch]:
    """By line, and by concentrator. parks: by concentrator. clocks: of the meters, as last measured."""
    secrets = SecretStore(config.secrets, base=config.path.resolve().parent)

    def offset_s(meter: str) -> float | None:
        known = clocks.get(meter)
        return None if known is None else known.offset_s

    shared = shared_addresses(config)

    def expected(meter: MeterRecord) -> Expected:
        return Expected(is_address_shared=meter.address in shared)

    def dlt645(line: Line, zone: tzinfo) -> Switch:
        return Dlt645Switch(
            line,
            zone=zone,
            clock=clock,
            authority=secrets.authority,
            operators=operators,
            expected=expected,
            clock_offset_s=offset_s,
        )

    switches: dict[str, Switch] = {}
    for line in config.lines:
        owner = lines[line.name]
        if line.protocol == "dlt645":
            switches[line.name] = dlt645(owner, config.zone)
        else:
            switches[line.name] = ModbusSwitch(owner, clock=clock)
    for name, park in parks.items():
        forwarding = behind.lines.get(name)
        switches[name] = ConcentratorSwitch(
            name,
            park,
            clock=clock,
            new_id=new_id,
            behind=None if forwarding is None else dlt645(forwarding, config.zone),
        )
    return switches


def shared_addresses(config: Config) -> frozenset[str]:
    """Of DL/T 645 meters: addresses that more than one has, on different lines."""
    counted = Counter(meter.address for meter in config.meters if meter.contract.startswith("dlt645/"))
    return frozenset(address for address, count in counted.items() if count > 1)


def operators_of(config: Config) -> tuple[OperatorCodes, dict[str, str]]:
    """Who stands behind which code; and of whom there is none that can be used, with why: they order nothing that needs one.

    What the head-end does by itself, such as a reconnection after a payment, goes under the code of `[secrets]`.
    """
    secrets = SecretStore(config.secrets, base=config.path.resolve().parent)
    problems: dict[str, str] = {}
    codes: dict[str, bytes] = {}
    other = bytes.fromhex(NO_OPERATOR)
    if config.secrets.operator is not None:
        try:
            other = secrets.operator_code(config.secrets.operator, "operator code")
        except BadSecret as error:
            problems[""] = str(error)
    for person, reference in config.control.operators.items():
        try:
            code = secrets.operator_code(reference, f"operator code of {person}")
        except BadSecret as error:
            problems[person] = str(error)
            continue
        if code == other or code in codes.values():
            problems[person] = (
                f"the operator code of {person} is somebody else's, too; a meter's record could not tell who it was"
            )
            continue
        codes[person] = code
    return OperatorCodes(codes, other=other), problems


def policy_of(config: Config) -> Policy | None:
    """As `[control]` names it; None where it names none. Raises ConfigError."""
    control, base = config.control, config.path.resolve().parent
    if not control.policy:
        return None
    key = None
    if control.policy_key:
        try:
            key = PublicKey.from_pem((base / control.policy_key).read_text(encoding="ascii"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"policy_key of [control] cannot be read: {error}") from error
    return load_policy(base / control.policy, key=key)
