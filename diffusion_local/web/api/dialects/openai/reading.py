"""Requests of OpenAI's images API, and the ``<sd_cpp_extra_args>`` that clients of stable-diffusion.cpp put into the
prompt, as arguments of ``Studio.submit``.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args, get_origin

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.datastructures import UploadFile

from diffusion_local import families
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.options.signature import options_of
from diffusion_local.options.table import PICTURES
from diffusion_local.options.types import Kind
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.adapting import (
    Aliases,
    adapt,
    model_named,
    parse_size,
    size_for_ratio,
    unknown_field,
)
from diffusion_local.web.api.dialects.adapting import strict as is_strict
from diffusion_local.web.api.dialects.pictures import add_source, mask_from_alpha
from diffusion_local.web.api.schemas import FILE_SCHEMA, field_of
from diffusion_local.web.api.uploads import media_type

OPENING, CLOSING = "<sd_cpp_extra_args>", "</sd_cpp_extra_args>"
#: stable-diffusion.cpp's names -> our options. Fields within ``sample_params`` or ``guidance`` count like outer ones.
SD_CPP_NAMES = {
    "cfg_scale": "guidance",
    "clip_skip": "clip_skip",
    "height": "height",
    "negative_prompt": "negative",
    "sample_method": "sampler",
    "sample_steps": "steps",
    "sampler": "sampler",
    "sampling_method": "sampler",
    "schedule": "schedule",
    "scheduler": "schedule",
    "seed": "seed",
    "steps": "steps",
    "strength": "strength",
    "txt_cfg": "guidance",
    "width": "width",
}
MOST_PICTURES = 10  # OpenAI's limit
RATIO = re.compile(r"\d{1,3}:\d{1,3}", re.ASCII)
CALLER_NAMES = {"size": "size", "width": "size", "height": "size", "count": "n"}  # OpenAI's names for our options
#: Fields that have no effect here, with their neutral values.
HARMLESS: dict[str, Any] = {
    "input_fidelity": None,
    "metadata": None,
    "moderation": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
    "store": None,
    "style": None,
    "user": None,
}
#: Fields about the caller or the response, which are ignored without a warning.
SILENT_FIELDS = (
    "metadata",
    "moderation",
    "safety_identifier",
    "prompt_cache_key",
    "store",
    "user",
    "style",
    "input_fidelity",
)
#: Factor for the model's default steps, by quality.
QUALITIES = {"low": 0.5, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 2.0}
USUAL_QUALITIES = ("auto", "standard", "medium")
MOST_PARTIAL = 3  # OpenAI's limit
MOST_IMAGES = 16  # per edit; OpenAI's limit
IMAGE_FIELD = re.compile(r"image(\[\d{0,2}\])?")


def extract_extra_args(prompt: str) -> tuple[str, dict[str, Any], list[str]]:
    """(the prompt without the tag, the options in it, a warning for each that has no effect). Raises InvalidParams."""
    rest, contents = without_tags(prompt)
    if not contents:
        return prompt, {}, []
    try:
        given = json.loads(contents[0])
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise InvalidParams("prompt", message("extra_args", got=echo(contents[0])))
    options: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value in flatten(given).items():
        if name in SD_CPP_NAMES:
            options[SD_CPP_NAMES[name]] = value
        else:
            warnings.append(message("passed_over", field=name, got=echo(value)))
    return rest, options, warnings


def without_tags(prompt: str) -> tuple[str, list[str]]:
    """(the prompt without the tags, the content of each tag), in linear time."""
    kept, contents, start = [], [], 0
    while (begin := prompt.find(OPENING, start)) >= 0 and (end := prompt.find(CLOSING, begin)) >= 0:
        kept.append(prompt[start:begin].rstrip())
        contents.append(prompt[begin + len(OPENING) : end])
        start = end + len(CLOSING)
    return "".join([*kept, prompt[start:]]), contents


def flatten(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with ``sample_params`` and ``guidance`` replaced by their fields."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("sample_params", "guidance") and isinstance(value, dict):
            fields |= flatten(value)
        else:
            fields[name] = value
    return fields


#: Options that this dialect takes from elsewhere: the field ``size``, files of a form, and the route.
ITS_OWN = ("width", "height", "kind", *PICTURES)


def options_for(*kinds: Kind) -> dict[str, Any]:
    """A field for each option that applies to these kinds of work; in a form, a list is text."""
    found = [each for each in options_of(without=ITS_OWN) if set(kinds) & set(each.kinds)]
    return {each.name: form_value(*field_of(each, each.name, *each.spellings)) for each in found}


def form_value(taken: Any, field: Any) -> tuple[Any, Any]:
    return (taken | str if get_origin(get_args(taken)[0]) is list else taken), field


class OwnFields(BaseModel):
    """OpenAI's own fields."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    n: int | None = None
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100, description="quality of jpeg and webp")
    quality: str | None = Field(None, description="low, medium or high: fewer or more steps than the model's default")
    stream: bool | None = Field(None, description="answer with server-sent events")
    partial_images: int | None = Field(None, ge=0, le=MOST_PARTIAL, description="previews in such a stream, 0 to 3")
    aspect_ratio: str | None = Field(
        None, validation_alias=AliasChoices("aspect_ratio", "aspectRatio"), description="such as 16:9, without a size"
    )
    fit: str | None = Field(None, description="strict refuses sizes and samplers that the model lacks")


#: Accepted names of each option; an error uses the one that the request contains.
SPELLED: dict[str, tuple[str, ...]] = {each.name: (each.name, *each.spellings) for each in options_of(without=ITS_OWN)}

SPELLED |= {"width": ("size",), "height": ("size",), "count": ("n",)}


Generation: Any = create_model("Generation", __base__=OwnFields, **options_for(Kind.TXT2IMG))

Edit: Any = create_model(
    "Edit",
    __base__=Generation,
    __doc__="The fields of the form, beside `image` and `mask`.",
    **options_for(Kind.IMG2IMG, Kind.INPAINT),
)


REQUEST_FIELDS = sorted({*Edit.model_fields, *HARMLESS, *(name for names in SPELLED.values() for name in names)})
EDIT_FORM = Edit.model_json_schema()

EDIT_FORM["properties"] |= {"image": FILE_SCHEMA, "mask": FILE_SCHEMA}

EDIT_FORM["required"] = ["image", "prompt"]

EDIT = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": EDIT_FORM}}}}


async def edit_form(request: Request) -> tuple[dict[str, str], list[bytes], bytes | None]:
    """(fields, pictures, mask) of a form. Raises InvalidParams."""
    if media_type(request) != "multipart/form-data":
        raise InvalidParams("image", message("form_file"))
    async with request.form(max_files=MOST_IMAGES + 1, max_fields=50) as form:
        files = {name: [each for each in form.getlist(name) if isinstance(each, UploadFile)] for name in form}
        images = [each for name in files for each in files[name] if IMAGE_FIELD.fullmatch(name)]
        if not 1 <= len(images) <= MOST_IMAGES:
            raise InvalidParams("image", message("some_pictures", most=MOST_IMAGES, got=len(images)))
        masks = [each for each in files.get("mask", []) if each.filename or each.size]  # a browser's empty input
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return fields, [await each.read() for each in images], await masks[0].read() if masks else None


def validated(fields: dict[str, str]) -> OwnFields:
    try:
        return cast(OwnFields, Edit.model_validate(fields))
    except ValidationError as error:
        raise RequestValidationError([each | {"loc": ("body", *each["loc"])} for each in error.errors()]) from None


def pictures_of(
    studio: Studio, architecture: str, images: list[bytes], mask: bytes | None, extended: bool = False
) -> dict[str, Any]:
    """The options that name the pictures of an edit. Raises InvalidParams.

    A model that reads reference pictures gets all of them, unless a picture is ``extended`` (outpaint). For any other
    model the first picture is the source, and the transparent parts of the mask, or of the picture if there is no mask,
    are repainted.
    """
    if extended or not (most := families.references_of(architecture)):
        found = source_and_mask(studio, images[0], mask)
        return found | ({"kind": "inpaint"} if extended else {})
    if len(images) > most:
        raise InvalidParams("image", message("some_pictures", most=most, got=len(images)))
    masked = {"kind": "txt2img"} if mask is None else source_and_mask(studio, images[0], mask)
    return masked | {"references": [{"image": studio.sources.add(each, "image").id} for each in images]}


def source_and_mask(studio: Studio, image: bytes, mask: bytes | None) -> dict[str, Any]:
    source = studio.sources.add(image, "image").id
    options: dict[str, Any] = {"source": source}
    with add_source(studio.sources, image if mask is None else mask, "image" if mask is None else "mask") as picture:
        painted = mask_from_alpha(picture)
    if mask is not None and not painted:
        raise InvalidParams("mask", message("mask_clear"))
    if not painted:
        return options | {"kind": "img2img"}
    return options | {"kind": "inpaint", "mask": studio.sources.add(painted, "mask").id}


@dataclass(slots=True)
class OpenAIRequest:
    """Arguments of ``Studio.submit``, warnings about adapted and ignored values, and the model's architecture."""

    options: dict[str, Any]
    warnings: list[str]
    architecture: str = ""


def translate(studio: Studio, settings: Settings, aliases: Aliases, body: OwnFields) -> OpenAIRequest:
    """Translate a request. Raises InvalidParams."""
    strict = is_strict(body.fit, settings.fit)
    chosen, warnings = model_named(studio.models(), getattr(body, "model", None), aliases)
    warnings += extra_fields(body, strict)
    count = 1 if body.n is None else body.n
    if not 1 <= count <= MOST_PICTURES:
        raise InvalidParams("n", message("range", low=1, high=MOST_PICTURES, got=count))
    if body.response_format == "url" and body.output_format not in (None, "png"):
        warnings.append(message("passed_over", field="output_format", got=echo(body.output_format)))
    taken = [each.name for each in options_of(without=ITS_OWN)]
    options: dict[str, Any] = {name: getattr(body, name) for name in taken if name in type(body).model_fields}
    prompt, further, notes = extract_extra_args(body.prompt)
    options |= {"prompt": prompt, "count": count, "model": chosen.id}
    warnings += notes
    if body.quality and body.quality not in USUAL_QUALITIES:
        if body.quality not in QUALITIES:
            raise InvalidParams(
                "quality", message("one_of", known=[*USUAL_QUALITIES, *QUALITIES], got=echo(body.quality))
            )
        if options.get("steps") is None:
            steps = max(1, round(chosen.defaults.steps * QUALITIES[body.quality]))
            options["steps"] = min(steps, chosen.limits.max_steps)
    options |= size_of(body, chosen)
    options |= {name: value for name, value in further.items() if options.get(name) is None}
    if options.get("background") == "transparent" and not strict and not can_cut_out(studio):
        warnings.append(message("passed_over", field="background", got=echo(options.pop("background"))))
    fitted = adapt(chosen, options, strict, CALLER_NAMES)
    return OpenAIRequest(fitted.options, warnings + fitted.warnings, chosen.architecture)


def can_cut_out(studio: Studio) -> bool:
    """Whether there is a model that removes backgrounds."""
    return "background" in studio.library.tasks()


def size_of(body: OwnFields, chosen: Model) -> dict[str, int]:
    """The options ``width`` and ``height``; empty if the request leaves the size open. Raises InvalidParams."""
    requested = body.size if body.size and body.size != "auto" else body.aspect_ratio
    if not requested or requested == "auto":
        return {}
    if RATIO.fullmatch(requested):
        width, height = size_for_ratio(requested, None, chosen)
    else:
        width, height = parse_size(requested)
    return {"width": width, "height": height}


def extra_fields(body: OwnFields, strict: bool) -> list[str]:
    """A warning for each ignored field. Raises InvalidParams for an unknown field that resembles a known one, and if
    ``strict`` for every unknown field.
    """
    notes: list[str] = []
    for name, value in (body.model_extra or {}).items():
        if name not in HARMLESS:
            refusal = unknown_field(name, REQUEST_FIELDS)
            if name in REQUEST_FIELDS:  # of the other route, or of an upscale
                kind = Kind.IMG2IMG if isinstance(body, Edit) else Kind.TXT2IMG
                raise InvalidParams(name, message("foreign_kind", kind=kind))
            if strict or refusal.problem.id == "field_near":
                raise refusal
        elif value in (None, HARMLESS[name]) or name in SILENT_FIELDS:
            continue
        notes.append(message("passed_over", field=name, got=echo(value)))
    return notes


def form_of(body: OwnFields) -> tuple[str, int]:
    """(format of the response's pictures, their quality)."""
    return body.output_format or "png", 90 if body.output_compression is None else body.output_compression
