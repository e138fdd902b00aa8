"""The contract with programs, through gradio_client and a real worker."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from diffusion_local import serializers
from diffusion_local.options.table import BATCH_OPTIONS, SETTINGS
from tests.support import first_of, soon, sql
from tests.web.conftest import Site

SMALL = {"width": 128, "height": 128, "steps": 4}
#: Programs lean on these.
NAMES = {"submit", "job", "wait", "generate", "cancel", "again", "jobs", "queue", "gallery", "image", "models"} | {
    "star",
    "trash",
    "restore",
}
NAMES |= {"batches", "batch", "edit_batch", "duplicate_batch", "check_grid", "submit_grid", "queue_window"}
NAMES |= {"export_queue", "import_queue", "report", "report_again", "deliveries", "resend"}
NAMES |= {
    "watch",
    "add_source",
    "pause",
    "resume",
    "move",
    "priority",
    "forget",
    "events",
    "check_list",
    "submit_list",
    "preview",
    "help_prompt",
}


@pytest.fixture(scope="module")
def api(site: Site) -> Client:
    return Client(site.url, verbose=False, httpx_kwargs={"timeout": 60})


@pytest.fixture
def paused(site: Site) -> Iterator[None]:
    """Nothing starts; what a test left waiting is cancelled."""
    queue = site.services.studio.queue
    queue.pause()
    yield
    queue.cancel(waiting=True)
    queue.resume()


def call(api: Client, name: str, **arguments: Any) -> Any:
    return api.predict(api_name=f"/{name}", **arguments)


def test_the_endpoints_are_these_and_documented(api: Client) -> None:
    result = api.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(result) == {f"/{name}" for name in NAMES}
    required = {
        name: [p["parameter_name"] for p in each["parameters"] if not p["parameter_has_default"]]
        for name, each in result.items()
    }
    assert required["/submit"] == required["/generate"] == ["prompt"]
    info = httpx.get(f"{api.src.rstrip('/')}/gradio_api/info").json()["named_endpoints"]
    assert all(each["description"].strip() for each in info.values())


def test_submit_takes_one_parameter_for_each_setting(api: Client) -> None:
    result = api.view_api(return_format="dict", print_info=False)["named_endpoints"]["/submit"]
    named = [each["parameter_name"] for each in result["parameters"]]
    assert named == ["prompt", *SETTINGS, *BATCH_OPTIONS, "count", "name", "priority", "idempotency_key", "expand"]


def test_a_prompt_becomes_a_picture(api: Client, site: Site) -> None:
    receipt = call(api, "submit", prompt="a red apple", seed=7, **SMALL)
    assert sorted(receipt) == ["batch_id", "job_ids", "memory", "warnings"]
    job = call(api, "wait", job_id=receipt["job_ids"][0], timeout=30)
    assert (job["state"], job["step"], job["steps"], job["error"]) == ("done", 4, 4, None)
    picture = httpx.get(site.url + job["image"]["url"])
    assert picture.content.startswith(b"\x89PNG")
    assert (job["image"]["width"], job["image"]["height"]) == (128, 128)
    image = call(api, "image", image_id=job["image"]["id"])
    assert image["params"] == job["params"] == serializers.params(site.services.studio.job(job["id"]))
    assert httpx.get(site.url + image["thumbnail_url"]).status_code == 200


def test_everything_but_the_prompt_may_be_left_out_or_null(api: Client, paused: None) -> None:
    nulls = dict.fromkeys(["model", "width", "height", "steps", "guidance", "sampler", "seed", "idempotency_key"])
    receipt = call(api, "submit", prompt="a red apple", **nulls)
    job = call(api, "job", job_id=receipt["job_ids"][0])
    assert (job["params"]["width"], job["params"]["steps"], job["params"]["model"]) == (256, 12, "starter")
    assert (job["state"], job["position"]) == ("queued", 1)


def test_generate_waits_for_all(api: Client) -> None:
    answer = call(api, "generate", prompt="a blue heart", count=3, seed=5, **SMALL)
    assert answer["finished"] is True
    assert [job["params"]["seed"] for job in answer["jobs"]] == [5, 6, 7]
    assert [job["id"] for job in answer["jobs"]] == answer["job_ids"]
    assert all(job["image"] for job in answer["jobs"])


def test_generate_gives_the_ids_back_when_time_is_up_and_work_goes_on(api: Client) -> None:
    answer = call(api, "generate", prompt="slowly [slow:0.3]", timeout=0.2, **SMALL)
    assert answer["finished"] is False
    assert answer["jobs"][0]["state"] in ("queued", "running")
    assert call(api, "wait", job_id=answer["job_ids"][0], timeout=30)["state"] == "done"


def test_a_failed_job_says_kind_and_message(api: Client) -> None:
    job = call(api, "generate", prompt="broken [fail]", **SMALL)["jobs"][0]
    assert (job["state"], job["error"]["kind"], job["image"]) == ("failed", "engine_error", None)
    assert "fail" in job["error"]["message"]


def test_cancel_stops_a_running_job(api: Client) -> None:
    job_id = call(api, "submit", prompt="slowly [slow:0.5]", **SMALL | {"steps": 50})["job_ids"][0]
    deadline = time.monotonic() + 20
    while call(api, "job", job_id=job_id)["state"] == "queued":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert call(api, "cancel", job_id=job_id) == {"job_ids": [job_id]}
    assert call(api, "wait", job_id=job_id, timeout=20)["state"] == "cancelled"


def test_cancel_of_a_batch_and_again(api: Client, paused: None) -> None:
    receipt = call(api, "submit", prompt="x", count=3)
    assert sorted(call(api, "cancel", batch_id=receipt["batch_id"])["job_ids"]) == sorted(receipt["job_ids"])
    new = call(api, "again", job_id=receipt["job_ids"][1])
    job = call(api, "job", job_id=new["job_ids"][0])
    assert job["from_job"] == receipt["job_ids"][1]
    with pytest.raises(AppError, match="has already ended"):
        call(api, "cancel", job_id=receipt["job_ids"][0])


@pytest.mark.parametrize(
    ("name", "arguments"),
    first_of(
        4,
        [
            ("job", {"job_id": "nope"}),
            ("wait", {"job_id": "nope"}),
            ("again", {"job_id": "nope"}),
            ("cancel", {"job_id": "nope"}),
            ("cancel", {"batch_id": "nope"}),
            ("image", {"image_id": "nope"}),
            ("events", {"job_id": "nope"}),
            ("cancel", {"job_ids": ["nope"]}),
            ("again", {"job_ids": ["nope"]}),
            ("move", {"to": "top", "job_ids": ["nope"]}),
            ("move", {"to": "up", "job_id": "nope"}),
            ("priority", {"value": 1, "batch_id": "nope"}),
            ("forget", {"job_ids": ["nope"]}),
            ("pause", {"batch_id": "nope"}),
            ("resume", {"batch_id": "nope"}),
        ],
    ),
)
def test_an_unknown_id_is_an_error(api: Client, name: str, arguments: dict[str, str]) -> None:
    with pytest.raises(AppError, match=r"There is no .* 'nope'"):
        call(api, name, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    first_of(
        5,
        [
            ("submit", {"prompt": "x", "width": 100}, "width: must be from 128 to 512"),
            ("wait", {"job_id": "x", "timeout": -1}, "timeout: must be from 0 to 3600"),
            ("cancel", {}, "job_ids: must name"),
            ("priority", {"value": "high", "job_id": "a"}, "priority: must be a"),
            ("gallery", {"limit": 501}, "limit: must be from 1 to 500"),
            ("submit", {"prompt": " "}, "prompt: must not be empty"),
            ("submit", {"prompt": "x", "steps": 1.5}, "steps: must be a whole number"),
            ("submit", {"prompt": "x", "count": 101}, "count: must be from 1 to 100"),
            ("submit", {"prompt": 7}, "prompt: must be text"),
            ("generate", {"prompt": "x", "sampler": "magic"}, "sampler: must be one of"),
            ("generate", {"prompt": "x", "timeout": 1e9}, "timeout: must be from 0 to 3600"),
            ("cancel", {"job_id": "a", "batch_id": "b"}, "batch_id: must be left out"),
            ("cancel", {"job_id": "a", "job_ids": ["b"]}, "job_ids: must be left out"),
            ("cancel", {"waiting": True, "job_ids": ["b"]}, "waiting: already selects all"),
            ("cancel", {"job_ids": "abc"}, "job_ids: must be a list"),
            ("cancel", {"job_ids": [7, {}]}, "job_ids: must be job ids"),
            ("cancel", {"job_ids": ["x"] * 1001}, "job_ids: must name at most 1000"),
            ("again", {}, "job_ids: must name"),
            ("again", {"failed": True, "job_id": "a"}, "failed: already selects all"),
            ("forget", {}, "job_ids: must name"),
            ("forget", {"ended": True, "batch_id": "b"}, "ended: already selects all"),
            ("move", {"to": "left", "job_id": "a"}, "to: must be top, bottom, up or down"),
            ("move", {"to": "up"}, "job_ids: must name one job"),
            ("priority", {"value": 101, "job_id": "a"}, "priority: must be from -100 to 100"),
            ("jobs", {"state": "asleep"}, "state: must be one of"),
            ("jobs", {"limit": 0}, "limit: must be from 1 to 1000"),
        ],
    ),
)
def test_bad_input_names_the_field(api: Client, site: Site, name: str, arguments: dict[str, Any], words: str) -> None:
    jobs = count_of_jobs(site)
    with pytest.raises(AppError, match=words):
        call(api, name, **arguments)
    assert count_of_jobs(site) == jobs


def count_of_jobs(site: Site) -> int:
    with sql(site.services.settings) as db:
        return int(db.execute("SELECT count(*) FROM jobs").fetchone()[0])


def test_the_same_submit_twice_is_one_batch(api: Client, paused: None) -> None:
    first = call(api, "submit", prompt="once", idempotency_key="key-1")
    assert call(api, "submit", prompt="once", idempotency_key="key-1")["batch_id"] == first["batch_id"]
    with pytest.raises(AppError, match="already used"):
        call(api, "submit", prompt="other", idempotency_key="key-1")


def test_lists_are_walked_by_next(api: Client) -> None:
    call(api, "generate", prompt="walk this way", count=5, **SMALL)
    for name, key in (("gallery", "images"), ("jobs", "jobs")):
        whole = [each["id"] for each in call(api, name, limit=100)[key]]
        walked: list[str] = []
        before = ""
        while True:
            answer = call(api, name, limit=4, before=before)
            walked += [each["id"] for each in answer[key]]
            if not (before := answer["next"]):
                break
        assert walked[:100] == whole
        assert len(set(walked)) == len(walked)
    found = call(api, "gallery", search="WALK THIS")["images"]
    assert len(found) == 5
    assert all(each["starred"] for each in call(api, "gallery", starred=True)["images"])


def test_models_tell_limits_and_no_path(api: Client, site: Site) -> None:
    model = call(api, "models")["models"][0]
    assert (model["id"], model["ready"], model["limits"]["max_size"]) == ("starter", True, 512)
    assert str(site.services.settings.starter) not in str(model)


def waiting(api: Client) -> list[str]:
    return [job["id"] for job in call(api, "queue")["waiting"]]


def test_the_line_is_put_in_order(api: Client, paused: None) -> None:
    batch = call(api, "submit", prompt="order me", count=4)
    a, b, c, d = batch["job_ids"]
    assert call(api, "move", to="top", job_ids=[c, d]) == {"job_ids": [c, d]}
    assert waiting(api) == [c, d, a, b]
    assert call(api, "move", to="up", job_id=b) == {"job_ids": [b]}
    call(api, "move", to="down", job_id=c)
    assert waiting(api) == [d, c, b, a]
    assert call(api, "priority", value=5, job_id=a) == {"job_ids": [a]}
    assert waiting(api) == [a, d, c, b]
    assert call(api, "job", job_id=a)["priority"] == 5
    assert sorted(call(api, "priority", value=-1, batch_id=batch["batch_id"])["job_ids"]) == sorted([a, b, c, d])
    assert sorted(call(api, "cancel", job_ids=[a, b])["job_ids"]) == sorted([a, b])
    assert sorted(call(api, "cancel", waiting=True)["job_ids"]) == sorted([c, d])


def test_a_batch_is_paused_and_resumed_while_others_go_on(api: Client) -> None:
    call(api, "pause")
    held = call(api, "submit", prompt="held", **SMALL)
    assert call(api, "pause", batch_id=held["batch_id"]) == {"paused": True, "batch_id": held["batch_id"]}
    call(api, "resume")
    assert call(api, "generate", prompt="goes on", **SMALL)["finished"] is True
    job = call(api, "job", job_id=held["job_ids"][0])
    assert (job["state"], job["held"]) == ("queued", True)
    call(api, "resume", batch_id=held["batch_id"])
    assert call(api, "wait", job_id=job["id"], timeout=20)["state"] == "done"


def test_pause_gives_the_running_picture_back_and_its_history_tells(api: Client) -> None:
    job_id = call(api, "submit", prompt="given back [slow:0.4]", **SMALL | {"steps": 6})["job_ids"][0]
    deadline = time.monotonic() + 20
    while call(api, "job", job_id=job_id)["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert call(api, "pause", give_back=True) == {"paused": True}
    while call(api, "job", job_id=job_id)["state"] != "queued":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert call(api, "resume") == {"paused": False}
    assert call(api, "wait", job_id=job_id, timeout=20)["state"] == "done"
    events = call(api, "events", job_id=job_id)["events"]
    assert [each["state"] for each in events] == ["queued", "running", "queued", "running", "done"]
    assert [each["attempt"] for each in events] == [0, 1, 1, 2, 2]
    assert "returned to the queue" in events[2]["note"]


def test_failed_ones_are_made_again_and_ended_ones_forgotten(api: Client, site: Site) -> None:
    broken = call(api, "generate", prompt="broken [fail]", count=2, **SMALL)
    again = call(api, "again", batch_id=broken["batch_id"])
    assert [call(api, "wait", job_id=each, timeout=20)["from_job"] for each in again["job_ids"]] == broken["job_ids"]
    [third] = call(api, "again", job_ids=broken["job_ids"][:1])["job_ids"]
    call(api, "wait", job_id=third, timeout=20)
    everyone = call(api, "again", failed=True)
    origins = {call(api, "wait", job_id=job_id, timeout=20)["from_job"] for job_id in everyone["job_ids"]}
    assert origins >= {*again["job_ids"], third}  # other tests may have left failed ones, too
    assert not origins & set(broken["job_ids"])  # which were made again already
    assert call(api, "forget", job_ids=broken["job_ids"][:1]) == {"job_ids": broken["job_ids"][:1]}
    assert call(api, "forget", batch_id=broken["batch_id"]) == {"job_ids": broken["job_ids"][1:]}
    pictures = len(call(api, "gallery", limit=500)["images"])
    call(api, "forget", ended=True)
    assert call(api, "queue")["ended"] == []
    assert len(call(api, "gallery", limit=500)["images"]) == pictures


def test_plain_http_may_leave_out_what_has_a_default(api: Client, paused: None) -> None:
    """An endpoint that learned a new parameter still serves those who wrote their list before."""
    job_id = call(api, "submit", prompt="x")["job_ids"][0]
    for name, data in (("pause", []), ("cancel", [job_id]), ("again", [job_id])):
        answer = httpx.post(f"{api.src.rstrip('/')}/gradio_api/run/{name}", json={"data": data})
        assert answer.status_code == 200, name
    assert httpx.post(f"{api.src.rstrip('/')}/gradio_api/run/job", json={"data": []}).status_code != 200


def test_queue_tells_workers_and_pause(api: Client, paused: None) -> None:
    queue = call(api, "queue")
    assert queue["paused"] is True
    assert queue["workers"][0]["slot"] == "cpu0"


@pytest.mark.slow
def test_many_waiting_callers_hold_nobody_up(api: Client, paused: None) -> None:
    """More of them than threads: a submit beside them still takes milliseconds."""
    job_id = call(api, "submit", prompt="wait for me", **SMALL)["job_ids"][0]
    waiting = [api.submit(job_id, 30, api_name="/wait") for _ in range(60)]
    time.sleep(0.5)
    url = f"{api.src.rstrip('/')}/gradio_api/run/job"
    seconds = []
    for _ in range(15):
        started = time.monotonic()
        assert httpx.post(url, json={"data": [job_id]}).status_code == 200
        seconds.append(time.monotonic() - started)
    httpx.post(f"{api.src.rstrip('/')}/gradio_api/run/resume", json={"data": []})  # the client's own threads all wait
    assert {each.result(30)["state"] for each in waiting} == {"done"}
    assert statistics.median(seconds) < soon(0.5)


def test_plain_http_works_too(site: Site) -> None:
    started = httpx.post(f"{site.url}/gradio_api/call/v2/generate", json={"prompt": "by curl", **SMALL})
    events = httpx.get(f"{site.url}/gradio_api/call/generate/{started.json()['event_id']}", timeout=30).text
    assert "event: complete" in events
    assert '"state": "done"' in events


def test_a_picture_is_starred_goes_to_the_trash_and_comes_back(api: Client) -> None:
    receipt = call(api, "generate", prompt="trash me", timeout=30, **SMALL)
    image_id = receipt["jobs"][0]["image"]["id"]
    assert call(api, "star", image_id=image_id)["starred"]
    assert not call(api, "star", image_id=image_id, starred=False)["starred"]
    assert call(api, "trash", image_id=image_id)["trashed_at"]
    assert image_id in [each["id"] for each in call(api, "gallery", trashed=True)["images"]]
    assert image_id not in [each["id"] for each in call(api, "gallery")["images"]]
    assert call(api, "restore", image_id=image_id)["trashed_at"] is None


def test_watch_tells_what_happens_until_the_end(api: Client, site: Site) -> None:
    receipt = call(api, "submit", prompt="watched [slow:0.1]", **SMALL)
    [job_id] = receipt["job_ids"]
    answer = list(api.submit(job_id=job_id, api_name="/watch"))
    names = [each["event"] for each in answer]
    assert (names[0], names[-1], set(names)) == ("state", "end", {"state", "progress", "end"})
    assert [each["data"]["state"] for each in answer if each["event"] == "state"] == ["queued", "running", "done"]
    assert answer[-1]["data"]["image"]["id"] == job_id
    whole = list(api.submit(batch_id=receipt["batch_id"], api_name="/watch"))[-1]
    assert whole["data"]["counts"]["done"] == 1


def test_many_may_watch_and_the_queue_is_not_held_up(api: Client, paused: None) -> None:
    [job_id] = call(api, "submit", prompt="x")["job_ids"]
    watching = [api.submit(job_id=job_id, timeout=60, api_name="/watch") for _ in range(10)]
    began = time.monotonic()
    assert call(api, "wait", job_id=job_id, timeout=0.1)["state"] == "queued"
    assert time.monotonic() - began < 10
    call(api, "cancel", job_id=job_id)
    assert [list(each)[-1]["event"] for each in watching] == ["end"] * 10


def test_a_watch_that_cannot_be_or_takes_too_long(api: Client, paused: None) -> None:
    for arguments in ({}, {"job_id": "nope"}, {"job_id": "x", "batch_id": "y"}, {"job_id": "x", "timeout": 99999}):
        with pytest.raises(AppError):
            api.submit(api_name="/watch", **arguments).result(timeout=20)
    [job_id] = call(api, "submit", prompt="x")["job_ids"]
    assert list(api.submit(job_id=job_id, timeout=0.3, api_name="/watch"))[-1]["event"] == "timeout"


def test_a_file_becomes_a_source(api: Client, site: Site, tmp_path: Any) -> None:
    from gradio_client import handle_file
    from PIL import Image as PIL

    PIL.new("RGB", (128, 128), "red").save(tmp_path / "apple.png")
    content = call(api, "add_source", picture=handle_file(tmp_path / "apple.png"))
    assert (content["width"], content["height"]) == (128, 128)
    answer = call(api, "generate", prompt="a green apple", source=content["id"], strength=0.5, steps=4)
    assert answer["jobs"][0]["params"]["kind"] == "img2img"
    assert answer["jobs"][0]["state"] == "done"
    (tmp_path / "no.txt").write_text("no picture")
    with pytest.raises(AppError, match="must be a picture"):
        call(api, "add_source", picture=handle_file(tmp_path / "no.txt"))
