"""Failed sign-ins, counted by key, and the browsers and networks from which accounts have signed in."""

from datetime import UTC, datetime, timedelta

from diffusion_local.db.database import Database
from diffusion_local.domain import utc_now, utc_text

KNOWN_DAYS = 180  # how long a browser or network is remembered after its last sign-in
MAX_DEVICES = 50  # per account; the least recently used is dropped
MAX_KEYS = 20_000  # keys; the oldest are dropped


class SignIns:
    def __init__(self, database: Database) -> None:
        self._database = database

    # -- failed ones -----------------------------------------------------------------------------------------------

    def count(self, limits: dict[str, int], now: float, window: float) -> float:
        """Count one more attempt per key, before the password is checked.

        Returns 0, or the seconds to wait if a key has reached its limit within ``window`` seconds; then nothing is
        counted. ``now``: seconds since the epoch. Keys older than the window are deleted.
        """
        with self._database.write() as db:
            db.execute("DELETE FROM failed_logins WHERE first_at < ? OR first_at > ?", [now - window, now])
            marks = ", ".join("?" * len(limits))
            found = db.execute(f"SELECT who, failures, first_at FROM failed_logins WHERE who IN ({marks})", [*limits])
            waits = [first_at + window - now for who, failures, first_at in found.fetchall() if failures >= limits[who]]
            if waits:
                return max(1.0, *waits)
            for who in limits:
                db.execute(
                    "INSERT INTO failed_logins (who, failures, first_at) VALUES (?, 1, ?) "
                    "ON CONFLICT (who) DO UPDATE SET failures = failed_logins.failures + 1",
                    [who, now],
                )
            over = db.scalar("SELECT count(*) FROM failed_logins") - MAX_KEYS
            if over > 0:
                db.execute(
                    "DELETE FROM failed_logins WHERE who IN (SELECT who FROM failed_logins ORDER BY first_at LIMIT ?)",
                    [over],
                )
        return 0.0

    def forgive(self, own: str, shared: list[str]) -> None:
        """After a success, clear the attempts of ``own`` and subtract as many from the ``shared`` keys. Attempts of
        others stay, or an account holder could guess other passwords without limit.
        """
        with self._database.write() as db:
            made = db.scalar("SELECT failures FROM failed_logins WHERE who = :who", who=own) or 1
            db.execute("DELETE FROM failed_logins WHERE who = ?", [own])
            for who in shared:
                db.execute("UPDATE failed_logins SET failures = failures - ? WHERE who = ?", [made, who])
            db.execute("DELETE FROM failed_logins WHERE failures <= 0")

    # -- where an account has signed in ----------------------------------------------------------------------------

    def is_known(self, account: str, device: str, network: str) -> tuple[bool, bool]:
        """Whether the account has signed in with this browser (digest of its cookie), and from this network."""
        with self._database.read() as db:
            since = utc_text(datetime.now(UTC) - timedelta(days=KNOWN_DAYS))
            found = db.execute(
                "SELECT digest, network FROM devices WHERE account = ? AND used_at >= ?", [account, since]
            ).fetchall()
        return any(digest == device for digest, _ in found), any(place == network for _, place in found)

    def remember(self, account: str, device: str, network: str, instead: str = "") -> None:
        """Record a sign-in with a browser from a network. ``instead``: the browser's previous digest."""
        with self._database.write() as db:
            db.execute("DELETE FROM devices WHERE account = ? AND digest = ?", [account, instead])
            if not device:  # a client without cookies: one row per network
                device = f"network {network}"
                db.execute("DELETE FROM devices WHERE account = ? AND digest = ?", [account, device])
            db.insert("devices", {"account": account, "digest": device, "network": network, "used_at": utc_now()})
            db.execute(
                "DELETE FROM devices WHERE account = :account AND digest NOT IN (SELECT digest FROM devices "
                f"WHERE account = :account ORDER BY used_at DESC, digest LIMIT {MAX_DEVICES})",
                {"account": account},
            )
