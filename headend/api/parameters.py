"""Parameters: how days and months are written. Those of a query that a route does not know are refused: a misspelt `after` must not
deliver the feed from its beginning."""

import re
from datetime import date
from typing import Any

from litestar import Request

from headend.api.problems import problem

__all__ = ["YEARS", "day_of_text", "month_of_text", "month_or_none", "refuse_unknown"]

YEARS = range(2000, 3000)  # a slip of the keyboard is no local day
_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


def refuse_unknown(request: Request[Any, Any, Any], *known: str) -> None:
    """Raises the 400 problem."""
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise problem(
            400, f"unknown parameter {', '.join(sorted(set(unknown)))}; expected {', '.join(known) or 'none'}."
        )


def day_of_text(name: str, text: str) -> date:
    """Raises the 400 problem."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.min
    if day.year not in YEARS:
        raise problem(
            400, f"{name}: a day of the years {YEARS[0]} to {YEARS[-1]} is written 2026-11-21, found {text!r}."
        )
    return day


def month_of_text(text: str) -> date:
    """The first of a month. Raises the 400 problem."""
    month = month_or_none(text)
    if month is None:
        raise problem(400, f"a month is written 2026-11, found {text!r}.")
    return month


def month_or_none(text: str) -> date | None:
    """The first of a month; None for a text that is no month."""
    found = _MONTH.fullmatch(text)
    return date(int(found[1]), int(found[2]), 1) if found is not None and int(found[1]) in YEARS else None
