"""Memory plans: how each device of the studio would hold a model."""

from collections.abc import Sequence

from diffusion_local.domain import DeviceMemory, MemoryPlan, Worker
from diffusion_local.engine.home_files import HomeFiles
from diffusion_local.engine.planning import active_workers, plan
from diffusion_local.models.catalog import Catalog, Model
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind
from diffusion_local.queue.history import FitStore
from diffusion_local.queue.workers import WorkerStore
from diffusion_local.settings import Settings


class MemoryPlans:
    """Plans from the files, the measurements of earlier pictures, and the memory that the workers reported last."""

    def __init__(self, settings: Settings, catalog: Catalog, fits: FitStore, workers: WorkerStore) -> None:
        self._settings = settings
        self._catalog = catalog
        self._fits = fits
        self._workers = workers
        self._files = HomeFiles(settings)

    def of_models(self, *models: Model) -> dict[str, list[MemoryPlan]]:
        """Plans per model for each device, for pictures of its default size. Models not ready have none."""
        workers = active_workers(self._workers.list_all())
        return {model.id: self._of(model, None, workers) for model in models}

    def of_picture(self, params: Params) -> list[MemoryPlan]:
        """For each device, the plan for a picture with its ControlNets, IP-Adapters, LoRAs and detectors."""
        if params.kind is Kind.UPSCALE:
            return []
        return self._of(self._catalog.get(params.model), params, active_workers(self._workers.list_all()))

    def largest(self) -> DeviceMemory:
        """The device with the most memory; empty before any worker registered."""
        rooms = [each.room for each in active_workers(self._workers.list_all())]
        return max(rooms, key=lambda room: room.bytes, default=DeviceMemory())

    def _of(self, model: Model, params: Params | None, workers: Sequence[Worker]) -> list[MemoryPlan]:
        settings = self._settings
        rung = "" if settings.memory == "auto" else settings.memory
        return [
            plan(model, each, self._fits.of(model.id, each.device), settings.precision, rung, params, self._files)
            for each in workers
            if model.ready
        ]
