"""The Studio's sentences about batches, as programs get them."""

from functools import partial

from diffusion_local.compose import Services
from diffusion_local.web.api.endpoints import Endpoints
from diffusion_local.web.api.gradio.uploads import Uploads
from diffusion_local.web.api.watch import Watch
from tests.support import gradio_endpoint


def test_every_endpoint_says_its_sentence(services: Services) -> None:
    call = partial(gradio_endpoint, services.studio)
    written = Endpoints(services.studio, Watch(services.studio), Uploads(services.settings))
    grid = call("submit_grid")("a cat", "steps: 2,3", width=128, height=128, window="23:00-07:00")
    assert call("check_grid")("a cat", "steps: 2,3")["pictures"] == 2
    assert call("batches")()["batches"][0]["id"] == grid["batch_id"]
    assert call("edit_batch")(grid["batch_id"], name="owls", guidance=2.0)["changed"] == 2
    assert call("edit_batch")(grid["batch_id"], name="pets") == {"changed": 0, "warnings": []}
    answer = call("batch")(grid["batch_id"])
    assert (answer["name"], answer["window"], answer["grid"]["x"]["values"]) == ("pets", "23:00-07:00", ["2", "3"])
    assert len(call("duplicate_batch")(grid["batch_id"])["job_ids"]) == 2
    assert call("queue_window")("23:00-07:00") == {"window": "23:00-07:00"}
    assert call("import_queue")(written.export_queue()["text"])["count"] == 4
