"""What requests of the HTTP API carry. Only types are checked here; limits are the Studio's business."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewJobs(Body):
    """A prompt to be made into ``count`` pictures. What is left out, or null, takes the model's default."""

    prompt: str = Field(description="what the picture shows")
    negative: str = Field("", description="what it must not show")
    model: str | None = None
    width: int | None = Field(None, description="pixels")
    height: int | None = Field(None, description="pixels")
    steps: int | None = None
    guidance: float | None = Field(None, description="classifier-free guidance scale")
    sampler: str | None = None
    seed: int | None = Field(None, description="of the first picture, the others count up; none or -1 draws one")
    kind: Literal["txt2img", "img2img", "inpaint", "upscale"] | None = Field(
        None, description="left out, the pictures given speak of it"
    )
    source: str | None = Field(None, description="id of a source picture, to begin from")
    mask: str | None = Field(None, description="id of a source picture: white is painted anew")
    strength: float | None = Field(None, description="0 to 1: how far from the source")
    loras: list[str | dict[str, Any]] | None = Field(
        None, description='`{"name": ..., "weight": ...}` or "name:weight", at most 8'
    )
    vae: str | None = Field(None, description="name of a file in vae/")
    clip_skip: int | None = Field(None, description="as A1111 counts; 0 is the model's own")
    schedule: str | None = Field(None, description="spacing of the noise levels, such as Karras")
    variation_seed: int | None = Field(None, description="none or -1 draws one")
    variation_strength: float | None = Field(None, description="0 to 1: how much of the variation seed's noise")
    upscaler: str | None = Field(None, description="name of a file in upscalers/; Lanczos needs none")
    scale: float | None = Field(None, description="of upscaling, 1 to 8")
    rung: str | None = Field(None, description="forces a memory policy")
    count: int = 1
    name: str = Field("", description="of the batch, for people")
    priority: int = Field(0, description="-100 to 100, higher runs first")
    lane: Literal["interactive", "batch"] = Field("interactive", description="the batch lane runs after the other")

    def wishes(self) -> dict[str, Any]:
        """Arguments of ``Studio.submit``."""
        return self.model_dump()


class Chosen(Body):
    """Jobs that are named in one way: by ids, or by their batch."""

    job_ids: list[str] | None = Field(None, description="each job by its id")
    batch_id: str = Field("", description="every job of this batch")


class Cancel(Chosen):
    waiting: bool = Field(False, description="every job that waits; what runs goes on")


class Again(Chosen):
    failed: bool = Field(False, description="every failed job; of a batch it is the failed ones anyway")


class Move(Chosen):
    to: Literal["top", "up", "down"] = Field(description="top of the lane; or up or down by a place, for one job")


class Prioritize(Chosen):
    value: int = Field(description="-100 to 100, higher runs first")


class Forget(Chosen):
    ended: bool = Field(False, description="every job that has ended")


class ListWishes(BaseModel):
    """How a list is read, and what holds for lines that say nothing."""

    model_config = ConfigDict(extra="forbid")

    format: str = Field("", description="text, csv or jsonl; else the media type or the file's name tells")
    expand: str = Field("random", description="what becomes of {a|b} and __name__: random, all or no")
    expansion_seed: int | None = Field(None, description="draws the same wildcards and seeds again")
    count: int | None = Field(None, description="pictures of a line")
    negative: str | None = None
    model: str | None = None
    width: int | None = Field(None, description="pixels")
    height: int | None = Field(None, description="pixels")
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    seed: int | None = Field(None, description="first seed of a line")


class ListOptions(ListWishes):
    skip_bad_lines: bool = Field(False, description="enqueue the good ones; else one bad line refuses them all")
    name: str = Field("", description="of the batch; else the file's name")
    priority: int = Field(0, description="-100 to 100, higher runs first")


class Star(Body):
    starred: bool


class Hold(Body):
    give_back: bool = Field(False, description="put a running picture back at its next step, else it is finished")
