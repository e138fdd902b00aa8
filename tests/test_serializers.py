"""The JSON that programs lean on: names, types, and nothing of this machine."""

import json

from diffusion_local import serializers
from diffusion_local.compose import Services
from diffusion_local.domain import Params
from tests.support import FAILURE, claimed, image_of

JOB = {
    "id", "batch_id", "index", "state", "step", "steps", "position", "eta", "attempt", "error", "image", "params",
    "created_at", "started_at", "finished_at", "cancel_requested", "not_before", "tries", "from_job", "priority",
}  # fmt: skip


def test_a_waiting_job_has_a_place_and_no_picture(services: Services) -> None:
    first, second = services.studio.submit("x", count=2, seed=7).job_ids
    shaped = serializers.one_job(services.studio, second)
    assert shaped.keys() >= JOB
    assert (shaped["state"], shaped["position"], shaped["eta"]) == ("queued", 2, None)
    assert (shaped["image"], shaped["error"]) == (None, None)
    assert shaped["params"]["seed"] == 8
    assert serializers.one_job(services.studio, first)["position"] == 1


def test_a_done_job_has_its_picture_by_relative_address(services: Services) -> None:
    services.studio.submit("x")
    job = claimed(services.jobs)
    services.jobs.finish(job.claim, image_of(job))
    shaped = serializers.one_job(services.studio, job.id)
    assert (shaped["state"], shaped["position"], shaped["eta"]) == ("done", None, None)
    assert shaped["image"] == {
        "id": job.id,
        "url": f"/images/{job.id}.png",
        "public_url": f"/images/{job.id}.png",
        "thumbnail_url": f"/thumbnails/{job.id}.webp",
        "width": 128,
        "height": 128,
        "flag": "",
    }


def test_a_failed_job_says_kind_and_message_and_keeps_the_traceback_to_itself(services: Services) -> None:
    services.studio.submit("x")
    job = claimed(services.jobs)
    services.jobs.fail(job.claim, FAILURE)
    assert serializers.one_job(services.studio, job.id)["error"] == {
        "kind": FAILURE.kind,
        "message": FAILURE.message,
        "id": "verbatim",
        "params": {"text": FAILURE.message},
    }


def test_everything_is_json_and_names_no_folder_of_this_machine(services: Services) -> None:
    services.workers.register("cpu0", 10, "CPU")
    receipt = services.studio.submit("x", count=3)
    done, failed = claimed(services.jobs), claimed(services.jobs)
    services.jobs.finish(done.claim, image_of(done))
    services.jobs.fail(failed.claim, FAILURE)
    everything = {
        "receipt": serializers.receipt(receipt),
        "jobs": serializers.with_places(services.studio, services.studio.jobs()),
        "queue": serializers.queue(services.studio.snapshot()),
        "gallery": [serializers.image(image) for image in services.studio.gallery()],
        "models": [serializers.model(model) for model in services.studio.models()],
        "events": [serializers.event(event) for event in services.studio.events(done.id)],
    }
    text = json.dumps(everything)
    assert json.loads(text) == everything
    assert str(services.settings.home) not in text
    assert str(services.settings.starter) not in text


def test_params_have_every_field(services: Services) -> None:
    [job_id] = services.studio.submit("x").job_ids
    shaped = serializers.one_job(services.studio, job_id)["params"]
    assert set(shaped) == set(Params.__dataclass_fields__)
    assert shaped["kind"] == "txt2img"
