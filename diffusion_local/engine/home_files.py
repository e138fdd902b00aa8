"""Files of a home by the names in Params, and the memory that they need beside a model. Torch-free."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from diffusion_local.engine import vision_models
from diffusion_local.engine.memory import Extras
from diffusion_local.engine.vision_models import VisionModel
from diffusion_local.errors import ModelUnavailable, UserError
from diffusion_local.messages import message
from diffusion_local.models.adapters import VAE, Adapter, own_vae, vae_fits
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.models.file_formats import open_header
from diffusion_local.models.identify import read_file
from diffusion_local.models.index import ModelIndex
from diffusion_local.models.parts import VISION
from diffusion_local.models.probe import CONTROL, EMBEDDING, IP_ADAPTER, LORA, UPSCALER
from diffusion_local.models.verdicts import PLACES
from diffusion_local.options.table import Params
from diffusion_local.options.types import Use
from diffusion_local.settings import Settings

#: Seconds for which the scan of folders outside the home is cached.
RESCAN_SECONDS = 2.0
#: Seconds for which the search for a small VAE is cached, which every picture needs.
PREVIEW_RESCAN_SECONDS = 10.0


class HomeFiles:
    """Resolves the names in Params to files of a home.

    The methods that return a Path raise ModelUnavailable with the reason if the file is missing or unusable.
    """

    def __init__(self, settings: Settings) -> None:
        self._preprocessors = settings.preprocessors
        self._index = ModelIndex(ModelDirectories.from_settings(settings))
        self._seen: dict[str, tuple[float, list[Adapter]]] = {}
        self._preview_vaes: dict[str, tuple[float, Path | None]] = {}

    def lora(self, name: str) -> Path:
        return self._file(LORA, name, "LoRA")

    def vae(self, name: str) -> Path:
        return self._file(VAE, name, "VAE")

    def control(self, name: str) -> Path:
        return self._file(CONTROL, name, "ControlNet")

    def upscaler(self, name: str) -> Path:
        return self._file(UPSCALER, name, "upscaler")

    def ip_adapter(self, name: str) -> Path:
        return self._file(IP_ADAPTER, name, "IP-Adapter")

    def image_encoder(self, width: int, hidden: bool) -> Path:
        """The image encoder with an output of this width (``hidden``: its hidden states, else its projection).

        Raises ModelUnavailable if there is none.
        """
        for each in self._adapters(VISION):
            if each.ready and each.widths[hidden] == width:
                return each.path
        raise ModelUnavailable(message("encoder_missing", width=width))

    def preview_vae(self, architecture: str) -> Path | None:
        """A small VAE of an architecture's latents, looked for at most every PREVIEW_RESCAN_SECONDS; None without."""
        if not own_vae(architecture):
            return None
        at, found = self._preview_vaes.get(architecture, (-PREVIEW_RESCAN_SECONDS, None))
        if time.monotonic() - at > PREVIEW_RESCAN_SECONDS:
            small = (each for each in self._adapters(VAE) if each.draws_previews and vae_fits(each.part, architecture))
            found = next((each.path for each in small), None)
            self._preview_vaes[architecture] = (time.monotonic(), found)
        return found

    def vision_model(self, task: str) -> VisionModel:
        """The model of a task, such as ``detect``. Raises InvalidParams if there is none."""
        return vision_models.find_model(task, self._preprocessors, task)

    def embeddings(self) -> dict[str, Path]:
        """Textual inversions by their trigger word."""
        return {PurePosixPath(each.name).name: each.path for each in self._adapters(EMBEDDING) if each.ready}

    def _file(self, kind: str, name: str, what: str) -> Path:
        """The file with a name. Raises ModelUnavailable with the reason if it is missing or unusable."""
        folder = self._index.places.folder(PLACES[kind])
        if folder and (path := folder / f"{name}.safetensors").is_file():
            return path
        file = next((each for each in self._adapters(kind) if each.name == name), None)
        if file is None:
            raise ModelUnavailable(message("material_missing", kind=what, name=name, file=f"{PLACES[kind]}/{name}"))
        if not file.ready:
            raise ModelUnavailable(message("material_unusable", kind=what, name=name, problem=file.problem))
        return file.path

    def _adapters(self, kind: str) -> list[Adapter]:
        """The files of a kind. Folders outside the home, which may be very large, are rescanned at most every
        RESCAN_SECONDS.
        """
        at, adapters = self._seen.get(kind, (0.0, []))
        if time.monotonic() - at > RESCAN_SECONDS or not adapters or not self._index.added():
            adapters = self._index.adapters(kind)
            self._seen[kind] = (time.monotonic(), adapters)
        return adapters


# -- memory ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Addition:
    """A network that a picture needs besides its model, such as ``controlnet/canny``.

    ``parameters``: their number. ``held``: with the denoiser (``beside`` it), ``before`` the first step, or ``after``
    the picture, in a process of its own that uses main memory.
    """

    name: str
    parameters: int
    held: Literal["beside", "before", "after"]


def additions_of(params: Params, files: HomeFiles | None) -> list[Addition]:
    """The networks that a picture needs besides its model, each once, sized by the headers of their files.

    A missing or unreadable file counts as nothing; opening it later raises the error.
    """
    if files is None:
        return []
    adapters = sorted({each.adapter for each in params.references if each.use is not Use.EDIT and each.adapter})
    additions = [
        *(Addition(f"controlnet/{name}", parameters_in(partial(files.control, name)), "beside")
          for name in sorted({each.model for each in params.controls})),
        *(Addition(f"ip_adapters/{name}", parameters_in(partial(files.ip_adapter, name)), "beside")
          for name in adapters),
        *(Addition(f"loras/{name}", parameters_in(partial(files.lora, name)), "beside")
          for name in sorted({each.name for each in params.loras})),
    ]  # fmt: skip
    for adapter in adapters:
        encoder = partial(image_encoder_of, adapter, files)
        additions.append(Addition(f"clip_vision for {adapter}", parameters_in(encoder), "before"))
    for task in [*(["detect"] if params.details else []), *(["background"] if params.background else [])]:
        additions.append(Addition(vision_models.folder_of(task), parameters_of_task(task, files), "after"))
    return [each for each in additions if each.parameters]


def extras_of(params: Params, files: HomeFiles | None, shares_memory: bool = False) -> Extras:
    """What a picture needs besides its model. ``shares_memory``: the device's memory is main memory."""
    additions = additions_of(params, files)
    apart = ("before", "after") if shares_memory else ("before",)
    return Extras(
        beside=sum(each.parameters for each in additions if each.held == "beside"),
        vision=max((each.parameters for each in additions if each.held in apart), default=0),
        references=sum(each.use is Use.EDIT for each in params.references) if files else 0,
    )


def image_encoder_of(adapter: str, files: HomeFiles) -> Path:
    """The file of the image encoder that an IP-Adapter needs. Raises ModelUnavailable."""
    probe = read_file(files.ip_adapter(adapter)).probe
    return files.image_encoder(probe.widths[0], probe.id != "plain")


def parameters_of_task(task: str, files: HomeFiles) -> int:
    """Number of parameters of a task's model; 0 if it is missing."""
    try:
        folder = files.vision_model(task).folder
    except UserError:
        return 0
    suffixes = vision_models.BY_SUFFIX.get(task, (".safetensors",))
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    return parameters_in(lambda: paths[0])


def parameters_in(find: Callable[[], Path]) -> int:
    """Number of parameters in the file that ``find`` returns; 0 if it is missing or unreadable."""
    try:
        return sum(tensor.count for tensor in open_header(find()).header.tensors.values())
    except (ModelUnavailable, OSError, IndexError):
        return 0
