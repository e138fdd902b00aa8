"""What can be run: models with their defaults and limits, samplers, and the check of Params against them.

Pure data and rules; nothing here loads a weight. A model is the bundled starter or a diffusers folder below
``models/`` of the home.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffusion_local.domain import Kind, Params
from diffusion_local.errors import InvalidParams, NotFound

STARTER = "starter"
MAX_SEED = 2**32 - 1
MAX_PROMPT_CHARS = 10_000
#: Fields of Params that a submit may set beside the prompt.
SETTINGS = tuple(field.name for field in fields(Params) if field.name not in ("prompt", "kind"))

#: Names people know from other tools; ``engine.samplers`` maps each onto a diffusers scheduler.
SAMPLERS = (
    "DPM++ 2M",
    "DPM++ 2M Karras",
    "DPM++ 2M SDE",
    "Euler",
    "Euler a",
    "UniPC",
    "Heun",
    "DDIM",
    "DDPM",
    "LCM",
)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a model is run with where the person says nothing."""

    width: int = 512
    height: int = 512
    steps: int = 25
    guidance: float = 7.5
    sampler: str = "DPM++ 2M"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a model, in pixels, steps and classifier-free guidance scale."""

    min_size: int = 64
    max_size: int = 2048
    max_pixels: int = 2048 * 2048
    multiple: int = 8
    max_steps: int = 150
    max_guidance: float = 30.0


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

    def __init__(self, starter: Path, models: Path) -> None:
        self._starter = starter
        self._models = models

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
        given = {name: value for name, value in settings.items() if value is not None}
        for name in given:
            if name not in SETTINGS:
                raise InvalidParams(name, f"is not a setting of a picture. Known: {', '.join(SETTINGS)}.")
        model = self._named(given.get("model", ""))
        defaults = model.defaults
        check_prompt("prompt", prompt, required=True)
        negative = given.get("negative", "")
        check_prompt("negative", negative)
        limits = model.limits
        steps = whole_number("steps", given.get("steps", defaults.steps), 1, limits.max_steps)
        width, height = check_size(
            given.get("width", defaults.width), given.get("height", defaults.height), limits, model.id
        )
        return Params(
            prompt=prompt.strip(),
            negative=negative.strip(),
            model=model.id,
            width=width,
            height=height,
            steps=steps,
            guidance=number("guidance", given.get("guidance", defaults.guidance), 0.0, limits.max_guidance),
            sampler=check_sampler(given.get("sampler", defaults.sampler)),
            seed=whole_number("seed", given["seed"], 0, MAX_SEED),
            kind=Kind.TXT2IMG,
        )

    def _named(self, model_id: str) -> Model:
        try:
            return self.get(model_id) if model_id else self.default
        except NotFound as error:
            raise InvalidParams("model", error.message) from None


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


def draw_seed() -> int:
    return random.SystemRandom().randint(0, 2**31 - 1)


def check_prompt(field: str, text: Any, required: bool = False) -> None:
    if not isinstance(text, str):
        raise InvalidParams(field, "must be text.")
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InvalidParams(field, "must be text; it holds half a character that cannot be stored.")
    if required and not text.strip():
        raise InvalidParams(field, "must not be empty. Say what the picture should show.")
    if len(text) > MAX_PROMPT_CHARS:
        raise InvalidParams(field, f"must have at most {MAX_PROMPT_CHARS:,} characters (got {len(text):,}).")


def number(field: str, value: Any, low: float, high: float) -> float:
    bounds = f"from {shown(low)} to {shown(high)}"
    try:
        given = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidParams(field, f"must be a number {bounds} (got {value!r}).") from None
    if isinstance(value, bool) or not low <= given <= high:
        raise InvalidParams(field, f"must be {bounds} (got {value!r}).")
    return given


def shown(bound: float) -> str:
    """A bound in full: 4294967295, not 4.29e+09."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def whole_number(field: str, value: Any, low: int, high: int) -> int:
    given = number(field, value, low, high)
    if given != int(given):
        raise InvalidParams(field, f"must be a whole number from {low} to {high} (got {value!r}).")
    return int(given)


def check_size(width: Any, height: Any, limits: Limits, model_id: str) -> tuple[int, int]:
    size = []
    for field, value in (("width", width), ("height", height)):
        pixels = whole_number(field, value, limits.min_size, limits.max_size)
        if pixels % limits.multiple:
            low = pixels - pixels % limits.multiple
            raise InvalidParams(
                field, f"must be a multiple of {limits.multiple} (got {pixels}; try {low} or {low + limits.multiple})."
            )
        size.append(pixels)
    if size[0] * size[1] > limits.max_pixels:
        raise InvalidParams(
            "width",
            f"times height must be at most {limits.max_pixels:,} pixels for {model_id} (got {size[0]}x{size[1]}).",
        )
    return size[0], size[1]


def check_sampler(name: Any) -> str:
    for known in SAMPLERS:
        if isinstance(name, str) and name.casefold() == known.casefold():
            return known
    raise InvalidParams("sampler", f"must be one of {', '.join(SAMPLERS)} (got {name!r}).")


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
