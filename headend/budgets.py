"""Line-time budgets of a configuration: what its plans take on each line, before anything runs."""

from collections import defaultdict

from headend.config import Config
from headend.drivers.reading import Question
from headend.quantities import load_contract, plan_questions
from headend.scheduling.budget import LineBudget, PlanLoad, line_budget

__all__ = ["budgets_of", "loads_of"]


def budgets_of(config: Config) -> list[LineBudget]:
    """One per line, in the order of the file."""
    loads = loads_of(config)
    return [line_budget(line.name, line.timing, loads[line.name]) for line in config.lines]


def loads_of(config: Config) -> dict[str, list[PlanLoad]]:
    """What each line's plans ask, by line. Quantities that a contract cannot give cost nothing; they are not read."""
    plans = {plan.name: plan for plan in config.plans}
    questions: dict[tuple[str, str], tuple[Question, ...]] = {}
    asked: dict[tuple[str, str], list[tuple[Question, ...]]] = defaultdict(list)
    for meter in config.meters:
        key = (meter.contract, meter.plan)
        if key not in questions:
            questions[key] = plan_questions(load_contract(meter.contract), plans[meter.plan].quantities)
        asked[meter.line, meter.plan].append(questions[key])
    return {
        line.name: [
            PlanLoad(plan=plan.name, period_s=plan.period_s, questions=asked[line.name, plan.name])
            for plan in config.plans
            if (line.name, plan.name) in asked
        ]
        for line in config.lines
    }
