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
    count: int = 1
    name: str = Field("", description="of the batch, for people")
    priority: int = Field(0, description="-100 to 100, higher runs first")
    lane: Literal["interactive", "batch"] = Field("interactive", description="the batch lane runs after the other")

    def wishes(self) -> dict[str, Any]:
        """Arguments of ``Studio.submit``."""
        return self.model_dump()


class Star(Body):
    starred: bool


class Hold(Body):
    give_back: bool = Field(False, description="put a running picture back at its next step, else it is finished")
