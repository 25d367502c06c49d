"""Query parameters that a route does not know are refused: a misspelt `after` must not deliver the feed from its beginning."""

from typing import Any

from litestar import Request

from headend.api.problems import problem

__all__ = ["refuse_unknown"]


def refuse_unknown(request: Request[Any, Any, Any], *known: str) -> None:
    """Raises the 400 problem."""
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise problem(
            400, f"unknown parameter {', '.join(sorted(set(unknown)))}; expected {', '.join(known) or 'none'}."
        )
