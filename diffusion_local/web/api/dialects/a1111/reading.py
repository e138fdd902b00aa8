"""Translates requests of A1111's clients to arguments of ``Studio.submit``.

Parameters that would change the picture and cannot be honoured are refused by name; unsupported sizes and samplers are
adapted with a warning; other ignored parameters are listed in ``not_used``.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model, model_validator

from diffusion_local import families
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.options.inpaint import INPAINT_AREAS
from diffusion_local.options.option import Option
from diffusion_local.options.samplers import merge_schedule
from diffusion_local.options.signature import options_of
from diffusion_local.options.table import OPTIONS, PICTURES
from diffusion_local.options.types import Kind
from diffusion_local.options.values import check_integer, entry
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.a1111 import draw_things, scripts, second_pass
from diffusion_local.web.api.dialects.a1111.scripts import HASH
from diffusion_local.web.api.dialects.adapting import Adapted, Aliases, adapt, fit_second_pass, model_named
from diffusion_local.web.api.dialects.adapting import strict as is_strict
from diffusion_local.web.api.dialects.calls import check_neutral
from diffusion_local.web.api.dialects.pictures import add_source, invert, resize
from diffusion_local.web.api.schemas import field_of
from diffusion_local.web.api.uploads import decoded

MOST_PICTURES = 100
NONE_NAMES = ("", "automatic", "none")
#: Unsupported fields, with the neutral values that are accepted.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "firstpass_image": ("",),
    "refiner_checkpoint": ("", "None"),
    "restore_faces": (False,),
    "script_name": ("", "None"),
    "tiling": (False,),
}
#: Initial content of the masked area, in the order of A1111's numbers.
FILLS = ("fill", "original", "latent noise", "latent nothing")
OF_IMG2IMG: dict[str, tuple[Any, ...]] = {"include_init_images": (False,)}
READ_ELSEWHERE = ("enable_hr", "alwayson_scripts", "resize_mode", "styles", "fit")
#: Formats of pictures in responses, by the option ``samples_format``.
ANSWER_FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
#: Fields about the response or about saving files; they do not change the picture.
WITHOUT_EFFECT = {"do_not_save_grid", "do_not_save_samples", "override_settings_restore_afterwards", "save_images"}
SETTABLE = ("sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers", "samples_format")
LEAST_SKIPPED, MOST_SKIPPED = map(int, OPTIONS["clip_skip"].bounds)


SHORTEST_HASH = 8
#: ``resize_mode`` for another aspect ratio: 0 stretches, 1 crops (as the engine does), 2 extends the edges.
RESIZED, LATENT = (0, 1, 2), 3
#: A1111's names for our options, used in warnings.
A1111_FIELDS = {
    "size": "width",
    "hires_scale": "hr_scale",
    "guidance": "cfg_scale",
    "sampler": "sampler_name",
    "schedule": "scheduler",
}


#: Options that this dialect takes from elsewhere: the prompt, A1111's options, the pictures, or the route.
ITS_OWN = ("model", "kind", "loras", "vae", *PICTURES)


def name_of(option: Option) -> str:
    return option.web_api or option.name


def options_for(kind: Kind, *others: Kind) -> dict[str, Any]:
    """A field under A1111's name for each option that applies to this kind of work."""
    return {
        name_of(each): field_of(each)
        for each in options_of(without=ITS_OWN)
        if kind in each.kinds and not set(others) & set(each.kinds)
    }


class Common(BaseModel):
    """Fields of every call."""

    model_config = ConfigDict(extra="allow")

    prompt: str = ""
    sampler_index: str | None = None
    batch_size: int | None = None
    n_iter: int | None = None
    override_settings: dict[str, Any] | None = None
    send_images: bool = True

    @model_validator(mode="before")
    @classmethod
    def _with_names_of_a1111(cls, given: Any) -> Any:
        return draw_things.renamed(given)


class Pictures(BaseModel):
    """Further fields of img2img; with a mask it becomes inpainting."""

    init_images: list[str] = []
    mask: str | None = None
    inpainting_mask_invert: int | None = None
    inpainting_fill: int | None = None
    inpaint_full_res: bool | int | None = None


#: Accepted names of each option; an error uses the one that the request contains.
SPELLED: dict[str, tuple[str, ...]] = {each.name: (name_of(each),) for each in options_of(without=ITS_OWN)}
SPELLED |= {
    "sampler": ("sampler_name", "sampler_index"), "count": ("batch_size", "n_iter"), "source": ("init_images",),
    "hires_strength": ("hires_strength", "denoising_strength"), "vae": ("sd_vae",),
    "model": ("sd_model_checkpoint",),
}  # fmt: skip

Wanted: Any = create_model("Wanted", __base__=Common, **options_for(Kind.TXT2IMG))
#: Options that apply only with a mask; A1111's clients also send them without one.
OF_MASKS = options_for(Kind.INPAINT, Kind.TXT2IMG, Kind.IMG2IMG)
Changed: Any = create_model(
    "Changed", __base__=(Pictures, Wanted), **options_for(Kind.IMG2IMG, Kind.TXT2IMG), **OF_MASKS
)


@dataclass(slots=True)
class A1111Request:
    """Arguments of ``Studio.submit``, warnings, the caller's prompt with styles applied, and how to respond.

    ``units``: for each entry of an option that is an extension's unit, such as ``controls[0]``, the unit's name in the
    request and the names of its fields, by ours.
    """

    options: dict[str, Any]
    warnings: list[str]
    styles: list[str]
    form: str
    units: dict[str, tuple[str, dict[str, str]]]

    def with_its_names(self, error: InvalidParams) -> InvalidParams:
        """The error with the request's names for units and their fields."""
        errors = []
        for each in (error, *error.also):
            place, _, part = each.field.partition(".")
            unit, fields = self.units.get(place, (place, {}))
            errors.append(InvalidParams(".".join(filter(None, (unit, fields.get(part, part)))), each.problem))
        errors[0].also = tuple(errors[1:])
        return errors[0]


def translate(
    studio: Studio, settings: Settings, aliases: Aliases, body: Any, set_before: dict[str, Any]
) -> A1111Request:
    """Translate a request; uploaded pictures are stored. ``set_before``: options that the caller set earlier. Raises
    InvalidParams.
    """
    extra = body.model_extra or {}
    strict = is_strict(extra.get("fit"), settings.fit)
    check_neutral(extra, NEUTRAL)
    check_scripts(extra.get("alwayson_scripts"))
    if not isinstance(body, Pictures):
        check_neutral(extra, {"init_images": ([],)})
    for name in ("batch_size", "n_iter"):
        value = getattr(body, name)
        if value is not None and not 1 <= value <= MOST_PICTURES:
            raise InvalidParams(name, message("range", low=1, high=MOST_PICTURES, got=value))
    override = body.override_settings or {}
    checked_options(studio, aliases, override)
    set_up = set_before | override
    model, warnings = model_of(studio, aliases, set_up.get("sd_model_checkpoint"))
    sampler, schedule = sampler_of(body)
    skip = body.clip_skip if body.clip_skip is not None else set_up.get("CLIP_stop_at_last_layers")
    declared = type(body).model_fields  # clients also send img2img's fields to txt2img
    taken = [each for each in options_of(without=ITS_OWN) if name_of(each) in declared]
    given = {each.name: getattr(body, name_of(each)) for each in taken}
    styles = styles_of(extra.get("styles"))
    prompt, negative = studio.styles.apply(styles, body.prompt, given["negative"] or "")
    given |= {
        "prompt": prompt,
        "negative": negative,
        "model": model.id,
        "vae": named_vae(set_up.get("sd_vae")),
        "clip_skip": clip_skip(skip),
        "sampler": sampler,
        "schedule": schedule,
        "count": (body.batch_size or 1) * (body.n_iter or 1),
    }
    if not body.subseed_strength:  # A1111 sends a subseed with every call
        given |= {"variation_seed": None, "variation_strength": None}
    fitted = adapt(model, given, strict, A1111_FIELDS)
    given, warnings = fitted.options, warnings + fitted.warnings
    second, notes = second_pass.options_of(studio, extra, with_size(model, given), strict)
    with_second = Adapted(given | second, warnings + notes)
    if not strict:
        fit_second_pass(with_second, model, A1111_FIELDS)
    given, warnings = with_second.options, with_second.warnings
    whole, spacing = merge_schedule(given["sampler"] or "", given["schedule"] or "")  # some pairs have one name here
    given |= {"sampler": whole or None, "schedule": spacing or None}
    first = body.init_images[0] if isinstance(body, Pictures) and body.init_images else None
    units: dict[str, tuple[str, dict[str, str]]] = {}
    for script, field, args in check_scripts(extra.get("alwayson_scripts")):
        is_detailer = script == scripts.DETAILER_SCRIPT
        read_units = scripts.details_of(args, field) if is_detailer else scripts.controls_of(studio, args, field, first)
        before = given.get(read_units.option) or ()
        for place, name in enumerate(read_units.names, len(before)):
            units[entry(read_units.option, place)] = name, scripts.UNIT_FIELDS[read_units.option]
        given[read_units.option] = [*before, *read_units.entries]
        warnings = warnings + read_units.warnings
    if isinstance(body, Pictures):
        found, notes = pictures_of(studio, body, given, model)
        given, warnings = given | found, warnings + notes
    return A1111Request(given, warnings, styles, ANSWER_FORMATS[str(set_up.get("samples_format") or "png")], units)


def with_size(model: Model, given: dict[str, Any]) -> dict[str, Any]:
    """The options with the model's default size where the request has none."""
    sides = {name: getattr(model.defaults, name) for name in ("width", "height") if given.get(name) is None}
    return given | sides


def styles_of(options: Any) -> list[str]:
    """The names of the styles to apply. Raises InvalidParams if it is not a list of texts."""
    if options is None:
        return []
    if not isinstance(options, list) or not all(isinstance(each, str) for each in options):
        raise InvalidParams("styles", message("list_of_names", got=echo(options)))
    return [each for each in options if each and each != "None"]


def check_scripts(given: Any) -> list[tuple[str, str, Any]]:
    """(script, field, arguments) of the ControlNet and ADetailer extensions. Disabled scripts, which clients send for
    extensions they know, are ignored. Raises InvalidParams for any other one.
    """
    units: list[tuple[str, str, Any]] = []
    if not given:
        return units
    for name, script in given.items() if isinstance(given, dict) else [("", given)]:
        args = script.get("args") if isinstance(script, dict) else script
        field = f"alwayson_scripts.{name}".rstrip(".")
        script = str(name).lower()
        if not is_off(args) and script in (scripts.CONTROLNET_SCRIPT, scripts.DETAILER_SCRIPT):
            units.append((script, field, args))
        elif not is_off(args):
            raise InvalidParams(field, message("no_script", name=echo(name)))
    return units


def is_off(args: Any) -> bool:
    if isinstance(args, dict) and "enabled" not in args:
        return all(map(is_off, args.values()))
    if isinstance(args, dict):
        return not args["enabled"]
    if isinstance(args, list | tuple):
        return not args or args[0] is False or all(map(is_off, args))
    return not args


def pictures_of(studio: Studio, body: Any, given: dict[str, Any], model: Model) -> tuple[dict[str, Any], list[str]]:
    """(the options that name the pictures, warnings). Raises InvalidParams."""
    extra: dict[str, Any] = body.model_extra or {}
    warnings: list[str] = []
    check_neutral(extra, OF_IMG2IMG)
    most = 0 if body.mask or given.get("references") else families.references_of(model.architecture)
    if len(body.init_images) != 1 and not 1 < len(body.init_images) <= most:
        raise InvalidParams("init_images", message("one_picture", got=len(body.init_images)))
    mode = extra.get("resize_mode") or 0
    if mode not in (*RESIZED, LATENT):
        raise InvalidParams("resize_mode", message("one_of", known=[*RESIZED, LATENT], got=echo(mode)))
    if mode == LATENT:
        warnings.append(message("replaced", field="resize_mode", got=LATENT, to=0))
        mode = 0
    masked = mask_options(body)
    size = possible_size(given.get("width"), given.get("height"), model)
    if masked.get("inpaint_area", given["inpaint_area"]) == INPAINT_AREAS[1] or given["outpaint"]:
        size = None  # the source keeps its shape

    def store(data: bytes, field: str) -> str:
        source = studio.sources.add(data, field)
        if size is None or mode == 1 or source.width * size[1] == source.height * size[0]:
            return source.id
        with add_source(studio.sources, data, field) as picture:
            return studio.sources.add(resize(picture, size, mode), field).id

    if most:  # the model reads pictures beside the prompt, instead of starting from one
        ids = [studio.sources.add(decoded("init_images", each), "init_images").id for each in body.init_images]
        return {"kind": "txt2img", "strength": None, "references": [{"image": each} for each in ids]}, warnings
    options: dict[str, Any] = {"source": store(decoded("init_images", body.init_images[0]), "init_images")}
    if not body.mask and not given["outpaint"]:
        unused = {each.name: None for each in options_of(without=ITS_OWN) if name_of(each) in OF_MASKS}
        return options | unused | {"kind": "img2img"}, warnings
    options |= {"kind": "inpaint"} | masked
    if not body.mask:
        return options, warnings
    mask = decoded("mask", body.mask)
    if body.inpainting_mask_invert:
        with add_source(studio.sources, mask, "mask") as picture:
            mask = invert(picture)
    return options | {"mask": store(mask, "mask")}, warnings


def possible_size(width: Any, height: Any, model: Model) -> tuple[int, int] | None:
    """The size to which pictures are scaled; None if it is not given or refused at the submit."""
    if not (width and height and 0 < min(width, height) <= max(width, height) <= model.limits.max_size):
        return None
    return (width, height) if width * height <= model.limits.max_pixels else None


def mask_options(body: Any) -> dict[str, Any]:
    """Options from A1111's mask fields. Raises InvalidParams."""
    options = {}
    if body.inpainting_fill is not None:
        if not 0 <= body.inpainting_fill < len(FILLS):
            got = echo(body.inpainting_fill)
            raise InvalidParams("inpainting_fill", message("one_of", known=list(range(len(FILLS))), got=got))
        options["mask_content"] = FILLS[body.inpainting_fill]
    if body.inpaint_full_res is not None:
        options["inpaint_area"] = INPAINT_AREAS[bool(body.inpaint_full_res)]
    return options


def clip_skip(layers: Any) -> int | None:
    """Number of skipped layers; A1111 counts the layer to stop at, where 1 is the last. Raises InvalidParams."""
    if layers is None or layers in (0, 1):
        return None
    return int(layers) if isinstance(layers, int) else OPTIONS["clip_skip"].validate(layers)


def sampler_of(body: Any) -> tuple[str | None, str | None]:
    """(sampler, schedule) that a request names."""
    sampler, scheduler = body.sampler_name or body.sampler_index or "", body.scheduler or ""
    return (None if sampler.lower() in NONE_NAMES else sampler), (
        None if scheduler.lower() in NONE_NAMES else scheduler
    )


def checked_options(studio: Studio, aliases: Aliases, options: dict[str, Any]) -> None:
    """Raises InvalidParams for a value that cannot be set."""
    form = options.get("samples_format")
    if form is not None and form not in ANSWER_FORMATS:
        raise InvalidParams("samples_format", message("one_of", known=list(ANSWER_FORMATS), got=echo(form)))
    model_of(studio, aliases, options.get("sd_model_checkpoint"))
    vae, skip = named_vae(options.get("sd_vae")), options.get("CLIP_stop_at_last_layers")
    if vae and vae not in {each.name for each in studio.adapters("vae")}:
        raise InvalidParams("sd_vae", message("no_vae", name=echo(vae)))
    if skip is not None:
        check_integer("CLIP_stop_at_last_layers", skip, LEAST_SKIPPED, MOST_SKIPPED)


def model_of(studio: Studio, aliases: Aliases, name: Any) -> tuple[Model, list[str]]:
    """(the model that an option names, warnings). The name may be an id, file, title with hash, hash, or alias. Raises
    InvalidParams.
    """
    models, text = studio.models(), HASH.sub("", str(name or ""))
    for each in models:
        if len(text) >= SHORTEST_HASH and each.sha256.startswith(text.lower()):
            return each, []
    return model_named(models, text, aliases, "sd_model_checkpoint")


def title(model: Model) -> str:
    """A model's name with the first digits of its hash, as A1111 lists it."""
    return f"{model.id} [{model.sha256[:10]}]" if model.sha256 else model.id


def named_vae(name: Any) -> str | None:
    text = str(name or "").removesuffix(".safetensors")
    return None if text.lower() in NONE_NAMES else text
