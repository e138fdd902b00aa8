"""The Studio's sentences about batches, as programs get them."""

from diffusion_local.compose import House
from diffusion_local.web.api.batch_endpoints import NAMES, Batches


def test_every_endpoint_says_its_sentence(house: House) -> None:
    batches = Batches(house.studio)
    grid = batches.submit_grid("a cat", "steps: 2,3", width=128, height=128, window="23:00-07:00")
    assert batches.check_grid("a cat", "steps: 2,3")["pictures"] == 2
    assert batches.batches()["batches"][0]["id"] == grid["batch_id"]
    assert batches.edit_batch(grid["batch_id"], name="owls", guidance=2.0)["changed"] == 2
    assert batches.edit_batch(grid["batch_id"], name="pets") == {"changed": 0, "warnings": []}
    told = batches.batch(grid["batch_id"])
    assert (told["name"], told["window"], told["grid"]["x"]["values"]) == ("pets", "23:00-07:00", ["2", "3"])
    assert len(batches.duplicate_batch(grid["batch_id"])["job_ids"]) == 2
    assert batches.queue_window("23:00-07:00") == {"window": "23:00-07:00"}
    assert batches.import_queue(batches.export_queue()["text"])["count"] == 4
    assert set(NAMES) <= set(dir(batches))
