"""What stands in `data` of `headend.account.v1`, in the style of `headend.feed.payloads`. Prepaid supply tells these events."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from headend.feed.payloads import Moment
from headend.feed.schema_gate import OPEN_WORDS

__all__ = ["ACCOUNT_TYPE", "CAUSES", "STATES", "AccountData"]

ACCOUNT_TYPE = "headend.account.v1"
STATES = ("well", "low", "used-up", "warned", "ordered", "disconnected", "paid")
CAUSES = (
    "ran-low",
    "ran-out",
    "warned",
    "ordered",
    "order-ended",
    "went-off",
    "put-right",
    "came-back",
    "lapsed",
    "stale",
    "reversed",
)


def _words(*words: str) -> Meta:
    return Meta(extra_json_schema={OPEN_WORDS: list(words)})


class AccountData(Struct, frozen=True, kw_only=True):
    """Something happened to a prepaid account; `about` says what. Skip what you do not know.

    `supply-episode`: it came a step further between running low and being well again; docs/prepayment-notices.md has the steps.
    """

    about: Annotated[str, _words("supply-episode")]
    account: Annotated[str, Meta(description="id of the account")]
    at: Annotated[Moment, Meta(description="prepaid supply's clock")]
    state: Annotated[str, _words(*STATES), Meta(description="of a supply episode: where it is now")] | UnsetType = UNSET
    because: Annotated[str, _words(*CAUSES), Meta(description="what brought it there")] | UnsetType = UNSET
    episode: Annotated[int, Meta(ge=1, description="of this account, counts up")] | UnsetType = UNSET
    balance_minor: Annotated[int, Meta(description="in minor units of `currency`")] | UnsetType = UNSET
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] | UnsetType = UNSET
    off_s: (
        Annotated[int, Meta(description="of a supply that came back: for how many seconds it was off")] | UnsetType
    ) = UNSET
    back_after_s: (
        Annotated[int, Meta(description="of a supply that came back: so many seconds after the payment's own stamp")]
        | UnsetType
    ) = UNSET
