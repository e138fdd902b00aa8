"""What requests of the HTTP API carry. Only types are checked here; limits are the Studio's business."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model

from diffusion_local.options.option import Option
from diffusion_local.options.signature import options_of

M = TypeVar("M", bound=BaseModel)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def with_options(picture: bool = True, batch: bool = False) -> Callable[[type[M]], type[M]]:
    """The same body with a field for each option of a picture beside its prompt, and of a batch."""
    options: dict[str, Any] = {each.name: field_of(each) for each in options_of(picture, batch)}

    def decorate(body: type[M]) -> type[M]:
        return create_model(body.__name__, __base__=body, __doc__=body.__doc__, **options)

    return decorate


def field_of(option: Option, *names: str) -> tuple[Any, Any]:
    """A field that may be left out; with ``names`` it is read under those."""
    examples = None if option.example is None else [option.example]
    alias = AliasChoices(*names) if names else None
    return option.taken | None, Field(None, description=option.meaning, examples=examples, validation_alias=alias)


@with_options(batch=True)
class NewJobs(Body):
    """A prompt to be made into `count` pictures. What is left out, or null, takes the model's default."""

    prompt: str = Field(description="what the picture shows; an upscale needs none", examples=["a red apple"])
    count: int = Field(1, description="pictures to make")
    name: str = Field("", description="of the batch, for people")
    priority: int = Field(0, description="-100 to 100, higher runs first")
    lane: Literal["interactive", "batch"] = Field("interactive", description="the batch lane runs after the other")


class Chosen(Body):
    """Jobs that are named in one way: by ids, or by their batch."""

    job_ids: list[str] | None = Field(None, description="each job by its id")
    batch_id: str = Field("", description="every job of this batch")


class Cancel(Chosen):
    waiting: bool = Field(False, description="every job that waits; what runs goes on")


class Again(Chosen):
    failed: bool = Field(False, description="every failed job; of a batch it is the failed ones anyway")


class Move(Chosen):
    to: Literal["top", "bottom", "up", "down"] = Field(
        description="top or bottom of the lane; or up or down by a place, for one job"
    )


class Prioritize(Chosen):
    value: int = Field(description="-100 to 100, higher runs first")


class Forget(Chosen):
    ended: bool = Field(False, description="every job that has ended")


@with_options()
class ListSettings(BaseModel):
    """How a list is read, and what holds for lines that say nothing."""

    model_config = ConfigDict(extra="forbid")

    format: str = Field("", description="text, csv or jsonl; else the media type or the file's name tells")
    expand: str = Field("random", description="what becomes of {a|b} and __name__: random, all or no")
    expansion_seed: int | None = Field(None, description="draws the same wildcards and seeds again")
    count: int | None = Field(None, description="pictures of a line")


@with_options(picture=False, batch=True)
class ListOptions(ListSettings):
    """How a list is read and enqueued, and what holds for lines that say nothing."""

    skip_bad_lines: bool = Field(False, description="enqueue the good ones; else one bad line refuses them all")
    name: str = Field("", description="of the batch; else the file's name")
    priority: int = Field(0, description="-100 to 100, higher runs first")


@with_options()
class CheckGrid(Body):
    """A picture for each combination of the axes; what is left out, or null, takes the model's default."""

    prompt: str = Field(description="what the pictures show", examples=["a red apple"])
    x: str = Field(
        description='columns: a field with its values; "prompt" replaces its first one', examples=["steps: 6,12"]
    )
    y: str = Field("", description="rows", examples=["prompt: apple,pear"])
    z: str = Field("", description="grids below each other", examples=["seed: 1-3"])


@with_options(picture=False, batch=True)
class NewGrid(CheckGrid):
    """A grid to be made; what is left out, or null, takes the model's default."""

    name: str = Field("", description="of the batch, for people")
    priority: int = Field(0, description="-100 to 100, higher runs first")
    lane: Literal["interactive", "batch"] = Field("batch", description="the batch lane runs after the other")


@with_options(batch=True)
class EditBatch(Body):
    """What of a batch is to be otherwise; what is left out, or null, stays."""

    name: str | None = Field(None, description="of the batch, for people")
    prompt: str | None = Field(None, description="of every picture that waits")


@with_options(picture=False, batch=True)
class Copy(Body):
    """Of a batch that is made again."""

    name: str = Field("", description="of the copy; else the old one's with (copy)")


class Window(Body):
    window: str = Field(description="of the batch lane; empty is always", examples=["23:00-07:00"])


class Star(Body):
    starred: bool


class Hold(Body):
    give_back: bool = Field(False, description="put a running picture back at its next step, else it is finished")


class NewModel(Body):
    path: str = Field(description="a diffusers folder, a .safetensors checkpoint, or a folder of such, on the server")


class NewDownload(Body):
    """A model of the Hugging Face hub."""

    repo: str = Field(description="as stabilityai/sdxl-turbo")
    file: str = Field("", description="only this .safetensors file of the repository")
    into: Literal["models", "loras", "vae", "upscalers", "embeddings"] = "models"
    revision: str = Field("main", description="branch, tag or commit")


class ReportAgain(Body):
    reason: str = Field(description="id of a group of failed jobs in the report")
    batch_id: str = Field("", description="the report's batch; else its times")
    since: str = ""
    until: str = ""


class Trial(Body):
    url: str = Field(description="where the trial message goes")
