"""Handlers that Gradio's queue runs: a bound for each account, and an end before they are done."""

import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from diffusion_local.errors import LimitReached, NotDone
from diffusion_local.web.gradio_compat.running import Running


def play(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """In a thread, as browser tests leave an event loop running in this one."""
    faults: list[BaseException] = []

    async def bounded() -> None:
        with anyio.fail_after(30):
            await work()

    def run() -> None:
        try:
            anyio.run(bounded)
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for fault in faults:
        raise fault


def test_an_account_at_its_limit_keeps_no_other_from_waiting() -> None:
    async def work() -> None:
        running = Running(most=2)
        with running.until_stopped("1", None, "bob"), running.until_stopped("2", None, "bob"):
            with pytest.raises(LimitReached, match="2 waiting calls"), running.until_stopped("3", None, "bob"):
                pass
            with running.until_stopped("4", None, "ann"):
                pass
        with running.until_stopped("5", None, "bob"):  # its own have ended
            pass

    play(work)


@pytest.mark.parametrize("by", [{"session": "tab"}, {"event": "1"}])
def test_who_is_stopped_ends_at_once_and_others_go_on(by: dict[str, str]) -> None:
    ended: list[str] = []

    async def handler(running: Running, event: str, session: str) -> None:
        with pytest.raises(NotDone), running.until_stopped(event, session, "ann"):
            await anyio.sleep_forever()
        ended.append(event)

    async def work() -> None:
        running = Running()
        async with anyio.create_task_group() as group:
            group.start_soon(handler, running, "1", "tab")
            group.start_soon(handler, running, "2", "other")
            await anyio.wait_all_tasks_blocked()
            running.stop(**by)
            await anyio.wait_all_tasks_blocked()
            assert ended == ["1"]
            running.stop(session="other")

    play(work)
    assert ended == ["1", "2"]
