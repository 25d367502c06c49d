"""Prepaid accounts over HTTP: looking at them. What changes them is in `account_changes`, what they pay in `payment_routes`.

A customer's token sees its own account; which role may do what stands in `docs/accounts.md`.
"""

from datetime import timedelta
from typing import Annotated, Any

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from headend.api.account_access import LOOK, OWN, seen_by_customer
from headend.api.account_shapes import (
    AccountPage,
    AccountShape,
    Changes,
    Obstacles,
    account_row,
    account_shape,
    change_shapes,
)
from headend.api.parameters import day_of_text, month_of_text, refuse_unknown
from headend.api.payment_shapes import Payments, payments_shape
from headend.api.prepaid import Prepaid
from headend.api.problems import problem
from headend.api.shaping import shaped
from headend.api.usage_shapes import (
    Daily,
    Debits,
    DebitShape,
    Entries,
    Landlord,
    LetterShape,
    Notices,
    StatementShape,
    comparison_shape,
    day_shape,
    entry_shape,
    landlord_shape,
    statement_shape,
)
from headend.prepayment.office.input import LISTED_MAX
from headend.prepayment.office.office import DAILY_DAYS_MAX

__all__ = ["account_routes"]

LIMIT_MAX = 200


def account_routes(supply: Prepaid) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""
    office = supply.office

    @get("/v1/accounts", **LOOK)
    async def list_accounts(
        request: Request[Any, Any, Any],
        search: Annotated[str, QueryParameter(description="Account, name, phone, meter or premises.")] = "",
        after: Annotated[str, QueryParameter(description="Id of the last account you have.")] = "",
        limit: Annotated[int, QueryParameter(description="Accounts at most, 1 to 200.")] = 50,
    ) -> AccountPage:
        """Accounts by id; those that the search finds, or all."""
        refuse_unknown(request, "search", "after", "limit")
        _check_limit(limit, LIMIT_MAX)
        words = " ".join(search.split())  # also where a wide space was typed
        found = await supply.ask(office.search, words, after=after, limit=limit)
        return AccountPage([account_row(one) for one in found], found[-1].account.id if len(found) == limit else "")

    @get("/v1/accounts/{account:str}", **OWN)
    async def one_account(request: Request[Any, Any, Any], account: FromPath[str]) -> AccountShape:
        """An account in one look."""
        refuse_unknown(request)
        by_customer = seen_by_customer(request, account)
        return account_shape(await supply.ask(office.card, account), is_customer=by_customer)

    @get("/v1/accounts/{account:str}/obstacles", **LOOK)
    async def obstacles(request: Request[Any, Any, Any], account: FromPath[str]) -> Obstacles:
        """Why the supply would not be disconnected now, one sentence each."""
        refuse_unknown(request)
        return Obstacles(list(await supply.ask(office.why_not, account)))

    @get("/v1/accounts/{account:str}/changes", **LOOK)
    async def changes(
        request: Request[Any, Any, Any],
        account: FromPath[str],
        limit: Annotated[int, QueryParameter(description="Changes at most, 1 to 1000.")] = 200,
    ) -> Changes:
        """Who changed what, and when; the newest first."""
        refuse_unknown(request, "limit")
        _check_limit(limit, LISTED_MAX)
        return Changes(change_shapes(await supply.ask(office.changes, account, limit=limit)))

    @get("/v1/accounts/{account:str}/statement", **OWN)
    async def one_statement(
        request: Request[Any, Any, Any],
        account: FromPath[str],
        month: Annotated[str, QueryParameter(description="2026-03; the newest by default.")] = "",
    ) -> StatementShape:
        """The statement of a month. It is made once, when the month is over."""
        by_customer = seen_by_customer(request, account)
        refuse_unknown(request, "month")
        first = month_of_text(month) if month else None
        months = await supply.ask(office.statements, account)
        wanted = first or (month_of_text(months[0]) if months else None)
        found = None if wanted is None else await supply.ask(office.statement, account, wanted)
        if found is None:
            raise problem(
                404,
                f"There is no statement of account {account!r}{f' for {month}' if month else ''}; "
                f"there are those of {', '.join(months) or 'no month'}.",
                next_step="A statement is made on the 1st, when the month's days are charged, and by the 5th in any case.",
            )
        return statement_shape(found, months, is_customer=by_customer)

    @get("/v1/accounts/{account:str}/daily", **OWN)
    async def daily(
        request: Request[Any, Any, Any],
        account: FromPath[str],
        since: Annotated[
            str,
            QueryParameter(name="from", description="First local day, 2026-03-01; the 1st of last month by default."),
        ] = "",
        until: Annotated[str, QueryParameter(description="The day behind the last one; tomorrow by default.")] = "",
    ) -> Daily:
        """What was used day by day and what it cost; and this month beside the last one."""
        seen_by_customer(request, account)
        refuse_unknown(request, "from", "until")
        today = request.app.state.deps.clock.now().astimezone(supply.zone).date()
        last = day_of_text("until", until) if until else today + timedelta(days=1)
        first = day_of_text("from", since) if since else (last.replace(day=1) - timedelta(days=1)).replace(day=1)
        if not 0 <= (last - first).days <= DAILY_DAYS_MAX:
            raise problem(400, f"from {first} until {last}; expected 0 to {DAILY_DAYS_MAX} days.")
        own = await supply.ask(office.account, account)
        days = await supply.ask(office.daily, account, first, last)
        compared = await supply.ask(office.comparison, account)
        return Daily(
            since=first,
            until=last,
            currency=own.currency,
            days=[day_shape(use) for use in days],
            comparison=comparison_shape(compared),
        )

    @get("/v1/accounts/{account:str}/notices", **OWN)
    async def notices(
        request: Request[Any, Any, Any],
        account: FromPath[str],
        limit: Annotated[int, QueryParameter(description="Messages at most, 1 to 1000.")] = 200,
    ) -> Notices:
        """What the customer was told, and the proof that it arrived; the newest first."""
        seen_by_customer(request, account)
        refuse_unknown(request, "limit")
        _check_limit(limit, LISTED_MAX)
        letters = await supply.ask(office.letters, account, limit=limit)
        return Notices([shaped(LetterShape, letter) for letter in letters])

    @get("/v1/accounts/{account:str}/payments", **OWN)
    async def payments(request: Request[Any, Any, Any], account: FromPath[str]) -> Payments:
        """What was paid for this account, and what it earned; the newest last."""
        refuse_unknown(request)
        by_customer = seen_by_customer(request, account)
        found = await supply.ask(office.payments, account)
        awards = await supply.ask(office.awards, account)
        return payments_shape(found, awards, is_customer=by_customer)

    @get("/v1/accounts/{account:str}/debits", **OWN)
    async def debits(request: Request[Any, Any, Any], account: FromPath[str]) -> Debits:
        """What the bank was asked to draw; the newest last."""
        refuse_unknown(request)
        seen_by_customer(request, account)
        found = await supply.ask(office.debits, account)
        own = await supply.ask(office.account, account)
        return Debits(currency=own.currency, debits=[shaped(DebitShape, one) for one in found])

    @get("/v1/accounts/{account:str}/entries", **LOOK)
    async def entries(
        request: Request[Any, Any, Any],
        account: FromPath[str],
        limit: Annotated[int, QueryParameter(description="Entries at most, 1 to 1000.")] = 200,
    ) -> Entries:
        """The account's book: the newest entries, by number."""
        refuse_unknown(request, "limit")
        _check_limit(limit, LISTED_MAX)
        found = await supply.ask(office.entries, account, limit=limit)
        return Entries([entry_shape(number, entry, moved) for number, entry, moved in found])

    @get("/v1/landlords/{customer:str}/accounts", **LOOK)
    async def landlord(request: Request[Any, Any, Any], customer: FromPath[str]) -> Landlord:
        """What a landlord may know of the tenants' accounts: totals, no names and no payments."""
        refuse_unknown(request)
        return landlord_shape(customer, await supply.ask(office.landlord, customer))

    return (
        list_accounts,
        one_account,
        obstacles,
        changes,
        one_statement,
        daily,
        notices,
        payments,
        debits,
        entries,
        landlord,
    )


def _check_limit(limit: int, most: int) -> None:
    if not 1 <= limit <= most:
        raise problem(400, f"limit must be 1 to {most}, found {limit}.")
