"""Pairing codes: short-lived, single-use secrets that a worker on another machine exchanges for its token.

The code itself is never sent. Both ends derive a key from it with scrypt. The worker proves that it knows the code with
an HMAC over its name and the certificate that it received; the studio answers with the token and an HMAC over it. A
man in the middle, who presents another certificate, can neither forward the proof nor guess the code before it expires.
"""

import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta

from diffusion_local.db.database import Database, Transaction
from diffusion_local.domain import utc_text
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message

#: Crockford's base 32: no letters that look like digits.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_CHARS = 10  # 50 bits
GROUP_CHARS = 5
CODE_LIFE = timedelta(minutes=5)
MAX_WRONG_TRIES = 5
MOST_CODES = 20  # at a time
SALT = b"diffusion-local worker pairing 1"
SCRYPT = {"n": 2**14, "r": 8, "p": 1, "maxmem": 64 * 1024 * 1024}
LOOKALIKES = str.maketrans({"O": "0", "I": "1", "L": "1", "U": "V"})


def new_code() -> str:
    """Generate a random code in its readable form, such as ``7KQ2M-9XW4T``."""
    code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_CHARS))
    return "-".join(code[start : start + GROUP_CHARS] for start in range(0, CODE_CHARS, GROUP_CHARS))


def key_of(code: str) -> str:
    """Derive the key from a code, in hex. Case and separators are ignored, look-alike letters are equivalent."""
    plain = re.sub(r"[^0-9A-Z]", "", code.upper()).translate(LOOKALIKES)
    return hashlib.scrypt(plain.encode(), salt=SALT, dklen=32, **SCRYPT).hex()


def proof_of(key: str, machine: str, fingerprint: str, nonce: str) -> str:
    """The worker's proof. ``fingerprint``: SHA-256 of the studio's certificate in hex, or "" for plain HTTP and for
    certificates issued by a trusted authority.
    """
    return mac(key, "worker", machine, fingerprint, nonce)


def answer_of(key: str, proof: str, token: str) -> str:
    """The studio's proof, over the token that it issues."""
    return mac(key, "studio", proof, token)


def mac(key: str, *parts: str) -> str:
    text = "\n".join(f"{len(part)}:{part}" for part in parts)
    return hmac.new(bytes.fromhex(key), text.encode(), hashlib.sha256).hexdigest()


def is_equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


class PairingStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, account: str) -> tuple[str, str]:
        """Create a code on behalf of an account; returns it with its expiry time (UTC)."""
        code, now = new_code(), datetime.now(UTC)
        expires_at = utc_text(now + CODE_LIFE)
        row = {"code_key": key_of(code), "account": account, "expires_at": expires_at, "wrong_tries": 0}
        with self._database.write() as db:
            drop_dead(db, now)
            db.insert("pairings", row)
            db.execute(
                "DELETE FROM pairings WHERE code_key NOT IN "
                f"(SELECT code_key FROM pairings ORDER BY expires_at DESC LIMIT {MOST_CODES})"
            )
        return code, expires_at

    def redeem(self, machine: str, proof: str, nonce: str, fingerprints: list[str]) -> tuple[str, str]:
        """Consume a code; returns (its key, the account that created it). ``proof`` may be over any of the
        ``fingerprints``.

        A wrong proof counts against every pending code, because it does not show which one was meant. Raises
        InvalidParams if no code matches.
        """
        with self._database.write() as db:
            drop_dead(db, datetime.now(UTC))
            for key, account in db.execute("SELECT code_key, account FROM pairings").fetchall():
                if any(is_equal(proof, proof_of(key, machine, each, nonce)) for each in fingerprints):
                    db.execute("DELETE FROM pairings WHERE code_key = ?", [key])
                    return key, account
            db.execute("UPDATE pairings SET wrong_tries = wrong_tries + 1")
        raise InvalidParams("code", message("code_wrong", minutes=CODE_LIFE.seconds // 60, tries=MAX_WRONG_TRIES))


def drop_dead(db: Transaction, now: datetime) -> None:
    """Delete codes that have expired, had too many wrong guesses, or expire too late because the clock was wrong."""
    db.execute(
        "DELETE FROM pairings WHERE expires_at <= :now OR expires_at > :latest OR wrong_tries >= :most",
        {"now": utc_text(now), "latest": utc_text(now + CODE_LIFE), "most": MAX_WRONG_TRIES},
    )
