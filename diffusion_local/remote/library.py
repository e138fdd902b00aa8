"""``studio.library`` of a studio on another machine. Where its files lie there it does not tell."""

from typing import Any

from diffusion_local.catalog import Model
from diffusion_local.engine.planning import Plan
from diffusion_local.library import Removed
from diffusion_local.messages import restored
from diffusion_local.models.adapters import PLACES, Adapter
from diffusion_local.models.known import Known
from diffusion_local.remote.reading import read
from diffusion_local.remote.server import Server, part
from diffusion_local.store.downloads import Download


class RemoteLibrary:
    def __init__(self, server: Server) -> None:
        self._server = server

    def models(self) -> list[Model]:
        return [read(Model, each) for each in self._server.get("/models")["models"]]

    def model(self, model_id: str) -> Model:
        return read(Model, self._server.get(f"/models/{part(model_id)}"))

    def plans(self, *models: Model) -> dict[str, list[Plan]]:
        told = [self._server.get(f"/models/{part(each.id)}") for each in models] or self._server.get("/models")[
            "models"
        ]
        return {each["id"]: [read(Plan, plan) for plan in each.get("memory_plan", [])] for each in told}

    def adapters(self) -> dict[str, list[Adapter]]:
        told = self._server.get("/adapters")
        return {folder: [read(Adapter, each) for each in told.get(folder, [])] for folder in PLACES.values()}

    def add(self, path: str) -> list[Model]:
        return [read(Model, each) for each in self._server.post("/models", {"path": path})["models"]]

    def remove(self, model_id: str) -> Removed:
        told = self._server.ask("DELETE", f"/models/{part(model_id)}")
        return Removed(told["id"], "", told["message"])

    def known(self) -> list[Known]:
        return [read(Known, each) for each in self._server.get("/known-models")["models"]]

    def download(self, repo: str, file: str = "", into: str = "models", revision: str = "main") -> Download:
        body = {"repo": repo, "file": file, "into": into, "revision": revision}
        return download(self._server.post("/downloads", body))

    def downloads(self) -> list[Download]:
        return [download(each) for each in self._server.get("/downloads")["downloads"]]

    def cancel_download(self, download_id: str) -> Download:
        return download(self._server.post(f"/downloads/{part(download_id)}/cancel"))


def download(told: dict[str, Any]) -> Download:
    error = told.get("error") or {}
    return read(
        Download,
        told,
        error_kind=error.get("kind", ""),
        error_message=restored(error.get("message", ""), error) if error else "",
    )
