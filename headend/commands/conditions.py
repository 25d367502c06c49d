"""What an open needs beside the right moment: debt, notices, weather. Each check tells what is wrong and what would be needed."""

from collections.abc import Callable
from datetime import datetime, timedelta

from headend.commands.model import NoticeProof, Order
from headend.commands.rules import Forecast, NoticeStep, Rules, Weather, in_unit

__all__ = ["Refuse", "examine_debt", "examine_notices", "examine_weather", "in_words", "step_in_words"]

Refuse = Callable[[str, str, str], None]  # rule, text, what would be needed

CLOCK_TOLERANCE = timedelta(minutes=2)  # a proof's time may be so far ahead of ours before it counts as from the future


def examine_debt(rules: Rules, order: Order, now: datetime, refuse: Refuse) -> None:
    debt, proof = rules.debt, order.proof
    if proof is None:
        refuse(
            "proof", "the order has no balance proof", "account, balance, currency, time and fence token of the balance"
        )
        return
    if proof.currency != debt.currency:
        refuse("currency", f"the balance is in {proof.currency}", f"a balance in {debt.currency}")
        return
    age = now - proof.as_of
    if age > timedelta(seconds=debt.proof_age_s_max) or age < -CLOCK_TOLERANCE:
        refuse(
            "proof-age",
            f"the balance is of {proof.as_of:%Y-%m-%d %H:%M:%S}Z, {_length(age)} ago",
            f"a balance that is not older than {_length(timedelta(seconds=debt.proof_age_s_max))} and not from the future",
        )
    owed = -proof.balance_minor
    if owed <= debt.grace_minor:
        text = f"the customer owes {owed} and has a credit of {debt.grace_minor} (minor units, {debt.currency})"
        refuse("grace", text, f"a debt of more than {debt.grace_minor}")
    if owed < debt.minimum_minor:
        text = f"the customer owes {owed} (minor units, {debt.currency}), too little to be cut off for"
        refuse("minimum-debt", text, f"a debt of at least {debt.minimum_minor}")


def examine_notices(
    steps: tuple[NoticeStep, ...], proofs: tuple[NoticeProof, ...], now: datetime, refuse: Refuse
) -> None:
    """Each step takes the earliest proof that fits behind the step before: no other choice leaves later steps more room."""
    previous: datetime | None = None
    used: set[str] = set()
    for number, step in enumerate(steps, start=1):
        oldest = now - timedelta(seconds=step.age_s_max)
        newest = now - timedelta(seconds=step.before_s)
        earliest = oldest if previous is None else max(oldest, previous + timedelta(seconds=step.after_previous_s))
        fitting = [
            proof
            for proof in proofs
            if proof.step == step.step
            and proof.reference
            and proof.reference not in used
            and (not step.channels or proof.channel in step.channels)
            and proof.sent_at <= proof.delivered_at
            and earliest <= proof.delivered_at <= newest
        ]
        if not fitting:
            refuse(
                "notice",
                f"step {number}, {step.step!r}: {_wrong_with(step, proofs)}",
                f"{step_in_words(step, number)}, proven",
            )
            return
        proof = min(fitting, key=lambda proof: proof.delivered_at)
        previous = proof.delivered_at
        used.add(proof.reference)


def _wrong_with(step: NoticeStep, proofs: tuple[NoticeProof, ...]) -> str:
    given = [proof for proof in proofs if proof.step == step.step]
    if not given:
        return "no proof was given"
    delivered = ", ".join(f"{proof.delivered_at:%Y-%m-%d %H:%M}Z by {proof.channel}" for proof in given[:3])
    return f"what was given does not prove it (delivered {delivered})"


def step_in_words(step: NoticeStep, number: int) -> str:
    text = f"{step.step!r} delivered between {in_words(step.age_s_max)} and {in_words(step.before_s)} before the open"
    if number > 1 and step.after_previous_s:
        text += f", {in_words(step.after_previous_s)} or more after the step before"
    return text + (f", by {' or '.join(step.channels)}" if step.channels else "")


def examine_weather(weather: Weather, forecast: Forecast | None, now: datetime, last: datetime, refuse: Refuse) -> None:
    until = last + timedelta(hours=weather.forecast_hours)
    needed = f"a forecast not older than {in_words(weather.age_s_max)} that reaches {until:%Y-%m-%d %H:%M}Z"
    if forecast is None:
        refuse("forecast", "there is no weather forecast", needed)
        return
    age = last - forecast.issued_at
    if age > timedelta(seconds=weather.age_s_max) or now - forecast.issued_at < -CLOCK_TOLERANCE:
        refuse("forecast", f"the forecast of {forecast.source} is of {forecast.issued_at:%Y-%m-%d %H:%M}Z", needed)
        return
    if forecast.reaches < until:
        refuse("forecast", f"the forecast reaches only {forecast.reaches:%Y-%m-%d %H:%M}Z", needed)
        return
    lowest, highest = in_unit(forecast.lowest_c, weather.unit), in_unit(forecast.highest_c, weather.unit)
    if weather.at_or_below is not None and lowest <= weather.at_or_below:
        text = f"{lowest} °{weather.unit} are forecast within {weather.forecast_hours} h"
        refuse("weather", text, f"a forecast above {weather.at_or_below} °{weather.unit}")
    if weather.at_or_above is not None and highest >= weather.at_or_above:
        text = f"{highest} °{weather.unit} are forecast within {weather.forecast_hours} h"
        refuse("weather", text, f"a forecast below {weather.at_or_above} °{weather.unit}")


def _length(length: timedelta) -> str:
    return in_words(int(length.total_seconds()))


def in_words(seconds: int) -> str:
    """In the largest unit that divides it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
