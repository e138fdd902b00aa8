"""Server-sent events: followed over the network with a real worker, resumed, and ended."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from diffusion_local.errors import NotFound
from diffusion_local.web.api import watch
from diffusion_local.web.api.http import streams
from tests.support import claimed, soon
from tests.web.api.conftest import JOBS, SMALL, draw_next, fail_next
from tests.web.conftest import Site

Told = dict[str, Any]


def parsed(lines: Iterator[str]) -> Iterator[Told]:
    """Events as a browser would read them; comments as ``{"comment": ...}``."""
    event: Told = {}
    for line in lines:
        name, _, value = line.partition(":")
        if not line:
            if "data" in event:
                yield event
            event = {}
        elif not name:
            yield {"comment": value.strip()}
        else:
            event[name] = json.loads(value) if name == "data" else value.strip()


@contextlib.contextmanager
def follow(url: str, last_id: str | None = None) -> Iterator[Iterator[Told]]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with httpx.stream("GET", url, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield parsed(answer.iter_lines())


def submit(site: Site, **changes: Any) -> Told:
    return httpx.post(site.url + JOBS, json={"prompt": "a red apple"} | SMALL | changes).json()


def states(events: list[Told]) -> list[str]:
    return [event["data"]["state"] for event in events if event.get("event") == "state"]


def test_a_job_is_followed_to_its_end(site: Site) -> None:
    answer = submit(site, prompt="slowly [slow:0.3]")
    with follow(f"{site.url}/api/v1/jobs/{answer['job_ids'][0]}/stream") as events:
        found = list(events)
    assert states(found) == ["queued", "running", "done"]
    steps = [event["data"]["step"] for event in found if event["event"] == "progress"]
    assert steps
    assert steps == sorted(steps)
    assert found[-1]["event"] == "end"
    assert found[-1]["data"]["image"]["id"] == answer["job_ids"][0]
    assert all(("id" in event) == (event["event"] == "state") for event in found)


def test_a_dropped_stream_is_resumed_without_a_gap_and_not_begun_again_after_the_end(site: Site) -> None:
    answer = submit(site, prompt="slowly [slow:0.2]")
    url = f"{site.url}/api/v1/jobs/{answer['job_ids'][0]}/stream"
    with follow(url) as events:
        first = next(events)
    with follow(url, first["id"]) as events:
        rest = list(events)
    assert [first["data"]["state"], *states(rest)] == ["queued", "running", "done"]
    last = [event["id"] for event in rest if "id" in event][-1]
    assert httpx.get(url, headers={"Last-Event-ID": last}).status_code == 204


def test_a_batch_is_followed_until_all_have_ended(site: Site) -> None:
    answer = submit(site, count=3)
    with follow(f"{site.url}/api/v1/batches/{answer['batch_id']}/stream") as events:
        found = list(events)
    assert sorted(states(found)) == sorted(["queued", "running", "done"] * 3)
    assert found[-1]["data"]["counts"]["done"] == 3


def test_the_queue_is_followed_from_now_on(site: Site) -> None:
    with follow(f"{site.url}/api/v1/queue/stream") as events:
        assert next(events)["event"] == "queue"
        answer = submit(site)
        ended = next(event for event in events if event["data"].get("state") == "done")
    assert ended["data"]["job_id"] == answer["job_ids"][0]


def test_many_followers_hold_no_thread_each(site: Site) -> None:
    answer = submit(site, prompt="slowly [slow:0.4]")
    url = f"{site.url}/api/v1/jobs/{answer['job_ids'][0]}/stream"
    with contextlib.ExitStack() as stack:
        followers = [stack.enter_context(follow(url)) for _ in range(45)]  # more than there are threads
        started = time.monotonic()
        assert httpx.get(f"{site.url}/healthz").status_code == 200
        assert time.monotonic() - started < soon(3)
        assert all(list(events)[-1]["event"] == "end" for events in followers)


# -- without network ------------------------------------------------------------------------------------------------


def text_of(client: TestClient, path: str, last_id: str | None = None) -> list[Told]:
    answer = client.get(f"/api/v1{path}/stream", headers={"Last-Event-ID": last_id} if last_id else {})
    return list(parsed(iter(answer.text.split("\n"))))


@pytest.mark.parametrize("last_id", ["nonsense", "-5", "0", ""])
def test_an_id_that_is_none_of_ours_starts_from_the_beginning(
    client: TestClient, services: Services, last_id: str
) -> None:
    job = services.studio.submit("x", **SMALL).job_ids[0]
    fail_next(services)
    found = text_of(client, f"/jobs/{job}", last_id)
    assert states(found) == ["queued", "running", "failed"]
    assert found[-1]["data"]["error"]["message"] == "it broke"


@pytest.mark.parametrize("last_id", ["9" * 18, "9" * 40])
def test_an_id_beyond_the_newest_is_no_fault(client: TestClient, services: Services, last_id: str) -> None:
    job = services.studio.submit("x", **SMALL).job_ids[0]
    draw_next(services)
    assert client.get(f"/api/v1/jobs/{job}/stream", headers={"Last-Event-ID": last_id}).status_code in (200, 204)


def test_a_long_history_comes_in_pages(client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVENTS_PER_LOOK", 2)
    receipt = services.studio.submit("x", count=3, **SMALL)
    for _ in receipt.job_ids:
        draw_next(services)
    found = text_of(client, f"/batches/{receipt.batch_id}")
    assert states(found) == ["queued"] * 3 + ["running", "done"] * 3
    assert [each["event"] for each in found].count("end") == 1


def test_a_stream_ends_when_the_server_stops(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def stops_after_a_while() -> bool:
        looks.append(1)
        return len(looks) > 5

    monkeypatch.setattr(client.app.state.watch, "stopping", stops_after_a_while)  # type: ignore[attr-defined]
    job = services.studio.submit("x", **SMALL).job_ids[0]
    assert states(text_of(client, f"/jobs/{job}")) == ["queued"]


def test_a_job_that_is_forgotten_meanwhile_ends_its_stream(services: Services) -> None:
    job = services.studio.submit("x", **SMALL).job_ids[0]
    source = streams.JobEvents(services.studio, None, job_id=job)
    assert source.poll()[1] is False
    services.studio.queue.cancel([job])
    services.studio.queue.forget([job])
    with pytest.raises(NotFound):
        source.poll()


def test_a_batch_sees_its_own_events_only(services: Services) -> None:
    studio = services.studio
    first, second = studio.submit("x", count=2, **SMALL), studio.submit("y", **SMALL)
    assert claimed(services.jobs).id == first.job_ids[0]
    found = studio.events_after(0, batch_id=first.batch_id)
    assert [(event.job_id, event.state) for _, event in found] == [
        (first.job_ids[0], "queued"),
        (first.job_ids[1], "queued"),
        (first.job_ids[0], "running"),
    ]
    assert [event.job_id for _, event in studio.events_after(0, job_id=second.job_ids[0])] == second.job_ids


# -- histories by the same addresses ----------------------------------------------------------------------------------

STREAM = {"Accept": "text/event-stream"}


def test_histories_are_json_unless_a_stream_is_asked_for(client: TestClient, services: Services) -> None:
    receipt = services.studio.submit("x", count=2, **SMALL)
    for _ in receipt.job_ids:
        draw_next(services)
    job, batch = f"/api/v1/jobs/{receipt.job_ids[0]}", f"/api/v1/batches/{receipt.batch_id}"
    for path in (job, batch):
        text = client.get(f"{path}/events", headers={"Accept": "application/json, */*"})
        streamed = client.get(f"{path}/events", headers=STREAM)
        assert "Accept" in text.headers["Vary"]
        assert streamed.headers["Content-Type"].startswith("text/event-stream")
        assert streamed.text == client.get(f"{path}/stream").text
        assert [each["state"] for each in text.json()["events"]] == states(
            list(parsed(iter(streamed.text.split("\n"))))
        )


def test_histories_are_read_on_by_their_numbers(client: TestClient, services: Services) -> None:
    receipt = services.studio.submit("x", count=2, **SMALL)
    for _ in receipt.job_ids:
        draw_next(services)
    path = f"/api/v1/batches/{receipt.batch_id}/events"
    first = client.get(path, params={"limit": 4}).json()
    rest = client.get(path, params={"after": first["next"]}).json()
    assert [each["state"] for each in first["events"] + rest["events"]] == ["queued"] * 2 + ["running", "done"] * 2
    assert rest["next"] is None
    everything = client.get("/api/v1/queue/events", params={"after": first["events"][0]["number"] - 1}).json()
    assert everything["events"] == first["events"] + rest["events"]
    assert client.get("/api/v1/batches/nobody/events").status_code == 404
    assert client.get("/api/v1/queue/events", params={"limit": 0}).status_code == 422
