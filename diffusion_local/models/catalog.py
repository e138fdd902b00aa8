"""The catalogue of runnable models, with defaults and limits, and validation of Params against them.

No weights are loaded. A model is the bundled starter, a diffusers folder or a single-file checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from diffusion_local import families
from diffusion_local.errors import InvalidParams, NotFound, echo
from diffusion_local.messages import message
from diffusion_local.models import distilled, folders, references
from diffusion_local.models.adapters import (
    TEXT_ENCODER,
    VAE,
    Adapter,
    adapter_fits,
    check_adapter,
    check_embeddings,
    resolve_name,
)
from diffusion_local.models.choices import ModelChoices
from diffusion_local.models.curated import closest_curated
from diffusion_local.models.description import READY, RECOGNISED, Source
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.models.index import STARTER, IndexEntry, ModelIndex, signature_of
from diffusion_local.models.parts import VISION
from diffusion_local.models.probe import CONTROL, EMBEDDING, IP_ADAPTER, LORA, UPSCALER, Probe
from diffusion_local.options import validate
from diffusion_local.options.hires import HIRES_UPSCALERS, LANCZOS
from diffusion_local.options.inpaint import INPAINT_AREAS, margins
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.option import DENOISED
from diffusion_local.options.table import Params
from diffusion_local.options.types import Control, ControlType, Kind, Use
from diffusion_local.options.validate import SizeOf, extract_lora_tags
from diffusion_local.options.values import entry

#: Fields of a model that are meaningful only on the machine with its files.
LOCAL_FIELDS = ("folder", "file", "scheduler", "probe", "sources", "tokenizers", "changes")
LATIN = "LATIN"
Origin = Literal["bundled", "folder", "file", "hub"]
#: Side in pixels of the training pictures of SD 2 models that predict noise; those that predict v use larger ones.
SD2_BASE_SIDE = 512


@dataclass(frozen=True, slots=True)
class Model:
    """A catalogue entry. ``problem``: why it is not ``ready``.

    ``folder``: configuration and tokenizer, and the weights unless ``file`` is a single-file checkpoint. ``scripts``:
    Unicode scripts that its text encoder was trained on, empty if unknown. ``architecture``: decides which LoRAs fit;
    ``kinds``: supported kinds of work; ``memory_bytes``: all weights in fp16; ``source``: bundled, folder, file or hub.
    ``scheduler``: entries that differ from the folder's. ``precision``: of most weights; ``chosen_precision``: the
    user's choice for this model, which overrides the setting; ``probe``: contents of a file's header, None for a
    folder. ``sources``, ``tokenizers`` and ``changes``: as in ``ModelFacts``.
    """

    id: str
    name: str
    folder: Path
    family: str
    defaults: Defaults
    limits: Limits
    licence: str = "unknown"
    size_bytes: int = 0
    problem: str = ""
    state: str = READY
    architecture: str = "unknown"
    kinds: tuple[str, ...] = DENOISED
    memory_bytes: int = 0
    source: Origin = "folder"
    hub_id: str = ""
    sha256: str = ""
    file: Path | None = None
    scheduler: dict[str, Any] = field(default_factory=dict)
    scripts: tuple[str, ...] = ()
    precision: str = ""
    chosen_precision: str = ""
    probe: Probe | None = None
    sources: tuple[Source, ...] = ()
    tokenizers: dict[str, Path] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return not self.problem

    @property
    def path(self) -> Path:
        """The checkpoint file or model folder."""
        return self.file or self.folder


STARTER_DEFAULTS = Defaults(256, 256, 12, 3.5)  # as measured: see assets/starter/README.md
STARTER_LIMITS = Limits(min_size=128, max_size=512, max_pixels=512 * 512, max_steps=100)


class Catalog:
    """Models of one installation: the starter, those in ``models/``, and those added from other folders."""

    def __init__(
        self,
        starter: Path,
        places: ModelDirectories | Path,
        size_of: SizeOf | None = None,
        paints: Callable[[str], bool] = lambda mask_id: True,
        see: Callable[[str, str, tuple[int, int], str], str] = lambda image, kind, size, field: "",
        check_task: Callable[[str, str, str], object] = lambda task, field, word: None,
        is_first_of_several: Callable[[str], bool] = lambda source_id: False,
    ) -> None:
        """``places`` may also be the folder of models alone.

        The functions give access to source pictures: ``size_of`` returns a picture's size (default: there are no source
        pictures); ``paints`` whether a mask has any white; ``see`` preprocesses a picture for a type of control at a
        size and returns the id of the result; ``is_first_of_several`` whether a picture is one frame of an animation.
        ``check_task`` raises InvalidParams for a field unless there is a model for a task of ``engine.vision_models``
        that knows a word ("" for any model).
        """
        self._starter_folder = starter
        self.index = ModelIndex(places if isinstance(places, ModelDirectories) else ModelDirectories(places))
        self.choices = ModelChoices(self.index.places.choices)
        self.size_of = size_of or no_source
        self.paints = paints
        self.see = see
        self.check_task = check_task
        self.is_first_of_several = is_first_of_several

    def all(self) -> list[Model]:
        """All entries, the default model first. Rescans the folders, so a new model needs no restart."""
        found = [self.default, *(from_entry(entry) for entry in self.index.entries() if entry.id != STARTER)]
        return [self._with_choice(model) for model in found]

    def _with_choice(self, model: Model) -> Model:
        return replace(model, chosen_precision=self.choices.precision(model.id))

    @cached_property
    def _starter(self) -> Model:
        starter = (STARTER, "Starter", STARTER_DEFAULTS, STARTER_LIMITS, "MIT")
        return replace(read_folder(self._starter_folder, *starter, source="bundled"), scripts=(LATIN,))

    @property
    def default(self) -> Model:
        starter = self._starter
        return replace(starter, sha256=self.index.sha256(starter.folder, signature_of(starter.folder)))

    def get(self, model_id: str) -> Model:
        if model_id == STARTER:
            return self._with_choice(self.default)
        entry = self.index.entry(model_id)
        if entry:
            return self._with_choice(from_entry(entry))
        raise NotFound(message("no_model", model=echo(model_id), known=[m.id for m in self.all()]))

    def loras(self) -> list[Adapter]:
        return self.index.adapters(LORA)

    def vaes(self) -> list[Adapter]:
        return self.index.adapters(VAE)

    def upscalers(self) -> list[Adapter]:
        return self.index.adapters(UPSCALER)

    def embeddings(self) -> list[Adapter]:
        return self.index.adapters(EMBEDDING)

    def controls(self) -> list[Adapter]:
        """ControlNets and T2I-Adapters."""
        return self.index.adapters(CONTROL)

    def ip_adapters(self) -> list[Adapter]:
        return self.index.adapters(IP_ADAPTER)

    def image_encoders(self) -> list[Adapter]:
        return self.index.adapters(VISION)

    def text_encoders(self) -> list[Adapter]:
        return self.index.adapters(TEXT_ENCODER)

    def complete(self, prompt: str, settings: Mapping[str, Any], drawn: bool = True) -> Params:
        """Complete the settings with the model's defaults and validate every field.

        ``settings``: fields of Params; absent or None takes the model's default. The caller must set ``seed``. Tags are
        removed from the prompt, unless its choices are yet to be ``drawn``. Raises InvalidParams naming the first
        invalid field.
        """
        given = validate.check_names(settings)
        model = self._find(given.get("model", ""))
        params = self._filled(model, model.defaults, prompt, given, drawn)
        if advice := self._advice(params, model):
            params = self._filled(model, advice, prompt, given, drawn)
        params = self._with_controls(params, model)
        self._check_files(params, model)
        return params

    def _filled(self, model: Model, defaults: Defaults, prompt: str, given: Mapping[str, Any], drawn: bool) -> Params:
        sampling = families.sampling_of(model.family, model.architecture)
        if families.references_of(model.architecture) and "width" not in given and "height" not in given:
            defaults = references.shaped(defaults, given, model.limits, self.size_of)
        params = validate.complete(model.id, defaults, model.limits, prompt, given, self.size_of, sampling)
        if drawn:
            params = extract_lora_tags(params)
        params = references.with_adapters(params, model.architecture, self.ip_adapters)
        return self.with_full_names(params)

    def _advice(self, params: Params, model: Model) -> Defaults | None:
        """The model's defaults with the steps, guidance and sampler of a distilled LoRA; None without such a LoRA."""
        found = {each.name: each for each in self.loras()} if params.loras else {}
        for lora in params.loras:
            known = found.get(lora.name)
            usual = known and distilled.lora_defaults(model.family, PurePosixPath(lora.name).name, known.title)
            if usual:
                steps, guidance, sampler = usual
                return replace(model.defaults, steps=steps, guidance=guidance, sampler=sampler)
        return None

    def with_full_names(self, params: Params) -> Params:
        """The params with each LoRA's full name in place of a base name."""
        if not params.loras:
            return params
        found = [each.name for each in self.loras()]
        return replace(
            params, loras=tuple(replace(each, name=resolve_name("loras", each.name, found)) for each in params.loras)
        )

    def _check_files(self, params: Params, model: Model) -> None:
        """Check before queueing that the files named by the params exist and fit the model."""
        if params.background:
            self.check_task("background", "background", "")
        for place, each in enumerate(params.details):
            self.check_task("detect", entry("details", place, "target"), each.target)
        if params.kind is Kind.UPSCALE:
            if params.upscaler != LANCZOS:
                check_adapter("upscaler", params.upscaler, self.upscalers())
            return
        if params.kind not in model.kinds:
            raise InvalidParams(
                "kind", message("model_kinds", kinds=" or ".join(model.kinds), model=model.id, got=params.kind)
            )
        if params.hires_scale and Kind.IMG2IMG not in model.kinds:
            raise InvalidParams("hires_scale", message("no_hires", model=model.id))
        if params.hires_scale and params.hires_upscaler not in HIRES_UPSCALERS:
            check_adapter("hires_upscaler", params.hires_upscaler, self.upscalers())
        self.check_loras(params, model)
        references.check(params, model.id, model.architecture, self.size_of)
        references.check_controls(params, model, self.controls() if params.controls else [])
        if any(each.use is not Use.EDIT for each in params.references):
            references.check_adapters(params, model, self.ip_adapters(), self.image_encoders())
        references.check_parts(params, model)
        if params.vae:
            check_adapter("vae", params.vae, self.vaes(), model.architecture)
        self._check_words(params, model)

    def _check_words(self, params: Params, model: Model) -> None:
        """Check that textual inversions whose words occur in the prompts fit the model."""
        if not families.get(model.family).inversions:
            return
        for each in self.embeddings():
            texts = {entry("regions", place, "prompt"): each.prompt for place, each in enumerate(params.regions)}
            texts |= {entry("details", place, "prompt"): each.prompt for place, each in enumerate(params.details)}
            texts |= {"prompt": params.prompt, "negative": params.negative}
            check_embeddings(each, texts, model.architecture)

    def check_loras(self, params: Params, model: Model) -> None:
        """Raise InvalidParams for a LoRA that is missing or does not fit the model."""
        if params.loras and not families.get(model.family).loras:
            raise InvalidParams("loras", message("no_loras", model=model.id))
        found = self.loras() if params.loras else []
        for lora in params.loras:
            check_adapter("loras", lora.name, found, model.architecture)

    def _with_controls(self, params: Params, model: Model) -> Params:
        """The params with each control's ControlNet and the id of its preprocessed picture filled in."""
        if not params.controls:
            return params
        if not families.supports("controls", model.family, model.architecture):
            raise InvalidParams("controls", message("no_controls", model=model.id))
        nets = self.controls()
        names = [each.name for each in nets]
        fitting = [
            each.name
            for each in nets
            if each.ready and adapter_fits(references.control_of(each, model), model.architecture)
        ]

        def completed(place: int, control: Control) -> Control:
            field = entry("controls", place, "model")
            name = (
                resolve_name(field, control.model, names)
                if control.model
                else references.chosen_control(field, control, fitting)
            )
            if control.type is ControlType.INPAINT:
                if params.kind is not Kind.INPAINT:
                    raise InvalidParams(entry("controls", place, "type"), message("control_inpaint"))
                return replace(control, model=name, seen="")
            size = self._seen_size(control, params)
            return replace(
                control, model=name, seen=self.see(control.image, control.type, size, entry("controls", place, "type"))
            )

        return replace(params, controls=tuple(completed(*each) for each in enumerate(params.controls)))

    def _seen_size(self, control: Control, params: Params) -> tuple[int, int]:
        """Size in pixels of the picture that a control preprocesses.

        If only the masked area is painted, the engine preprocesses that area itself. Preprocessing that needs a model
        is done on the whole picture, from which the engine then crops the area.
        """
        if control.type.needs_model and params.inpaint_area == INPAINT_AREAS[1]:
            size = self.size_of(str(params.source))
            return margins(params.outpaint, size).extended(size)
        return params.width, params.height

    def _find(self, model_id: str) -> Model:
        if not isinstance(model_id, str):
            raise InvalidParams("model", message("model_id", got=echo(model_id)))
        try:
            return self.get(model_id) if model_id else self.default
        except NotFound as error:
            raise InvalidParams("model", error.message) from None


def no_source(source_id: str) -> tuple[int, int]:
    raise NotFound(message("no_source_picture", source=echo(source_id)))


def read_folder(
    folder: Path,
    model_id: str,
    name: str,
    defaults: Defaults | None = None,
    limits: Limits | None = None,
    licence: str = "",
    source: Origin = "folder",
) -> Model:
    """Describe a diffusers folder; errors become the entry's ``problem``."""
    model = from_entry(IndexEntry(model_id, folder, folders.read_folder(folder)))
    return replace(
        model,
        name=name,
        defaults=defaults or model.defaults,
        limits=limits or model.limits,
        licence=licence or model.licence,
        source=source,
    )


def from_entry(entry: IndexEntry) -> Model:
    """A model with the defaults of its kind from the curated list."""
    facts = entry.found
    known = closest_curated(facts.architecture, facts.hub_id, entry.id, facts.title)
    state, problem = facts.state, facts.problem
    family = families.get(facts.family)
    if not problem and not family.supported:
        state, problem = RECOGNISED, family.problem
    defaults = family.defaults
    if known:
        defaults = Defaults(known.width, known.height, known.steps, known.guidance, known.sampler)
        defaults = distilled.adjust_defaults(defaults, known.words, entry.id, facts.title)
    if facts.architecture == "sd2" and facts.scheduler.get("prediction_type") == "epsilon":
        defaults = replace(defaults, width=SD2_BASE_SIDE, height=SD2_BASE_SIDE)
    spacing = {"timestep_spacing": known.spacing} if known and known.spacing and entry.is_file else {}
    return Model(
        id=entry.id,
        name=(known.title if known and known.id == facts.hub_id and facts.hub_id else facts.title) or entry.id,
        folder=facts.config or entry.path,
        family=facts.family,
        defaults=defaults,
        limits=family.limits,
        licence=facts.licence or (known.licence if known and facts.hub_id else "") or "unknown",
        size_bytes=facts.size_bytes,
        problem=problem,
        state=state,
        architecture=facts.architecture,
        kinds=facts.kinds,
        memory_bytes=facts.memory_bytes,
        source="file" if entry.is_file else "hub" if facts.hub_id else "folder",
        hub_id=facts.hub_id,
        sha256=entry.sha256,
        file=entry.path if entry.is_file else None,
        scheduler=spacing | facts.scheduler,
        precision=facts.precision,
        probe=facts.probe,
        sources=facts.sources,
        tokenizers=facts.tokenizers,
        changes=facts.changes,
    )
