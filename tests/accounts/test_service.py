"""Accounts: passwords, tokens, sessions, and how a guesser is slowed down."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from diffusion_local.accounts import service as module
from diffusion_local.accounts import store
from diffusion_local.accounts.service import Accounts, network_of
from diffusion_local.accounts.store import KNOWN_DAYS, AccountStore
from diffusion_local.actor import Role, Scope
from diffusion_local.compose import Services
from diffusion_local.domain import utc_text
from diffusion_local.errors import Conflict, InvalidParams, LimitReached, NotFound, Unauthorized
from tests.support import refused, sql

PASSWORD = "correct horse"
PLACE = ("10.0.0.5", "a browser")


@pytest.fixture
def accounts(services: Services) -> Accounts:
    found = services.studio.accounts
    found.add("root", PASSWORD)
    found.add("ann", PASSWORD)
    return found


def test_the_first_account_is_an_admins_and_the_next_a_users(services: Services, accounts: Accounts) -> None:
    assert [(each.name, each.role) for each in accounts.all()] == [("ann", Role.USER), ("root", Role.ADMIN)]


def test_the_first_account_cannot_be_anything_else(services: Services) -> None:
    with refused(Conflict, "first_admin"):
        services.studio.accounts.add("ann", PASSWORD, "user")
    assert not services.studio.accounts.any()


@pytest.mark.parametrize("name", ["", "-ann", "Ann", "a" * 33, "a b", "ann\n", "<b>", "ann/..", "?", "ann\x1f"])
def test_a_name_is_plain(accounts: Accounts, name: str) -> None:
    with refused(InvalidParams, "account_name", field="name"):
        accounts.add(name, PASSWORD)


@pytest.mark.parametrize("password", ["", "short", "x" * 201])
def test_a_password_has_bounds(accounts: Accounts, password: str) -> None:
    with pytest.raises(InvalidParams, match="from 8 to 200"):
        accounts.add("bob", password)


def test_a_name_is_taken_once(accounts: Accounts) -> None:
    with refused(Conflict, "account_there"):
        accounts.add("ann", PASSWORD)


@pytest.mark.parametrize(
    "deed", [lambda a: a.remove("root"), lambda a: a.set_role("root", "user")], ids=["removed", "demoted"]
)
def test_the_last_admin_stays(accounts: Accounts, deed: Callable[[Accounts], None]) -> None:
    with refused(Conflict, "last_admin"):
        deed(accounts)
    assert accounts.get("root").role is Role.ADMIN
    accounts.add("second", PASSWORD, "admin")
    deed(accounts)


@pytest.mark.sqlite
def test_no_secret_is_in_the_database_or_beside_it(services: Services, accounts: Accounts) -> None:
    session = accounts.sign_in("ann", PASSWORD, *PLACE)
    _, token = accounts.add_token("ann", "script", ["submit"])
    files = [path for path in services.settings.home.rglob("*") if path.is_file()]
    assert services.settings.database_file in files
    for path in files:
        kept = path.read_bytes()
        for secret in (PASSWORD, session, token):
            assert secret.encode() not in kept, path.name


def test_a_password_is_kept_as_argon2id_and_hashed_anew_when_its_cost_changes(
    services: Services, accounts: Accounts
) -> None:
    before = accounts.store.password("ann")
    assert before
    assert before.startswith("$argon2id$")
    dearer = Accounts(replace(services.settings, password_memory_kb=16), accounts.store)
    dearer.sign_in("ann", PASSWORD, *PLACE)
    after = accounts.store.password("ann")
    assert after
    assert "m=16," in after
    assert "m=16," not in before
    assert dearer.sign_in("ann", PASSWORD, *PLACE)


def test_signing_in_gives_a_session_that_outlives_the_process(services: Services, accounts: Accounts) -> None:
    secret = accounts.sign_in(" Ann ", PASSWORD, *PLACE)
    another = Accounts(services.settings, AccountStore(services.database))
    found = another.by_session(secret)
    assert found
    assert found[0].name == "ann"
    assert found[0].source == "session"
    assert [(each.address, each.agent) for each in another.sessions("ann")] == [PLACE]


@pytest.mark.parametrize("secret", ["", "x", "a" * 43, "\ud800"])
def test_what_is_no_session_is_nobody(accounts: Accounts, secret: str) -> None:
    accounts.sign_in("ann", PASSWORD, *PLACE)
    assert accounts.by_session(secret) is None
    assert accounts.by_token(secret) is None


def test_a_session_ends_by_sign_out_by_time_and_by_a_new_password(services: Services, accounts: Accounts) -> None:
    one, two, three = (accounts.sign_in("ann", PASSWORD, *PLACE) for _ in range(3))
    session = accounts.by_session(one)
    assert session
    accounts.sign_out("ann", session[1].id)
    assert accounts.by_session(one) is None
    with sql(services.settings) as db:
        past = utc_text(datetime.now(UTC) - timedelta(seconds=1))
        db.execute("UPDATE sessions SET expires_at = ? WHERE digest = ?", [past, module.digest(two)])
    assert accounts.by_session(two) is None
    kept = accounts.by_session(three)
    assert kept
    four = accounts.sign_in("ann", PASSWORD, *PLACE)
    accounts.set_password("ann", "another horse", kept[1].id)
    assert accounts.by_session(three)
    assert accounts.by_session(four) is None
    with pytest.raises(Unauthorized):
        accounts.sign_in("ann", PASSWORD, *PLACE)


def test_nobody_ends_anothers_session_or_token(accounts: Accounts) -> None:
    secret = accounts.sign_in("ann", PASSWORD, *PLACE)
    token, token_secret = accounts.add_token("ann", "script", [])
    found = accounts.by_session(secret)
    assert found
    with pytest.raises(NotFound):
        accounts.sign_out("root", found[1].id)
    with pytest.raises(NotFound):
        accounts.remove_token("root", token.id)
    assert accounts.by_session(secret)
    assert accounts.by_token(token_secret)


def test_a_removed_account_is_gone_with_its_sessions_and_tokens(accounts: Accounts) -> None:
    session = accounts.sign_in("ann", PASSWORD, *PLACE)
    _, token = accounts.add_token("ann", "script", ["submit"])
    accounts.remove("ann")
    assert accounts.by_session(session) is None
    assert accounts.by_token(token) is None


def test_a_token_has_the_scopes_it_was_given_and_reads(accounts: Accounts) -> None:
    token, secret = accounts.add_token("ann", "script", ["submit"])
    who = accounts.by_token(secret)
    assert who
    assert who.scopes == {Scope.READ, Scope.SUBMIT}
    assert accounts.by_token(secret, "ann")
    assert accounts.by_token(secret, "ANN")
    assert accounts.by_token(secret, "root") is None
    assert accounts.tokens("ann")[0].used_at
    accounts.remove_token("ann", token.id)
    assert accounts.by_token(secret) is None


@pytest.mark.parametrize("scope", ["admin", "everything", ""])
def test_a_token_cannot_have_more_than_its_account(accounts: Accounts, scope: str) -> None:
    with refused(InvalidParams, "scopes", field="scopes"):
        accounts.add_token("ann", "script", [scope])


def test_a_token_loses_what_its_account_loses(accounts: Accounts) -> None:
    _, secret = accounts.add_token("root", "script", ["admin", "submit"])
    accounts.add("second", PASSWORD, "admin")
    accounts.set_role("root", "viewer")
    who = accounts.by_token(secret)
    assert who
    assert who.scopes == {Scope.READ}


def test_limits_are_the_settings_ones_or_the_accounts_own(services: Services, accounts: Accounts) -> None:
    limited = Accounts(replace(services.settings, user_max_queued=7, user_max_per_day=9), accounts.store)
    assert (limited.allowance("ann").queued, limited.allowance("ann").per_day) == (7, 9)
    assert limited.allowance("root").queued == 0
    limited.set_limits("ann", queued=0, pixels=1000)
    assert limited.allowance("ann") == replace(limited.allowance("ann"), queued=0, per_day=9, pixels=1000)
    limited.set_limits("ann", queued=None)
    assert limited.allowance("ann").queued == 7


# -- guessing ---------------------------------------------------------------------------------------------------------


def guess(accounts: Accounts, name: str = "ann", address: str = "10.0.0.9") -> None:
    with refused(Unauthorized, "wrong_password"):
        accounts.sign_in(name, "wrong password", address, "")


@pytest.mark.parametrize("name", ["ann", "nobody-of-this-name"])
def test_after_a_few_failures_one_waits_whether_the_account_exists_or_not(accounts: Accounts, name: str) -> None:
    for _ in range(module.MAX_FOR_BOTH):
        guess(accounts, name)
    with pytest.raises(LimitReached, match="Try again in 15 minutes") as error:
        accounts.sign_in(name, PASSWORD, "10.0.0.9", "")
    assert 0 < error.value.retry_after <= module.WINDOW
    if name == "ann":  # from her own machine she still comes in
        accounts.sign_in(name, PASSWORD, "10.0.0.5", "")


def test_an_address_that_tries_many_names_waits(accounts: Accounts) -> None:
    for number in range(module.MAX_FOR_ADDRESS):
        guess(accounts, f"name{number}")
    with pytest.raises(LimitReached):
        accounts.sign_in("root", PASSWORD, "10.0.0.9", "")


def attack(accounts: Accounts, name: str = "ann", count: int = module.MAX_FOR_ACCOUNT) -> None:
    """Guesses from so many addresses that only the count of the account itself sees them all."""
    for number in range(count):
        guess(accounts, name, f"10.{number // 200 + 1}.1.{number % 200}")


@pytest.mark.parametrize("name", ["ann", "nobody-of-this-name"])
def test_an_account_tried_from_many_addresses_is_closed_to_further_ones_for_a_while(
    accounts: Accounts, name: str
) -> None:
    attack(accounts, name)
    with pytest.raises(LimitReached):
        accounts.sign_in(name, PASSWORD, "10.0.0.5", "")


def test_guessing_from_everywhere_does_not_lock_out_the_owner(accounts: Accounts) -> None:
    accounts.sign_in("ann", PASSWORD, "10.0.0.5", "at home", next_device="phone")
    accounts.sign_in("ann", PASSWORD, "10.0.0.6", "a program without cookies")
    attack(accounts)
    with pytest.raises(LimitReached):
        accounts.sign_in("ann", PASSWORD, "10.0.0.77", "elsewhere")
    with pytest.raises(LimitReached):
        accounts.sign_in("ann", PASSWORD, "10.0.0.77", "elsewhere", device="made up")
    assert accounts.sign_in("ann", PASSWORD, "10.0.0.5", "another browser at home")
    assert accounts.sign_in("ann", PASSWORD, "10.0.0.6", "a program without cookies")
    assert accounts.sign_in("ann", PASSWORD, "10.0.0.77", "the phone, elsewhere", device="phone")
    assert accounts.sign_in("root", PASSWORD, "10.0.0.77", "another account")
    for local in ("127.0.0.1", "::1"):
        assert accounts.sign_in("ann", PASSWORD, local, "this machine")


def test_a_guesser_in_the_owners_own_network_does_not_lock_the_owners_browser(accounts: Accounts) -> None:
    accounts.sign_in("ann", PASSWORD, "10.0.0.9", "", next_device="one")
    for _ in range(module.MAX_FOR_BOTH):
        guess(accounts)
    for number in range(module.MAX_FOR_ADDRESS - module.MAX_FOR_BOTH):
        guess(accounts, f"name{number}")
    with pytest.raises(LimitReached):
        accounts.sign_in("ann", PASSWORD, "10.0.0.9", "")
    assert accounts.sign_in("ann", PASSWORD, "10.0.0.9", "", device="one", next_device="two")


def test_a_known_browser_has_a_limit_too_and_helps_for_its_own_account_only(accounts: Accounts) -> None:
    accounts.sign_in("ann", PASSWORD, "10.0.0.5", "", next_device="anns")
    for number in range(module.MAX_FOR_BOTH):
        with pytest.raises(Unauthorized):
            accounts.sign_in("ann", "wrong password", f"10.0.3.{number}", "", device="anns")
    with pytest.raises(LimitReached):
        accounts.sign_in("ann", PASSWORD, "10.0.3.99", "", device="anns")
    attack(accounts, "root")
    with pytest.raises(LimitReached):
        accounts.sign_in("root", PASSWORD, "10.0.3.99", "", device="anns")


def test_a_browser_gets_a_new_secret_at_each_sign_in_and_the_old_one_is_worth_nothing(accounts: Accounts) -> None:
    accounts.sign_in("ann", PASSWORD, "10.0.0.5", "", next_device="one")
    accounts.sign_in("ann", PASSWORD, "10.0.0.5", "", device="one", next_device="two")
    attack(accounts)
    with pytest.raises(LimitReached):
        accounts.sign_in("ann", PASSWORD, "10.0.0.77", "", device="one")
    assert accounts.sign_in("ann", PASSWORD, "10.0.0.77", "", device="two")


def test_a_browser_is_forgotten_after_its_time_and_with_its_account(services: Services, accounts: Accounts) -> None:
    accounts.sign_in("ann", PASSWORD, "10.0.0.5", "", next_device="phone")
    with sql(services.settings) as db:
        past = utc_text(datetime.now(UTC) - timedelta(days=KNOWN_DAYS, seconds=1))
        db.execute("UPDATE devices SET used_at = ?", [past])
    attack(accounts)
    with pytest.raises(LimitReached):
        accounts.sign_in("ann", PASSWORD, "10.0.0.5", "", device="phone")
    accounts.remove("ann")
    with sql(services.settings) as db:
        assert db.execute("SELECT count(*) FROM devices").fetchone()[0] == 0


def test_signing_in_to_ones_own_account_does_not_forgive_guesses_at_others(accounts: Accounts) -> None:
    with pytest.raises(LimitReached):  # noqa: PT012  # the loop is the attack
        for number in range(2 * module.MAX_FOR_ADDRESS):
            guess(accounts, f"name{number}")
            accounts.sign_in("ann", PASSWORD, "10.0.0.9", "")


def test_what_is_counted_is_bounded(services: Services, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_KEYS", 30)
    monkeypatch.setattr(store, "MAX_DEVICES", 4)
    attack(accounts, count=40)
    for number in range(10):
        accounts.sign_in("root", PASSWORD, f"10.9.9.{number}", "", next_device=f"device {number}")
    with sql(services.settings) as db:
        assert db.execute("SELECT count(*) FROM failed_logins").fetchone()[0] <= 30
        assert db.execute("SELECT count(*) FROM devices WHERE account = 'root'").fetchone()[0] == 4
    later = time.time() + module.WINDOW + 1
    monkeypatch.setattr(module.time, "time", lambda: later)
    guess(accounts)
    with sql(services.settings) as db:
        rows = [row[0] for row in db.execute("SELECT who FROM failed_logins")]
    assert sorted(rows) == ["account ann", "address 10.0.0.9", "both ann 10.0.0.9"]


def test_the_wait_ends_and_survives_a_restart(
    services: Services, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(module.MAX_FOR_BOTH):
        guess(accounts)
    again = Accounts(services.settings, AccountStore(services.database))
    with pytest.raises(LimitReached):
        again.sign_in("ann", PASSWORD, "10.0.0.9", "")
    later = time.time() + module.WINDOW + 1
    monkeypatch.setattr(module.time, "time", lambda: later)
    assert again.sign_in("ann", PASSWORD, "10.0.0.9", "")


def test_a_success_forgives_earlier_slips(accounts: Accounts) -> None:
    for _ in range(3):
        for _ in range(module.MAX_FOR_BOTH - 1):
            guess(accounts)
        accounts.sign_in("ann", PASSWORD, "10.0.0.9", "")


def test_a_whole_ipv6_network_is_one_guesser() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:10.0.0.9") == network_of("10.0.0.9")
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth1")
    assert network_of("a name") == "?"


def test_an_unknown_name_costs_a_hash_as_well(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    verify = type(accounts._hasher).verify

    def counting(hasher: object, stored: str, password: str) -> bool:
        checked.append(stored)
        return verify(hasher, stored, password)  # type: ignore[arg-type]

    monkeypatch.setattr(type(accounts._hasher), "verify", counting)
    guess(accounts, "nobody-of-this-name")
    guess(accounts, "not a name at all!")
    guess(accounts, "ann")
    assert len(checked) == 3
    assert len({stored.rpartition("$")[0].split("$")[3] for stored in checked}) == 1  # of the same cost


def test_a_session_that_began_while_the_clock_was_wrong_lasts_no_longer_than_others(
    services: Services, accounts: Accounts
) -> None:
    used, unused = accounts.sign_in("ann", PASSWORD, *PLACE), accounts.sign_in("ann", PASSWORD, *PLACE)
    ahead = utc_text(datetime.now(UTC) + timedelta(days=90 + services.settings.session_days))
    with sql(services.settings) as db:
        db.execute("UPDATE sessions SET used_at = :at, expires_at = :at", {"at": ahead})
    assert accounts.by_session(used) is not None
    longest = utc_text(datetime.now(UTC) + timedelta(days=services.settings.session_days, minutes=1))
    assert sorted(each.expires_at < longest for each in accounts.sessions("ann")) == [False, True]
    accounts.sign_in("root", PASSWORD, *PLACE)
    assert all(each.expires_at < longest for each in accounts.sessions("ann"))
    assert accounts.by_session(unused) is not None
