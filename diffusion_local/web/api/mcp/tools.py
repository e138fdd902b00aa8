"""The tools that agents can call, each translated to operations of the Studio.

A tool that makes pictures submits them and waits for a limited time; the work continues afterwards, or if the caller
disconnects, and ``wait`` resumes the wait.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from pydantic import BaseModel

from diffusion_local import families, serializers
from diffusion_local.actor import Scope, current
from diffusion_local.domain import Image, Job
from diffusion_local.errors import InvalidParams
from diffusion_local.lists.service import ListReceipt
from diffusion_local.messages import message
from diffusion_local.models.catalog import LOCAL_FIELDS, Model
from diffusion_local.operations import answers, registry
from diffusion_local.operations.registry import OPERATIONS, Argument
from diffusion_local.options.types import Kind, Reference
from diffusion_local.options.validate import with_pictures
from diffusion_local.options.values import check_integer, check_number, record_values
from diffusion_local.prompt_helper import HelpedPrompt
from diffusion_local.serializers import Json
from diffusion_local.web.api.mcp.arguments import (
    model_for,
    of_batch,
    of_operation,
    of_picture,
    output_schema,
    schema_of,
    validated,
)
from diffusion_local.web.api.mcp.pictures import source_of
from diffusion_local.web.api.mcp.waiting import MOST_JOBS, Context, one_more_wait, until_batch_ended, until_ended
from diffusion_local.web.api.schemas import IMAGE, JOB, QUEUE_SHAPE, several, typed

MOST_SECONDS = 600.0  # limit of one call's wait
USUAL_SECONDS = 45.0  # below the time-out of most clients, a minute
PICTURE_FORMS = ("none", "preview", "full")
IMAGE_MEANING = (
    "picture to begin from: the id of a picture in the gallery or of a source picture, or the picture in Base64"
)
SHARED_ARGUMENTS = "name priority idempotency_key expand"


@dataclass(frozen=True, slots=True)
class Result:
    """A tool's result: JSON, and its pictures in the form that the caller chose."""

    content: Json
    images: Sequence[Image] = ()
    picture: str = "none"


@dataclass(frozen=True, slots=True)
class Tool:
    """``call`` takes the context and the validated arguments; ``scope``: required by its operation."""

    name: str
    title: str
    operation: str
    doc: str
    arguments: list[Argument]
    answer: Any
    call: Callable[[Context, dict[str, Any]], Awaitable[Result]]
    renamed: dict[str, str] = field(default_factory=dict)  # our option -> the tool's argument, in errors

    @property
    def scope(self) -> Scope | None:
        return OPERATIONS[self.operation].scope

    @property
    def reads_only(self) -> bool:
        return self.scope in (None, Scope.READ)

    @property
    def model(self) -> type[BaseModel]:
        return model_for(self.name, self.arguments)


class Tools:
    """The tools that the current actor may use."""

    def __init__(self) -> None:
        self._all = {each.name: each for each in declared()}
        self._models = {each.name: each.model for each in self._all.values()}
        self.inputs = {name: schema_of(model) for name, model in self._models.items()}
        self.outputs = {each.name: output_schema(each.answer) for each in self._all.values()}

    def offered(self) -> list[Tool]:
        scopes = current().scopes
        return [each for each in self._all.values() if each.scope is None or each.scope in scopes]

    def get(self, name: str) -> Tool | None:
        return self._all.get(name)

    async def call(self, tool: Tool, context: Context, arguments: Any) -> Result:
        """Raises UserError; for an invalid argument with the tool's name for it."""
        try:
            return await tool.call(context, validated(self._models[tool.name], arguments))
        except InvalidParams as error:
            option = tool.renamed.get(error.option, error.option)
            raise InvalidParams(option + error.field.removeprefix(error.option), error.problem) from None


# -- making pictures ---------------------------------------------------------------------------------------------------


async def generate_image(context: Context, arguments: dict[str, Any]) -> Result:
    return await submit_and_wait(context, arguments | {"kind": Kind.TXT2IMG.value})


async def edit_image(context: Context, arguments: dict[str, Any]) -> Result:
    """A model that reads reference pictures gets the image as its first reference, unless a mask or a strength is
    given.
    """
    if arguments.get("mask") or arguments.get("outpaint"):
        return await submit_and_wait(context, arguments | {"kind": Kind.INPAINT.value})
    image, others = arguments.get("image"), arguments.get("references") or []
    if image and (
        arguments.get("strength") is not None
        or not await anyio.to_thread.run_sync(reads_pictures, context, arguments.get("model"))
    ):
        return await submit_and_wait(context, arguments | {"kind": Kind.IMG2IMG.value})
    if not image and not others:
        raise InvalidParams("image", message("source_needed", kind=Kind.IMG2IMG))
    rest = {name: value for name, value in arguments.items() if name != "image"}
    references = [*([{"image": image}] if image else []), *record_values("references", others, Reference)]
    return await submit_and_wait(context, rest | {"references": references, "kind": Kind.TXT2IMG.value})


def reads_pictures(context: Context, model: str | None) -> bool:
    """Whether the model, or the default one, reads pictures beside the prompt."""
    models = context.studio.models()
    found = next((each for each in models if each.id == model), models[0] if not model else None)
    return found is not None and families.references_of(found.architecture) > 0


async def upscale(context: Context, arguments: dict[str, Any]) -> Result:
    return await submit_and_wait(context, arguments | {"kind": Kind.UPSCALE.value, "prompt": ""})


async def submit_and_wait(context: Context, arguments: dict[str, Any]) -> Result:
    """Submit, and wait for the pictures."""
    seconds, picture = patience(arguments)
    options = {name: value for name, value in arguments.items() if name not in ("seconds", "picture", "image")}

    def submit() -> Any:
        pictures = {"source": arguments.get("image"), "mask": arguments.get("mask")}
        return context.studio.submit(**with_pictures(options | pictures, partial(source_of, context.studio)))

    with one_more_wait():
        receipt = await anyio.to_thread.run_sync(submit)
        if len(receipt.job_ids) > MOST_JOBS:
            jobs, finished = await until_batch_ended(context, receipt.batch_id, seconds)
        else:
            jobs, finished = await until_ended(context, receipt.job_ids, seconds)
    content, images = await anyio.to_thread.run_sync(jobs_with_pictures, context.studio, jobs)
    head = {
        "batch_id": receipt.batch_id,
        "job_ids": receipt.job_ids,
        "warnings": [str(each) for each in receipt.warnings],
    }
    return Result(head | content | {"finished": finished}, images, picture)


async def wait(context: Context, arguments: dict[str, Any]) -> Result:
    seconds, picture = patience(arguments)
    job_ids, batch_id = arguments.get("job_ids") or [], arguments.get("batch_id") or ""
    if bool(job_ids) == bool(batch_id):
        raise InvalidParams("job_ids", message("job_or_batch"))
    with one_more_wait():
        if batch_id:
            jobs, finished = await until_batch_ended(context, batch_id, seconds)
        else:
            jobs, finished = await until_ended(context, job_ids, seconds)
    content, images = await anyio.to_thread.run_sync(jobs_with_pictures, context.studio, jobs)
    return Result(content | {"finished": finished}, images, picture)


async def get_job(context: Context, arguments: dict[str, Any]) -> Result:
    picture = picture_form(arguments)

    def poll() -> tuple[Json, list[Image]]:
        job = context.studio.job(arguments["job_id"])
        content, images = jobs_with_pictures(context.studio, [job])
        return content["jobs"][0], images

    content, images = await anyio.to_thread.run_sync(poll)
    return Result(content, images, picture)


async def submit_list(context: Context, arguments: dict[str, Any]) -> Result:
    content = arguments.pop("text")
    receipt: ListReceipt = await anyio.to_thread.run_sync(lambda: context.studio.lists.submit(content, **arguments))
    return Result(answers.as_json(context.studio, receipt))


async def cancel(context: Context, arguments: dict[str, Any]) -> Result:
    if not any(arguments.get(name) for name in ("job_ids", "batch_id", "waiting")):
        raise InvalidParams("job_ids", message("job_or_batch"))
    touched = await anyio.to_thread.run_sync(lambda: context.studio.queue.cancel(**arguments))
    return Result({"job_ids": list(touched)})


# -- looking -----------------------------------------------------------------------------------------------------------


async def list_models(context: Context, arguments: dict[str, Any]) -> Result:
    found = await anyio.to_thread.run_sync(context.studio.models)
    return Result({"models": [serializers.model(each) for each in found]})


async def search_gallery(context: Context, arguments: dict[str, Any]) -> Result:
    picture = picture_form(arguments, "none")
    limit = check_integer("limit", arguments.pop("limit", 20), 1, MOST_JOBS)
    filters = {name: value for name, value in arguments.items() if name != "picture"}
    found: list[Image] = await anyio.to_thread.run_sync(lambda: context.studio.pictures.page(limit, **filters))
    following = found[-1].id if len(found) == limit else None
    return Result({"images": [serializers.image(each) for each in found], "next": following}, found, picture)


async def queue(context: Context, arguments: dict[str, Any]) -> Result:
    snapshot = await anyio.to_thread.run_sync(lambda: context.studio.snapshot(20, 10))
    return Result(serializers.queue(snapshot))


async def help_prompt(context: Context, arguments: dict[str, Any]) -> Result:
    found: HelpedPrompt = await anyio.to_thread.run_sync(lambda: context.studio.prompts.help(**arguments))
    return Result(answers.as_json(context.studio, found))


def patience(arguments: dict[str, Any]) -> tuple[float, str]:
    """(seconds to wait, form of pictures). Raises InvalidParams."""
    return check_number("seconds", arguments.get("seconds", USUAL_SECONDS), 0, MOST_SECONDS), picture_form(arguments)


def picture_form(arguments: dict[str, Any], usual: str = "preview") -> str:
    found = arguments.get("picture", usual)
    if found not in PICTURE_FORMS:
        raise InvalidParams("picture", message("one_of", known=list(PICTURE_FORMS), got=found))
    return str(found)


def jobs_with_pictures(studio: Any, jobs: list[Job]) -> tuple[Json, list[Image]]:
    """(jobs as JSON, their pictures)."""
    images = studio.images_of(jobs)
    return {"jobs": serializers.with_places(studio, jobs)}, [images[job.id] for job in jobs if job.id in images]


# -- the table ---------------------------------------------------------------------------------------------------------

PICTURE_ARGUMENT = Argument(
    "picture",
    "picture",
    str,
    "preview",
    "how pictures come with the answer: none, preview (a JPEG of at most 768 pixels a side), or full (the file)",
)
SECONDS_ARGUMENT = Argument(
    "seconds", "seconds", float, USUAL_SECONDS, "how long to wait, 0 to 600; the work goes on afterwards: call `wait`"
)
IMAGE_ARGUMENT = Argument("image", "image", str, meaning=IMAGE_MEANING)
EDITED_ARGUMENT = Argument("image", "image", str | None, None, IMAGE_MEANING + "; `references` may stand for it")
MASK_ARGUMENT = Argument(
    "mask",
    "mask",
    str | None,
    None,
    "picture whose white is painted anew, named as `image` is; without one the whole picture is changed",
)
MADE_RESULT = typed("Made", batch_id=str, job_ids=list[str], warnings=list[str], finished=bool, jobs=several(JOB))


def declared() -> list[Tool]:
    prompt, count, *more = of_operation("submit", f"prompt count {SHARED_ARGUMENTS}")
    edited = of_picture(Kind.IMG2IMG, Kind.INPAINT, without=("prompt",))
    upscaling = [each for each in of_picture(Kind.UPSCALE) if each.name in ("upscaler", "scale", "background")]
    gallery = [each for each in registry.arguments(OPERATIONS["pictures.page"]) if each.name != "limit"]
    limit = Argument("limit", "limit", int, 20, "pictures to list, 1 to 100")
    without_picture = Argument("picture", "picture", str, "none", PICTURE_ARGUMENT.meaning)
    job_id = Argument("job_id", "job_id", str, meaning="a job's id")
    lists = of_operation(
        "lists.submit", "text=content format skip_bad_lines name priority idempotency_key expand expansion_seed count"
    )
    return [
        Tool(
            "generate_image",
            "Generate pictures",
            "submit",
            "Make pictures of a prompt and wait for them. What is left out takes the model's default. If they are not "
            "made within `seconds`, the answer has `finished` false: call `wait` with its `job_ids`.",
            [prompt, *of_picture(Kind.TXT2IMG, without=("prompt",)), count, *more, SECONDS_ARGUMENT, PICTURE_ARGUMENT],
            MADE_RESULT,
            generate_image,
        ),
        Tool(
            "edit_image",
            "Edit a picture",
            "submit",
            "Change a picture by a prompt: all of it, or with a `mask` what is white there. `strength` says how far "
            "from the picture; without it a model that reads pictures follows the prompt as an instruction, also for "
            "those in `references`. Waits as `generate_image` does.",
            [prompt, EDITED_ARGUMENT, MASK_ARGUMENT, *edited, count, *more, SECONDS_ARGUMENT, PICTURE_ARGUMENT],
            MADE_RESULT,
            edit_image,
            {"source": "image"},
        ),
        Tool(
            "upscale",
            "Enlarge a picture",
            "submit",
            "Make a picture larger. Waits as `generate_image` does.",
            [IMAGE_ARGUMENT, *upscaling, SECONDS_ARGUMENT, PICTURE_ARGUMENT],
            MADE_RESULT,
            upscale,
            {"source": "image"},
        ),
        Tool("get_job", "Look at a job", "job", OPERATIONS["job"].doc, [job_id, PICTURE_ARGUMENT], JOB, get_job),
        Tool(
            "wait",
            "Wait for pictures",
            "wait",
            "Wait until jobs, or all jobs of a batch, have ended, and get their pictures; name one or the other. Of a "
            f"batch the first {MOST_JOBS} jobs are listed.",
            [
                Argument("job_ids", "job_ids", list[str] | None, None, "jobs by their ids"),
                Argument("batch_id", "batch_id", str | None, None, "a batch by its id"),
                SECONDS_ARGUMENT,
                PICTURE_ARGUMENT,
            ],
            typed("Waited", finished=bool, jobs=several(JOB)),
            wait,
        ),
        Tool(
            "cancel",
            "Cancel jobs",
            "queue.cancel",
            OPERATIONS["queue.cancel"].doc,
            of_operation("queue.cancel", "job_ids batch_id waiting"),
            typed("Cancelled", job_ids=list[str]),
            cancel,
        ),
        Tool(
            "list_models",
            "List models",
            "models",
            "The models, with their defaults and limits; the default one first.",
            [],
            typed(
                "Models",
                models=several(typed("ModelFacts", Model, *LOCAL_FIELDS, ready=bool)),
            ),
            list_models,
        ),
        Tool(
            "search_gallery",
            "Search the gallery",
            "pictures.page",
            OPERATIONS["pictures.page"].doc,
            [limit, *gallery, without_picture],
            typed("Found", images=several(IMAGE), next=str | None),
            search_gallery,
        ),
        Tool("queue", "Look at the queue", "snapshot", OPERATIONS["snapshot"].doc, [], QUEUE_SHAPE, queue),
        Tool(
            "submit_list",
            "Submit a list of prompts",
            "lists.submit",
            OPERATIONS["lists.submit"].doc + " Returns at once; follow it by `wait` with its `batch_id`.",
            [*lists, *of_picture(Kind.TXT2IMG, without=("prompt", "seed")), *of_batch()],
            typed("ListSubmitted", ListReceipt),
            submit_list,
        ),
        Tool(
            "help_prompt",
            "Improve a prompt",
            "prompts.help",
            OPERATIONS["prompts.help"].doc,
            of_operation("prompts.help", "prompt task language count"),
            typed("Helped", HelpedPrompt),
            help_prompt,
        ),
    ]
