"""Tariffs over HTTP, and that programs find everything about accounts in the published schema."""

from pathlib import Path

from headend.prepayment.tariffs.tariff_file import TARIFFS
from tests.headend.api.account_site import site_of
from tests.headend.api.test_accounts_api import assert_problem

GOOD = (TARIFFS / "residential-step.toml").read_text("utf-8")


async def test_a_tariff_is_told_in_words_of_two_languages(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        reader = site.token("read")
        assert (await client.get("/v1/tariffs", headers=reader)).json() == {"tariffs": ["flat", "year"]}
        told = (await client.get("/v1/tariffs/flat", headers=reader)).json()
        assert any("0.5283" in line for line in told["words"])
        chinese = (await client.get("/v1/tariffs/flat?language=zh", headers=reader)).json()
        assert chinese["words"] != told["words"]
        assert any("0.5283" in line for line in chinese["words"])
        assert_problem(await client.get("/v1/tariffs/gold", headers=reader), 404, "unknown-tariff", "gold", "flat")
        assert_problem(await client.get("/v1/tariffs/flat?language=fr", headers=reader), 422, "bad-input", "fr")


async def test_a_tariff_file_is_checked_and_kept_nowhere(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        admin = site.token("admin")
        good = (await client.post("/v1/tariffs/check", content=GOOD.encode(), headers=admin)).json()
        assert (good["name"], good["problems"]) == ("residential-step", [])
        assert len(good["words"]) > 2
        wrong = GOOD.replace('currency = "CNY"', 'currency = "XXX"').replace("[prices]", "[prices]\nnight = 1")
        told = (await client.post("/v1/tariffs/check", content=wrong.encode(), headers=admin)).json()
        assert (told["name"], told["words"]) == ("", [])
        assert any("XXX" in one and "tariff.toml:" in one for one in told["problems"])
        assert any("night" in one for one in told["problems"])
        for body in (b"", b"\xff\xfe", b"= 1", b"[tariff", b"\x00"):
            broken = await client.post("/v1/tariffs/check", content=body, headers=admin)
            assert broken.status_code == 200, broken.text
            assert broken.json()["problems"], body
            assert str(Path(__file__).anchor) + "tmp" not in broken.text
        french = await client.post("/v1/tariffs/check?language=fr", content=GOOD.encode(), headers=admin)
        assert_problem(french, 422, "bad-input", "fr")
        large = await client.post("/v1/tariffs/check", content=b"#" * 200_001, headers=admin)
        assert_problem(large, 413, "too-large", "200000")
        assert (await client.get("/v1/tariffs", headers=admin)).json() == {"tariffs": ["flat", "year"]}


async def test_the_schema_has_every_route_and_each_shape_under_its_own_name(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        schema = (await client.get("/schema/openapi.json", headers=site.token("read"))).json()
        taking = schema["paths"]["/v1/payments"]["post"]
        assert {"200", "202", "409", "422", "503"} <= taking["responses"].keys()
        shape = taking["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
        assert schema["components"]["schemas"][shape]["properties"]["amount_minor"]["minimum"] == 1
        # Where two shapes have one name, the framework puts the module before both.
        assert not [name for name in schema["components"]["schemas"] if "_" in name]
