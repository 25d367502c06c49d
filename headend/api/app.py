"""Puts the routes together: one guard, one way to say what went wrong, one schema."""

from collections.abc import Iterator
from typing import Any, Literal

from litestar import Litestar, Request, Response, Router
from litestar.datastructures import State
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from headend.api.auth import authenticate, require_token
from headend.api.deps import ApiDeps
from headend.api.feed_routes import pull_feed, stream_feed
from headend.api.meter_routes import list_meters, list_reads, one_meter, read_meter_now
from headend.api.problems import EXCEPTION_HANDLERS, MEDIA_TYPE, ProblemRaised, problem, problem_response
from headend.api.service_routes import healthz, healthz_head, list_lines, metrics

__all__ = ["create_app"]

_METHODS: tuple[Literal["DELETE", "GET", "PATCH", "POST", "PUT"], ...] = ("DELETE", "GET", "PATCH", "POST", "PUT")

BODY_MAX = 1_000_000  # bytes; the largest body is an import of some thousand meters


def create_app(deps: ApiDeps, *, routes: tuple[Any, ...] = ()) -> Litestar:
    """The HTTP interface over these parts.

    routes: further Litestar handlers (commands, payments, pages); the same guard, problems and schema apply to them,
    and they find the parts at `state.deps`.
    """
    return Litestar(
        route_handlers=[
            healthz,
            healthz_head,
            metrics,
            list_lines,
            list_meters,
            one_meter,
            list_reads,
            read_meter_now,
            pull_feed,
            stream_feed,
            *routes,
        ],
        guards=[require_token],
        exception_handlers={
            **EXCEPTION_HANDLERS,
            NotFoundException: _on_routing_error,
            MethodNotAllowedException: _on_routing_error,
        },
        openapi_config=_openapi(),
        request_max_body_size=BODY_MAX,
        state=State({"deps": deps}),
        logging_config=None,
    )


def _on_routing_error(
    request: Request[Any, Any, Any],
    error: NotFoundException | MethodNotAllowedException,
) -> Response[bytes]:
    """Guards do not run for paths that do not exist, and a stranger must not learn which ones do."""
    try:
        authenticate(request)
    except ProblemRaised as raised:
        return problem_response(raised)
    response: Response[bytes] = EXCEPTION_HANDLERS[HTTPException](request, error)
    if isinstance(error, MethodNotAllowedException):
        response.set_header("Allow", ", ".join(_methods_of(request)))  # RFC 9110 §15.5.6
    return response


def _methods_of(request: Request[Any, Any, Any]) -> Iterator[str]:
    """Methods that the path of the request knows."""
    for method in _METHODS:
        try:
            request.app.asgi_router.handle_routing(path=request.scope["path"], method=method)
        except (NotFoundException, MethodNotAllowedException):
            continue
        yield method


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="headend",
        version="1",
        description="Smart-meter head-end: numbered read feed, meters, lines.",
        security=[{"bearer": []}],
        components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        path="/schema",
        openapi_router=Router(
            "/schema",
            route_handlers=[],
            include_in_schema=False,
            after_request=_problem_for_unknown_schema,
        ),
    )


async def _problem_for_unknown_schema(response: Response[Any]) -> Response[Any]:
    """Unknown paths below /schema get a web page from the framework; ours is a problem document."""
    if response.status_code == 404 and response.media_type != MEDIA_TYPE:
        return problem_response(problem(404, "There is only /schema and /schema/openapi.json."))
    return response
