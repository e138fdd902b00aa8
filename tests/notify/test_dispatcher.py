"""Telling: what happened is told once to each receiver, signed, tried again, logged, and sent again on wish."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from diffusion_local.actor import LOCAL, acting
from diffusion_local.compose import Services
from diffusion_local.db.dialect import FAILURES_NOTIFIED
from diffusion_local.domain import Lane, State, utc_text
from diffusion_local.errors import Conflict, InvalidParams, NotFound
from diffusion_local.notify import dispatcher as module
from diffusion_local.notify import webhook
from diffusion_local.notify.signed_urls import Bearer, Links, root_of
from diffusion_local.settings import Settings
from diffusion_local.supervisor.leader import NotificationChore
from tests.notify.conftest import OpenHouse, Receiver
from tests.support import FAILURE, claimed, enqueue, eventually, image_of, sql, start_python


def tell(services: Services) -> list[str]:
    """One round, each delivery tried once; ids that were rung for."""
    rung = services.notifications.create_deliveries()
    for delivery_id in rung:
        services.notifications.deliver(delivery_id, 10.0)
    return rung


def run_all(services: Services, end: Callable[[Services, Any], None] | None = None) -> None:
    while job := services.jobs.claim_next("cpu0"):
        if end is None:
            services.jobs.finish(job.claim, image_of(job))
        else:
            end(services, job)


def fail(services: Services, job: Any) -> None:
    services.jobs.fail(job.claim, FAILURE)


def told(receiver: Receiver, event: str) -> list[dict[str, Any]]:
    found = [json.loads(body) for body in receiver.bodies()]
    return [each["data"] for each in found if each["type"] == event]


def test_a_batch_is_told_once_when_its_last_job_ends(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling()
    enqueue(services.jobs, 3)
    services.jobs.finish((job := claimed(services.jobs)).claim, image_of(job))
    tell(services)
    assert receiver.got == []
    fail(services, claimed(services.jobs))
    run_all(services)
    for _ in range(3):
        tell(services)
    [done] = told(receiver, "batch.done")
    assert (done["done"], done["failed"], done["count"], done["name"]) == (2, 1, 3, "test")
    assert done["summary"]["reasons"][0]["kind"] == "engine_error"
    root = f"http://127.0.0.1:{services.settings.port}"
    assert done["status_url"] == f"{root}/api/v1/batches/{done['batch_id']}"
    assert [each["url"] for each in done["images"]] == [f"{root}/images/{each['id']}.png" for each in done["images"]]
    assert len(done["images"]) == 2
    assert len(told(receiver, "job.failed")) == 1


@pytest.mark.parametrize(
    ("changes", "root"),
    [
        ({"public_url": "https://studio.example/x/"}, "https://studio.example/x"),
        ({"host": "::1", "port": 9, "root_path": "/studio"}, "http://[::1]:9/studio"),
        ({"host": "10.0.0.1", "port": 9, "tls_cert": "c.pem"}, "https://10.0.0.1:9"),
    ],
)
def test_addresses_in_messages_begin_with_that_of_the_server(tmp_path: Path, changes: Any, root: str) -> None:
    assert root_of(replace(Settings(home=tmp_path), **changes)) == root


def test_pictures_of_an_account_are_told_by_signed_addresses(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling()
    with acting(replace(LOCAL, name="ann")):
        services.studio.submit("x", width=128, height=128, steps=4)
    run_all(services)
    tell(services)
    [done] = told(receiver, "batch.done")
    parts = urlsplit(done["images"][0]["url"])
    assert Links(services.settings).bearer(parts.path, parts.query) == Bearer("ann", "")


def test_a_batch_that_is_cancelled_as_a_whole_is_told_once(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling()
    receipt = services.studio.submit("x", count=5, width=128, height=128)
    services.studio.queue.cancel(batch_id=receipt.batch_id)
    tell(services)
    assert [each["cancelled"] for each in told(receiver, "batch.done")] == [5]


def test_the_signature_is_verified_by_the_library(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling()
    enqueue(services.jobs)
    run_all(services)
    [delivery_id] = tell(services)
    headers, body = receiver.got[0]
    Webhook(services.studio.webhooks.secret()).verify(body, headers)
    assert {name.lower(): value for name, value in headers.items()}["webhook-id"] == delivery_id
    with pytest.raises(WebhookVerificationError):
        Webhook(services.studio.webhooks.secret()).verify(body.replace("batch.done", "batch.gone"), headers)


@pytest.mark.parametrize("status", [500, 404, 302, 429])
def test_what_is_refused_is_tried_again_with_the_same_id(telling: OpenHouse, receiver: Receiver, status: int) -> None:
    services = telling(webhook_events="batch.done")
    receiver.answers, receiver.headers = [status], {"location": receiver.url + "/elsewhere"}
    enqueue(services.jobs)
    run_all(services)
    [delivery_id] = tell(services)
    waiting = services.deliveries.get(delivery_id)
    assert (waiting.state, waiting.status, waiting.attempts) == ("waiting", status, 1)
    assert waiting.next_try_at is not None
    assert services.notifications.deliver(delivery_id, 10.0)  # not due yet: a doubled message does nothing
    assert len(receiver.got) == 1
    due(services)
    assert services.notifications.deliver(delivery_id, 40.0)
    assert services.deliveries.get(delivery_id).state == "delivered"
    assert len(receiver.got) == 2
    assert receiver.got[0][0]["webhook-id"] == receiver.got[1][0]["webhook-id"]


def due(services: Services) -> None:
    with sql(services.settings) as db:
        db.execute("UPDATE deliveries SET next_try_at = '2020-01-01T00:00:00.000Z' WHERE state = 'waiting'")


def test_a_receiver_that_is_gone_is_not_asked_again(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhook_events="batch.done")
    receiver.answers = [410]
    enqueue(services.jobs)
    run_all(services)
    [delivery_id] = tell(services)
    assert services.deliveries.get(delivery_id).state == "failed"


def test_tries_come_to_an_end(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhook_events="batch.done")
    receiver.answers = [500] * 20
    enqueue(services.jobs)
    run_all(services)
    [delivery_id] = tell(services)
    for _ in range(20):
        due(services)
        services.notifications.deliver(delivery_id, 10.0)
    found = services.deliveries.get(delivery_id)
    assert (found.state, found.attempts) == ("failed", 8)
    assert len(receiver.got) == 8
    services.studio.webhooks.resend(delivery_id)
    receiver.answers = []
    assert services.notifications.deliver(delivery_id, 10.0)
    assert services.deliveries.get(delivery_id).state == "delivered"


def test_a_long_answer_is_cut_and_a_redirect_not_followed(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhook_events="batch.done")
    receiver.body = b"\x00<b>long</b>" + b"x" * 3_000_000
    enqueue(services.jobs)
    run_all(services)
    [delivery_id] = tell(services)
    answer = services.deliveries.get(delivery_id).answer
    assert len(answer) == webhook.ANSWER_EXCERPT
    assert answer.isprintable()


def test_an_answer_that_does_not_come_ends(
    telling: OpenHouse, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "TOTAL_SECONDS", 0.3)
    services = telling(webhook_events="batch.done")
    receiver.hold.clear()
    enqueue(services.jobs)
    run_all(services)
    started = time.monotonic()
    [delivery_id] = tell(services)
    assert time.monotonic() - started < 10
    assert "no whole answer" in services.deliveries.get(delivery_id).error
    assert services.deliveries.get(delivery_id).state == "waiting"


def test_the_connection_goes_to_the_checked_address(
    telling: OpenHouse, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that stands for another address a moment later (DNS rebinding) changes nothing."""
    from diffusion_local.notify import outbound_hosts

    services = telling(webhook_events="batch.done")
    port = receiver.url.split(":")[2].split("/")[0]
    answers = iter([["127.0.0.1"]])
    kept = outbound_hosts.socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "rebind.example":
            return [(0, 0, 0, "", (each, int(port))) for each in next(answers)]  # asked once, or it fails
        return kept(host, *rest, **more)

    monkeypatch.setattr(outbound_hosts.socket, "getaddrinfo", resolve)
    outcome = webhook.post(
        f"http://rebind.example:{port}/x", "id", "{}", services.studio.webhooks.secret(), "rebind.example"
    )
    assert outcome.delivered
    assert receiver.got[0][0]["host"] == f"rebind.example:{port}"


def test_it_is_checked_again_when_it_is_sent(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhook_allow_private="")
    enqueue(services.jobs)
    run_all(services)
    [delivery_id] = tell(services)
    assert "private network" in services.deliveries.get(delivery_id).error
    assert receiver.got == []


def test_proxies_of_the_environment_are_not_used(
    telling: OpenHouse, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    services = telling(webhook_events="batch.done")
    enqueue(services.jobs)
    run_all(services)
    tell(services)
    assert len(receiver.got) == 1


def test_many_failures_of_a_batch_are_a_bounded_number_of_messages(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling()
    enqueue(services.jobs, FAILURES_NOTIFIED + 15)
    run_all(services, fail)
    tell(services)
    assert len(told(receiver, "job.failed")) == FAILURES_NOTIFIED
    [done] = told(receiver, "batch.done")
    assert done["summary"]["reasons"][0]["count"] == FAILURES_NOTIFIED + 15
    failed = told(receiver, "job.failed")[0]
    assert (failed["error"]["kind"], failed["params"]["prompt"]) == ("engine_error", "a red apple")


def test_idle_is_told_once_it_has_lasted(
    telling: OpenHouse, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = telling(webhook_events="queue.idle")
    for _ in range(3):  # a person who makes one picture after another
        enqueue(services.jobs)
        run_all(services)
        tell(services)
    assert receiver.got == []
    monkeypatch.setattr(module, "IDLE", timedelta(0))
    tell(services)
    [idle] = told(receiver, "queue.idle")
    assert idle["done"] == 3
    enqueue(services.jobs)
    run_all(services)
    enqueue(services.jobs)
    tell(services)
    assert len(receiver.got) == 1
    run_all(services)
    tell(services)
    assert [each["done"] for each in told(receiver, "queue.idle")] == [3, 2]


def test_a_pause_and_a_full_disk_are_told_with_their_reason(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling()
    services.studio.queue.pause()
    services.studio.queue.pause(give_back=True)
    services.studio.queue.resume()
    services.control.block("The disk is nearly full.")
    services.control.block("The disk is nearly full!")
    tell(services)
    assert [each["reason"] for each in told(receiver, "queue.paused")] == [
        "paused by a person",
        "The disk is nearly full.",
    ]


def test_nobody_hears_that_the_queue_was_idle_or_paused_long_ago(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling()
    enqueue(services.jobs)
    run_all(services)
    services.studio.queue.pause()
    with sql(services.settings) as db:
        db.execute("UPDATE notices SET at = ?", [utc_text(datetime.now(UTC) - timedelta(hours=2))])
    tell(services)
    assert [json.loads(body)["type"] for body in receiver.bodies()] == ["batch.done"]
    assert not services.notices.any_unhandled()


def test_without_receivers_nothing_is_kept_for_later(telling: OpenHouse) -> None:
    services = telling(webhooks="")
    enqueue(services.jobs)
    run_all(services)
    assert tell(services) == []
    assert services.studio.webhooks.deliveries() == []


def test_a_forgotten_batch_is_told_without_its_report(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhook_events="batch.done")
    [job_id] = enqueue(services.jobs)
    batch_id = services.jobs.get(job_id).batch_id
    run_all(services)
    services.studio.queue.forget(ended=True)
    tell(services)
    assert told(receiver, "batch.done") == [{"batch_id": batch_id, "job_id": ""}]


def test_a_batch_has_a_webhook_of_its_own(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhooks="")
    services.studio.submit("told", width=128, height=128, webhook=receiver.url)
    services.studio.lists.submit("also told", webhook=receiver.url, width=128, height=128)
    services.studio.submit("not told", width=128, height=128)
    run_all(services, fail)
    services.studio.queue.pause()
    tell(services)
    assert sorted(each["name"] for each in told(receiver, "job.failed")) == ["also told", "told"]
    assert len(receiver.got) == 4
    for submit in (services.studio.submit, services.studio.lists.submit):
        with pytest.raises(InvalidParams, match=r"^webhook: 10.0.0.1 is an address"):
            submit("x", webhook="http://10.0.0.1/")
    assert len(services.studio.jobs()) == 3


def test_the_log_is_paged_and_filtered(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhook_events="job.failed")
    receiver.answers = [410]
    enqueue(services.jobs, 3)
    run_all(services, fail)
    tell(services)
    webhooks = services.studio.webhooks
    everything = webhooks.deliveries()
    assert [each.state for each in everything] == ["delivered", "delivered", "failed"]
    first = webhooks.deliveries(limit=2)
    assert [*first, *webhooks.deliveries(limit=2, before=first[-1].id)] == list(everything)
    assert [each.status for each in webhooks.deliveries(state="failed")] == [410]
    for wrong in ({"limit": 0}, {"limit": 501}, {"state": "lost"}):
        with pytest.raises(InvalidParams):
            webhooks.deliveries(**wrong)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        webhooks.resend("nothing")
    taken = webhooks.resend(everything[0].id).id
    assert services.deliveries.take(taken)
    with pytest.raises(Conflict):
        webhooks.resend(taken)


def test_a_trial_message_goes_to_a_checked_address_only(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhooks="")
    trial = services.studio.webhooks.test(receiver.url)
    assert services.notifications.deliver(trial.id, None)
    assert json.loads(receiver.bodies()[0])["type"] == "test"
    with pytest.raises(InvalidParams, match=r"^webhook: "):
        services.studio.webhooks.test("http://10.0.0.1/")


def test_the_secret_is_kept_for_its_owner_only(telling: OpenHouse) -> None:
    services = telling()
    secret = services.studio.webhooks.secret()
    path = services.settings.home / "webhook.secret"
    assert secret.startswith("whsec_")
    assert services.studio.webhooks.secret() == secret == path.read_text().strip()
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
    own = "whsec_" + "QUJD" * 10
    assert telling(webhook_secret=own).studio.webhooks.secret() == own
    with pytest.raises(InvalidParams, match=r"^webhook_secret: ") as refused:
        telling(webhook_secret="hunter2").studio.webhooks.secret()
    assert "hunter2" not in refused.value.message


# -- the chores' process -----------------------------------------------------------------------------------------------


@pytest.fixture
def posted() -> Any:
    started: list[NotificationChore] = []

    def start(services: Services, delay: float = 0.1) -> NotificationChore:
        post = NotificationChore(services, delay)
        post.start()
        started.append(post)
        return post

    yield start
    for post in started:
        post.stop()


def test_huey_delivers_and_tries_again(telling: OpenHouse, receiver: Receiver, posted: Any) -> None:
    services = telling(webhook_events="batch.done")
    receiver.answers = [500, 503]
    post = posted(services)
    enqueue(services.jobs)
    run_all(services)

    def delivered() -> bool:
        post.poll()
        return [each.state for each in services.studio.webhooks.deliveries()] == ["delivered"]

    eventually(delivered, 30)
    assert len(receiver.got) == 3
    assert services.studio.webhooks.deliveries()[0].attempts == 3


def test_what_a_killed_process_was_sending_is_sent_by_the_next(
    telling: OpenHouse, receiver: Receiver, posted: Any
) -> None:
    services = telling(webhook_events="batch.done", on_batch_done=("true",))
    enqueue(services.jobs)
    run_all(services)
    services.notifications.create_deliveries()
    for each in services.studio.webhooks.deliveries():
        assert services.deliveries.take(each.id)  # and here the process dies
    posted(services)
    eventually(lambda: {each.state for each in services.studio.webhooks.deliveries()} == {"delivered", "failed"}, 30)
    by_receiver = {each.receiver: each for each in services.studio.webhooks.deliveries()}
    assert by_receiver[receiver.url].state == "delivered"
    assert by_receiver["hook:on_batch_done"].error == "stopped while it ran"
    assert len(receiver.got) == 1


POST = """
import sys, time
from dataclasses import replace
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_services
from diffusion_local.supervisor.leader import NotificationChore
from diffusion_local.settings import Settings
run_as(LOCAL)
url = sys.argv[1]
settings = replace(Settings.load(engine="fake"), webhooks=url, webhook_events="batch.done",
                   webhook_allow_private="127.0.0.1")
post = NotificationChore(open_services(settings))
post.start()
while True:
    post.poll()
    time.sleep(0.1)
"""


def test_a_process_killed_while_it_sends_has_its_message_delivered_by_the_next(
    telling: OpenHouse, receiver: Receiver, posted: Any
) -> None:
    services = telling(webhook_events="batch.done")
    enqueue(services.jobs)
    run_all(services)
    receiver.hold.clear()
    child = start_python(POST, receiver.url)
    try:
        eventually(lambda: receiver.got, 60)  # it has sent, and waits for the answer
    finally:
        child.kill()
        child.communicate()
    [delivery] = services.studio.webhooks.deliveries()
    assert delivery.state == "sending"
    receiver.hold.set()
    posted(services)
    eventually(lambda: services.deliveries.get(delivery.id).state == "delivered", 30)
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [delivery.id, delivery.id]


def test_a_lost_message_is_found_by_the_next_look(telling: OpenHouse, receiver: Receiver, posted: Any) -> None:
    services = telling(webhook_events="batch.done")
    post = posted(services)
    enqueue(services.jobs)
    run_all(services)
    services.notifications.create_deliveries()  # the ring for it is lost
    due(services)
    eventually(lambda: (post.poll(), receiver.got)[1], 30)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"webhooks": "ftp://x"}, "webhooks"),
        ({"webhook_events": "batch.done, batch.gone"}, "webhook_events"),
        ({"webhook_allow_private": "not a host!"}, "webhook_allow_private"),
    ],
)
def test_settings_that_cannot_be_used_are_told_at_the_start(
    telling: OpenHouse, changes: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidParams) as refused:
        NotificationChore(telling(**changes))
    assert refused.value.field == field


def test_old_notices_and_deliveries_are_let_go(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhook_events="batch.done")
    enqueue(services.jobs)
    run_all(services)
    tell(services)
    assert services.notices.delete_old("2020-01-01") == 0
    assert services.notices.delete_old("2999-01-01") >= 1
    assert services.studio.webhooks.deliveries() == []
    assert services.notices.any_unhandled()  # the queue's idleness, which is still to be told


def test_both_lanes_tell(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhook_events="batch.done")
    enqueue(services.jobs, lane=Lane.BATCH)
    run_all(services)
    tell(services)
    assert len(receiver.got) == 1
    assert services.studio.jobs(State.DONE)


def test_an_address_that_is_named_twice_is_told_once(telling: OpenHouse, receiver: Receiver) -> None:
    services = telling(webhooks=f"{receiver.url} {receiver.url}, {receiver.url}")
    enqueue(services.jobs)
    run_all(services)
    assert len(tell(services)) == 1
