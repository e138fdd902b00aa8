"""What can be run: models with their defaults and limits, samplers, and the check of Params against them.

Pure data and rules; nothing here loads a weight. A model is the bundled starter or a diffusers folder below
``models/`` of the home.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffusion_local import completion
from diffusion_local.checks import MAX_PROMPT_CHARS as MAX_PROMPT_CHARS
from diffusion_local.checks import MAX_SEED as MAX_SEED
from diffusion_local.checks import SAMPLERS as SAMPLERS
from diffusion_local.checks import Defaults as Defaults
from diffusion_local.checks import Limits as Limits
from diffusion_local.checks import check_prompt as check_prompt
from diffusion_local.checks import check_sampler as check_sampler
from diffusion_local.checks import check_size as check_size
from diffusion_local.checks import draw_seed as draw_seed
from diffusion_local.checks import number as number
from diffusion_local.checks import whole_number as whole_number
from diffusion_local.completion import SETTINGS as SETTINGS
from diffusion_local.completion import SizeOf
from diffusion_local.domain import Params
from diffusion_local.errors import InvalidParams, NotFound

STARTER = "starter"


@dataclass(frozen=True, slots=True)
class Model:
    """A catalogue entry. ``problem`` says what is missing where ``ready`` is false."""

    id: str
    name: str
    folder: Path
    family: str
    defaults: Defaults
    limits: Limits
    licence: str = "unknown"
    size_bytes: int = 0
    problem: str = ""

    @property
    def ready(self) -> bool:
        return not self.problem


#: diffusers pipeline class -> (family, defaults). Sizes are the ones the family was trained at.
FAMILIES: dict[str, tuple[str, Defaults]] = {
    "StableDiffusionPipeline": ("sd", Defaults()),
    "StableDiffusionXLPipeline": ("sdxl", Defaults(1024, 1024, 30, 6.0)),
}
STARTER_DEFAULTS = Defaults(256, 256, 12, 3.5)  # as measured: see assets/starter/README.md
STARTER_LIMITS = Limits(min_size=128, max_size=512, max_pixels=512 * 512, max_steps=100)


class Catalog:
    """The models of one installation: the starter, and the folders below ``models/``."""

    def __init__(self, starter: Path, models: Path, size_of: SizeOf | None = None) -> None:
        """``size_of`` tells the sizes of source pictures; without it there are none."""
        self._starter = starter
        self._models = models
        self.size_of = size_of or no_source

    def all(self) -> list[Model]:
        """Every entry, the default model first. Reads the folders afresh, so a new model needs no restart."""
        starter = read_folder(self._starter, STARTER, "Starter", STARTER_DEFAULTS, STARTER_LIMITS, "MIT")
        found = [
            read_folder(path, path.name, path.name)
            for path in sorted(self._models.glob("*"))
            if path.is_dir() and path.name != STARTER and not path.name.startswith(".")
        ]
        return [starter, *found]

    @property
    def default(self) -> Model:
        return self.all()[0]

    def get(self, model_id: str) -> Model:
        for model in self.all():
            if model.id == model_id:
                return model
        raise NotFound(f"There is no model {model_id!r}. Known: {', '.join(m.id for m in self.all())}.")

    def complete(self, prompt: str, settings: Mapping[str, Any]) -> Params:
        """Fill in the model's defaults and check every field.

        ``settings`` holds fields of Params; one that is absent or None takes the model's default. ``seed`` must be
        set by the caller. Raises InvalidParams naming the first field that is out of its limits.
        """
        given = completion.known(settings)
        model = self._named(given.get("model", ""))
        return completion.complete(model.id, model.defaults, model.limits, prompt, given, self.size_of)

    def _named(self, model_id: str) -> Model:
        try:
            return self.get(model_id) if model_id else self.default
        except NotFound as error:
            raise InvalidParams("model", error.message) from None


def no_source(source_id: str) -> tuple[int, int]:
    raise NotFound(f"There is no source picture {source_id!r}.")


def read_folder(
    folder: Path,
    model_id: str,
    name: str,
    defaults: Defaults | None = None,
    limits: Limits | None = None,
    licence: str = "unknown",
) -> Model:
    """Describe a diffusers folder from its own files; whatever is wrong becomes the entry's ``problem``."""
    problem, family, family_defaults = "", "unknown", Defaults()
    index = folder / "model_index.json"
    try:
        pipeline = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
        family, family_defaults = FAMILIES[pipeline]
    except FileNotFoundError:
        problem = "model_index.json is missing: this is not a diffusers model folder."
    except (OSError, ValueError, TypeError):
        problem = "model_index.json is damaged: copy or download the model again."
    except KeyError as key:
        problem = f"Its pipeline class {key} is not supported."
    weights = list(folder.rglob("*.safetensors"))
    if not problem and not weights:
        problem = "It has no .safetensors weights. Pickle files (.bin, .ckpt) are not loaded: they can run code."
    return Model(
        id=model_id,
        name=name,
        folder=folder,
        family=family,
        defaults=defaults or family_defaults,
        limits=limits or Limits(),
        licence=licence,
        size_bytes=sum(f.stat().st_size for f in weights),
        problem=problem,
    )


def prompt_warnings(model: Model, params: Params) -> list[str]:
    """Say which text the model's encoder will not read, as it would otherwise be cut silently."""
    warnings = []
    for field, text in (("prompt", params.prompt), ("negative", params.negative)):
        limit, count = count_tokens(model.folder / "tokenizer", text)
        if limit and count > limit:
            warnings.append(f"{field}: the model reads {limit} tokens of text; this has {count}, the end is ignored.")
    return warnings


def count_tokens(folder: Path, text: str) -> tuple[int, int]:
    """(tokens the text encoder reads, tokens in the text), both without start and end marks; (0, 0) if unknown."""
    try:
        limit = int(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"])
        tokenizer = _tokenizer(str(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
    if tokenizer is None:
        return 0, 0
    return limit - 2, len(tokenizer.encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=8)
def _tokenizer(folder: str) -> Any:
    from tokenizers import Tokenizer  # 30 MB of memory: only once a prompt is checked
    from tokenizers.models import BPE

    path = Path(folder)
    if (path / "tokenizer.json").exists():
        return Tokenizer.from_file(str(path / "tokenizer.json"))
    if (path / "vocab.json").exists() and (path / "merges.txt").exists():
        return Tokenizer(BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt"), end_of_word_suffix="</w>"))
    return None
