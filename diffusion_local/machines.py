"""Machines that run workers for this studio: pairing, settings and removal."""

import re
import ssl
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from diffusion_local import actor
from diffusion_local.accounts.pairings import PairingStore, answer_of
from diffusion_local.accounts.service import digest, new_secret
from diffusion_local.accounts.store import AccountStore
from diffusion_local.actor import Scope
from diffusion_local.authority import guarded
from diffusion_local.domain import Failure
from diffusion_local.errors import Conflict, InvalidParams, NotFound, echo
from diffusion_local.messages import message
from diffusion_local.models.catalog import Catalog
from diffusion_local.queue import schedule
from diffusion_local.queue.doorbell import JobQueue
from diffusion_local.queue.jobs import JobStore
from diffusion_local.queue.machines import (
    ACTIVE,
    DRAINING,
    IGNORE,
    PAUSED,
    WAIT,
    Machine,
    MachineStore,
)
from diffusion_local.queue.workers import LeaseStore
from diffusion_local.settings import Settings
from diffusion_local.system.network import host_of, is_loopback, url_to_join

MACHINE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
MAX_PROOF = 200  # characters of a proof or a nonce


@dataclass(frozen=True, slots=True)
class PairingCode:
    """A new pairing code. ``command``: command line to run on the other machine; ``expires_at``: UTC.

    ``unreachable``: whether the studio listens on this machine only, so that no other one can run the command.
    """

    code: str
    expires_at: str
    command: str
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker's credential. ``answer`` proves that it comes from the studio that created the code. ``token`` is "" if
    the studio has no accounts.
    """

    machine: str
    token: str
    answer: str


@guarded("machines")
class Machines:
    """Machine use cases, available as ``studio.machines``."""

    def __init__(
        self,
        settings: Settings,
        store: MachineStore,
        leases: LeaseStore,
        pairings: PairingStore,
        accounts: AccountStore,
        jobs: JobStore,
        queue: JobQueue,
        catalog: Catalog,
    ) -> None:
        self._settings = settings
        self._store = store
        self._leases = leases
        self._pairings = pairings
        self._accounts = accounts
        self._jobs = jobs
        self._queue = queue
        self._catalog = catalog

    def all(self) -> list[Machine]:
        """Machines by name, connected or not."""
        return self._with_models(self._store.all())

    def get(self, machine: str) -> Machine:
        return self._with_models([self._store.get(machine)])[0]

    # -- pairing -------------------------------------------------------------------------------------------------------

    def invite(self) -> PairingCode:
        """Create a pairing code, valid for one machine and for five minutes."""
        account = actor.current().name
        if not account and self._accounts.exists_any():  # the command line acts for the first admin
            account = next(each.name for each in self._accounts.list_all() if each.role is actor.Role.ADMIN)
        code, expires_at = self._pairings.create(account)
        url = url_to_join(self._settings)
        command = f"diffusion-local worker --join {url} --code {code}"
        return PairingCode(code, expires_at, command, is_loopback(host_of(url)))

    def join(self, machine: str, proof: str, nonce: str) -> Joined:
        """Exchange a pairing code for a worker's token; see ``accounts.pairings``.

        Raises InvalidParams, also for a wrong or used code, and Conflict while a machine of this name is connected.
        """
        if not MACHINE_NAME.fullmatch(machine):
            raise InvalidParams("machine", message("machine_name", got=echo(machine)))
        for field, text in (("proof", proof), ("nonce", nonce)):
            if not (text.isascii() and 16 <= len(text) <= MAX_PROOF):
                raise InvalidParams(field, message("characters", low=16, high=MAX_PROOF))
        key, account = self._pairings.redeem(machine, proof, nonce, self._fingerprints())
        known = self._store.all(machine)
        if any(each.connected for each in known):
            raise Conflict(message("machine_connected", name=machine))
        secret, token = self._new_token(account, machine)
        if known:
            self._revoke(machine)
        self._store.note(machine, account, token)
        return Joined(machine, secret, answer_of(key, proof, secret))

    # -- settings ------------------------------------------------------------------------------------------------------

    def change(self, machine: str, hours: str | None = None, gpu_share: str | None = None) -> Machine:
        """Change a machine's hours (a window such as ``22:00-07:00``, or "" for always) and whether it pauses while
        another program uses its GPU (``wait``, else ``ignore``).
        """
        columns = {}
        if hours is not None:
            columns["hours"] = schedule.parse_window(hours, "hours").text if hours.strip() else ""
        if gpu_share is not None:
            if gpu_share not in (IGNORE, WAIT):
                raise InvalidParams("gpu_share", message("one_of", known=[IGNORE, WAIT], got=echo(gpu_share)))
            columns["gpu_share"] = gpu_share
        return self._changed(machine, columns)

    def pause(self, machine: str) -> Machine:
        """Return its jobs to the queue at their next step, and assign no more."""
        return self._changed(machine, {"state": PAUSED})

    def drain(self, machine: str) -> Machine:
        """Let it finish its jobs, and assign no more."""
        return self._changed(machine, {"state": DRAINING})

    def resume(self, machine: str) -> Machine:
        return self._changed(machine, {"state": ACTIVE})

    def remove(self, machine: str) -> None:
        """Revoke its token, requeue its jobs, and delete its record. Raises NotFound."""
        self._revoke(machine)
        for slot in self._store.remove(machine):
            running = [job.claim for job in self._jobs.running(slot)]
            # The jobs count as given back, not as failed attempts.
            self._jobs.recover(slot, Failure("worker_lost", message("machine_removed", name=machine)), running)
        self._queue.ring()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _changed(self, machine: str, columns: dict[str, str]) -> Machine:
        if columns:
            self._store.change(machine, **columns)
        self._queue.ring()
        return self.get(machine)

    def _new_token(self, account: str, machine: str) -> tuple[str, str]:
        """Create a token with the worker scope; returns (secret, id), both empty if the studio has no accounts."""
        if not account:
            return "", ""
        secret = new_secret()
        made = self._accounts.add_token(
            account, f"worker {machine}", frozenset({Scope.WORKER, Scope.READ}), digest(secret)
        )
        return secret, made.id

    def _revoke(self, machine: str) -> None:
        account, token = self._store.credential(machine)
        if token:
            try:
                self._accounts.remove_token(account, token)
            except NotFound:  # already removed, by hand or with its account
                return

    def _fingerprints(self) -> list[str]:
        """Certificate fingerprints over which a worker's proof may be: "", and that of this server's certificate."""
        own = fingerprint_of(self._settings.tls_cert)
        return ["", own] if own else [""]

    def _with_models(self, machines: list[Machine]) -> list[Machine]:
        """Add to each machine the models of which it has byte-identical copies."""
        if not machines:
            return []
        here = {model.id: model.sha256 for model in self._catalog.all() if model.ready and model.sha256}
        files = {lease.slot: lease.files.get("models", {}) for lease in self._leases.all()}
        return [
            replace(each, models=sorted(shared(here, *(files.get(slot.slot, {}) for slot in each.slots))))
            for each in machines
        ]


def shared(here: dict[str, str], *there: object) -> set[str]:
    """Names that have the same digest on both sides."""
    return {name for files in there if isinstance(files, dict) for name in files if files[name] == here.get(name)}


def fingerprint_of(certificate: str) -> str:
    """SHA-256 of the first certificate in a PEM file, in hex; "" if there is none."""
    try:
        text = Path(certificate).read_text(encoding="ascii") if certificate else ""
        start, end = text.index("-----BEGIN CERTIFICATE"), text.index("-----END CERTIFICATE-----")
        return sha256(ssl.PEM_cert_to_DER_cert(text[start : end + 25])).hexdigest()
    except (OSError, ValueError):
        return ""
