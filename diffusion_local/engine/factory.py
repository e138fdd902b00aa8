"""Opens the engine that the settings name. Imports are deferred so that the fake engine needs no torch."""

from collections.abc import Callable
from typing import BinaryIO

from diffusion_local.engine import Engine
from diffusion_local.settings import Settings, keep_kernels


def open_engine(settings: Settings, slot: str, open_source: Callable[[str], BinaryIO]) -> Engine:
    """The engine of the settings on the device of this slot (``gpu0``, ``mps0``, ``cpu0``), with no model loaded.

    ``open_source`` opens a source picture by its id.

    Raises DeviceUnavailable if this machine has no such device, UserError if it lacks the precision of the settings.
    """
    if settings.engine == "fake":
        from diffusion_local.engine.fake import FakeEngine

        return FakeEngine(settings.fake_step_seconds)

    from diffusion_local.engine.devices import at_slot
    from diffusion_local.engine.diffusers_engine import DiffusersEngine
    from diffusion_local.engine.inputs import PictureInputs

    keep_kernels(settings.kernels)
    limit = int(settings.memory_limit_gb * 1024**3)
    graphs = settings.cuda_graphs == "auto"
    inputs = PictureInputs(settings, open_source)
    return DiffusersEngine(at_slot(slot), settings.threads, settings.precision, limit, inputs, graphs, settings.speed)
