"""The recipe a picture carries: A1111's ``parameters`` text, which other tools read, and our own JSON.

The text follows the form that AUTOMATIC1111's web UI writes into the PNG text chunk ``parameters``: the prompt, a
line ``Negative prompt: ...`` if there is one, then one line of ``Name: value`` pairs.
"""

import json
from typing import Any

from PIL import Image as PIL

from diffusion_local import __version__
from diffusion_local.domain import Image, Params

A1111_KEY = "parameters"
JSON_KEY = "diffusion-local"


def texts(image: Image, facts: dict[str, Any]) -> dict[str, str]:
    """PNG text chunks by keyword."""
    return {
        A1111_KEY: a1111_text(image.params),
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


def a1111_text(params: Params) -> str:
    pairs = {
        "Steps": params.steps,
        "Sampler": params.sampler,
        "CFG scale": f"{params.guidance:g}",
        "Seed": params.seed,
        "Size": f"{params.width}x{params.height}",
        "Model": quoted(params.model),
        "Version": f"diffusion-local {__version__}",
    }
    lines = [params.prompt]
    if params.negative:
        lines.append(f"Negative prompt: {params.negative}")
    lines.append(", ".join(f"{name}: {value}" for name, value in pairs.items()))
    return "\n".join(lines)


def quoted(text: str) -> str:
    """A value that holds a comma, colon or line break is written as a JSON string, as A1111 does."""
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def read(picture: PIL.Image) -> dict[str, Any] | None:
    """Our JSON from an opened picture, or None if it carries none that can be read."""
    try:
        recipe = json.loads(picture.info[JSON_KEY])
        Params.from_dict(recipe["params"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return recipe
