"""Matches jobs to slots: which jobs a remote worker can make with its files (compared by SHA-256), which files the
studio shares with it (setting ``share_models``), and which other slots could make a job.
"""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from diffusion_local.compose import Services
from diffusion_local.domain import Job, SharedFile
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.hires import HIRES_UPSCALERS, LANCZOS
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind
from diffusion_local.queue.machines import ACTIVE, machine_of
from diffusion_local.queue.workers import Files, is_silent

MODELS, LORAS, VAES, UPSCALERS, EMBEDDINGS, CONTROLS = (
    "models", "loras", "vae", "upscalers", "embeddings", "controlnet",
)  # fmt: skip
FRESH_SECONDS = 3.0
UPSCALER = "upscaler "  # prefix of an upscaler's name in ``Params.runs_on``
IP_ADAPTERS, CLIP_VISION, PREPROCESSORS = "ip_adapters", "clip_vision", "preprocessors"
SCANNED_JOBS = 200  # first queued jobs whose files are checked
SMALL_BYTES = 16 * 1024 * 1024  # files up to this size have their own digests
MOST_FILES = 500  # per model


def installed_files(catalog: Catalog) -> dict[str, dict[str, str]]:
    """Digests of a catalogue's ready models and adapters, by kind and name; those with unknown digests are left out."""
    kinds = (
        (LORAS, catalog.loras),
        (VAES, catalog.vaes),
        (UPSCALERS, catalog.upscalers),
        (IP_ADAPTERS, catalog.ip_adapters),
        (CLIP_VISION, catalog.image_encoders),
        (EMBEDDINGS, catalog.embeddings),
        (CONTROLS, catalog.controls),
    )
    models = {model.id: model.sha256 for model in catalog.all() if model.ready and model.sha256}
    return {MODELS: models} | {kind: digests(read()) for kind, read in kinds}


class InstalledFiles:
    """``installed_files`` of a catalogue, cached for FRESH_SECONDS because it reads every folder."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._read: tuple[float, Files] | None = None

    def files(self) -> Files:
        now = time.monotonic()
        if self._read is None or now - self._read[0] > FRESH_SECONDS:
            self._read = now, installed_files(self._catalog)
        return self._read[1]


def digests(adapters: list[Adapter]) -> dict[str, str]:
    return {each.name: each.sha256 for each in adapters if each.ready and each.sha256}


class JobsForFiles:
    """Jobs for which a worker with the files ``there`` makes the same pictures as this machine with its files ``here``.

    Files whose digest is unknown at either end count as different. ``others``: slots to which jobs that the worker
    refused are left.
    """

    def __init__(self, here: Files, there: Files, others: "OtherSlots | None" = None) -> None:
        self._here, self._there, self._others = here, there, others

    def job(self, job: Job, refused: Collection[str] = ()) -> bool:
        return self.params(job.params) and (self._others is None or self._others.job(job, refused))

    def params(self, params: Params) -> bool:
        return all(self._has(kind, name) for kind, name in required_files(params, self._here))

    def model(self, runs_on: str) -> bool:
        kind, name = (UPSCALERS, runs_on[len(UPSCALER) :]) if runs_on.startswith(UPSCALER) else (MODELS, runs_on)
        return name == LANCZOS or self._has(kind, name)

    def _has(self, kind: str, name: str) -> bool:
        digest = self._here.get(kind, {}).get(name)
        return bool(digest) and digest == self._there.get(kind, {}).get(name)


class OtherSlots:
    """The live slots other than ``slot``. Created once per claim, however many jobs were refused."""

    def __init__(self, services: Services, slot: str, here: Files | None = None) -> None:
        now, leases = datetime.now(UTC), services.leases.all()
        here = installed_files(services.catalog) if here is None else here
        leased = {lease.slot for lease in leases}
        self._slot = slot
        self._local = {
            worker.slot
            for worker in services.workers.list_all()
            if worker.slot not in leased and worker.status != "stopped" and not is_silent(worker, now)
        } - {slot}
        self._joined = {
            lease.slot: JobsForFiles(here, lease.files)
            for lease in leases
            if lease.slot != slot and not lease.expired(now) and services.machines.state(lease.slot) == ACTIVE
        }

    def able(self, params: Params) -> set[str]:
        """The slots that could make such a picture."""
        return self._local | {slot for slot, jobs in self._joined.items() if jobs.params(params)}

    def job(self, job: Job, refused: Collection[str]) -> bool:
        """Whether ``slot`` may try a job. A job that it refused waits for slots that have not tried it yet.

        If no such slot is left, it may try again: then the job fails with a reason instead of waiting for a machine
        that has gone.
        """
        return self._slot not in refused or not self.able(job.params) - set(refused)

    def model(self, runs_on: str) -> bool:
        return True


def required_files(params: Params, here: Files) -> Iterator[tuple[str, str]]:
    """(kind, name) of the files that a picture needs."""
    if params.background or params.details:  # their models are not reported: only this machine makes such a picture
        yield PREPROCESSORS, "models"
    if params.kind is Kind.UPSCALE:
        if params.upscaler != LANCZOS:
            yield UPSCALERS, params.upscaler
        return
    yield MODELS, params.model
    if params.hires_scale and params.hires_upscaler not in HIRES_UPSCALERS:
        yield UPSCALERS, params.hires_upscaler
    yield from ((LORAS, lora.name) for lora in params.loras)
    yield from ((CONTROLS, control.model) for control in params.controls)
    adapters = [each.adapter for each in params.references if each.adapter]
    yield from ((IP_ADAPTERS, name) for name in adapters)
    if adapters:  # all of them: the worker decides which encoder an adapter needs
        yield from ((CLIP_VISION, name) for name in here.get(CLIP_VISION, {}))
    if params.vae:
        yield VAES, params.vae
    for name in here.get(EMBEDDINGS, {}):  # used by naming them in a prompt
        if any(name in text for text in (params.prompt, params.negative, *(each.prompt for each in params.regions))):
            yield EMBEDDINGS, name


def able_slots(services: Services, params: Params, slot: str, kind: str = "") -> set[str]:
    """Live slots other than ``slot`` that could make such a picture.

    ``kind`` is the kind of failure: after a missing file, other slots of the same machine are excluded.
    """
    found = OtherSlots(services, slot).able(params)
    if kind == ModelUnavailable.kind:
        found = {each for each in found if machine_of(each) != machine_of(slot)}
    return found


@dataclass(frozen=True, slots=True)
class SharedModel:
    """A model or adapter of the studio, with its files by their paths relative to the folder of its kind."""

    digest: str
    files: dict[str, Path]


def missing_files(services: Services, there: Files) -> list[SharedFile]:
    """Files that a worker lacks for the first queued jobs; empty unless ``share_models`` is on."""
    if services.settings.share_models != "on":
        return []
    here = installed_files(services.catalog)
    needed = {
        (kind, name)
        for job in services.view.snapshot(SCANNED_JOBS, 0).waiting
        for kind, name in required_files(job.params, here)
        if here.get(kind, {}).get(name) and here[kind][name] != there.get(kind, {}).get(name)
    }
    return [
        SharedFile(kind, name, path, file.stat().st_size, small_digest(file), shared.digest)
        for kind, name in sorted(needed)
        if (shared := find_shared(services, kind, name))
        for path, file in shared.files.items()
    ]


def find_shared(services: Services, kind: str, name: str) -> SharedModel | None:
    """A ready model or adapter by its name in jobs; None if unknown, bundled, or assembled from several models."""
    catalog = services.catalog
    if kind == MODELS:
        found = next((each for each in catalog.all() if each.id == name and each.ready and each.sha256), None)
        if found is None or found.sources or found.source == "bundled":
            return None
        return SharedModel(found.sha256, files_below(found.path))
    kinds = {
        LORAS: catalog.loras,
        VAES: catalog.vaes,
        UPSCALERS: catalog.upscalers,
        EMBEDDINGS: catalog.embeddings,
        CONTROLS: catalog.controls,
    }
    if kind not in kinds:
        return None
    adapter = next((each for each in kinds[kind]() if each.name == name and each.ready and each.sha256), None)
    return SharedModel(adapter.sha256, files_below(adapter.path)) if adapter else None


def files_below(path: Path) -> dict[str, Path]:
    """A file, or the files of a folder, by their POSIX paths relative to the parent folder."""
    if path.is_file():
        return {path.name: path}
    found = [each for each in sorted(path.rglob("*")) if each.is_file() and not each.name.startswith(".")]
    return {each.relative_to(path.parent).as_posix(): each for each in found[:MOST_FILES]}


def small_digest(file: Path) -> str:
    """SHA-256 of a small file; "" for large weight files, which the digest of the model covers."""
    return sha256(file.read_bytes()).hexdigest() if file.stat().st_size <= SMALL_BYTES else ""
