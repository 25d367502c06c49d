"""Tariffs over HTTP: which there are, what they say in words, and whether a file would be one. Nothing is stored."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from headend.api.account_access import OFFICE, OWN
from headend.api.parameters import refuse_unknown
from headend.api.prepaid import Prepaid
from headend.api.problems import problem
from headend.prepayment.office.input import check_language
from headend.prepayment.tariffs.tariff_file import check_tariff
from headend.prepayment.tariffs.words import explain

__all__ = ["CheckedTariff", "checked_tariff", "tariff_routes"]

Language = Annotated[str, QueryParameter(description="en or zh.")]
SIZE_MAX = 200_000  # bytes; a timetable of a year with all its holidays is 10,000


class TariffList(Struct, frozen=True):
    tariffs: list[str]


class TariffWords(Struct, frozen=True):
    """words: all versions, one sentence a line, the newest first."""

    name: str
    words: list[str]


class CheckedTariff(Struct, frozen=True, kw_only=True):
    """problems: each with its place; empty where it can be used. words: what it says, empty with any problem."""

    name: str
    version: str
    problems: list[str]
    words: list[str]


def tariff_routes(supply: Prepaid) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""
    office = supply.office

    @get("/v1/tariffs", **OWN)
    async def list_tariffs() -> TariffList:
        """Names of the tariffs that accounts may have."""
        return TariffList(list(await supply.ask(office.tariff_names)))

    @get("/v1/tariffs/{name:str}", **OWN)
    async def one_tariff(
        request: Request[Any, Any, Any], name: FromPath[str], language: Language = "en"
    ) -> TariffWords:
        """A tariff in words, all its versions."""
        refuse_unknown(request, "language")
        return TariffWords(name, list(await supply.ask(office.tariff_words, name, language=language)))

    @post("/v1/tariffs/check", **OFFICE, status_code=200)
    async def check(request: Request[Any, Any, Any], language: Language = "en") -> CheckedTariff:
        """Whether the TOML in the body would be a tariff, and what it says. It is not kept."""
        refuse_unknown(request, "language")
        check_language(language)
        body = await request.body()
        if len(body) > SIZE_MAX:
            raise problem(413, f"the tariff has {len(body)} bytes; expected {SIZE_MAX} at most.")
        return await supply.ask(_check_body, body, language)

    return list_tariffs, one_tariff, check


def checked_tariff(path: Path, language: str) -> CheckedTariff:
    """language: "en" or "zh"."""
    tariff, problems = check_tariff(path)
    if tariff is None:
        return CheckedTariff(name="", version="", problems=[str(one) for one in problems], words=[])
    return CheckedTariff(name=tariff.name, version=tariff.version, problems=[], words=explain(tariff, language))


def _check_body(body: bytes, language: str) -> CheckedTariff:
    """As a file, because places are told by file and line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tariff.toml"
        path.write_bytes(body)
        found = checked_tariff(path, language)
    return CheckedTariff(
        name=found.name,
        version=found.version,
        problems=[one.replace(str(path), path.name) for one in found.problems],
        words=found.words,
    )
