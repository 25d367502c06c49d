"""What `headend check` says of `[control]` and `[audit]`: policy, calendars, keys, codes, and meters that could not be switched."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from firmware_contracts.concentrator_contract import load_concentrator
from firmware_contracts.errors import ContractError
from headend.assembly.switching import operators_of, policy_of, shared_addresses
from headend.audit.settings import known_keys_of, signing_key_of
from headend.commands.model import Kind
from headend.commands.policy import MeterFacts, Policy
from headend.concentrators.settings import ConcentratorSettings
from headend.config import Config
from headend.configuration.control import Customer
from headend.errors import ConfigError, HeadendError
from headend.model import MeterRecord
from headend.secrets import BadSecret, SecretStore
from protocols.concentrator.messages import Op

__all__ = ["control_problems"]

SHOWN_MAX = 5


def control_problems(config: Config, now: datetime) -> list[str]:
    """now: which years a calendar should know. Keys are checked in any case, the rest where `[control]` is on."""
    return [*_keys(config), *(_control(config, now) if config.control.enabled else _named(config))]


def _keys(config: Config) -> Iterator[str]:
    base = config.path.resolve().parent
    try:
        signing_key_of(config.audit, base=base)
    except HeadendError as error:
        yield f"[audit] signing_key: {error}"
    try:
        known_keys_of(config.audit, base=base)
    except ConfigError as error:
        yield f"[audit] known_keys: {error}"


def _named(config: Config) -> Iterator[str]:
    """What is named must be right, also where nothing is switched yet."""
    try:
        policy_of(config)
    except HeadendError as error:
        yield f"[control] policy: {error}"


def _control(config: Config, now: datetime) -> Iterator[str]:
    policy: Policy | None = None
    try:
        policy = policy_of(config)
    except HeadendError as error:
        yield f"[control] policy: {error}"
    else:
        if policy is None:
            yield "[control] policy: there is none, so nothing can be opened; name a policy file, see docs/policy.md"
    if policy is not None:
        yield from _years(policy, now)
    if not config.audit.signing_key:
        yield "[audit] signing_key: there is none, so nothing can be opened; `openssl genpkey -algorithm ed25519` makes one"
    _, without_code = operators_of(config)
    for person, why in without_code.items():
        yield f"[control] operators {person!r}: {why}" if person else f"[secrets] operator: {why}"
    yield from _meters(config, policy)


def _years(policy: Policy, now: datetime) -> Iterator[str]:
    known = {year.year for year in policy.data.years}
    here = now.astimezone(policy.zone)
    missing = [year for year in (here.year, here.year + (here.month >= 12)) if year not in known]
    for year in dict.fromkeys(missing):
        yield (
            f"[control] policy: calendar {policy.data.calendar} does not know {year}, so nothing is opened on its days; "
            f"it knows {', '.join(map(str, sorted(known)))}"
        )


def _meters(config: Config, policy: Policy | None) -> Iterator[str]:
    secrets = SecretStore(config.secrets, base=config.path.resolve().parent)
    shared, forwarding = shared_addresses(config), _forwarding(config)
    found: dict[str, list[str]] = {}
    reasons: Counter[str] = Counter()
    for meter in config.meters:
        for why in (*_why_not(config, meter, policy, secrets), *_who_is_it(meter, shared, forwarding)):
            reasons[why] += 1
            found.setdefault(why, []).append(meter.id)
    for why, count in reasons.items():
        shown = ", ".join(found[why][:SHOWN_MAX]) + (f" and {count - SHOWN_MAX} more" if count > SHOWN_MAX else "")
        yield f"[control] {count} meter(s) {why}: {shown}"


def _why_not(config: Config, meter: MeterRecord, policy: Policy | None, secrets: SecretStore) -> Iterator[str]:
    if meter.protocol == "dlt645":
        try:
            secrets.authority(meter.id)
        except BadSecret:
            yield "cannot be switched, since their password is not there or no password"
    customer = config.customers.get(meter.id, Customer())
    if policy is None:
        return
    if not customer.customer_class and not policy.data.allow_unknown_class:
        yield "can never be opened, since nobody has said whom they supply (customer_class)"
    facts = MeterFacts(
        meter=meter.id,
        feeder=customer.feeder,
        line=meter.line,
        tariff_group=customer.tariff_group,
        customer_class=customer.customer_class,
    )
    if meter.protocol.startswith("modbus") and policy.reconnect_kind(facts) is Kind.PERMIT_CLOSE:
        yield (
            "could not be given back: Modbus knows no permit-close, and the policy says permit-close; name them, or their "
            "tariff group, under [reconnect] as closed directly"
        )


def _who_is_it(meter: MeterRecord, shared: frozenset[str], forwarding: frozenset[str]) -> Iterator[str]:
    """Why nobody could tell, before an open, that this is the meter that is meant. forwarding: concentrators that pass on frames."""
    is_dlt645 = meter.contract.startswith("dlt645/")
    if is_dlt645 and meter.address in shared:
        yield (
            "have an address that another meter has, too, on another line: they are opened only where they tell their asset "
            "number, since lines can be mixed up"
        )
    if meter.protocol == "mqtt" and not (is_dlt645 and meter.line in forwarding):
        yield (
            "can be closed and never opened, since their concentrator does not pass on frames to them: nobody could read "
            "back which meter it is"
        )


def _forwarding(config: Config) -> frozenset[str]:
    return frozenset(one.name for one in config.concentrators if _forwards(one))


def _forwards(one: ConcentratorSettings) -> bool:
    try:
        contract = load_concentrator(one.contract, timezone=one.timezone, prefix=one.prefix, settings=one.settings)
    except ContractError:
        return False  # told elsewhere
    return Op.FORWARD in contract.offers
