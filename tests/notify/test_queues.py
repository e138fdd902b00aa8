"""A slot for each receiver: those that hang or drip hold up themselves, and nobody else."""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.actor import LOCAL, acting
from diffusion_local.compose import Services
from diffusion_local.notify import queues, webhook
from diffusion_local.notify.deliveries import Delivery
from diffusion_local.notify.queues import MAX_OF_ACCOUNTS, MAX_OF_SETTINGS, MAX_PER_ACCOUNT, DeliveryQueues
from diffusion_local.supervisor.leader import NotificationChore
from tests.notify.conftest import OpenHouse, Receiver
from tests.support import FAILURE, claimed, enqueue, eventually, image_of

SMALL = {"width": 128, "height": 128, "steps": 4}
ALLOWED = {"webhook_allow_private": "127.0.0.1"}


class Bad:
    """Receivers that take a connection and do not answer it, or a byte at a time."""

    def __init__(self, drips: bool) -> None:
        self.over = threading.Event()
        self.drips = drips
        self.taken = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/hook"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.taken += 1
                threading.Thread(target=self._hold, args=(connection,), daemon=True).start()

    def _hold(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self.drips:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
            while not self.over.wait(0.1):
                if self.drips:
                    connection.sendall(b"x")

    def close(self) -> None:
        self.over.set()
        self.listener.close()


@pytest.fixture
def bad() -> Iterator[Callable[..., Bad]]:
    made: list[Bad] = []

    def one(drips: bool = False) -> Bad:
        made.append(Bad(drips))
        return made[-1]

    yield one
    for each in made:
        each.close()


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Services], Callable[[], None]]]:
    """Starts the post of a house; call what comes back in place of the supervisor's loop."""
    monkeypatch.setattr(queues, "STOP_SECONDS", 0.1)
    for name in ("TOTAL_SECONDS", "READ_SECONDS"):  # no test waits for the end of what hangs
        monkeypatch.setattr(webhook, name, 300.0)
    started: list[NotificationChore] = []

    def start(services: Services) -> Callable[[], None]:
        opened = NotificationChore(services, 0.1)
        opened.start()
        started.append(opened)
        return opened.poll

    yield start
    for each in started:
        each.stop()


def batch_of(services: Services, owner: str, webhook: str = "", fails: bool = False) -> None:
    with acting(replace(LOCAL, name=owner)):
        services.studio.submit("a hill", webhook=webhook, **SMALL)
    job = claimed(services.jobs)
    services.jobs.fail(job.claim, FAILURE) if fails else services.jobs.finish(job.claim, image_of(job))


def by_state(services: Services, state: str) -> list[Delivery]:
    return [each for each in services.studio.webhooks.deliveries(500) if each.state == state]


def test_receivers_that_hang_or_drip_do_not_delay_another(
    telling: OpenHouse, receiver: Receiver, bad: Any, post: Any
) -> None:
    services = telling(webhooks="", **ALLOWED)
    hanging, dripping = bad(), bad(drips=True)
    for _ in range(6):
        batch_of(services, "bob", hanging.url)
        batch_of(services, "bob", dripping.url)
        batch_of(services, "ann", receiver.url)
    look = post(services)
    eventually(lambda: (look(), len(by_state(services, "delivered")) == 6)[1], 60)
    assert {each.receiver for each in by_state(services, "sending")} == {hanging.url, dripping.url}
    assert len(by_state(services, "waiting")) == 10  # nothing of them was given up yet
    assert (hanging.taken, dripping.taken) == (1, 1)
    names = [headers["webhook-id"] for headers, _ in receiver.got]
    assert names == sorted(names)  # in the order in which it happened


def test_many_hanging_receivers_of_one_account_do_not_delay_others_nor_the_settings(
    telling: OpenHouse, receiver: Receiver, bad: Any, post: Any
) -> None:
    hanging = [bad() for _ in range(MAX_PER_ACCOUNT + 3)]
    services = telling(webhook_events="batch.done", **ALLOWED)
    for each in hanging:
        batch_of(services, "bob", each.url)
    batch_of(services, "ann", receiver.url.replace("/hook", "/anns"))
    look = post(services)
    eventually(lambda: (look(), len(by_state(services, "delivered")) == len(hanging) + 2)[1], 60)
    assert len(by_state(services, "sending")) == MAX_PER_ACCOUNT


def test_command_hooks_wait_for_no_webhook(telling: OpenHouse, bad: Any, post: Any, tmp_path: Path) -> None:
    urls = ",".join(bad().url for _ in range(MAX_OF_SETTINGS + 1))
    touch = (sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    services = telling(webhooks=urls, webhook_events="batch.done", on_batch_done=touch, **ALLOWED)
    batch_of(services, "")
    batch_of(services, "")
    look = post(services)
    eventually(lambda: (look(), len(by_state(services, "delivered")) == 2)[1], 60)
    assert (tmp_path / "ran").read_text() == "xx"
    assert len(by_state(services, "sending")) <= MAX_OF_SETTINGS


def test_a_hook_that_hangs_delays_no_other_and_no_webhook(
    telling: OpenHouse, receiver: Receiver, post: Any, tmp_path: Path
) -> None:
    sleep = (sys.executable, "-c", "import time; time.sleep(100)")
    touch = (sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    services = telling(
        webhook_events="batch.done", on_batch_done=sleep, on_job_failed=touch, hook_timeout=300, **ALLOWED
    )
    for _ in range(3):
        batch_of(services, "", fails=True)
    look = post(services)
    ran = tmp_path / "ran"
    eventually(lambda: (look(), len(by_state(services, "delivered")) == 6)[1], 60)
    assert (len(receiver.got), ran.read_text()) == (3, "xxx")
    assert [each.receiver for each in by_state(services, "sending")] == ["hook:on_batch_done"]


def test_all_accounts_together_have_a_bound(telling: OpenHouse) -> None:
    services = telling(webhooks="http://127.0.0.1:1/")
    made = DeliveryQueues(services.settings, services.deliveries, lambda *_: True)
    for number in range(MAX_OF_ACCOUNTS):
        slot = made.slot_of(f"http://127.0.0.1:{number + 10}/", f"person{number // MAX_PER_ACCOUNT}")
        assert made._has_room(slot)
        made._working[slot] = threading.current_thread()
    assert not made._has_room(made.slot_of("http://127.0.0.1:2/", "ann"))
    assert made._has_room(made.slot_of("http://127.0.0.1:1/", "ann"))  # which the settings name, too
    assert made._has_room(made.slot_of("hook:on_batch_done", "ann"))


def test_addresses_of_one_server_share_a_slot_of_an_account(telling: OpenHouse) -> None:
    services = telling(webhooks="")
    made = DeliveryQueues(services.settings, services.deliveries, lambda *_: True)
    first = made.slot_of("https://hooks.example/a?b", "ann")
    assert made.slot_of("https://HOOKS.example/c", "ann") == first
    assert made.slot_of("https://hooks.example/a?b", "bob") != first


def test_a_delivery_that_raises_ends_its_turn_only(telling: OpenHouse, caplog: pytest.LogCaptureFixture) -> None:
    services = telling()
    enqueue(services.jobs)
    job = claimed(services.jobs)
    services.jobs.finish(job.claim, image_of(job))
    services.notifications.create_deliveries()
    tried: list[str] = []

    def breaks(delivery_id: str, _: float | None) -> bool:
        tried.append(delivery_id)
        raise ValueError("broken")

    made = DeliveryQueues(services.settings, services.deliveries, breaks)
    made.poll()
    eventually(lambda: tried and not made._working)
    assert "broken" in caplog.text
    made.poll()
    eventually(lambda: len(tried) == 2 and not made._working)
