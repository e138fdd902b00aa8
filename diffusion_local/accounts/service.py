"""Accounts: who may come in. Passwords by argon2id; tokens and sessions are 256 random bits, of which a digest is kept.

A sign-in takes as long for a name that does not exist as for one that does, and failed ones are counted in the table
(``check_password``). While there is no account, everybody who reaches the server is the machine's own
person; a server that others can reach does not start that way (``exposure``).
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

from diffusion_local.accounts.store import LIMITS, Account, AccountStore, Session, Token, actor_of
from diffusion_local.actor import SCOPES, Actor, Allowance, Role, Scope
from diffusion_local.authority import guarded
from diffusion_local.domain import utc_text
from diffusion_local.errors import Conflict, InvalidParams, LimitReached, NotFound, Unauthorized, echo
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.system.network import closed, is_loopback

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
SHORTEST, LONGEST = 8, 200  # characters of a password
TOKEN_PREFIX = "dl_"  # so that a leaked token can be found, and told from a password
WINDOW = 15 * 60.0  # seconds for which failed sign-ins count
MOST_FOR_BOTH, MOST_FOR_ADDRESS, MOST_FOR_ACCOUNT = 5, 20, 60
SEEN_SECONDS = 60.0  # between two writes of when a session or token was used
AGENT_CHARS = 200
MOST_TOKENS = 100


@guarded("accounts")
class Accounts:
    """Part of the Studio, as ``studio.accounts``. Whether whoever acts may do it is for the door to know."""

    def __init__(self, settings: Settings, store: AccountStore) -> None:
        self._settings = settings
        self._store = store
        self._hasher = PasswordHasher(memory_cost=max(8, settings.password_memory_kb), parallelism=1)

    @property
    def store(self) -> AccountStore:
        return self._store

    # -- accounts --------------------------------------------------------------------------------------------------

    def any(self) -> bool:
        """Whether there is an account, so that one must sign in."""
        return self._store.any()

    def all(self) -> list[Account]:
        return self._store.all()

    def get(self, name: str) -> Account:
        return self._store.get(name)

    def add(self, name: str, password: str, role: str | None = None) -> Account:
        """A new account; the first one is an admin's. Raises InvalidParams and Conflict."""
        name = checked_name(name)
        chosen = known_role(role) if role else (Role.USER if self._store.any() else Role.ADMIN)
        self._store.add(name, chosen, self._hasher.hash(checked_password(password)))
        return self._store.get(name)

    def set_password(self, name: str, password: str, keep_session: str = "") -> None:
        """A new password; signs the account out, but for one session."""
        self._store.change(name, password=self._hasher.hash(checked_password(password)))
        self._store.end_sessions(name, keep_session)

    def set_role(self, name: str, role: str) -> None:
        self._store.change(name, role=str(known_role(role)))

    def set_limits(self, name: str, **limits: int | None) -> Account:
        """Limits of one account, by the names of ``Allowance``; 0 is without one, None as the settings say."""
        for field, value in limits.items():
            if field not in LIMITS or (value is not None and not 0 <= value <= 10**12):
                raise InvalidParams(field, message("not_negative"))
        self._store.change(name, **{LIMITS[field]: value for field, value in limits.items()})
        return self._store.get(name)

    def remove(self, name: str) -> None:
        """Raises Conflict for the last account of a server that others can reach."""
        others = any(each.name != name for each in self._store.all())
        if reason := closed(self._settings, others):
            raise Conflict(message("last_account", reason=reason))
        self._store.remove(name)

    # -- signing in ------------------------------------------------------------------------------------------------

    def sign_in(
        self, name: str, password: str, address: str, agent: str, device: str = "", next_device: str = ""
    ) -> str:
        """A new session's secret. Raises Unauthorized, and LimitReached after too many failed ones.

        ``device`` is the secret that this browser was given when it signed in last, ``next_device`` the one it is
        given now in its place.
        """
        name = name.strip().lower()
        key = name if NAME.fullmatch(name) else "?"
        self.check_password(key, password, address, device)
        secret = secrets.token_urlsafe(32)
        self._store.add_session(key, digest(secret), address, agent[:AGENT_CHARS], self._expiry())
        following = digest(next_device) if next_device else ""
        self._store.sign_ins.remember(key, following, network(address), instead=digest(device))
        return secret

    def check_password(self, name: str, password: str, address: str, device: str = "") -> None:
        """As ``sign_in`` does, without signing in.

        Guessing locks the guesser, and nobody else: failures count by account and network, by network, and by account.
        The last limit, which anybody on the internet can use up, holds for networks from which the account has not
        signed in before. A browser that has signed in is told by its cookie, and has a count of its own that nobody
        else can use up (the device cookies of OWASP's "Slow Down Online Guessing Attacks with Device Cookies").
        """
        place, browser = network(address), digest(device)
        by_browser, by_network = self._store.sign_ins.known(name, browser, place)
        if by_browser:
            own, shared = f"device {name} {browser}", {}
        else:
            own, shared = f"both {name} {place}", {f"address {place}": MOST_FOR_ADDRESS}
            if not (by_network or is_loopback(address)):
                shared[f"account {name}"] = MOST_FOR_ACCOUNT
        wait = self._store.sign_ins.count({own: MOST_FOR_BOTH, **shared}, time.time(), WINDOW)
        if wait:
            minutes = round(wait / 60) or 1
            raise LimitReached(message("sign_ins", minutes=minutes), round(wait))
        if not self._verify(name, password):
            raise Unauthorized(message("wrong_password"))
        self._store.sign_ins.forgive(own, [*shared])

    def _verify(self, name: str, password: str) -> bool:
        stored, other = self._store.password(name), self._nobodys
        try:
            # Of an unknown name some other hash is checked: it takes as long, and never fits.
            self._hasher.verify(stored or other, password[: LONGEST + 1])
        except (VerificationError, InvalidHashError):
            return False
        if stored is None:
            return False
        if self._hasher.check_needs_rehash(stored):
            self._store.change(name, password=self._hasher.hash(password))
        return True

    @cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash(secrets.token_urlsafe(32))

    def _expiry(self) -> str:
        return utc_text(datetime.now(UTC) + timedelta(days=self._settings.session_days))

    def sessions(self, name: str) -> list[Session]:
        """Where the account is signed in, last used first."""
        return self._store.sessions(name)

    def sign_out(self, name: str, session_id: str = "", but: str = "") -> None:
        """End one session, or all of them, or all but one."""
        if session_id:
            self._store.end_session(name, session_id)
        else:
            self._store.end_sessions(name, but)

    # -- tokens ----------------------------------------------------------------------------------------------------

    def add_token(self, name: str, token_name: str, scopes: list[str]) -> tuple[Token, str]:
        """A new token and its secret, which is told this once. Raises InvalidParams for a scope the role has not."""
        owner = self._store.get(name)
        if not 1 <= len(token_name.strip()) <= 100 or not token_name.isprintable():
            raise InvalidParams("name", message("token_name"))
        known = {str(each) for each in SCOPES[owner.role]}
        for scope in scopes:
            if scope not in known:
                raise InvalidParams("scopes", message("scopes", scopes=sorted(known), role=owner.role, got=echo(scope)))
        if len(self._store.tokens(name)) >= MOST_TOKENS:
            raise Conflict(message("token_count", name=name, count=MOST_TOKENS))
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        chosen = frozenset(Scope(each) for each in scopes) | {Scope.READ}
        return self._store.add_token(name, token_name.strip(), chosen, digest(secret)), secret

    def tokens(self, name: str) -> list[Token]:
        return self._store.tokens(name)

    def remove_token(self, name: str, token_id: str) -> None:
        self._store.remove_token(name, token_id)

    # -- who is it -------------------------------------------------------------------------------------------------

    def by_token(self, secret: str, account: str = "") -> Actor | None:
        """Who has this token; ``account``, if given, must be whose it is."""
        found = self._store.of_token(digest(secret))
        if found is None or (account and account.lower() != found[0].name):
            return None
        owner, token = found
        if token.used_at is None or older(token.used_at):
            self._store.token_used(token.id)
        return replace(self._actor(owner, token.scopes, "token"), token=token.id)

    def by_link(self, name: str, token_id: str) -> Actor | None:
        """Who opens a signed address: the account as a reader, while it and the token that signed are still there."""
        try:
            owner = self._store.get(name)
        except NotFound:
            return None
        if token_id and all(each.id != token_id for each in self._store.tokens(name)):
            return None
        return self._actor(owner, frozenset({Scope.READ}), "link")

    def by_session(self, secret: str) -> tuple[Actor, Session] | None:
        """Who is signed in with this cookie."""
        found = self._store.of_session(digest(secret))
        if found is None:
            return None
        owner, session = found
        if older(session.used_at):
            self._store.session_used(session.id, self._expiry())
        return self._actor(owner, SCOPES[owner.role], "session"), session

    def allowance(self, name: str) -> Allowance:
        """What an account may ask for, the settings' defaults filled in."""
        owner = self._store.get(name)
        return self._actor(owner, frozenset(), "local").allowance

    def used_today(self, name: str) -> int:
        return self._store.used_today(name)

    def _actor(self, owner: Account, scopes: frozenset[Scope], source: str) -> Actor:
        s = self._settings
        defaults = Allowance(s.user_max_queued, s.user_max_per_day, s.user_max_pixels)
        return actor_of(owner, scopes, source, s.share == "shared", defaults)


def digest(secret: str) -> str:
    """Random secrets of 256 bits need no salt and no slow hash."""
    return sha256(secret.encode("utf-8", "replace")).hexdigest()


def older(moment: str) -> bool:
    """Whether a moment is worth writing anew; also one that is still to come, as the clock was wrong then."""
    now = datetime.now(UTC)
    return not utc_text(now - timedelta(seconds=SEEN_SECONDS)) <= moment <= utc_text(now)


def network(address: str) -> str:
    """The address as failed sign-ins are counted: of IPv6 the /64 that one person has."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "?"
    if isinstance(known, ipaddress.IPv6Address):
        if known.ipv4_mapped:
            return str(known.ipv4_mapped)
        return str(ipaddress.ip_network(f"{known}/64", strict=False).network_address)
    return str(known)


def checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidParams("name", message("account_name"))
    return name


def checked_password(password: str) -> str:
    if not SHORTEST <= len(password) <= LONGEST:
        raise InvalidParams("password", message("characters", low=SHORTEST, high=LONGEST))
    return password


def known_role(role: str) -> Role:
    try:
        return Role(role)
    except ValueError:
        raise InvalidParams("role", message("one_of", known=list(Role), got=echo(role))) from None
