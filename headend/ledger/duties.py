"""What a configuration owes: one duty per meter."""

from collections.abc import Sequence

from headend.config import Config
from headend.ledger.duty import CONCENTRATOR, LINE, Duty
from headend.model import MeterRecord
from headend.quantities import channel_of, load_contract, plan_questions

__all__ = ["duties_of"]


def duties_of(config: Config) -> list[Duty]:
    """One per meter. Quantities that the contract does not give are owed by nobody; `headend check` has told them."""
    plans = {plan.name: plan for plan in config.plans}
    known: dict[tuple[str, str, bool], tuple[str, ...]] = {}
    duties = []
    for meter in config.meters:
        plan = plans[meter.plan]
        pushed = meter.protocol == "mqtt"
        key = (meter.contract, meter.plan, pushed)
        if key not in known:
            known[key] = _quantities(meter, plan.quantities, pushed=pushed)
        duties.append(
            Duty(
                meter=meter.id,
                route=CONCENTRATOR if pushed else LINE,
                line=meter.line,
                period_s=plan.period_s,
                # Nobody fills gaps of Modbus meters: they keep no records that we know of.
                back_fill_s=plan.back_fill_s if pushed or meter.protocol == "dlt645" else 0,
                quantities=known[key],
            )
        )
    return duties


def _quantities(meter: MeterRecord, wanted: Sequence[str], *, pushed: bool) -> tuple[str, ...]:
    if pushed:
        return tuple(dict.fromkeys(channel_of(quantity) for quantity in wanted))
    questions = plan_questions(load_contract(meter.contract), wanted)
    return tuple(register.name for question in questions for register in question.registers)
