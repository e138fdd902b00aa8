"""The JSON that programs lean on: names, types, and nothing of this machine."""

import json

from diffusion_local import shapes
from diffusion_local.compose import House
from diffusion_local.domain import Params
from tests.support import FAILURE, claimed, image_of

JOB = {
    "id", "batch_id", "index", "state", "step", "steps", "position", "eta", "attempt", "error", "image", "params",
    "created_at", "started_at", "finished_at", "cancel_requested", "not_before", "tries", "from_job", "priority",
}  # fmt: skip


def test_a_waiting_job_has_a_place_and_no_picture(house: House) -> None:
    first, second = house.studio.submit("x", count=2, seed=7).job_ids
    shaped = shapes.one_job(house.studio, second)
    assert shaped.keys() >= JOB
    assert (shaped["state"], shaped["position"], shaped["eta"]) == ("queued", 2, None)
    assert (shaped["image"], shaped["error"]) == (None, None)
    assert shaped["params"]["seed"] == 8
    assert shapes.one_job(house.studio, first)["position"] == 1


def test_a_done_job_has_its_picture_by_relative_address(house: House) -> None:
    house.studio.submit("x")
    job = claimed(house.jobs)
    house.jobs.finish(job.claim, image_of(job))
    shaped = shapes.one_job(house.studio, job.id)
    assert (shaped["state"], shaped["position"], shaped["eta"]) == ("done", None, None)
    assert shaped["image"] == {
        "id": job.id,
        "url": f"/images/{job.id}.png",
        "thumbnail_url": f"/thumbnails/{job.id}.webp",
        "width": 128,
        "height": 128,
        "flag": "",
    }


def test_a_failed_job_says_kind_and_message_and_keeps_the_traceback_to_itself(house: House) -> None:
    house.studio.submit("x")
    job = claimed(house.jobs)
    house.jobs.fail(job.claim, FAILURE)
    assert shapes.one_job(house.studio, job.id)["error"] == {
        "kind": FAILURE.kind,
        "message": FAILURE.message,
        "id": "verbatim",
        "params": {"text": FAILURE.message},
    }


def test_everything_is_json_and_names_no_folder_of_this_machine(house: House) -> None:
    house.workers.register("cpu0", 10, "CPU")
    receipt = house.studio.submit("x", count=3)
    done, failed = claimed(house.jobs), claimed(house.jobs)
    house.jobs.finish(done.claim, image_of(done))
    house.jobs.fail(failed.claim, FAILURE)
    everything = {
        "receipt": shapes.receipt(receipt),
        "jobs": shapes.with_places(house.studio, house.studio.jobs()),
        "queue": shapes.queue(house.studio.snapshot()),
        "gallery": [shapes.image(image) for image in house.studio.gallery()],
        "models": [shapes.model(model) for model in house.studio.models()],
        "events": [shapes.event(event) for event in house.studio.events(done.id)],
    }
    text = json.dumps(everything)
    assert json.loads(text) == everything
    assert str(house.settings.home) not in text
    assert str(house.settings.starter) not in text


def test_params_have_every_field(house: House) -> None:
    [job_id] = house.studio.submit("x").job_ids
    shaped = shapes.one_job(house.studio, job_id)["params"]
    assert set(shaped) == set(Params.__dataclass_fields__)
    assert shaped["kind"] == "txt2img"
