"""Models, what goes with them, and their downloads."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from diffusion_local import shapes
from diffusion_local.studio import Studio
from diffusion_local.web.api.answers import tagged
from diffusion_local.web.api.fields import NewDownload, NewModel


def router(studio: Studio) -> APIRouter:
    models = APIRouter(tags=["models"])
    library = studio.library

    @models.get("/models")
    def list_models(request: Request) -> Response:
        """The models with state, defaults and limits, the default one first, and how each device would hold them."""
        models = library.models()
        plans = library.plans(*models)
        return tagged(request, {"models": [shapes.model(each, plans[each.id]) for each in models]})

    @models.get("/models/{model_id}")
    def one_model(model_id: str, request: Request) -> Response:
        """A model: whether it can be used, or why not, its licence, size and memory need, and `memory_plan`: the rung
        on which each device would hold it at its default size, and why."""
        model = library.model(model_id)
        return tagged(request, shapes.model(model, library.plans(model)[model.id]))

    @models.post("/models")
    def add_model(body: NewModel) -> dict[str, Any]:
        """Use models where they lie on the server; nothing is copied."""
        return {"models": [shapes.model(each) for each in library.add(body.path)]}

    @models.delete("/models/{model_id}")
    def remove_model(model_id: str) -> dict[str, Any]:
        """Take a model out of the catalogue; the answer says where its files are."""
        removed = library.remove(model_id)
        return {"id": removed.id, "message": removed.words}

    @models.post("/models/scan")
    def scan() -> dict[str, Any]:
        """Look at all folders anew: models and adapters."""
        return {"models": [shapes.model(each) for each in library.models()]} | shaped_adapters(studio)

    @models.get("/adapters")
    def adapters(request: Request) -> Response:
        """LoRAs, VAEs, upscalers and textual inversions, with what each fits."""
        return tagged(request, shaped_adapters(studio))

    @models.get("/known-models")
    def known_models(request: Request) -> Response:
        """Well-known models of the hub, with licence, sizes and good defaults."""
        return tagged(request, {"models": [asdict(each) for each in library.known()]})

    @models.get("/downloads")
    def list_downloads(request: Request) -> Response:
        """Downloads on their way, then the ended ones, the newest first."""
        return tagged(request, {"downloads": [shapes.download(each) for each in library.downloads()]})

    @models.get("/downloads/{download_id}")
    def one_download(download_id: str, request: Request) -> Response:
        """A download: its state, bytes and error."""
        return tagged(request, shapes.download(library.one_download(download_id)))

    @models.post("/downloads", status_code=202)
    def download(body: NewDownload) -> JSONResponse:
        """Load a model from the hub, in the background. Asking twice for what is on its way is one download."""
        found = library.download(body.repo, body.file, body.into, body.revision)
        return JSONResponse(shapes.download(found), 202, headers={"Location": shapes.api_url(f"downloads/{found.id}")})

    @models.post("/downloads/{download_id}/cancel")
    def cancel_download(download_id: str) -> dict[str, Any]:
        """Stop a download; what it has loaded is thrown away."""
        return shapes.download(library.cancel_download(download_id))

    return models


def shaped_adapters(studio: Studio) -> dict[str, Any]:
    return {folder: [shapes.adapter(each) for each in found] for folder, found in studio.library.adapters().items()}
