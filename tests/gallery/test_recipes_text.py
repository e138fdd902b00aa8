"""The recipe in a picture: the text that other tools read, and our own JSON."""

import json

from PIL import Image as PIL

from diffusion_local.domain import Params
from diffusion_local.gallery import recipes
from diffusion_local.options import a1111
from diffusion_local.queue.jobs import JobStore
from tests.support import enqueue, image_of, params


def test_the_text_has_the_form_of_a1111() -> None:
    lines = a1111.format_recipe(params(negative="blurry", guidance=5.0)).splitlines()
    assert lines[:2] == ["a red apple", "Negative prompt: blurry"]
    assert lines[2].startswith("Steps: 4, Sampler: DPM++ 2M, CFG scale: 5, Seed: 7, Size: 128x128, Model: starter, Ver")


def test_no_negative_no_line() -> None:
    assert len(a1111.format_recipe(params()).splitlines()) == 2


def test_a_name_with_a_comma_is_quoted() -> None:
    assert 'Model: "a, b"' in a1111.format_recipe(params(model="a, b"))


def test_our_json_gives_the_params_back(store: JobStore) -> None:
    [job_id] = enqueue(store, prompt="two\nlines, 🍎")
    job = store.get(job_id)
    texts = recipes.to_texts(image_of(job), {"engine": "fake"})
    picture = PIL.new("RGB", (8, 8))
    picture.info.update(texts)
    found = recipes.read_json(picture)
    assert found is not None
    assert Params.from_json(json.dumps(found["params"])) == job.params
    assert (found["job_id"], found["facts"]) == (job_id, {"engine": "fake"})


def test_a_picture_without_a_recipe_has_none() -> None:
    picture = PIL.new("RGB", (8, 8))
    for text in (None, "no json", "{}", '{"params": {"prompt": "x"}}', '{"params": 3}', "3"):
        if text is not None:
            picture.info[recipes.JSON_KEY] = text
        assert recipes.read_json(picture) is None
