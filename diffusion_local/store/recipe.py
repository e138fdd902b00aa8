"""The recipe a picture carries: A1111's ``parameters`` text, which other tools read, and our own JSON.

The text follows the form that AUTOMATIC1111's web UI writes into the PNG text chunk ``parameters``: the prompt, a
line ``Negative prompt: ...`` if there is one, then one line of ``Name: value`` pairs.
"""

import json
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags
from PIL import Image as PIL

from diffusion_local import __version__
from diffusion_local.domain import Image, Kind, Params

A1111_KEY = "parameters"
JSON_KEY = "diffusion-local"


def texts(image: Image, facts: dict[str, Any]) -> dict[str, str]:
    """Texts by keyword, for `encoding`."""
    return {
        A1111_KEY: a1111_text(image.params, facts),
        JSON_KEY: json.dumps(
            {
                "version": __version__,
                "id": image.id,
                "job_id": image.job_id,
                "created_at": image.created_at,
                "seconds": image.seconds,
                "params": json.loads(image.params.to_json()),
                "facts": facts,
            },
            ensure_ascii=False,
        ),
    }


def a1111_text(params: Params, facts: Mapping[str, Any] | None = None) -> str:
    """In A1111's names and order, as far as it has them; ours at the end."""
    facts = facts or {}
    hashes = facts.get("lora_hashes", {})
    denoised = params.kind is not Kind.UPSCALE
    pairs = {
        "Steps": params.steps if denoised else None,
        "Sampler": params.sampler,
        "Schedule type": params.schedule,
        "CFG scale": f"{params.guidance:g}" if denoised else None,
        "Seed": params.seed,
        "Size": f"{params.width}x{params.height}",
        "Model hash": facts.get("model_hash"),
        "Model": params.model if denoised else None,
        "VAE hash": facts.get("vae_hash"),
        "VAE": params.vae,
        "Denoising strength": f"{params.strength:g}" if params.strength else None,
        "Clip skip": params.clip_skip or None,
        "Variation seed": params.variation_seed,
        "Variation seed strength": f"{params.variation_strength:g}" if params.variation_strength else None,
        "Postprocess upscale by": f"{params.scale:g}" if params.scale else None,
        "Postprocess upscaler": params.upscaler,
        "Lora hashes": ", ".join(f"{name}: {digest}" for name, digest in hashes.items()),
        "TI hashes": ", ".join(f"{name}: {digest}" for name, digest in facts.get("embedding_hashes", {}).items()),
        "Version": f"diffusion-local {__version__}",
    }
    tags = "".join(f" <lora:{lora.name}:{lora.weight:g}>" for lora in params.loras)
    lines = [params.prompt + tags]
    if params.negative:
        lines.append(f"Negative prompt: {params.negative}")
    lines.append(", ".join(f"{name}: {quoted(str(value))}" for name, value in pairs.items() if value not in (None, "")))
    return "\n".join(lines)


def quoted(text: str) -> str:
    """A value that holds a comma, colon or line break is written as a JSON string, as A1111 does."""
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def read(picture: PIL.Image) -> dict[str, Any] | None:
    """Our JSON from an opened picture, or None if it carries none that can be read."""
    try:
        recipe = json.loads(picture.info.get(JSON_KEY) or picture.getexif()[ExifTags.Base.ImageDescription])
        Params.from_dict(recipe["params"])
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return recipe
