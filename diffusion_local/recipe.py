"""The recipe a picture carries: A1111's ``parameters`` text, which other tools read, and our own JSON."""

import json
from typing import Any

from PIL import ExifTags
from PIL import Image as PIL

from diffusion_local import __version__
from diffusion_local.domain import Image, Params
from diffusion_local.options import a1111

A1111_KEY = "parameters"
JSON_KEY = "diffusion-local"


def texts(image: Image, facts: dict[str, Any]) -> dict[str, str]:
    """Texts by keyword, for `encoding`."""
    return {
        A1111_KEY: a1111.text(image.params, facts),
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


def read(picture: PIL.Image) -> dict[str, Any] | None:
    """Our JSON from an opened picture, or None if it carries none that can be read."""
    try:
        recipe = json.loads(picture.info.get(JSON_KEY) or picture.getexif()[ExifTags.Base.ImageDescription])
        Params.from_dict(recipe["params"])
    except (KeyError, ValueError, ArithmeticError, TypeError, AttributeError, RecursionError):
        return None
    return recipe
