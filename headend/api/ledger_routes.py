"""The ledger: signed manifests of past days, the key they are signed with, and how much of a day was collected."""

import asyncio
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from headend.api.auth import needs
from headend.api.parameters import day_of_text, refuse_unknown
from headend.api.problems import problem
from headend.ledger.collection import CollectionReport
from headend.ledger.view import LedgerView
from headend.store.ledger import Issued
from headend.store.tokens import Role

__all__ = ["ledger_routes"]

LIMIT_MAX = 1000
NUMBER_MAX = 2**63 - 1  # what databases can be asked for


class ManifestPage(Struct, frozen=True):
    """manifests: in the order in which they were issued. next: the `after` of the following request."""

    manifests: list[Issued]
    next: int


class ManifestOfDay(Struct, frozen=True):
    """Both as they stand in the feed: one `headend.manifest.v1`, and its `headend.manifest-part.v1`."""

    manifest: dict[str, Any]
    parts: list[dict[str, Any]]


class ManifestKey(Struct, frozen=True):
    """pem: SubjectPublicKeyInfo. Whoever checks signatures should have got it by another way once."""

    id: str
    algorithm: str
    pem: str


def ledger_routes(view: LedgerView) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""

    @get("/v1/manifests", opt=needs(Role.READ))
    async def list_manifests(
        request: Request[Any, Any, Any],
        after: Annotated[
            int, QueryParameter(description="Sequence of the last manifest you have; 0 from the first.")
        ] = 0,
        limit: Annotated[int, QueryParameter(description="Manifests at most, 1 to 1000.")] = 100,
    ) -> ManifestPage:
        """Which manifests there are, all revisions, in the order of the feed."""
        refuse_unknown(request, "after", "limit")
        if not 1 <= limit <= LIMIT_MAX:
            raise problem(400, f"limit must be 1 to {LIMIT_MAX}, found {limit}.")
        if not 0 <= after <= NUMBER_MAX:
            raise problem(400, f"after must be 0 to {NUMBER_MAX}, found {after}.")
        found = list(await asyncio.to_thread(lambda: view.issued(after=after, limit=limit)))
        return ManifestPage(found, found[-1].sequence if found else after)

    @get("/v1/manifests/{day:str}", opt=needs(Role.READ), responses={200: ResponseSpec(ManifestOfDay)})
    async def one_manifest(
        request: Request[Any, Any, Any],
        day: FromPath[str],
        revision: Annotated[int | None, QueryParameter(description="The newest by default.")] = None,
        meter: Annotated[str | None, QueryParameter(description="Only the part that holds this meter.")] = None,
    ) -> Response[bytes]:
        """The manifest of a local day: what the feed holds of it, how its intervals ended, signed."""
        refuse_unknown(request, "revision", "meter")
        wanted = day_of_text("day", day)
        if revision is not None and not 0 <= revision <= NUMBER_MAX:
            raise problem(400, f"revision must be 0 to {NUMBER_MAX}, found {revision}.")
        found = await asyncio.to_thread(lambda: view.manifest(wanted, revision=revision, meter=meter))
        if found is None:
            which = "" if revision is None else f" in revision {revision}"
            raise problem(
                404,
                f"There is no manifest of {wanted}{which}.",
                next_step="A day is closed some hours after its midnight; GET /v1/manifests lists what there is.",
            )
        body = b'{"manifest":%b,"parts":[%b]}' % (found[0], b",".join(found[1:]))
        return Response(body, media_type="application/json")

    @get("/v1/manifest-key", opt=needs(Role.READ))
    async def manifest_key() -> ManifestKey:
        """The public key of manifests that are issued now."""
        if view.key is None:
            raise problem(
                404,
                "Manifests are not signed: no signing key is configured.",
                next_step="Set `signing_key` in [ledger]; `openssl genpkey -algorithm ed25519` makes one.",
            )
        return ManifestKey(view.key.id, "Ed25519", view.key.pem)

    @get("/v1/collection-rate", opt=needs(Role.READ))
    async def collection_rate(
        request: Request[Any, Any, Any],
        day: Annotated[str | None, QueryParameter(description="Local day, 2026-11-21; yesterday by default.")] = None,
    ) -> CollectionReport:
        """How much of what was expected of a day has been collected, per line and concentrator, and why the rest was not."""
        refuse_unknown(request, "day")
        wanted = view.yesterday if day is None else day_of_text("day", day)
        if wanted > view.today:
            raise problem(400, f"{wanted} has not come yet; at the site it is {view.today}.")
        return await asyncio.to_thread(view.collection, wanted)

    return list_manifests, one_manifest, manifest_key, collection_rate
