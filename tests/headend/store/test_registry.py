"""Registered meters and tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headend.errors import TokenError
from headend.model import MeterRecord
from headend.store import Role, Store, Tokens
from tests.headend.support import StillClock, new_store, store_url

pytestmark = pytest.mark.both_databases


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def tokens(store: Store) -> Tokens:
    return Tokens(store, StillClock())


def meter(number: int, line: str = "transformer-12") -> MeterRecord:
    return MeterRecord(
        id=f"M{number:06d}",
        line=line,
        address=f"{number:012d}",
        contract="dlt645/base_2007",
        plan="residential",
        protocol="dlt645",
    )


def test_meters_are_added_changed_listed_and_removed(store: Store) -> None:
    store.upsert_meters(meter(number) for number in range(1, 1202))
    store.upsert_meters([meter(5, line="moved"), meter(1300)])
    assert store.meter("M000005") == meter(5, line="moved")
    assert store.meter("M000006") == meter(6)
    assert store.meter("M009999") is None
    assert len(store.meters()) == 1202
    assert [record.id for record in store.meters(after="M001199", limit=2)] == ["M001200", "M001201"]
    assert store.delete_meters(["M001300", "M001300", "M009999"]) == 1
    assert store.meter("M001300") is None


def test_a_token_is_known_in_every_process_at_once_and_stored_only_as_a_digest(tokens: Tokens, tmp_path: Path) -> None:
    service = Tokens(Store(store_url(tmp_path), "x"), StillClock())
    plain = tokens.create_token("billing", ["read", Role.OPERATE])
    assert plain.startswith("hdt_")
    assert len(plain) == 4 + 43
    found = service.find_token(plain)
    assert found is not None
    assert (found.name, found.roles) == ("billing", frozenset({Role.READ, Role.OPERATE}))
    for file in tmp_path.iterdir():
        assert plain[4:].encode() not in file.read_bytes()
    tokens.revoke_token("billing")
    assert service.find_token(plain) is None
    [listed] = tokens.list_tokens()
    assert listed.revoked_at is not None


def test_tokens_that_do_not_exist_are_not_found(tokens: Tokens) -> None:
    assert tokens.find_token("hdt_") is None
    assert tokens.find_token("") is None


@pytest.mark.parametrize(("name", "roles"), [("a", []), ("a", ["root"]), ("", ["read"]), ("a\n", ["read"])])
def test_wrong_names_and_roles_are_refused(tokens: Tokens, name: str, roles: list[str]) -> None:
    with pytest.raises(TokenError, match="found"):
        tokens.create_token(name, roles)


def test_a_name_is_used_once(tokens: Tokens) -> None:
    tokens.create_token("desk", ["cashier"])
    tokens.revoke_token("desk")
    for action in (lambda: tokens.create_token("desk", ["cashier"]), lambda: tokens.revoke_token("desk")):
        with pytest.raises(TokenError, match="desk"):
            action()


def test_admin_allows_all_but_never_disconnecting_and_approving_at_once(tokens: Tokens) -> None:
    admin = tokens.find_token(tokens.create_token("root", ["admin"]))
    both = tokens.find_token(tokens.create_token("both", ["disconnect", "approve"]))
    desk = tokens.find_token(tokens.create_token("desk", ["cashier"]))
    assert admin is not None
    assert both is not None
    assert desk is not None
    assert all(admin.allows(role) for role in Role if role not in (Role.CUSTOMER, Role.ACCOUNT_EVENTS))
    assert not admin.allows(Role.CUSTOMER)
    assert not admin.allows(Role.READ, Role.ACCOUNT_EVENTS)
    assert not admin.allows(Role.DISCONNECT, Role.APPROVE)
    assert both.allows(Role.DISCONNECT)
    assert not both.allows(Role.DISCONNECT, Role.APPROVE)
    assert desk.allows(Role.CASHIER)
    assert not desk.allows(Role.READ)
    assert not desk.allows(Role.READ, Role.CASHIER)


def test_a_token_of_a_customer_has_an_account_and_no_other_role(tokens: Tokens) -> None:
    customer = tokens.find_token(tokens.create_token("li", ["customer"], account="A1"))
    assert customer is not None
    assert (customer.account, customer.roles) == ("A1", frozenset({Role.CUSTOMER}))
    assert [role for role in Role if customer.allows(role)] == [Role.CUSTOMER]
    assert [token.account for token in tokens.list_tokens()] == ["A1"]


@pytest.mark.parametrize(
    ("roles", "account"), [(["customer"], ""), (["read"], "A1"), (["customer", "read"], "A1"), (["customer"], "A\n")]
)
def test_a_customer_without_an_account_or_with_more_is_refused(tokens: Tokens, roles: list[str], account: str) -> None:
    with pytest.raises(TokenError, match=r"account|role"):
        tokens.create_token("li", roles, account=account)
    assert tokens.list_tokens() == []


def test_a_part_of_the_process_has_a_token_that_no_store_and_no_other_process_knows(
    tokens: Tokens, tmp_path: Path
) -> None:
    plain = tokens.issue_inside("prepaid-supply", [Role.READ, Role.DISCONNECT, Role.ACCOUNT_EVENTS])
    found = tokens.find_token(plain)
    assert found is not None
    assert found.name == "inside:prepaid-supply"
    assert found.allows(Role.DISCONNECT, Role.ACCOUNT_EVENTS)
    assert not found.allows(Role.APPROVE)
    assert Tokens(Store(store_url(tmp_path), "x"), StillClock()).find_token(plain) is None
    assert tokens.list_tokens() == []


@pytest.mark.parametrize("role", [Role.APPROVE, Role.ADMIN, Role.CUSTOMER, Role.CASHIER])
def test_a_part_of_the_process_never_approves(tokens: Tokens, role: Role) -> None:
    with pytest.raises(TokenError, match="no other"):
        tokens.issue_inside("prepaid-supply", [Role.READ, role])


def test_nobody_else_gets_the_role_or_the_name_of_a_part_of_the_process(tokens: Tokens) -> None:
    with pytest.raises(TokenError, match="account-events"):
        tokens.create_token("billing", ["account-events"])
    with pytest.raises(TokenError, match="inside:"):
        tokens.create_token("inside:prepaid-supply", ["disconnect"])
