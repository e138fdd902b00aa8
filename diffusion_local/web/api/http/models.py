"""Models and adapters: all folders looked at anew."""

from typing import Any

from fastapi import APIRouter

from diffusion_local.models.adapters import Adapter
from diffusion_local.models.verdicts import PLACES
from diffusion_local.operations import answers
from diffusion_local.studio import Studio
from diffusion_local.web.api.schemas import MODEL, schema, several, typed

FOUND = typed("Scan", models=several(MODEL), **dict.fromkeys(PLACES.values(), several(schema(Adapter))))
SCAN: dict[int | str, dict[str, Any]] = {200: {"model": FOUND}}


def router(studio: Studio) -> APIRouter:
    models = APIRouter(tags=["models"])

    @models.post("/models/scan", responses=SCAN, response_model=None)
    def scan() -> dict[str, Any]:
        """Look at all folders anew: models and adapters."""
        library = studio.library
        return answers.as_json(studio, {"models": library.models()} | library.adapters())

    return models
