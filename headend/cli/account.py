"""`headend account …`: prepaid accounts through the running head-end. The commands are the table in `account_verbs`."""

import inspect
import re
import sys
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from headend.cli.account_verbs import REQUIRED, TARIFF_VERBS, VERBS, Kind, Place, Typed, Verb
from headend.cli.client import ConfigOption, TokenOption, UrlOption, any_body, calling, path_part, refuse
from headend.cli.output import ExitCode, fail, moment_of, print_json, stderr, stdout
from headend.cli.relay_answers import Json
from headend.prepayment.money import MINOR_DIGITS, exact_minor

if TYPE_CHECKING:
    import httpx

__all__ = ["register"]

_AMOUNT = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,6})?")
_KWH = re.compile(r"([0-9A-Za-z:.\-*]+)=([0-9]{1,9}(?:\.[0-9]{1,6})?)")
_MONTH = re.compile(r"[0-9]{4}-[01][0-9]")
_COMMON: dict[str, Any] = {"config": ConfigOption, "url": UrlOption, "token": TokenOption, "json": Json}
_TYPES: dict[Kind, Any] = {Kind.MANY: list[str], Kind.USES: list[str], Kind.YES: bool, Kind.COUNT: int}


def register(app: typer.Typer) -> None:
    account = typer.Typer(
        help="Prepaid accounts, through the running head-end. Amounts are typed as 12.34 of the account's currency. Exit codes: "
        "0 done; 2 usage, or refused by the head-end; 3 no answer, or not now.",
        no_args_is_help=True,
    )
    for verb in VERBS:
        account.command(verb.name)(_command(verb))
    tariffs = typer.Typer(
        help="Tariffs: which there are, what they say, whether a file would be one.", no_args_is_help=True
    )
    for verb in TARIFF_VERBS:
        tariffs.command(verb.name)(_command(verb))
    tariffs.command("check")(check_command)
    account.add_typer(tariffs, name="tariffs")
    app.add_typer(account, name="account")


def check_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tariff file.")],
    language: Annotated[str, typer.Option(help="en or zh.")] = "en",
    json: Json = False,
) -> None:
    """Whether a file is a tariff, and what it says in words. Needs no head-end. Exit code 0: it is; 2: it has problems."""
    # Here: the other commands should not wait for them to load.
    from headend.prepayment.tariffs.tariff_file import check_tariff
    from headend.prepayment.tariffs.words import explain

    if language not in ("en", "zh"):
        fail(f"--language is {language!r}; expected en or zh")
    tariff, problems = check_tariff(file)
    told = [str(problem) for problem in problems]
    words = [] if tariff is None else explain(tariff, language)
    if json:
        name, version = ("", "") if tariff is None else (tariff.name, tariff.version)
        print_json({"name": name, "version": version, "problems": told, "words": words})
    else:
        for line in words:
            stdout.print(line, markup=False)
        for line in told:
            stderr.print(line, markup=False)
    raise typer.Exit(ExitCode.USAGE if tariff is None else ExitCode.GOOD)


# ------------------------------------------------------------------------------------------------ from the table


def _command(verb: Verb) -> Callable[..., None]:
    """A function with the parameters of the table, as typer wants it."""

    def command(**given: Any) -> None:
        _run(verb, given)

    hints = {_python(one): _hint(one) for one in verb.typed}
    taken = {name: hint for name, hint in _COMMON.items() if name not in hints}
    parameters = [_parameter(_python(one), hints[_python(one)], one.default) for one in verb.typed]
    parameters += [_parameter(name, hint, False if name == "json" else None) for name, hint in taken.items()]
    parameters.sort(key=lambda one: one.default is not inspect.Parameter.empty)
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = verb.says
    return command


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if default is REQUIRED else default
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=hint)


def _hint(one: Typed) -> Any:
    type_ = _TYPES.get(one.kind, str)
    if one.default is None:
        type_ = type_ | None
    metavar = None if one.kind in (Kind.YES, Kind.COUNT) else one.kind.value.rstrip("…")
    if one.is_option:
        return Annotated[type_, typer.Option(f"--{one.name}", metavar=metavar, help=one.help)]
    return Annotated[type_, typer.Argument(metavar=one.name.upper(), help=one.help)]


def _python(one: Typed) -> str:
    """`from` and the like are words of the language."""
    return one.name.replace("-", "_") + ("_" if one.name in ("from", "token", "url", "config", "json") else "")


def _run(verb: Verb, given: Mapping[str, Any]) -> None:
    with calling(given["config"], given["url"], given["token"]) as client:
        request = _request(verb, given, client)
        answer = client.request(verb.method, request["path"], params=request["query"], json=request["body"] or None)
        if verb.name == "pay" and answer.status_code in (409, 422) and given["paid_at"] is None:
            answer = _again(client, request["body"]) or answer
        body = _body(answer, verb.expected)
    if given["json"]:
        print_json(body)
    else:
        verb.show(body)


def _request(verb: Verb, given: Mapping[str, Any], client: "httpx.Client") -> dict[str, Any]:
    path: dict[str, str] = {}
    query: dict[str, Any] = {}
    body: dict[str, Any] = {}
    for one in verb.typed:
        text = given[_python(one)]
        if one.kind is Kind.MONEY:
            currency = given.get("currency") or _currency_of(client, given["account"])
            value: Any = _minor(one.name, text, currency)
            if verb.name == "pay":
                body["currency"] = currency
        else:
            value = _value(one, text)
        key = one.key or one.name
        if one.place is Place.PATH:
            path[one.name] = path_part(path_part(value)) if "/" in value else path_part(value)
        elif one.place is Place.QUERY and value not in ("", None):
            query[key] = value
        elif one.place is Place.BODY and value is not None:
            body[key] = value
    return {"path": verb.path.format(**path), "query": query, "body": body}


def _again(client: "httpx.Client", told: Mapping[str, Any]) -> "httpx.Response | None":
    """A receipt that is known, typed without its time: the answer to the payment as it is known, if all that was typed is its own."""
    typed = {name: value for name, value in told.items() if name != "paid_at"}
    for path in (f"/v1/accounts/{path_part(told['account'])}/payments", "/v1/payments/unmatched"):
        answer = client.get(path)
        known = answer.json()["payments"] if answer.is_success else []
        for one in known:
            if {name: one[name] for name in typed} == typed:
                return client.post("/v1/payments", json=typed | {"paid_at": one["paid_at"]})
    return None


# ------------------------------------------------------------------------------------------------ values


def _value(one: Typed, text: Any) -> Any:
    if one.kind is Kind.SECRET:
        return text if text is not None else _secret(one.name)
    if one.kind is Kind.MOMENT:
        return _moment(one.name, text)
    if one.kind is Kind.KEY:
        return text or f"cli-{uuid.uuid4().hex}"
    if one.kind is Kind.USES:
        return _uses(text)
    if one.kind is Kind.DAY and text:
        return _day(one.name, text)
    if one.kind is Kind.MONTH and text and not _MONTH.fullmatch(text):
        fail(f"{one.name} is {text!r}; expected a month such as 2026-11")
    return text


def _minor(name: str, text: str, currency: str) -> int:
    """What was typed in the main unit, in minor units."""
    if currency not in MINOR_DIGITS:
        fail(f"--currency is {currency!r}; expected one of {', '.join(MINOR_DIGITS)}")
    exact = exact_minor(Decimal(text), currency) if _AMOUNT.fullmatch(text) else None
    if exact is None or exact % 1:
        digits = MINOR_DIGITS[currency]
        example = "12" if not digits else "12." + "34567"[:digits]
        fail(
            f"--{name} is {text!r}; expected an amount of {currency} such as {example}, no finer than its smallest coin"
        )
    return int(exact)


def _currency_of(client: "httpx.Client", account: str) -> str:
    body = _body(client.get(f"/v1/accounts/{path_part(account)}"), "currency")
    return str(body["currency"])


def _day(name: str, text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        fail(f"{name} is {text!r}; expected a local day such as 2026-11-21")


def _moment(name: str, text: str | None) -> str:
    return (datetime.now(UTC) if text is None else moment_of(f"--{name}", text)).isoformat()


def _uses(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        match = _KWH.fullmatch(text)
        if match is None:
            fail(f"{text!r}; expected OBIS=KWH such as 1-0:1.8.0=12.5")
        found[match[1]] = match[2]
    return found


def _secret(name: str) -> str:
    """Not on the command line, where others on the machine can read it."""
    if sys.stdin.isatty():
        return str(typer.prompt(name, hide_input=True, err=True))
    text = sys.stdin.readline().strip()
    if not text:
        fail(f"no {name}: give --{name}, or a line of standard input with it")
    return text


# ------------------------------------------------------------------------------------------------ answers


def _body(answer: "httpx.Response", expected: str) -> dict[str, Any]:
    body = any_body(answer)
    if not answer.is_success or expected not in body:
        _refuse(answer, body)
    return body


def _refuse(answer: "httpx.Response", body: dict[str, Any]) -> NoReturn:
    if answer.status_code == 503 and body.get("next_step"):
        fail(f"not now: {body.get('detail', '')} {body['next_step']}", ExitCode.SILENT)
    refuse(answer, body)
