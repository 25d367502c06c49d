"""`meter-sim mqtt`: concentrators at an MQTT broker, and `meter-sim broker`: a small broker for trying them out.

With `--json` each concentrator is told in one line as soon as it is connected and subscribed.
"""

import asyncio
import json
import sqlite3
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

import typer
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from firmware_contracts.concentrator_contract import load_concentrator
from firmware_contracts.contract import load
from firmware_contracts.errors import ContractError
from protocols.concentrator.codec import ConcentratorContract
from protocols.errors import BadAddress, BadObis, EncodeError
from protocols.values import MeterAddress, Obis
from simulators.cli_support import cannot, on_signals, run, tell, true_clock, zone
from simulators.concentrator import SimulatedConcentrator
from simulators.concentrator_client import BrokerAddress, ConcentratorClient
from simulators.concentrator_faults import ConcentratorPlan, load_concentrator_plan, parse_fault
from simulators.concentrator_reader import USUAL_QUANTITIES
from simulators.concentrator_readings import Numbered
from simulators.concentrator_store import UnsentStore
from simulators.embedded_broker import embedded_broker
from simulators.faults import BadFaults
from simulators.load_curve import Kind
from simulators.meter import MeterModel

__all__ = ["register"]

METERS_MAX = 10_000
CONCENTRATORS_MAX = 1000
PERIOD_S_MAX = 86_400
PORTS = {"mqtt": 1883, "mqtts": 8883}
VERSIONS = {"5": 5, "3.1.1": 4}


class District(Struct, frozen=True, kw_only=True):
    """What was asked for. contracts, meters (their addresses): by concentrator."""

    broker: BrokerAddress
    contract_name: str
    contracts: dict[str, ConcentratorContract]
    meters: dict[str, list[MeterAddress]]
    meter_name: str
    seed: int
    period_s: int
    quantities: tuple[Obis, ...]
    numbered: Numbered | None
    store: Path | None
    faults: Path | None
    fault: list[str]
    meter_contract: str
    baud: int | None
    timezone: ZoneInfo
    as_json: bool


def register(app: typer.Typer) -> None:
    """Add the commands to `meter-sim`."""
    app.command()(mqtt)
    app.command()(broker)


def mqtt(
    broker: Annotated[str, typer.Option(help="mqtt://[USER:PASSWORD@]HOST[:PORT], mqtts:// for TLS.")],
    contract: Annotated[str, typer.Option(help="Topics and payloads they speak.")] = "concentrator/hes_v1",
    concentrators: Annotated[int, typer.Option(help="How many concentrators.")] = 1,
    meters: Annotated[int, typer.Option(help="How many meters behind each.")] = 10,
    period: Annotated[int, typer.Option(help="Seconds from reading to reading, at even moments.")] = 60,
    seed: Annotated[int, typer.Option(help="Decides customers, registers, clocks, delays and faults.")] = 1,
    first_address: Annotated[str, typer.Option(help="12 digits; the others count up from it.")] = "000000000001",
    name: Annotated[str, typer.Option(help="Of the concentrators; a number is added when there are several.")] = "sim",
    meter_name: Annotated[str, typer.Option(help="What messages call a meter, such as MT{number}.")] = "{address}",
    prefix: Annotated[str | None, typer.Option(help="Before every topic, such as {concentrator}/.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the contract; may be repeated.")] = None,
    quantity: Annotated[list[str] | None, typer.Option(help="OBIS code to read; may be repeated.")] = None,
    numbered: Annotated[
        bool, typer.Option("--numbered", help="One quantity counts up instead, to find losses.")
    ] = False,
    rate: Annotated[float, typer.Option(help="Numbered readings a second of each concentrator.")] = 10.0,
    count: Annotated[int | None, typer.Option(help="Stop when so many numbered readings are acknowledged.")] = None,
    store: Annotated[Path | None, typer.Option(help="Folder where unsent messages outlive the process.")] = None,
    fault: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, such as duplicate=0.2; may be repeated.")] = None,
    faults: Annotated[
        Path | None, typer.Option(help="TOML file of faults, of concentrators and of their meters.")
    ] = None,
    meter_contract: Annotated[str, typer.Option(help="The contract of the meters.")] = "dlt645/base_2007",
    baud: Annotated[int | None, typer.Option(help="Forwarded frames take the time they take at this rate.")] = None,
    mqtt_version: Annotated[str, typer.Option("--mqtt", help="5 or 3.1.1.")] = "5",
    username: Annotated[str | None, typer.Option(help="At the broker, if the URL does not say.")] = None,
    password: Annotated[
        str | None, typer.Option(envvar="METER_SIM_PASSWORD", help="Better from the environment.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file of the CA of the broker's certificate.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file of a client certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    keepalive: Annotated[
        int, typer.Option(help="Seconds; the broker misses a silent client after half as much again.")
    ] = 30,
    timezone: Annotated[str, typer.Option(help="Where the meters' clocks are.")] = "Asia/Shanghai",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per concentrator on standard output.")
    ] = False,
) -> None:
    """Concentrators that push their meters' readings to an MQTT broker, and take commands there."""
    if not 1 <= period <= PERIOD_S_MAX:
        raise typer.BadParameter(f"{period}, expected 1 to {PERIOD_S_MAX} seconds", param_hint="--period")
    if not 1 <= keepalive <= 65_535:
        raise typer.BadParameter(f"{keepalive}, expected 1 to 65535 seconds", param_hint="--keepalive")
    address = _broker(broker)
    if key is not None and certificate is None:
        raise typer.BadParameter("a key needs --certificate", param_hint="--key")
    if not address.tls and (ca is not None or certificate is not None):
        raise typer.BadParameter("certificates need mqtts://", param_hint="--broker")
    if mqtt_version not in VERSIONS:
        raise typer.BadParameter(f"{mqtt_version!r}, expected 5 or 3.1.1", param_hint="--mqtt")
    address = replace(
        address,
        ca=ca,
        certificate=certificate,
        key=key,
        username=username or address.username,
        password=password or address.password,
        version=VERSIONS[mqtt_version],
        keepalive_s=keepalive,
    )
    try:
        load(meter_contract)
    except ContractError as error:
        raise typer.BadParameter(str(error), param_hint="--meter-contract") from error
    addresses = _meters(name, concentrators, meters, first_address)
    for some in addresses.values():
        _called(meter_name, some)
    district = District(
        broker=address,
        contract_name=contract,
        contracts=_contracts(contract, list(addresses), prefix, zone(timezone), setting or []),
        meters=addresses,
        meter_name=meter_name,
        seed=seed,
        period_s=period,
        quantities=_quantities(quantity or []),
        numbered=_numbered(rate, count, meters) if numbered else None,
        store=store,
        faults=faults,
        fault=fault or [],
        meter_contract=meter_contract,
        baud=baud,
        timezone=zone(timezone),
        as_json=as_json,
    )
    run(_serve(district))


def broker(
    port: Annotated[int, typer.Option(help="Of 127.0.0.1; 0 takes a free one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """An MQTT 3.1.1 broker for this machine alone, to try things out: it keeps nothing and lets anybody in."""
    run(_serve_broker(port, as_json=as_json))


async def _serve_broker(port: int, *, as_json: bool) -> None:
    stop = asyncio.Event()
    on_signals(stop)
    try:
        async with embedded_broker(port) as url:
            typer.echo(json.dumps({"url": url, "protocol": "mqtt-broker"}) if as_json else f"{url}\nCtrl-C stops.")
            await stop.wait()
    except ImportError as error:
        raise cannot(f"no broker here ({error}): pip install amqtt") from error
    except OSError as error:
        raise cannot(f"cannot listen on 127.0.0.1:{port}: {error.strerror or error}; port 0 takes any") from error


async def _serve(district: District) -> None:
    stop = asyncio.Event()
    on_signals(stop)
    began, now = true_clock()
    plan = _plan(district, began)
    with ExitStack() as stack:
        clients = []
        for index, (name, addresses) in enumerate(district.meters.items()):
            kept = _store(district, name, stack)
            models = _models(district, addresses, index, began)
            concentrator = SimulatedConcentrator(
                name,
                district.contracts[name],
                models,
                meter_names=_called(district.meter_name, addresses),
                period_s=district.period_s,
                quantities=district.quantities,
                numbered=district.numbered,
                store=kept,
                faults=replace(plan, seed=plan.seed + index),
                meter_contract=district.meter_contract,
                baud=district.baud,
                report=tell,
            )
            try:
                clients.append(ConcentratorClient(concentrator, district.broker, now, seed=district.seed, report=tell))
            except OSError as error:
                raise cannot(f"certificates: {error}") from error
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(client.run()) for client in clients]
            told = group.create_task(_announce(district, clients))
            stopping = group.create_task(stop.wait())
            await asyncio.wait([stopping, group.create_task(_all(running))], return_when=asyncio.FIRST_COMPLETED)
            for client in clients:
                client.stop()
            for task in (told, stopping):
                task.cancel()
        for client in clients:
            tell(_summary(client))


async def _all(running: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(running)


async def _announce(district: District, clients: list[ConcentratorClient]) -> None:
    if not district.as_json:
        _print_table(district)
    for client in clients:
        await client.ready.wait()
        concentrator = client.concentrator
        if district.as_json:
            ready = {
                "url": district.broker.url,
                "protocol": "mqtt",
                "concentrator": concentrator.name,
                "contract": district.contract_name,
                "meters": list(concentrator.meters),
            }
            typer.echo(json.dumps(ready))
    if not district.as_json:
        typer.echo("connected; Ctrl-C stops.")


def _print_table(district: District) -> None:
    table = Table(title=f"{district.contract_name} concentrators at {district.broker.url}, seed {district.seed}")
    for column in ("concentrator", "meters", "first address", "last address"):
        table.add_column(column, overflow="fold")
    for name, addresses in district.meters.items():
        table.add_row(name, str(len(addresses)), str(addresses[0]), str(addresses[-1]))
    Console().print(table)


def _summary(client: ConcentratorClient) -> str:
    concentrator = client.concentrator
    parts = [f"{concentrator.name}: connected {client.connections} times", f"{len(concentrator.store)} messages unsent"]
    counts = {
        "readings given up": concentrator.store.dropped,
        "commands done": concentrator.runner.executed,
        "repeated commands": concentrator.repeated_commands,
        "retained commands": concentrator.retained_commands,
    }
    parts += [f"{number} {what}" for what, number in counts.items() if number]
    parts += [f"refused {reason} {number}" for reason, number in sorted(concentrator.refused.items())]
    struck = concentrator.struck + concentrator.bus.struck
    parts += (
        [f"faults struck: {', '.join(f'{name} {number}' for name, number in sorted(struck.items()))}"] if struck else []
    )
    return ", ".join(parts)


def _models(district: District, addresses: list[MeterAddress], index: int, began: datetime) -> list[MeterModel]:
    before = sum(len(others) for others in list(district.meters.values())[:index])
    phases = load(district.meter_contract).limits.phases
    return [
        MeterModel(
            address,
            seed=district.seed * 1_000_003 + before + place,
            kind=Kind.SHOP if place % 20 >= 16 else Kind.HOUSEHOLD if phases == 1 or place % 20 else Kind.FACTORY,
            timezone=district.timezone,
            clock_set_at=began,
        )
        for place, address in enumerate(addresses)
    ]


def _store(district: District, name: str, stack: ExitStack) -> UnsentStore:
    try:
        if district.store is not None:
            district.store.mkdir(parents=True, exist_ok=True)
        path = None if district.store is None else district.store / f"{name.replace('/', '_')}.db"
        store = UnsentStore(path)
    except (OSError, sqlite3.Error) as error:
        raise cannot(f"cannot keep unsent messages in {district.store}: {error}") from error
    stack.callback(store.close)
    return store


def _plan(district: District, began: datetime) -> ConcentratorPlan:
    try:
        plan = ConcentratorPlan(seed=district.seed)
        if district.faults is not None:
            plan = load_concentrator_plan(district.faults, began)
        return replace(plan, faults=(*plan.faults, *map(parse_fault, district.fault)))
    except (BadFaults, OSError) as error:
        raise cannot(str(error)) from error


def _broker(url: str) -> BrokerAddress:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme not in PORTS or not host or parts.path not in ("", "/") or parts.query:
        raise typer.BadParameter(
            f"{_without_password(url)!r}, expected mqtt://HOST:PORT or mqtts://HOST:PORT", param_hint="--broker"
        )
    return BrokerAddress(
        host=host,
        port=port or PORTS[parts.scheme],
        tls=parts.scheme == "mqtts",
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def _without_password(url: str) -> str:
    return url.rpartition("@")[2]


def _meters(name: str, concentrators: int, meters: int, first: str) -> dict[str, list[MeterAddress]]:
    if not 1 <= concentrators <= CONCENTRATORS_MAX:
        raise typer.BadParameter(f"{concentrators}, expected 1 to {CONCENTRATORS_MAX}", param_hint="--concentrators")
    if not 1 <= meters <= METERS_MAX:
        raise typer.BadParameter(f"{meters}, expected 1 to {METERS_MAX}", param_hint="--meters")
    if not name or any(sign in name for sign in "+#\0 ") or len(name) > 60:
        raise typer.BadParameter(f"{name!r}, expected a word without wildcards", param_hint="--name")
    try:
        start = int(MeterAddress(first).digits)
        if start + concentrators * meters > 10**12:
            raise typer.BadParameter(
                f"{concentrators * meters} meters from {first} do not fit 12 digits", param_hint="--first-address"
            )
        names = [name] if concentrators == 1 else [f"{name}-{number}" for number in range(1, concentrators + 1)]
        return {
            one: [MeterAddress(f"{start + index * meters + place:012}") for place in range(meters)]
            for index, one in enumerate(names)
        }
    except BadAddress as error:
        raise typer.BadParameter(str(error), param_hint="--first-address") from error


def _contracts(
    contract: str, names: list[str], prefix: str | None, timezone: ZoneInfo, given: list[str]
) -> dict[str, ConcentratorContract]:
    """One for each: in some families no topic tells the concentrator."""
    settings = dict(_setting(one) for one in given)
    try:
        found = {
            name: load_concentrator(
                contract, timezone=timezone.key, prefix=prefix, concentrator=name, settings=settings
            )
            for name in names
        }
        topics = [topic for name in names for topic in found[name].topics_down(name)]
    except (ContractError, EncodeError) as error:
        raise typer.BadParameter(str(error), param_hint="--contract") from error
    if len(set(topics)) < len(topics) and len(names) > 1:
        raise typer.BadParameter(
            f"topics of {contract} do not tell concentrators apart: give each its own, with --prefix {{concentrator}}/",
            param_hint="--concentrators",
        )
    return found


def _setting(text: str) -> tuple[str, str | int | bool]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r}, expected NAME=VALUE", param_hint="--setting")
    if value in ("true", "false"):
        return name, value == "true"
    return name, value


def _called(template: str, addresses: list[MeterAddress]) -> list[str]:
    """Raises BadParameter for a template that gives two meters one name."""
    try:
        names = [template.format(address=one, number=number) for number, one in enumerate(addresses, start=1)]
    except (LookupError, ValueError) as error:
        raise typer.BadParameter(
            f"{template!r}, expected {{number}} or {{address}}", param_hint="--meter-name"
        ) from error
    if len(set(names)) < len(names) or not all(names):
        raise typer.BadParameter(f"{template!r} does not tell meters apart", param_hint="--meter-name")
    return names


def _quantities(given: list[str]) -> tuple[Obis, ...]:
    try:
        return tuple(map(Obis, given)) or USUAL_QUANTITIES
    except BadObis as error:
        raise typer.BadParameter(str(error), param_hint="--quantity") from error


def _numbered(rate: float, count: int | None, meters: int) -> Numbered:
    """Each reading of a meter needs a millisecond of its own."""
    if not 0 < rate <= 1000 * meters:
        raise typer.BadParameter(
            f"{rate:g}, expected up to 1000 a second and meter ({1000 * meters})", param_hint="--rate"
        )
    if count is not None and count < 1:
        raise typer.BadParameter(f"{count}, expected at least 1", param_hint="--count")
    return Numbered(rate=rate, most=count)
