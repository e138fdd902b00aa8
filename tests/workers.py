"""Workers within this process, connected to a house directly or by way of JSON."""

from collections.abc import Callable
from contextvars import ContextVar

from diffusion_local.compose import Services
from diffusion_local.dispatch import Dispatch
from diffusion_local.dispatch.local import LocalDispatch, terms_of
from diffusion_local.engine import Engine
from diffusion_local.worker.runner import Runner
from diffusion_local.worker.stopping import Stop


def direct(dispatch: LocalDispatch) -> Dispatch:
    return dispatch


#: What stands between a worker and the dispatch of its house; set by tests that run over several.
connect: ContextVar[Callable[[LocalDispatch], Dispatch]] = ContextVar("connect", default=direct)


class OpenedRunner(Runner):
    """A runner that closes its end of the house, too."""

    local: LocalDispatch

    def close(self) -> None:
        super().close()
        self.local._storage.close()


def open_runner(services: Services, slot: str, engine: Engine, stop: Stop) -> Runner:
    """A worker of this slot, without holding it. It claims ahead unless it has the stores directly."""
    local, settings = LocalDispatch(services, slot), services.settings
    runner = OpenedRunner(
        connect.get()(local),
        terms_of(settings),
        engine,
        services.catalog,
        stop,
        memory=settings.memory,
        batch_size=settings.batch_size,
        idle_unload=settings.idle_unload,
        passes=settings.passes,
        ahead=connect.get() is not direct,
    )
    runner.local = local
    return runner
