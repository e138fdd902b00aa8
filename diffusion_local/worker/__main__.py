"""``python -m diffusion_local.worker --slot cpu0``: hold the slot, recover orphans, work until told to stop."""

import argparse
import logging
import os
import sys
import threading
import time
from functools import partial

from diffusion_local import logs
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import House, open_house
from diffusion_local.errors import DatabaseProblem, UserError
from diffusion_local.modes import kept_private
from diffusion_local.settings import Settings, go_offline
from diffusion_local.store import faults
from diffusion_local.worker import slots
from diffusion_local.worker.stopping import Stop, leave_in_time, listen_to_signals, stop_at_end_of_input

log = logging.getLogger("diffusion_local.worker")

IDLE_LOOK_SECONDS = 2.0  # an idle worker finds a job that nobody rang for
SEEN_SECONDS = 5.0
TAKEOVER_SECONDS = 10.0  # a supervisor's restart waits for the worker before it to end
RECOVERY_SECONDS = 1.0  # any other waits only for a supervisor that holds the slot while it recovers its jobs


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    run_as(LOCAL)  # it works on everybody's jobs
    try:
        with kept_private(), faults.explained():
            settings = Settings.load()
            logs.start(settings, f"worker-{options.slot}")
            go_offline(settings.home)
            run(settings, options.slot, options.supervised)
    except UserError as error:
        print(f"diffusion-local: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m diffusion_local.worker", description=__doc__)
    parser.add_argument("--slot", required=True, help="gpu0, gpu1, mps0 or cpu0")
    parser.add_argument("--supervised", action="store_true", help="stop when standard input closes")
    return parser.parse_args(argv)


def run(settings: Settings, slot: str, supervised: bool) -> None:
    stop = Stop(finish_first=settings.on_stop == "finish")
    listen_to_signals(stop)
    house = open_house(settings)
    lock = slots.take(house, slot, TAKEOVER_SECONDS if supervised else RECOVERY_SECONDS)
    if supervised:
        threading.Thread(target=stop_at_end_of_input, args=(stop,), daemon=True).start()
    slots.recover(house, slot)
    house.workers.register(slot, os.getpid(), "")
    threading.Thread(target=stay_seen, args=(house, slot), daemon=True).start()
    # From here on a stop never takes longer than its grace, even inside an import or a long step.
    leaving = (house, slot, stop, settings.stop_grace, partial(slots.note_given_back, house, slot))
    threading.Thread(target=leave_in_time, args=leaving, daemon=True).start()

    from diffusion_local.engine.choose import open_engine  # torch: seconds
    from diffusion_local.worker.runner import Runner

    engine = open_engine(settings, slot, house.files.open_source)
    house.workers.register(slot, os.getpid(), engine.device, engine.room)
    tell(house, slot, "idle", engine.free())
    log.info("ready on %s", engine.device)
    runner = Runner(house, slot, engine, stop)
    house.queue.consume(runner.work_off, stop.wanted, IDLE_LOOK_SECONDS)
    runner.close()
    tell(house, slot, "stopped")
    lock.release()
    log.info("stopped")


def tell(house: House, slot: str, status: str, free: int | None = None) -> None:
    """Only informs: a worker neither ends nor stays because of it."""
    try:
        house.workers.tell(slot, status, free=free)
    except DatabaseProblem as problem:
        log.warning("%s", problem)


def stay_seen(house: House, slot: str) -> None:
    while True:
        time.sleep(SEEN_SECONDS)
        try:
            house.workers.seen(slot)
        except DatabaseProblem as problem:
            log.warning("%s", problem)


if __name__ == "__main__":
    sys.exit(main())
