"""Meters behind concentrators, read when somebody asks: through `forward` where the concentrator does that, else by its own `read`.

A forwarded frame goes through the same session, driver and line owner as on a serial line, and what comes back are the meter's own
bytes. A concentrator that forwards nothing tells what it has read itself; then there are no bytes to show.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial

from msgspec.structs import replace

from headend.clock import Clock
from headend.concentrators.errors import ConcentratorError
from headend.concentrators.forward import forward_url, forwarding
from headend.concentrators.park import ConcentratorPark
from headend.concentrators.settings import ConcentratorSettings
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.errors import DriverError
from headend.drivers.line import Line, Priority
from headend.feed.envelope import iso_utc, plain
from headend.model import MeterRecord
from headend.on_demand import OnDemandRead, answered, unanswered
from headend.quantities import BadQuantity, channel_of, load_contract, plannable, question_of, resolve
from protocols.concentrator.messages import Command, CommandAnswer, Op, PushedValue, Status
from protocols.exchange import Timing

__all__ = ["ConcentratorMeters"]

FORWARD_S = 10.0  # what the concentrator gives a meter's reply
ON_THE_WAY_S = 5.0  # and what the two ways through the broker may add
READ_S = 60.0  # a concentrator asks its meter, perhaps behind others
RETRIES = 1
FORWARDED = "dlt645"
METERS_OWN = ("di:", "reg:")  # names that mean something to the meter, and nothing to its concentrator


class ConcentratorMeters:
    """lines: by concentrator, those that forward; to be run like any other line. new_id: of commands."""

    def __init__(
        self,
        parks: Sequence[ConcentratorPark],
        concentrators: Sequence[ConcentratorSettings],
        *,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        by_name = {park.name: park for park in parks}
        self._parks = {one.name: by_name[one.broker] for one in concentrators}
        self.lines = {
            name: Line(
                name,
                forward_url(name),
                Timing(reply_timeout_s=FORWARD_S + ON_THE_WAY_S),
                # Always up: what keeps it from the concentrator is told by the request that meets it, with no pause after an outage.
                connect=forwarding(
                    name,
                    partial(park.send, name),
                    why_down=lambda: "",
                    new_id=new_id,
                    reply_timeout_s=FORWARD_S,
                    clock=clock,
                ),
                clock=clock,
            )
            for name, park in self._parks.items()
            if park.offers(name, Op.FORWARD)
        }
        self._drivers = {name: Dlt645Driver(line, retries=RETRIES) for name, line in self.lines.items()}

    async def read_now(
        self, meter: MeterRecord, quantities: Sequence[str], *, planned: Sequence[str]
    ) -> list[OnDemandRead]:
        """As `HeadEnd.read_now`, for a meter whose line is a concentrator. planned: read when no quantities are given.

        Raises BadQuantity.
        """
        contract = load_contract(meter.contract)
        driver = self._drivers.get(meter.line)
        if driver is None or not contract.protocol.startswith(FORWARDED):
            # What it can tell is for the concentrator to say, not for the meter's contract.
            wanted = quantities or [quantity for quantity in planned if not quantity.startswith(METERS_OWN)]
            return await self._told(meter, {quantity: _code(quantity) for quantity in wanted})
        if quantities:
            found = {quantity: resolve(contract, quantity) for quantity in quantities}
        else:
            found = plannable(contract, planned)
        reads: list[OnDemandRead] = []
        for quantity, asked in found.items():
            began = self._clock.monotonic()
            question = question_of(asked)
            try:
                reading = await driver.ask(meter.address, question, Priority.ON_DEMAND)  # type: ignore[arg-type]
            except DriverError as error:
                took_s = self._clock.monotonic() - began
                reads.append(unanswered(meter.id, quantity, asked, error, self._clock.now(), took_s))
            else:
                reads += answered(meter.id, quantity, reading, self._clock.now())
        return reads

    async def _told(self, meter: MeterRecord, quantities: Mapping[str, str]) -> list[OnDemandRead]:
        """What the concentrator says of its meter. quantities: by their text as asked, in the one spelling of codes."""
        began = self._clock.monotonic()
        command = Command(
            id=self._new_id(),
            meter=meter.address,
            op=Op.READ,
            params={"quantities": list(quantities.values())},
            expires_at=self._clock.now() + timedelta(seconds=READ_S),
        )
        values: dict[str, PushedValue] = {}
        read_at = None
        try:
            answer = await self._parks[meter.line].send(meter.line, command)
        except ConcentratorError as error:
            problem, kind = str(error), error.kind
        else:
            problem, kind = _why_not(answer)
            for data in answer.values:
                if data.meter in ("", meter.address):
                    values |= {str(value.obis): value for value in data.values if value.obis is not None}
                    read_at = data.at or read_at
        now, took_ms = iso_utc(self._clock.now()), round((self._clock.monotonic() - began) * 1000, 1)

        def told(quantity: str, code: str) -> OnDemandRead:
            value = values.get(code)
            amount = None if value is None else value.amount
            read = OnDemandRead(
                meter=meter.id,
                quantity=quantity,
                obis=code,
                name=code if value is None else value.name,
                value=None if amount is None else plain(amount),
                unit=None if value is None else value.unit.value,
                read_at=None if read_at is None else iso_utc(read_at),
                received_at=now,
                quality=["missing" if amount is None else "measured"],
                wire_sent="",
                wire_received="",
                elapsed_ms=took_ms,
            )
            if value is not None and not value.problem:
                return read
            said = value.problem if value is not None else problem or "the concentrator's answer does not hold it"
            return replace(read, problem=said, kind=kind or "refused")

        return [told(quantity, code) for quantity, code in quantities.items()]


def _code(quantity: str) -> str:
    """Raises BadQuantity: of a concentrator's own reads a quantity is known by its code only."""
    if quantity.startswith(METERS_OWN):
        raise BadQuantity(
            f"{quantity}: this meter's concentrator reads it in its own way, by OBIS code; expected one such as 1-0:1.8.0"
        )
    return channel_of(quantity)


def _why_not(answer: CommandAnswer) -> tuple[str, str]:
    """The problem and its kind; both "" when it was done."""
    if answer.status == Status.DONE:
        return "", ""
    said = " ".join(str(part) for part in (answer.code, answer.detail) if part)
    if answer.status == Status.UNCONFIRMED:
        return f"the concentrator did not answer in time {said}".rstrip(), "silent"
    return (
        f"the concentrator could not read it: {said or answer.status}",
        "silent" if answer.code == "silent" else "refused",
    )
