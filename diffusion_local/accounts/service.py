"""Accounts: sign-in, tokens and sessions. Passwords are hashed with argon2id; tokens and sessions (256 random bits) are
stored only as digests.

A sign-in takes as long for an unknown name as for a known one, and failures are counted in the database
(``check_password``). Without any account, everyone who reaches the server is the local admin; a server that others can
reach refuses to start like that (``system.network``).
"""

import ipaddress
import re
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from diffusion_local.accounts.store import QUOTA_COLUMNS, Account, AccountStore, Session, Token, actor_of
from diffusion_local.actor import SCOPES, Actor, Allowance, Role, Scope
from diffusion_local.authority import guarded
from diffusion_local.domain import utc_text
from diffusion_local.errors import Conflict, InvalidParams, LimitReached, NotFound, Unauthorized, echo
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.system.network import is_loopback, refusal_reason

ACCOUNT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
MIN_PASSWORD, MAX_PASSWORD = 8, 200  # password length in characters
TOKEN_PREFIX = "dl_"  # makes leaked tokens recognisable, and distinguishes tokens from passwords
WINDOW = 15 * 60.0  # seconds for which failed sign-ins count
MAX_FOR_BOTH, MAX_FOR_ADDRESS, MAX_FOR_ACCOUNT = 5, 20, 60
USE_UPDATE_SECONDS = 60.0  # minimum interval between updates of a session's or token's last use
AGENT_CHARS = 200
MOST_TOKENS = 100


@guarded("accounts")
class Accounts:
    """Account use cases, available as ``studio.accounts``. Interfaces check whether the actor may use them."""

    def __init__(self, settings: Settings, store: AccountStore) -> None:
        self._settings = settings
        self._store = store
        self._hasher = PasswordHasher(memory_cost=max(8, settings.password_memory_kb), parallelism=1)

    @property
    def store(self) -> AccountStore:
        return self._store

    # -- accounts --------------------------------------------------------------------------------------------------

    def any(self) -> bool:
        """Whether any account exists; if so, signing in is required."""
        return self._store.exists_any()

    def all(self) -> list[Account]:
        return self._store.list_all()

    def get(self, name: str) -> Account:
        return self._store.get(name)

    def add(self, name: str, password: str, role: str | None = None) -> Account:
        """Create an account; the first one is always an admin. Raises InvalidParams and Conflict."""
        name = check_name(name)
        chosen = parse_role(role) if role else (Role.USER if self._store.exists_any() else Role.ADMIN)
        self._store.add(name, chosen, self._hasher.hash(validate_password(password)))
        return self._store.get(name)

    def set_password(self, name: str, password: str, keep_session: str = "") -> None:
        """Set a password and end the account's other sessions, except ``keep_session``."""
        self._store.change(name, password=self._hasher.hash(validate_password(password)))
        self._store.end_sessions(name, keep_session)

    def set_role(self, name: str, role: str) -> None:
        self._store.change(name, role=str(parse_role(role)))

    def set_limits(self, name: str, **limits: int | None) -> Account:
        """Set limits of one account, named as in ``Allowance``: 0 is unlimited, None falls back to the settings."""
        for field, value in limits.items():
            if field not in QUOTA_COLUMNS or (value is not None and not 0 <= value <= 10**12):
                raise InvalidParams(field, message("not_negative"))
        if limits:
            self._store.change(name, **{QUOTA_COLUMNS[field]: value for field, value in limits.items()})
        return self._store.get(name)

    def remove(self, name: str) -> None:
        """Delete an account. Raises Conflict for the last one of a server that others can reach."""
        others = any(each.name != name for each in self._store.list_all())
        if reason := refusal_reason(self._settings, others):
            raise Conflict(message("last_account", reason=reason))
        self._store.remove(name)

    # -- signing in ------------------------------------------------------------------------------------------------

    def sign_in(
        self, name: str, password: str, address: str, agent: str, device: str = "", next_device: str = ""
    ) -> str:
        """Sign in; returns the new session's secret. Raises Unauthorized, and LimitReached after too many failures.

        ``device``: the browser's secret from its last sign-in; ``next_device``: the one that replaces it.
        """
        name = name.strip().lower()
        key = name if ACCOUNT_NAME.fullmatch(name) else "?"
        self.check_password(key, password, address, device)
        secret = secrets.token_urlsafe(32)
        self._store.add_session(key, digest(secret), address, agent[:AGENT_CHARS], self._expiry())
        following = digest(next_device) if next_device else ""
        self._store.sign_ins.remember(key, following, network_of(address), replaces=digest(device))
        return secret

    def check_password(self, name: str, password: str, address: str, device: str = "") -> None:
        """Check a password and count failures, without signing in. Raises as ``sign_in`` does.

        Guessing locks out the guesser and nobody else: failures count per account and network, per network, and per
        account. The last limit, which anyone can exhaust, applies only to networks from which the account has never
        signed in. A browser that has signed in before is recognised by its cookie and has its own counter, which
        nobody else can exhaust (OWASP's "Slow Down Online Guessing Attacks with Device Cookies").
        """
        place, browser = network_of(address), digest(device)
        by_browser, by_network = self._store.sign_ins.is_known(name, browser, place)
        if by_browser:
            own, shared = f"device {name} {browser}", {}
        else:
            own, shared = f"both {name} {place}", {f"address {place}": MAX_FOR_ADDRESS}
            if not (by_network or is_loopback(address)):
                shared[f"account {name}"] = MAX_FOR_ACCOUNT
        wait = self._store.sign_ins.count({own: MAX_FOR_BOTH, **shared}, time.time(), WINDOW)
        if wait:
            minutes = round(wait / 60) or 1
            raise LimitReached(message("sign_ins", minutes=minutes), round(wait))
        if not self._verify(name, password):
            raise Unauthorized(message("wrong_password"))
        self._store.sign_ins.forgive(own, [*shared])

    def _verify(self, name: str, password: str) -> bool:
        stored, other = self._store.password(name), self._dummy_hash
        try:
            # For an unknown name, check a dummy hash, which takes as long and never matches.
            self._hasher.verify(stored or other, password[: MAX_PASSWORD + 1])
        except (VerificationError, InvalidHashError):
            return False
        if stored is None:
            return False
        if self._hasher.check_needs_rehash(stored):
            self._store.change(name, password=self._hasher.hash(password))
        return True

    @cached_property
    def _dummy_hash(self) -> str:
        return self._hasher.hash(secrets.token_urlsafe(32))

    def _expiry(self) -> str:
        return utc_text(datetime.now(UTC) + timedelta(days=self._settings.session_days))

    def sessions(self, name: str) -> list[Session]:
        """The account's sessions, last used first."""
        return self._store.sessions(name)

    def sign_out(self, name: str, session_id: str = "", but: str = "") -> None:
        """End one session, all of them, or all but one."""
        if session_id:
            self._store.end_session(name, session_id)
        else:
            self._store.end_sessions(name, but)

    # -- tokens ----------------------------------------------------------------------------------------------------

    def add_token(self, name: str, token_name: str, scopes: list[str]) -> tuple[Token, str]:
        """Create a token; returns it with its secret, which is not stored. Raises InvalidParams for a scope outside the
        role.
        """
        owner = self._store.get(name)
        if not 1 <= len(token_name.strip()) <= 100 or not token_name.isprintable():
            raise InvalidParams("name", message("token_name"))
        known = {str(each) for each in SCOPES[owner.role]}
        for scope in scopes:
            if scope not in known:
                raise InvalidParams("scopes", message("scopes", scopes=sorted(known), role=owner.role, got=echo(scope)))
        if len(self._store.tokens(name)) >= MOST_TOKENS:
            raise Conflict(message("token_count", name=name, count=MOST_TOKENS))
        secret = new_secret()
        chosen = frozenset(Scope(each) for each in scopes) | {Scope.READ}
        return self._store.add_token(name, token_name.strip(), chosen, digest(secret)), secret

    def tokens(self, name: str) -> list[Token]:
        return self._store.tokens(name)

    def remove_token(self, name: str, token_id: str) -> None:
        self._store.remove_token(name, token_id)

    # -- who is it -------------------------------------------------------------------------------------------------

    def by_token(self, secret: str, account: str = "") -> Actor | None:
        """The actor of a token; ``account``, if given, must be its owner. None if it is unknown."""
        found = self._store.by_token(digest(secret))
        if found is None or (account and account.lower() != found[0].name):
            return None
        owner, token = found
        if token.used_at is None or is_stale(token.used_at):
            self._store.token_used(token.id)
        return replace(self._actor(owner, token.scopes, "token"), token=token.id)

    def by_link(self, name: str, token_id: str) -> Actor | None:
        """The actor of a signed address: the account with read scope, while it and the signing token exist."""
        try:
            owner = self._store.get(name)
        except NotFound:
            return None
        if token_id and all(each.id != token_id for each in self._store.tokens(name)):
            return None
        return self._actor(owner, frozenset({Scope.READ}), "link")

    def by_session(self, secret: str) -> tuple[Actor, Session] | None:
        """The actor and session of a session cookie, or None."""
        found = self._store.by_session(digest(secret))
        if found is None:
            return None
        owner, session = found
        if is_stale(session.used_at):
            self._store.session_used(session.id, self._expiry())
        return self._actor(owner, SCOPES[owner.role], "session"), session

    def allowance(self, name: str) -> Allowance:
        """The account's limits, with the settings' defaults filled in."""
        owner = self._store.get(name)
        return self._actor(owner, frozenset(), "local").allowance

    def used_today(self, name: str) -> int:
        return self._store.used_today(name)

    def _actor(self, owner: Account, scopes: frozenset[Scope], source: str) -> Actor:
        s = self._settings
        defaults = Allowance(s.user_max_queued, s.user_max_per_day, s.user_max_pixels)
        return actor_of(owner, scopes, source, s.share == "shared", defaults)


def new_secret() -> str:
    """Generate the secret of a new token."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """Digest of a secret. Secrets of 256 random bits need neither salt nor a slow hash."""
    return sha256(secret.encode("utf-8", "replace")).hexdigest()


def is_stale(moment: str) -> bool:
    """Whether a last-use time should be updated: it is old, or in the future because the clock was wrong."""
    now = datetime.now(UTC)
    return not utc_text(now - timedelta(seconds=USE_UPDATE_SECONDS)) <= moment <= utc_text(now)


def network_of(address: str) -> str:
    """The network under which failures are counted: an IPv4 address itself, the /64 of an IPv6 address."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "?"
    if isinstance(known, ipaddress.IPv6Address):
        if known.ipv4_mapped:
            return str(known.ipv4_mapped)
        return str(ipaddress.ip_network(f"{known}/64", strict=False).network_address)
    return str(known)


def check_name(name: str) -> str:
    if not ACCOUNT_NAME.fullmatch(name):
        raise InvalidParams("name", message("account_name"))
    return name


def validate_password(password: str) -> str:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidParams("password", message("characters", low=MIN_PASSWORD, high=MAX_PASSWORD))
    return password


def parse_role(role: str) -> Role:
    try:
        return Role(role)
    except ValueError:
        raise InvalidParams("role", message("one_of", known=list(Role), got=echo(role))) from None
