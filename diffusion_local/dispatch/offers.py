"""Which jobs a worker on another machine can make: those whose files it has, byte for byte."""

import time
from collections.abc import Collection, Iterator

from diffusion_local.domain import Job, Params
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.table import HIRES_UPSCALERS, LANCZOS
from diffusion_local.options.types import Kind
from diffusion_local.queue.leases import Files

MODELS, LORAS, VAES, UPSCALERS, EMBEDDINGS, CONTROLS = (
    "models", "loras", "vae", "upscalers", "embeddings", "controlnet",
)  # fmt: skip
FRESH_SECONDS = 3.0
UPSCALER = "upscaler "  # as ``Params.runs_on`` names one
IP_ADAPTERS, CLIP_VISION = "ip_adapters", "clip_vision"


def installed_files(catalog: Catalog) -> dict[str, dict[str, str]]:
    """Digests of everything in a catalogue that is ready and whose digest is known, by kind and name."""
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


class Installed:
    """``installed_files`` of a catalogue, read again after FRESH_SECONDS: it looks at every folder."""

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


class Runnable:
    """Which jobs a worker with the files ``there`` makes as this machine would with its own, ``here``.

    A file whose digest is not known at either end counts as another one. ``besides``: ids of jobs that it may not take.
    """

    def __init__(self, here: Files, there: Files, besides: Collection[str] = ()) -> None:
        self._here, self._there, self._besides = here, there, besides

    def job(self, job: Job) -> bool:
        return job.id not in self._besides and self.params(job.params)

    def params(self, params: Params) -> bool:
        return all(self._has(kind, name) for kind, name in required_files(params, self._here))

    def model(self, runs_on: str) -> bool:
        kind, name = (UPSCALERS, runs_on[len(UPSCALER) :]) if runs_on.startswith(UPSCALER) else (MODELS, runs_on)
        return name == LANCZOS or self._has(kind, name)

    def _has(self, kind: str, name: str) -> bool:
        digest = self._here.get(kind, {}).get(name)
        return bool(digest) and digest == self._there.get(kind, {}).get(name)


class Besides:
    """Every job but these."""

    def __init__(self, ids: Collection[str]) -> None:
        self._ids = ids

    def job(self, job: Job) -> bool:
        return job.id not in self._ids

    def model(self, runs_on: str) -> bool:
        return True


def required_files(params: Params, here: Files) -> Iterator[tuple[str, str]]:
    """(kind, name) of the files that go into a picture."""
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
    if adapters:  # which of them an adapter needs is decided by the worker
        yield from ((CLIP_VISION, name) for name in here.get(CLIP_VISION, {}))
    if params.vae:
        yield VAES, params.vae
    for name in here.get(EMBEDDINGS, {}):  # they are named by words of the prompt
        if name in params.prompt or name in params.negative:
            yield EMBEDDINGS, name
