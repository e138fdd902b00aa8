"""The curated list: well-known models with licence, sizes and good defaults, each with its source (assets/models.json).

An entry without an id cannot be downloaded as a diffusers folder; its defaults apply to checkpoints of its kind. Sizes
are approximate; the exact size is read from the hub before a download.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from diffusion_local.models.distilled import distillation_of
from diffusion_local.paths import assets

#: owner/name, up to 96 characters each: https://huggingface.co/docs/hub/repositories-getting-started
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, slots=True)
class CuratedModel:
    """An entry of the curated list.

    ``words``: kinds of distillation (see ``models.distilled``) to which these defaults apply; sizes are in GB (1e9
    bytes); ``memory_gb``: the whole model on the device in half precision; ``spacing``: the scheduler's timestep
    spacing.
    """

    id: str
    title: str
    family: str
    architecture: str
    words: tuple[str, ...]
    licence: str
    gated: bool
    disk_gb: float
    memory_gb: float
    variant: str
    width: int
    height: int
    steps: int
    guidance: float
    sampler: str
    about: str
    source: str
    spacing: str = ""
    about_zh: str = ""


@lru_cache(maxsize=1)
def curated_models() -> tuple[CuratedModel, ...]:
    entries = json.loads((assets() / "models.json").read_text(encoding="utf-8"))
    return tuple(CuratedModel(**entry | {"words": tuple(entry["words"])}) for entry in entries)


def by_id(hub_id: str) -> CuratedModel | None:
    return next((each for each in curated_models() if each.id and each.id.lower() == hub_id.lower()), None)


def closest_curated(architecture: str, hub_id: str, *names: str) -> CuratedModel | None:
    """The entry whose defaults apply to a model; None if there is none.

    It is found by hub id, or else by architecture and the distillation that the names indicate (``turbo``).
    """
    known = by_id(hub_id) if hub_id else None
    if known and known.architecture == architecture:
        return known
    kind = distillation_of(*names)
    fitting = [each for each in curated_models() if each.architecture == architecture]
    distilled = next((each for each in fitting if kind in each.words), None)
    if distilled is None and kind == "turbo_merge":
        distilled = next((each for each in fitting if "turbo" in each.words), None)
    return distilled or next((each for each in fitting if not each.words), None)
