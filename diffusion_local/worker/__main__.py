"""``python -m diffusion_local.worker --slot cpu0``: hold the slot, recover orphans, run jobs until stopped."""

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, cast

from diffusion_local import disk
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.disk import private_umask
from diffusion_local.dispatch import Dispatch, OutputTerms, matching
from diffusion_local.dispatch.local import open_dispatch
from diffusion_local.dispatch.slots import full_name, machine_name
from diffusion_local.domain import Condition, DeviceMemory
from diffusion_local.engine import Engine
from diffusion_local.errors import DatabaseProblem, HomeInUse, StorageProblem, UserError
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.digests import Digests
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.settings import Settings, go_offline, keep_kernels
from diffusion_local.system import gpus, logs
from diffusion_local.worker.sources import SourcePictures
from diffusion_local.worker.stopping import Stop, exit_after_grace, listen_to_signals, stop_at_end_of_input

HEARTBEAT_SECONDS = 5.0
PUBLISH_SECONDS = 10.0  # how often a remote worker checks its model files for changes
AWAY_SECONDS = 2.0  # between attempts to reach the studio
SLOT_SECONDS = 60.0  # how long a remote worker waits for its slot, which a lost worker may still hold
HUNG_EXIT_STATUS = 3  # exit status of a worker that its studio found hung
TAKEOVER_SECONDS = 10.0  # how long a supervised worker waits for its predecessor to exit
RECOVERY_SECONDS = 1.0  # any other worker waits only for a supervisor that holds the slot while it recovers jobs


def open_engine(settings: Settings, slot: str, open_source: Callable[[str], BinaryIO]) -> Engine:
    """Create the configured engine on this slot's device (``gpu0``, ``mps0``, ``cpu0``), with no model loaded.

    ``open_source`` opens a source picture by its id.

    Raises DeviceUnavailable if this machine has no such device, UserError if it lacks the configured precision.
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


log = logging.getLogger("diffusion_local.worker")


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    run_as(LOCAL)  # the worker processes the jobs of all users
    try:
        with private_umask(), disk.storage_errors():
            settings = Settings.load()
            logs.start(settings, f"worker-{options.slot}")
            go_offline(settings.home)
            run(settings, options.slot, options.supervised, options.join, options.machine)
    except UserError as error:
        print(f"diffusion-local: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m diffusion_local.worker", description=__doc__)
    parser.add_argument("--slot", required=True, help="gpu0, gpu1, mps0 or cpu0")
    parser.add_argument(
        "--join", default="", help="address of a studio on another machine; its token is in the settings"
    )
    parser.add_argument("--machine", default="", help="this machine's name there")
    parser.add_argument("--supervised", action="store_true", help="stop when standard input closes")
    return parser.parse_args(argv)


def run(settings: Settings, slot: str, supervised: bool, studio: str = "", machine: str = "") -> None:
    stop = Stop(finish_first=settings.on_stop == "finish")
    listen_to_signals(stop)
    dispatch = connect(settings, slot, studio, machine)
    if supervised:
        threading.Thread(target=stop_at_end_of_input, args=(stop,), daemon=True).start()
    terms = take_slot(dispatch, stop, TAKEOVER_SECONDS if supervised else RECOVERY_SECONDS, bool(studio))
    if terms is None:
        return
    dispatch.register(os.getpid(), "", DeviceMemory())
    condition = condition_reader(slot, dispatch) if studio else None
    threading.Thread(target=send_heartbeats, args=(dispatch, condition), daemon=True).start()
    # From here on, stopping never takes longer than the grace period, even during an import or a long step.
    threading.Thread(target=exit_after_grace, args=(dispatch, stop, settings.stop_grace), daemon=True).start()

    # imported late: torch takes seconds
    from diffusion_local.worker.runner import Runner
    from diffusion_local.worker.sharing import Sharing

    inputs = SourcePictures(dispatch)
    engine = open_engine(settings, slot, inputs.open)
    dispatch.register(os.getpid(), engine.device, engine.room)
    best_effort(lambda: dispatch.report_status("idle", free=engine.free()))
    log.info("ready on %s", engine.device)
    catalog = Catalog(settings.starter, ModelDirectories.from_settings(settings))
    runner = Runner(
        dispatch,
        terms,
        engine,
        catalog,
        stop,
        inputs=inputs,
        memory=settings.memory,
        batch_size=settings.batch_size,
        idle_unload=settings.idle_unload,
        passes=settings.passes,
        ahead=bool(studio or settings.database),
        sharing=Sharing(dispatch, engine, catalog, stop, settings.share_gpus, settings.share_gpus_seconds),
    )
    if studio:
        threading.Thread(target=keep_publishing_files, args=(dispatch, catalog, settings), daemon=True).start()
    runner.serve()
    runner.close()
    best_effort(dispatch.leave)
    log.info("stopped")


def connect(settings: Settings, slot: str, studio: str, machine: str) -> Dispatch:
    """Open the stores of the studio on this machine, or connect to ``studio``. Raises UserError."""
    if not studio:
        return open_dispatch(settings, full_name(settings, slot, machine))
    from diffusion_local.remote import pairing
    from diffusion_local.remote.dispatch import join
    from diffusion_local.remote.spool import Spool

    settings.make_folders()
    credential = pairing.credential_for(settings.home, studio, settings.token)
    spool = Spool(settings.spool / slot, settings.locks / f"{slot}.lock", settings.spool_mb * 10**6)
    name = machine_name(machine or credential.machine)
    return cast(Dispatch, join(credential, f"{name}.{slot}", spool, exit_hung))


def exit_hung() -> None:
    """Exit at once, so that the parent starts a new process: a hung process cannot clean up."""
    logging.shutdown()
    os._exit(HUNG_EXIT_STATUS)


def take_slot(dispatch: Dispatch, stop: Stop, patience: float, joined: bool) -> OutputTerms | None:
    """Take the slot. A remote (``joined``) worker retries while its studio is unreachable.

    Returns None if the worker is stopped while it waits. Raises HomeInUse, and UserError if the studio refuses the
    worker.
    """
    if not joined:
        return dispatch.take(patience)
    until = time.monotonic() + SLOT_SECONDS
    while not stop.wanted.is_set():
        try:
            return dispatch.take(0.0)
        except DatabaseProblem as problem:  # the studio is unreachable
            log.warning("%s", problem)
        except HomeInUse:  # perhaps by a worker that was lost a moment ago
            if time.monotonic() >= until:
                raise
        stop.wanted.wait(AWAY_SECONDS)
    return None


def condition_reader(slot: str, dispatch: Dispatch) -> Callable[[], Condition]:
    """Return a function that reads the condition of a remote worker's device for its heartbeats."""
    from diffusion_local.remote.dispatch import RemoteDispatch

    def read() -> Condition:
        assert isinstance(dispatch, RemoteDispatch)
        gpu = next((each for each in gpus.read() if each.slot == slot), None)
        if gpu is None:
            return Condition(problem=dispatch.problem() or "")
        shared = gpus.used_by_others(gpu, {os.getpid(): bool(dispatch.loaded)})
        return Condition(gpu.temperature, shared, dispatch.problem() or "")

    return read


def keep_publishing_files(dispatch: Dispatch, catalog: Catalog, settings: Settings) -> None:
    """Report this worker's model files to the studio whenever they change, and fetch the missing ones it shares.

    Runs until the studio refuses this worker. Digests are computed before each report.
    """
    from diffusion_local.remote.dispatch import RemoteDispatch

    digests, offered = Digests(catalog.index, catalog.default.folder), None
    assert isinstance(dispatch, RemoteDispatch)
    folders = {
        matching.MODELS: settings.models,
        matching.LORAS: settings.loras,
        matching.VAES: settings.vae,
        matching.UPSCALERS: settings.upscalers,
        matching.EMBEDDINGS: settings.embeddings,
        matching.CONTROLS: settings.controlnet,
    }
    fetcher = dispatch.fetcher(folders, digests.sha256, settings.disk_reserve_mb * 10**6)
    while True:
        digests.run()
        files = matching.installed_files(catalog)
        try:
            if files != offered:
                dispatch.publish_files(files)
                offered = files
            if fetcher.fetch(dispatch.missing_files()):
                continue
        except DatabaseProblem as problem:
            log.warning("%s", problem)
        except StorageProblem as problem:
            log.error("model files cannot be kept: %s", problem)
        except UserError:  # refused: the main thread hears it too, and ends the worker
            return
        time.sleep(PUBLISH_SECONDS)


def best_effort(tell: Callable[[], None]) -> None:
    """Call ``tell`` and only log a DatabaseProblem: status reports must not stop a worker."""
    try:
        tell()
    except DatabaseProblem as problem:
        log.warning("%s", problem)


def send_heartbeats(dispatch: Dispatch, condition: Callable[[], Condition] | None = None) -> None:
    """Send heartbeats until the studio refuses this worker; a remote one adds the ``condition`` of its device."""
    while True:
        try:
            best_effort(lambda: dispatch.heartbeat(condition() if condition else None))
        except UserError:  # refused: the main thread hears it too, and ends the worker
            return
        time.sleep(HEARTBEAT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
