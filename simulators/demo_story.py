"""The story of a tenant whose prepaid balance runs out: told as it happens, by what the head-end says over HTTP and what arrives.

Nothing is staged: messages are read where the channel left them, the supply is looked at in the meter, the payment is told by a
simulated payment desk. What does not happen in time ends the story with the reason.
"""

import asyncio
import json
import re
import textwrap
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from rich.console import Console
from rich.markup import escape

from simulators.demo_home import MESSAGES, METER, TARIFF, Pace
from simulators.demo_parts import SITE, DemoFailed, headend

__all__ = ["ACCOUNT", "Narrator", "Story"]

ACCOUNT = "40100001"
TENANT = "Wang Fang"
PHONE = "+8613800004010"
PAID = "50.00"
STEP_S = 90.0  # what a beat of the story may take
LOOK_S = 0.4
TOLD_EVERY_S = 12.0  # the balance, while nothing else happens
INDENT = " " * 10  # as wide as the time
POWER = "1-0:16.7.0"
CURRENT = "1-0:31.7.0"
NAMES = {"low": "first warning", "used-up": "second warning", "last-warning": "last warning"}


class Narrator:
    """Plain sentences with the time; in a pipe one a line, in a terminal wrapped beside the time."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def tell(self, sentence: str, *, style: str = "") -> None:
        at = datetime.now(ZoneInfo(SITE))
        for number, line in enumerate(self._wrapped(sentence)):
            told = f"[{style}]{escape(line)}[/]" if style else escape(line)
            self._print(f"[dim]{at:%H:%M:%S}[/]  {told}" if number == 0 else f"{INDENT}{told}")

    def quote(self, text: str) -> None:
        for line in text.splitlines():
            for part in self._wrapped(line):
                self._print(f"{INDENT}[italic]{escape(part)}[/]")

    def _wrapped(self, text: str) -> list[str]:
        if not self._console.is_terminal:
            return [text]
        width = max(40, self._console.width - len(INDENT))
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


class Story:
    """api: of the head-end. folder: where its configuration and its messages lie. status: a line for the bottom of a terminal, "" when
    the story is over."""

    def __init__(self, narrator: Narrator, api: str, folder: Path, tokens: dict[str, str], pace: Pace) -> None:
        self.status = "the story begins"
        self._say = narrator
        self._api = api
        self._folder = folder
        self._tokens = tokens
        self._pace = pace
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._sequence = 0
        self._events: list[dict[str, Any]] = []
        self._messages: list[dict[str, Any]] = []
        self._told_at = 0.0
        self._offset = 0

    async def tell(self) -> None:
        """From the agreement to the supply that is back. Raises DemoFailed."""
        try:
            async with AsyncExitStack() as stack:
                for name, token in self._tokens.items():
                    headers = {"Authorization": f"Bearer {token}"}
                    client = httpx.AsyncClient(base_url=self._api, headers=headers, timeout=30)
                    self._clients[name] = await stack.enter_async_context(client)
                await self._two_people()
                await self._moves_in()
                await self._runs_out()
                await self._goes_dark()
                await self._pays()
                await self._is_proven()
        except httpx.HTTPError as error:
            raise DemoFailed(f"the head-end's interface: {error or type(error).__name__}") from error
        finally:
            self.status = ""

    # -------------------------------------------------------------------------------------------- the beats

    async def _two_people(self) -> None:
        """Without limits nothing is ever opened; to set the first ones takes two people."""
        wanted = {"per_hour": 10, "of_fleet_per_day": "0.05", "of_feeder_per_day": "1", "raise_delay_s": 0}
        found: dict[str, Any] = {}

        async def ask() -> bool:
            """A head-end that has just started looks up first what was under way."""
            nonlocal found
            answer = await self._clients["ann"].put("/v1/limits", json=wanted)
            if answer.status_code != 503:
                found = _good(answer)
            return bool(found)

        await self._until("the head-end takes orders", ask)
        asked = found["approval"]
        path = f"/v1/approvals/{asked['id']}/approve"
        _good(await self._clients["bob"].post(path, json={"digest": asked["digest"]}))
        self._say.tell(
            "Ann asks for limits: 10 disconnections an hour at most. Bob agrees. Without both, nothing could be switched."
        )

    async def _moves_in(self) -> None:
        cashier = self._clients["cashier"]
        wanted = {
            "account": ACCOUNT,
            "customer": "C-4010",
            "name": TENANT,
            "identity": "DEMO-4010",
            "premises": "P-4010",
            "address": "Lane 4, house 10, flat 1",
            "meters": [METER],
            "phone": PHONE,
            "currency": "CNY",
            "tariff": TARIFF,
            "reminder_minor": self._pace.reminder_minor,
            "language": "en",
        }
        pace, kilowatts = self._pace, self._pace.constant_w / 1000
        first, reminder = (f"{minor / 100:.2f}" for minor in (pace.first_minor, pace.reminder_minor))
        _good(await cashier.post("/v1/accounts", json=wanted))
        await self._desk(first)  # before she agrees: without money she would be warned at once
        _good(await cashier.post(f"/v1/accounts/{ACCOUNT}/confirm"))
        token = _good(await cashier.post(f"/v1/accounts/{ACCOUNT}/tokens"))["token"]
        self._say.tell(f"{TENANT} rents a flat with prepaid supply: account {ACCOUNT}, meter {METER}.")
        self._say.tell(f"Her page: {self._api}/my   sign in with {token}", style="bold")
        self._say.tell(f"The cashier's page: {self._api}/counter   sign in with {self._tokens['cashier']}")
        self._say.tell(
            f"She pays {first} yuan, and leaves {kilowatts:g} kW of heaters on. The simulated meter counts {pace.haste} times what "
            f"flows: a minute costs what {pace.haste // 60} hours would. Below {reminder} yuan she is to be warned."
        )

    async def _runs_out(self) -> None:
        for kind in ("agreement", *NAMES):
            await self._until(f"the message {kind!r} arrives", partial(self._has_message, kind))

    async def _goes_dark(self) -> None:
        await self._until("the disconnection is ordered", lambda: self._command("open"))
        self._say.tell(
            "Nothing was paid. Prepaid supply orders the switch to open, with the three proofs and the balance."
        )
        await self._until("the open is proven", lambda: self._command("open", "verified"))
        detail = self._newest("open")["detail"]
        self._say.tell(f"The switch is open, and it is proven: {detail.get('because', 'read back')}.", style="bold red")
        await self._look("The flat is dark")
        await self._until("she is told", lambda: self._has_message("disconnected"))
        await self._dark()

    async def _pays(self) -> None:
        self._say.tell(
            f"She pays {PAID} yuan at the counter. The desk tells it twice, as channels do that heard no answer."
        )
        await self._desk(PAID, times=2)
        await self._until("the close is proven", lambda: self._command("close", "verified"))
        detail = self._newest("close")["detail"]
        self._say.tell(
            f"The switch is closed, and it is proven: {detail.get('because', 'read back')}.", style="bold green"
        )
        await self._look("The flat has power")
        await self._until("she is told", lambda: self._has_message("restored"))
        await self._until("the account is well again", self._is_back)
        back = self._back()
        self._say.tell(
            f"Back {back['back_after_s']} s after the payment, {back['off_s']} s after it went dark.",
            style="bold green",
        )

    async def _is_proven(self) -> None:
        found = _good(await self._clients["reader"].get(f"/v1/accounts/{ACCOUNT}/payments"))["payments"]
        booked = sum(one["state"] == "booked" for one in found)
        proven = json.loads(await headend("audit", "verify", str(self._folder / "headend.toml"), "--json"))
        self._say.tell(
            f"Three times a payment was told, {booked} are in the books. All of it is in the audit log, which is proven: "
            f"{proven['verdict']['records']} records."
        )
        self._say.tell("The story is over; the street goes on.")

    # -------------------------------------------------------------------------------------------- looking

    async def _until(self, what: str, happened: Callable[[], Awaitable[bool]]) -> None:
        """Follows what arrives, and tells it, until that has happened."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STEP_S
        while True:
            if await happened():
                return
            if loop.time() >= deadline:
                raise DemoFailed(f"within {STEP_S:.0f} s not: {what}. {await self._why()}")
            await self._follow()
            await asyncio.sleep(LOOK_S)

    async def _follow(self) -> None:
        """New events, new messages, and the balance now and then."""
        reader = self._clients["reader"]
        page = _good(await reader.get("/v1/feed", params={"after": self._sequence, "limit": 1000}))
        self._sequence = page["next"]
        own = [
            one for one in page["events"] if one["data"].get("meter") == METER or one["data"].get("account") == ACCOUNT
        ]
        self._events += own
        for message in self._new_messages():
            self._hear(message)
        answer = await reader.get(f"/v1/accounts/{ACCOUNT}")
        if answer.status_code != 200:
            return
        standing, supply = answer.json()["standing"], answer.json()["supply"]
        balance = standing["available_minor"] / 100
        power = next((one["data"]["value"] for one in reversed(self._events) if one["data"].get("obis") == POWER), None)
        drawn = "" if power is None else f", drawing {float(power):.2f} kW"
        self.status = f"{TENANT}: balance {balance:.2f} yuan{drawn}, supply {'off' if supply['is_off'] else 'on'}"
        now = asyncio.get_running_loop().time()
        if power is not None and now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            used = standing.get("today_kwh")
            so_far = "" if used is None else f", {float(used):.2f} kWh today"
            self._say.tell(f"Balance {balance:.2f} yuan{so_far}{drawn}.", style="dim")

    def _new_messages(self) -> list[dict[str, Any]]:
        path = self._folder / MESSAGES
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read()
        end = whole.rfind(b"\n") + 1
        self._offset += end
        return [json.loads(line) for line in whole[:end].splitlines()]

    def _hear(self, line: dict[str, Any]) -> None:
        message = line["message"]
        self._messages.append(message)
        name = NAMES.get(message["kind"], "message")
        self._say.tell(f"{name.capitalize()} to {message['to']}, delivered ({line['reference']}):", style="yellow")
        self._say.quote(f"{message['title']}\n{message['text']}")

    async def _has_message(self, kind: str) -> bool:
        return any(one["kind"] == kind for one in self._messages)

    async def _command(self, kind: str, state: str = "") -> bool:
        found = self._newest(kind)
        return bool(found) and (not state or found["state"] == state)

    def _newest(self, kind: str) -> dict[str, Any]:
        """The newest step of the newest command of a kind, {} of none."""
        found: dict[str, Any] = {}
        for event in self._events:
            data = event["data"]
            if event["type"] == "headend.relay.v1" and data.get("about") == "command" and data["kind"] == kind:
                found = data
        return found

    async def _is_back(self) -> bool:
        return bool(self._back())

    def _back(self) -> dict[str, Any]:
        """How the episode ended, {} while it lasts."""
        ended = (one["data"] for one in self._events if one["type"] == "headend.account.v1" and "off_s" in one["data"])
        return next(ended, {})

    async def _look(self, what: str) -> None:
        """In the meter itself, now."""
        path = f"/v1/meters/{METER}/reads"
        answer = _good(await self._clients["reader"].post(path, json={"quantities": [POWER, CURRENT]}))
        shown = [f"{one['value']} {one['unit']}" for one in answer["reads"] if one.get("value") is not None]
        self._say.tell(f"{what}: the meter shows {' and '.join(shown) or 'nothing'}.")

    async def _dark(self) -> None:
        until = asyncio.get_running_loop().time() + self._pace.dark_s
        while asyncio.get_running_loop().time() < until:
            await self._follow()
            await asyncio.sleep(LOOK_S)

    async def _desk(self, amount: str, *, times: int = 1) -> None:
        """A process of its own, as payment channels are."""
        await headend(
            "payment-desk", "pay", ACCOUNT, amount, "--url", self._api, "--token", self._tokens["cashier"], "--times", str(times),
            command="meter-sim",
        )  # fmt: skip

    async def _why(self) -> str:
        """What stands in the way, as the head-end tells it."""
        told = [self.status]
        try:
            found = await self._clients["reader"].get(f"/v1/accounts/{ACCOUNT}/obstacles")
            told += found.json().get("obstacles", [])
            told += (await self._clients["reader"].get("/healthz")).json().get("problems", [])
        except (httpx.HTTPError, ValueError) as error:
            told.append(f"the head-end does not say why: {error or type(error).__name__}")
        return "; ".join(re.sub(r"\s+", " ", str(one)) for one in told)


def _good(answer: httpx.Response) -> dict[str, Any]:
    """Raises DemoFailed with the reason of a problem document."""
    if not answer.is_success:
        asked = f"{answer.request.method} {answer.request.url.path}"
        raise DemoFailed(f"{asked} was answered {answer.status_code}: {answer.text[:400]}")
    found: dict[str, Any] = answer.json()
    return found
