"""What to make: Params, with the kinds of work and the LoRAs it names."""

import json
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from typing import Any, Self


class Kind(StrEnum):
    TXT2IMG = "txt2img"
    IMG2IMG = "img2img"  # begins from a source picture
    INPAINT = "inpaint"  # paints anew what the mask shows white, and keeps the rest
    UPSCALE = "upscale"  # makes a source picture larger


#: Rungs: how a model is held in memory, and what that means for the work. From the fastest to the one that needs least;
#: each also does what those before it do. Which of them a device has is the engine's to say.
RUNGS: dict[str, str] = {
    "resident": "all of it stays in memory",
    "vae_tiling": "the picture is decoded in tiles",
    "encoder_offload": "all but the denoiser moves to the GPU when needed",
    "model_offload": "parts move to the GPU when needed",
    "group_offload": "layers move to the GPU when needed",
    "attention_slicing": "attention is computed in slices",
    "sequential": "one layer at a time moves to the GPU",
}


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA by the name of its file below ``loras/``, without suffix, and how strongly it is applied (1 = full)."""

    name: str
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.name}:{self.weight:g}"


@dataclass(frozen=True, slots=True)
class Params:
    """What to make. Sizes in pixels; ``guidance`` is the classifier-free guidance scale; seeds in [0, 2**32).

    ``source`` and ``mask`` are ids of source pictures (see ``store.sources``); in a mask white is painted anew.
    ``strength`` in [0, 1]: how far from the source. ``clip_skip`` counts as A1111 does: 2 leaves out the text
    encoder's last layer; 0 is the model's own. ``variation_strength`` in [0, 1] mixes in the noise of
    ``variation_seed``. ``rung`` forces one of the memory policy's. Empty and zero mean: as the model has it.
    """

    prompt: str
    negative: str
    model: str
    width: int
    height: int
    steps: int
    guidance: float
    sampler: str
    seed: int
    kind: Kind = Kind.TXT2IMG
    source: str = ""
    mask: str = ""
    strength: float = 0.0
    loras: tuple[Lora, ...] = ()
    vae: str = ""
    clip_skip: int = 0
    schedule: str = ""
    variation_seed: int | None = None
    variation_strength: float = 0.0
    upscaler: str = ""
    scale: float = 0.0
    rung: str = ""

    @property
    def cost(self) -> float:
        """Work in step-megapixels: what estimates of time are made from."""
        pixels = self.width * self.height / 1e6
        if self.kind is Kind.UPSCALE:
            return pixels
        return self.steps * (self.strength or 1.0) * pixels

    @property
    def runs_on(self) -> str:
        """What is in memory for it, and so what its pace depends on: a model, or an upscaler."""
        return f"upscaler {self.upscaler}" if self.kind is Kind.UPSCALE else self.model

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field, without those at their default."""
        # not asdict: it copies deeply, which is most of the time that a long list takes
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values = {name: value for name, value in values.items() if value != DEFAULTS.get(name, MISSING)}
        if self.loras:
            values["loras"] = [{"name": lora.name, "weight": lora.weight} for lora in self.loras]
        return values

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """Params from their fields; those of a newer program are left out."""
        values = {name: value for name, value in found.items() if name in NAMES}
        if "kind" in values:
            values["kind"] = Kind(values["kind"])
        if "loras" in values:
            values["loras"] = tuple(Lora(each["name"], each["weight"]) for each in values["loras"])
        return cls(**values)


NAMES = tuple(field.name for field in fields(Params))
DEFAULTS = {field.name: field.default for field in fields(Params) if field.default is not MISSING}
