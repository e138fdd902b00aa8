"""Which jobs a worker on another machine can make: those whose files it has, byte for byte."""

from collections.abc import Callable, Iterator

from diffusion_local.domain import Params
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import Catalog
from diffusion_local.options.table import HIRES_UPSCALERS, LANCZOS
from diffusion_local.options.types import Kind
from diffusion_local.queue.leases import Files

MODELS, LORAS, VAES, UPSCALERS, EMBEDDINGS, CONTROLS = (
    "models", "loras", "vae", "upscalers", "embeddings", "controlnet",
)  # fmt: skip


def installed_files(catalog: Catalog) -> dict[str, dict[str, str]]:
    """Digests of everything in a catalogue that is ready and whose digest is known, by kind and name."""
    kinds = (
        (LORAS, catalog.loras),
        (VAES, catalog.vaes),
        (UPSCALERS, catalog.upscalers),
        (EMBEDDINGS, catalog.embeddings),
        (CONTROLS, catalog.controls),
    )
    models = {model.id: model.sha256 for model in catalog.all() if model.ready and model.sha256}
    return {MODELS: models} | {kind: digests(read()) for kind, read in kinds}


def digests(adapters: list[Adapter]) -> dict[str, str]:
    return {each.name: each.sha256 for each in adapters if each.ready and each.sha256}


def runnable_on(here: Files, there: Files) -> Callable[[Params], bool]:
    """Whether a worker with the files ``there`` makes of Params what this machine would with its own, ``here``.

    A file whose digest is not known at either end counts as another one.
    """

    def can(params: Params) -> bool:
        return all(
            (digest := here.get(kind, {}).get(name)) and digest == there.get(kind, {}).get(name)
            for kind, name in required_files(params, here)
        )

    return can


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
    if params.vae:
        yield VAES, params.vae
    for name in here.get(EMBEDDINGS, {}):  # they are named by words of the prompt
        if name in params.prompt or name in params.negative:
            yield EMBEDDINGS, name
