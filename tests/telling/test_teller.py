"""Telling: what happened is told once to each receiver, signed, tried again, logged, and sent again on wish."""

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from diffusion_local.compose import House
from diffusion_local.db.schema import FAILURES_TOLD
from diffusion_local.domain import Lane, State, utc_text
from diffusion_local.errors import Conflict, InvalidParams, NotFound
from diffusion_local.post import Post
from diffusion_local.telling import teller as module
from diffusion_local.telling import webhook
from tests.support import FAILURE, claimed, enqueue, eventually, image_of, sql, start_python
from tests.telling.conftest import OpenHouse, Receiver


def tell(house: House) -> list[str]:
    """One round, each delivery tried once; ids that were rung for."""
    rung = house.teller.tell()
    for delivery_id in rung:
        house.teller.deliver(delivery_id, 10.0)
    return rung


def run_all(house: House, end: Callable[[House, Any], None] | None = None) -> None:
    while job := house.jobs.claim_next("cpu0"):
        if end is None:
            house.jobs.finish(job.claim, image_of(job))
        else:
            end(house, job)


def fail(house: House, job: Any) -> None:
    house.jobs.fail(job.claim, FAILURE)


def told(receiver: Receiver, event: str) -> list[dict[str, Any]]:
    found = [json.loads(body) for body in receiver.bodies()]
    return [each["data"] for each in found if each["type"] == event]


def test_a_batch_is_told_once_when_its_last_job_ends(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling()
    enqueue(house.jobs, 3)
    house.jobs.finish((job := claimed(house.jobs)).claim, image_of(job))
    tell(house)
    assert receiver.got == []
    fail(house, claimed(house.jobs))
    run_all(house)
    for _ in range(3):
        tell(house)
    [done] = told(receiver, "batch.done")
    assert (done["done"], done["failed"], done["count"], done["name"]) == (2, 1, 3, "test")
    assert done["summary"]["reasons"][0]["kind"] == "engine_error"
    assert len(told(receiver, "job.failed")) == 1


def test_a_batch_that_is_cancelled_as_a_whole_is_told_once(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling()
    receipt = house.studio.submit("x", count=5, width=128, height=128)
    house.studio.cancel(batch_id=receipt.batch_id)
    tell(house)
    assert [each["cancelled"] for each in told(receiver, "batch.done")] == [5]


def test_the_signature_is_verified_by_the_library(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling()
    enqueue(house.jobs)
    run_all(house)
    [delivery_id] = tell(house)
    headers, body = receiver.got[0]
    Webhook(house.studio.webhooks.secret()).verify(body, headers)
    assert {name.lower(): value for name, value in headers.items()}["webhook-id"] == delivery_id
    with pytest.raises(WebhookVerificationError):
        Webhook(house.studio.webhooks.secret()).verify(body.replace("batch.done", "batch.gone"), headers)


@pytest.mark.parametrize("status", [500, 404, 302, 429])
def test_what_is_refused_is_tried_again_with_the_same_id(telling: OpenHouse, receiver: Receiver, status: int) -> None:
    house = telling(webhook_events="batch.done")
    receiver.answers, receiver.headers = [status], {"location": receiver.url + "/elsewhere"}
    enqueue(house.jobs)
    run_all(house)
    [delivery_id] = tell(house)
    waiting = house.deliveries.get(delivery_id)
    assert (waiting.state, waiting.status, waiting.attempts) == ("waiting", status, 1)
    assert waiting.next_try_at is not None
    assert house.teller.deliver(delivery_id, 10.0)  # not due yet: a doubled message does nothing
    assert len(receiver.got) == 1
    due(house)
    assert house.teller.deliver(delivery_id, 40.0)
    assert house.deliveries.get(delivery_id).state == "delivered"
    assert len(receiver.got) == 2
    assert receiver.got[0][0]["webhook-id"] == receiver.got[1][0]["webhook-id"]


def due(house: House) -> None:
    with sql(house.settings.database) as db:
        db.execute("UPDATE deliveries SET next_try_at = '2020-01-01T00:00:00.000Z' WHERE state = 'waiting'")


def test_a_receiver_that_is_gone_is_not_asked_again(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhook_events="batch.done")
    receiver.answers = [410]
    enqueue(house.jobs)
    run_all(house)
    [delivery_id] = tell(house)
    assert house.deliveries.get(delivery_id).state == "failed"


def test_tries_come_to_an_end(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhook_events="batch.done")
    receiver.answers = [500] * 20
    enqueue(house.jobs)
    run_all(house)
    [delivery_id] = tell(house)
    for _ in range(20):
        due(house)
        house.teller.deliver(delivery_id, 10.0)
    found = house.deliveries.get(delivery_id)
    assert (found.state, found.attempts) == ("failed", 8)
    assert len(receiver.got) == 8
    house.studio.webhooks.resend(delivery_id)
    receiver.answers = []
    assert house.teller.deliver(delivery_id, 10.0)
    assert house.deliveries.get(delivery_id).state == "delivered"


def test_a_long_answer_is_cut_and_a_redirect_not_followed(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhook_events="batch.done")
    receiver.body = b"\x00<b>long</b>" + b"x" * 3_000_000
    enqueue(house.jobs)
    run_all(house)
    [delivery_id] = tell(house)
    answer = house.deliveries.get(delivery_id).answer
    assert len(answer) == webhook.EXCERPT
    assert answer.isprintable()


def test_an_answer_that_does_not_come_ends(
    telling: OpenHouse, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "ALL_SECONDS", 0.3)
    house = telling(webhook_events="batch.done")
    receiver.hold.clear()
    enqueue(house.jobs)
    run_all(house)
    started = time.monotonic()
    [delivery_id] = tell(house)
    assert time.monotonic() - started < 10
    assert "no whole answer" in house.deliveries.get(delivery_id).error
    assert house.deliveries.get(delivery_id).state == "waiting"


def test_the_connection_goes_to_the_checked_address(
    telling: OpenHouse, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that stands for another address a moment later (DNS rebinding) changes nothing."""
    from diffusion_local.telling import addresses

    house = telling(webhook_events="batch.done")
    port = receiver.url.split(":")[2].split("/")[0]
    answers = iter([["127.0.0.1"]])
    kept = addresses.socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "rebind.example":
            return [(0, 0, 0, "", (each, int(port))) for each in next(answers)]  # asked once, or it fails
        return kept(host, *rest, **more)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", resolve)
    outcome = webhook.post(
        f"http://rebind.example:{port}/x", "id", "{}", house.studio.webhooks.secret(), "rebind.example"
    )
    assert outcome.delivered
    assert receiver.got[0][0]["host"] == f"rebind.example:{port}"


def test_it_is_checked_again_when_it_is_sent(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhook_allow_private="")
    enqueue(house.jobs)
    run_all(house)
    [delivery_id] = tell(house)
    assert "private network" in house.deliveries.get(delivery_id).error
    assert receiver.got == []


def test_proxies_of_the_environment_are_not_used(
    telling: OpenHouse, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    house = telling(webhook_events="batch.done")
    enqueue(house.jobs)
    run_all(house)
    tell(house)
    assert len(receiver.got) == 1


def test_many_failures_of_a_batch_are_a_bounded_number_of_messages(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling()
    enqueue(house.jobs, FAILURES_TOLD + 15)
    run_all(house, fail)
    tell(house)
    assert len(told(receiver, "job.failed")) == FAILURES_TOLD
    [done] = told(receiver, "batch.done")
    assert done["summary"]["reasons"][0]["count"] == FAILURES_TOLD + 15
    failed = told(receiver, "job.failed")[0]
    assert (failed["error"]["kind"], failed["params"]["prompt"]) == ("engine_error", "a red apple")


def test_idle_is_told_once_it_has_lasted(
    telling: OpenHouse, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = telling(webhook_events="queue.idle")
    for _ in range(3):  # a person who makes one picture after another
        enqueue(house.jobs)
        run_all(house)
        tell(house)
    assert receiver.got == []
    monkeypatch.setattr(module, "IDLE", timedelta(0))
    tell(house)
    [idle] = told(receiver, "queue.idle")
    assert idle["done"] == 3
    enqueue(house.jobs)
    run_all(house)
    enqueue(house.jobs)
    tell(house)
    assert len(receiver.got) == 1
    run_all(house)
    tell(house)
    assert [each["done"] for each in told(receiver, "queue.idle")] == [3, 2]


def test_a_pause_and_a_full_disk_are_told_with_their_reason(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling()
    house.studio.pause()
    house.studio.pause(give_back=True)
    house.studio.resume()
    house.control.block("The disk is nearly full.")
    house.control.block("The disk is nearly full!")
    tell(house)
    assert [each["reason"] for each in told(receiver, "queue.paused")] == [
        "paused by a person",
        "The disk is nearly full.",
    ]


def test_nobody_hears_that_the_queue_was_idle_or_paused_long_ago(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling()
    enqueue(house.jobs)
    run_all(house)
    house.studio.pause()
    with sql(house.settings.database) as db:
        db.execute("UPDATE notices SET at = ?", [utc_text(datetime.now(UTC) - timedelta(hours=2))])
    tell(house)
    assert [json.loads(body)["type"] for body in receiver.bodies()] == ["batch.done"]
    assert not house.notices.any_untold()


def test_without_receivers_nothing_is_kept_for_later(telling: OpenHouse) -> None:
    house = telling(webhooks="")
    enqueue(house.jobs)
    run_all(house)
    assert tell(house) == []
    assert house.studio.webhooks.deliveries() == []


def test_a_forgotten_batch_is_told_without_its_report(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhook_events="batch.done")
    [job_id] = enqueue(house.jobs)
    batch_id = house.jobs.get(job_id).batch_id
    run_all(house)
    house.studio.forget(ended=True)
    tell(house)
    assert told(receiver, "batch.done") == [{"batch_id": batch_id, "job_id": ""}]


def test_a_batch_has_a_webhook_of_its_own(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhooks="")
    house.studio.submit("told", width=128, height=128, webhook=receiver.url)
    house.studio.lists.submit("also told", webhook=receiver.url, width=128, height=128)
    house.studio.submit("not told", width=128, height=128)
    run_all(house, fail)
    house.studio.pause()
    tell(house)
    assert sorted(each["name"] for each in told(receiver, "job.failed")) == ["also told", "told"]
    assert len(receiver.got) == 4
    for submit in (house.studio.submit, house.studio.lists.submit):
        with pytest.raises(InvalidParams, match=r"^webhook: 10.0.0.1 is an address"):
            submit("x", webhook="http://10.0.0.1/")
    assert len(house.studio.jobs()) == 3


def test_the_log_is_paged_and_filtered(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhook_events="job.failed")
    receiver.answers = [410]
    enqueue(house.jobs, 3)
    run_all(house, fail)
    tell(house)
    webhooks = house.studio.webhooks
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
    assert house.deliveries.take(taken)
    with pytest.raises(Conflict):
        webhooks.resend(taken)


def test_a_trial_message_goes_to_a_checked_address_only(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhooks="")
    trial = house.studio.webhooks.test(receiver.url)
    assert house.teller.deliver(trial.id, None)
    assert json.loads(receiver.bodies()[0])["type"] == "test"
    with pytest.raises(InvalidParams, match=r"^webhook: "):
        house.studio.webhooks.test("http://10.0.0.1/")


def test_the_secret_is_kept_for_its_owner_only(telling: OpenHouse) -> None:
    house = telling()
    secret = house.studio.webhooks.secret()
    path = house.settings.home / "webhook.secret"
    assert secret.startswith("whsec_")
    assert house.studio.webhooks.secret() == secret == path.read_text().strip()
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
    started: list[Post] = []

    def start(house: House, delay: float = 0.1) -> Post:
        post = Post(house, delay)
        post.start()
        started.append(post)
        return post

    yield start
    for post in started:
        post.stop()


def test_huey_delivers_and_tries_again(telling: OpenHouse, receiver: Receiver, posted: Any) -> None:
    house = telling(webhook_events="batch.done")
    receiver.answers = [500, 503]
    post = posted(house)
    enqueue(house.jobs)
    run_all(house)

    def delivered() -> bool:
        post.look()
        return [each.state for each in house.studio.webhooks.deliveries()] == ["delivered"]

    eventually(delivered, 30)
    assert len(receiver.got) == 3
    assert house.studio.webhooks.deliveries()[0].attempts == 3


def test_what_a_killed_process_was_sending_is_sent_by_the_next(
    telling: OpenHouse, receiver: Receiver, posted: Any
) -> None:
    house = telling(webhook_events="batch.done", on_batch_done=("true",))
    enqueue(house.jobs)
    run_all(house)
    house.teller.tell()
    for each in house.studio.webhooks.deliveries():
        assert house.deliveries.take(each.id)  # and here the process dies
    posted(house)
    eventually(lambda: {each.state for each in house.studio.webhooks.deliveries()} == {"delivered", "failed"}, 30)
    by_receiver = {each.receiver: each for each in house.studio.webhooks.deliveries()}
    assert by_receiver[receiver.url].state == "delivered"
    assert by_receiver["hook:on_batch_done"].error == "stopped while it ran"
    assert len(receiver.got) == 1


POST = """
import sys, time
from dataclasses import replace
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_house
from diffusion_local.post import Post
from diffusion_local.settings import Settings
run_as(LOCAL)
url = sys.argv[1]
settings = replace(Settings.load(engine="fake"), webhooks=url, webhook_events="batch.done",
                   webhook_allow_private="127.0.0.1")
post = Post(open_house(settings))
post.start()
while True:
    post.look()
    time.sleep(0.1)
"""


def test_a_process_killed_while_it_sends_has_its_message_delivered_by_the_next(
    telling: OpenHouse, receiver: Receiver, posted: Any
) -> None:
    house = telling(webhook_events="batch.done")
    enqueue(house.jobs)
    run_all(house)
    receiver.hold.clear()
    child = start_python(POST, receiver.url)
    try:
        eventually(lambda: receiver.got, 60)  # it has sent, and waits for the answer
    finally:
        child.kill()
        child.communicate()
    [delivery] = house.studio.webhooks.deliveries()
    assert delivery.state == "sending"
    receiver.hold.set()
    posted(house)
    eventually(lambda: house.deliveries.get(delivery.id).state == "delivered", 30)
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [delivery.id, delivery.id]


def test_a_lost_message_is_found_by_the_next_look(telling: OpenHouse, receiver: Receiver, posted: Any) -> None:
    house = telling(webhook_events="batch.done")
    post = posted(house)
    enqueue(house.jobs)
    run_all(house)
    house.teller.tell()  # the ring for it is lost
    due(house)
    eventually(lambda: (post.look(), receiver.got)[1], 30)


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
        Post(telling(**changes))
    assert refused.value.field == field


def test_old_notices_and_deliveries_are_let_go(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhook_events="batch.done")
    enqueue(house.jobs)
    run_all(house)
    tell(house)
    assert house.notices.forget("2020-01-01") == 0
    assert house.notices.forget("2999-01-01") >= 1
    assert house.studio.webhooks.deliveries() == []
    assert house.notices.any_untold()  # the queue's idleness, which is still to be told


def test_both_lanes_tell(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhook_events="batch.done")
    enqueue(house.jobs, lane=Lane.BATCH)
    run_all(house)
    tell(house)
    assert len(receiver.got) == 1
    assert house.studio.jobs(State.DONE)


def test_an_address_that_is_named_twice_is_told_once(telling: OpenHouse, receiver: Receiver) -> None:
    house = telling(webhooks=f"{receiver.url} {receiver.url}, {receiver.url}")
    enqueue(house.jobs)
    run_all(house)
    assert len(tell(house)) == 1
