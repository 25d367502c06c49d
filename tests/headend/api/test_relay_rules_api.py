"""Rules over HTTP that somebody might slip past, or be stopped by for ever."""

from datetime import timedelta
from pathlib import Path

import pytest

from headend.database.engine import writing
from headend.store.governor_protections import set_person
from tests.headend.api.relay_site import site_of


async def test_orders_that_can_be_no_command_take_no_room_under_the_limits(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client, per_hour=1)
        ann = site.token("disconnect", person="Ann")
        gone, later = site.clock.now() - timedelta(hours=1), site.clock.now() + timedelta(hours=9)
        for wrong, status in (
            (site.order("open", expires_at=gone.isoformat()), 422),
            (site.order("open", not_before=later.isoformat()), 422),
            (site.order("open", "M999999"), 404),
        ):
            answer = await client.post("/v1/commands", json=wrong, headers=ann)
            assert answer.status_code == status, answer.text
        answer = await client.post("/v1/commands", json=site.order("open"), headers=ann)
        assert answer.json()["command"]["state"] == "scheduled", answer.text
        answer = await client.post("/v1/commands", json=site.order("open", "M000002"), headers=ann)
        assert answer.json()["command"]["state"] == "quarantined", "the good one counts"


async def test_a_token_named_as_somebody_else_makes_nobody_another_person(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client, per_hour=0)
        site.tokens.create_token("Ann", ["read"])
        with writing(site.head_end._store.engine, "naming a person") as connection:
            set_person(connection, "Ann", "Bob")
        ordered = await client.post(
            "/v1/commands", json=site.order("open"), headers=site.token("disconnect", person="Ann")
        )
        body = {"purpose": "release", "commands": [ordered.json()["command"]["id"]]}
        asked = (await client.post("/v1/approvals", json=body, headers=site.token("disconnect", person="Carl"))).json()
        for person, status in (("Ann", 403), ("Dora", 200)):
            answer = await client.post(
                f"/v1/approvals/{asked['id']}/approve",
                json={"digest": asked["digest"]},
                headers=site.token("approve", person=person),
            )
            assert answer.status_code == status, (person, answer.text)


async def test_what_nobody_approved_within_a_day_can_be_asked_for_again(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        ann, bob = site.token("disconnect", person="Ann"), site.token("approve", person="Bob")
        order = site.order("unprotect", expires_at=(site.clock.now() + timedelta(days=3)).isoformat())
        ordered = (await client.post("/v1/commands", json=order, headers=ann)).json()
        first = ordered["approval"]
        body = {"purpose": "order", "subject": ordered["command"]["id"]}
        same = (await client.post("/v1/approvals", json=body, headers=ann)).json()
        assert same["id"] == first["id"]
        site.clock._behind -= timedelta(hours=25)
        late = await client.post(f"/v1/approvals/{first['id']}/approve", json={"digest": first["digest"]}, headers=bob)
        assert late.status_code == 409
        again = (await client.post("/v1/approvals", json=body, headers=ann)).json()
        assert again["id"] != first["id"]
        done = await client.post(f"/v1/approvals/{again['id']}/approve", json={"digest": again["digest"]}, headers=bob)
        assert done.status_code == 200, done.text


@pytest.mark.parametrize("number", ["NaN", "sNaN", "Infinity", "-1"])
async def test_a_limit_or_temperature_that_is_no_number_is_told(tmp_path: Path, number: str) -> None:
    async with site_of(tmp_path) as (site, client):
        ann = site.token("disconnect", person="Ann")
        for name in ("of_fleet_per_day", "kw_per_hour"):
            answer = await client.put("/v1/limits", json={"per_hour": 1, name: number}, headers=ann)
            assert answer.status_code == 400, answer.text
            assert name in answer.json()["detail"]
        if number != "-1":
            told = site.forecast() | {"lowest_c": number}
            answer = await client.post("/v1/forecast", json=told, headers=site.token("operate"))
            assert answer.status_code == 422, answer.text


async def test_the_record_says_who_told_of_a_payment(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        cashier = site.token("cashier", person="Eva at the counter")
        assert (await client.post("/v1/obligations", json=site.payment("M000001"), headers=cashier)).status_code == 202
        told = (await client.get("/v1/audit?limit=1000", headers=site.token("admin"))).json()["records"]
        records = [one["record"] for one in told]
        assert [one["actor"] for one in records if one["kind"] == "payment"] == ["Eva at the counter"]
