"""Line-time budgets of a configuration: what its plans take on each line, before anything runs."""

from collections import defaultdict
from collections.abc import Sequence

from firmware_contracts.contract import load
from headend.config import Config
from headend.quantities import BadQuantity, resolve_register
from headend.scheduling.budget import LineBudget, PlanLoad, line_budget
from protocols.dlt645.items import ItemSpec

__all__ = ["budgets_of", "loads_of"]


def budgets_of(config: Config) -> list[LineBudget]:
    """One per line, in the order of the file."""
    loads = loads_of(config)
    return [line_budget(line.name, line.timing, loads[line.name]) for line in config.lines]


def loads_of(config: Config) -> dict[str, list[PlanLoad]]:
    """What each line's plans ask, by line. Quantities that a contract cannot give cost nothing; they are not read."""
    plans = {plan.name: plan for plan in config.plans}
    specs: dict[tuple[str, str], tuple[ItemSpec, ...]] = {}
    items: dict[tuple[str, str], list[tuple[ItemSpec, ...]]] = defaultdict(list)
    for meter in config.meters:
        key = (meter.contract, meter.plan)
        if key not in specs:
            specs[key] = _specs(meter.contract, plans[meter.plan].quantities)
        items[meter.line, meter.plan].append(specs[key])
    return {
        line.name: [
            PlanLoad(plan=plan.name, period_s=plan.period_s, items=items[line.name, plan.name])
            for plan in config.plans
            if (line.name, plan.name) in items
        ]
        for line in config.lines
    }


def _specs(contract_name: str, quantities: Sequence[str]) -> tuple[ItemSpec, ...]:
    contract = load(contract_name)
    found: dict[ItemSpec, None] = {}
    for quantity in quantities:
        try:
            found[resolve_register(contract, quantity)] = None
        except BadQuantity:
            continue
    return tuple(found)
