"""The page's handlers without a browser: what a press does, what the buttons do."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from diffusion_local.domain import State
from diffusion_local.web import page_delta
from diffusion_local.web.ui import actions, form, prompt_help, tab_create
from tests.support import claimed
from tests.web.conftest import failed, made

SKIP = {"__type__": "update"}
FIELDS = ("prompt", "batches")  # shown in text fields, not as HTML


def press(services: Services, key: str = "", **changes: Any) -> list[Any]:
    values = dict.fromkeys(form.FORM_FIELDS) | {"prompt": "a red apple", "seed": "", "count": 1, "styles": []} | changes
    return list(tab_create.on_generate(services.studio, key, *values.values()))


class Click:
    def __init__(self, verb: str, key: str = "") -> None:
        self._data = {"do": verb, "id": key}


def click(services: Services, verb: str, key: str = "") -> dict[str, Any]:
    values = actions.act(services.studio, Click(verb, key))  # type: ignore[arg-type]
    names = ("toast", "receipt", "tabs", "panel", "told", "batches", *form.FORM_FIELDS)
    return {name: value for name, value in zip(names, values, strict=True) if value != SKIP}


# -- a press ------------------------------------------------------------------------------------------------------


def test_ten_presses_are_ten_batches(services: Services) -> None:
    receipts = [press(services, count=2)[1] for _ in range(10)]
    assert len(set(receipts)) == 10
    assert services.studio.snapshot().counts[State.QUEUED] == 20


def test_a_press_that_is_sent_twice_is_one_batch(services: Services) -> None:
    assert press(services, "0f" * 16)[1] == press(services, "0f" * 16)[1] != press(services, "1f" * 16)[1]
    assert services.studio.snapshot().counts[State.QUEUED] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ""}, "Prompt must not be empty"),
        ({"prompt": None}, "Prompt must not be empty"),
        ({"width": 100}, "Width must be from 128 to 512"),
        ({"height": 130}, "Height must be a multiple of 8"),
        ({"steps": 0}, "Steps must be from 1 to 100"),
        ({"kind": "inpaint", "source": "a" * 64}, "The mask is empty. Press “Edit mask”"),
        ({"guidance": 99}, "Guidance must be from 0 to 30"),
        ({"sampler": "<b>"}, "Sampler must be one of"),
        ({"seed": "seven"}, "Seed must be a number"),
        ({"seed": str(2**32)}, "Seed must be from 0 to 4"),
        ({"count": 0}, "Pictures must be from 1 to 100"),
        ({"count": 101}, "Pictures must be from 1 to 100"),
        ({"count": 1.5}, "Pictures must be a whole number from 1 to 100"),
        ({"model": "none"}, "Model: There is no model"),
        ({"styles": ["none"]}, "Styles must be among"),
        ({"styles": "none"}, "Styles must be among"),
        ({"expand": "maybe"}, "must be one of random, all, no"),
        ({"steps": [1]}, "Steps must be a number from 1 to 100 (got a list)"),
        ({"hires_scale": 8}, "unless Hires tile makes it in tiles"),
        ({"controls": "a" * 64 + ":weight=9"}, "Controls 1, Weight must be from 0 to 2"),
        ({"controls": "nothing"}, "Controls 1, Picture must be the id of a source picture"),
        ({"references": "a" * 64 + ":use=style:weight=9"}, "Reference pictures 1, Weight must be from 0 to 2"),
        ({"prompt": ["a", "list"]}, "Prompt must be text"),
    ],
)
def test_bad_input_names_field_and_limit_and_enqueues_nothing(
    services: Services, changes: dict[str, Any], words: str
) -> None:
    notice, receipt = press(services, **changes)
    assert words in notice
    assert 'role="alert"' in notice
    assert "<b>" not in notice
    assert receipt == SKIP
    assert services.studio.snapshot().counts[State.QUEUED] == 0


def test_a_prompt_past_the_encoders_limit_is_told_and_made(services: Services) -> None:
    notice, receipt = press(services, prompt="word " * 200)
    assert "read in 6 parts" in notice
    assert len(services.studio.jobs_of_batches([receipt])) == 1


def test_a_model_brings_its_defaults_where_they_were_not_changed(services: Services) -> None:
    starter = services.studio.models()[0]
    sdxl = services.settings.models / "big"
    sdxl.mkdir(parents=True)
    (sdxl / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    result, shape, before, *values = tab_create.on_model(
        services.studio, "big", starter.id, 256, 256, 12, 3.5, "DPM++ 2M"
    )
    assert "not ready" in result
    assert (before, values) == ("big", [1024, 1024, 30, 6.0, "DPM++ 2M"])
    assert shape.value == "1024x1024"
    result, shape, before, *values = tab_create.on_model(services.studio, "starter", "big", 768, 1368, 99, 6.0, "Heun")
    assert (result, before, values[2:]) == ("", "starter", [99, 3.5, "Heun"])
    assert shape.value == f"{values[0]}x{values[1]}"
    assert values[0] < values[1] <= 512


def test_what_means_nothing_to_the_kind_is_not_sent(services: Services) -> None:
    source = services.studio.sources.from_image(made(services).id).id
    _, receipt = press(services, kind="img2img", source=source, strength=0.4, width=512, height=128, upscaler="Lanczos")
    [job] = services.studio.jobs_of_batches([receipt])
    assert (job.params.kind, job.params.strength, job.params.width, job.params.height) == ("img2img", 0.4, 128, 128)
    _, receipt = press(services, kind="upscale", source=source, scale=2, strength=0.4, prompt="", loras="ink:1")
    [job] = services.studio.jobs_of_batches([receipt])
    assert (job.params.kind, job.params.scale, job.params.width) == ("upscale", 2.0, 256)
    notice, _ = press(services, kind="inpaint", source=source)
    assert "The mask is empty" in notice
    notice, _ = press(services, kind="nonsense")
    assert "Kind must be one of" in notice


def test_styles_go_around_the_prompt(services: Services) -> None:
    _, receipt = press(services, styles=["Ink drawing"], negative="green")
    [job] = services.studio.jobs_of_batches([receipt])
    assert job.params.prompt.startswith("ink drawing of a red apple,")
    assert job.params.negative.startswith("green, ")
    assert "Styles must be among" in press(services, styles=["none"])[0]


def test_the_seed_of_the_last_press_can_be_kept(services: Services) -> None:
    receipts = [services.studio.submit("x", seed=seed).batch_id for seed in (7, 8)]
    assert tab_create.on_keep(services.studio, " ".join(reversed(receipts))) == "8"
    assert tab_create.on_keep(services.studio, "") == SKIP


# -- the buttons ----------------------------------------------------------------------------------------------------


def test_every_button_that_is_drawn_has_a_verb(services: Services) -> None:
    image = made(services)
    services.studio.submit("waits")
    failed(services.jobs, services, "broken")
    services.studio.submit("waits")
    mine = " ".join(job.batch_id for job in services.studio.jobs())
    pages = [page_delta.delta_since(services.studio, "", tab, [mine]) for tab in page_delta.TABS]
    clicks = click(services, "open", image.id)["panel"], click(services, "trash", image.id)["toast"]
    html = "".join([json.dumps(pages), *clicks])
    verbs = set(re.findall(r'data-do=\\?"(\w+)', html))
    assert verbs >= {"open", "close", "again", "cancel", "cancel_batch", "cancel_waiting", "pause", "restore", "recipe"}
    assert verbs <= set(actions.VERBS)


def test_cancel_again_and_pause(services: Services) -> None:
    job_id = services.studio.submit("a red apple").job_ids[0]
    assert "Cancelled" in click(services, "cancel", job_id)["toast"]
    assert services.studio.job(job_id).state is State.CANCELLED
    receipt = click(services, "again", job_id)["receipt"]
    assert services.studio.jobs_of_batches([receipt])[0].from_job == job_id
    click(services, "pause")
    assert services.studio.snapshot().paused
    click(services, "resume")
    assert not services.studio.snapshot().paused
    click(services, "cancel_batch", receipt)
    assert services.studio.jobs_of_batches([receipt])[0].state is State.CANCELLED


def test_again_of_a_finished_picture_draws_another_seed(services: Services) -> None:
    old = services.studio.job(made(services).job_id)
    receipt = click(services, "again", old.id)["receipt"]
    new = services.studio.jobs_of_batches([receipt])[0]
    assert new.params.seed != old.params.seed
    assert replace(new.params, seed=old.params.seed) == old.params


def test_cancel_all_waiting_leaves_what_runs(services: Services) -> None:
    services.studio.submit("x", count=5)
    running = claimed(services.jobs)
    assert "4 pictures" in click(services, "cancel_waiting")["toast"]
    assert not services.studio.job(running.id).cancel_requested


def test_unknown_words_are_shown_beside_the_prompt_and_not_as_a_warning(services: Services) -> None:
    prompt = "a red apple, яблоко, 魑魅, zeppelin"
    assert prompt_help.on_tokens(services.studio, prompt, "starter").split("\t")[1] == "zeppelin, 魑魅, яблоко"
    assert press(services, prompt=prompt)[0] == ""
    assert "notice warn" in press(services, negative="яблоко")[0]


def test_each_source_picture_makes_a_batch(services: Services) -> None:
    studio = services.studio
    ids = [studio.sources.from_image(made(services, seed=seed).id).id for seed in (1, 2)]
    options = {"kind": "img2img", "source": " ".join(ids), "strength": 0.5, "count": 2}
    result, batches = press(services, "a key", **options)
    assert result == ""
    found = [{job.params.source for job in studio.jobs(batch_id=each)} for each in batches.split()]
    assert found == [{ids[0]}, {ids[1]}]
    assert press(services, "a key", **options)[1] == batches  # sent twice, it makes nothing twice


def test_a_selection_is_moved_raised_and_cancelled(services: Services) -> None:
    ids = services.studio.submit("x", count=4).job_ids
    chosen = f"{ids[2]} {ids[3]} {ids[2]}"
    assert "2 pictures" in click(services, "move_top", chosen)["toast"]
    assert [job.id for job in services.studio.snapshot().waiting] == [ids[2], ids[3], ids[0], ids[1]]
    assert "now +1" in click(services, "priority_up", chosen)["toast"]
    click(services, "priority_down", ids[2])
    assert [services.studio.job(job_id).priority for job_id in ids] == [0, 0, 0, 1]
    click(services, "move_down", ids[3])
    assert [job.id for job in services.studio.snapshot().waiting][:2] == [ids[2], ids[3]]
    click(services, "move_up", ids[3])
    toast = click(services, "cancel_these", chosen)["toast"]
    assert "Cancelled 2 pictures" in toast
    undone = click(services, "undo_cancel", " ".join(re.findall(r"[0-9A-Z]{26}", toast.split("undo_cancel")[1])))
    receipt = undone["receipt"]
    assert {job.from_job for job in services.studio.jobs_of_batches([receipt])} == {ids[2], ids[3]}


@pytest.mark.parametrize(
    "verb", ["cancel_these", "again_these", "undo_cancel", "move_top", "move_bottom", "priority_up", "priority_down"]
)
@pytest.mark.parametrize(("key", "words"), [("", "Nothing is selected"), ("nope", "nope"), ("x " * 500, "no job")])
def test_a_selection_from_a_browser_is_not_trusted(services: Services, verb: str, key: str, words: str) -> None:
    known = services.studio.submit("x").job_ids[0]
    assert words in click(services, verb, key)["toast"]
    assert "nope" in click(services, verb, f"{known} nope")["toast"]  # then nothing is done to the others either
    assert "at most 500" in click(services, verb, " ".join(map(str, range(501))))["toast"]
    job = services.studio.job(known)
    assert (job.state, job.priority) == (State.QUEUED, 0)
    assert services.studio.snapshot().counts[State.QUEUED] == 1


def test_priority_stays_within_its_limits(services: Services) -> None:
    job_id = services.studio.submit("x", priority=100).job_ids[0]
    click(services, "priority_up", job_id)
    assert services.studio.job(job_id).priority == 100


def test_a_batch_is_held_and_goes_on(services: Services) -> None:
    receipt = services.studio.submit("x", count=2)
    toast = click(services, "pause_batch", receipt.batch_id)["toast"]
    assert f'data-do="resume_batch" data-id="{receipt.batch_id}"' in toast
    assert all(job.held for job in services.studio.jobs_of_batches([receipt.batch_id]))
    assert not services.studio.snapshot().paused
    click(services, "resume_batch", receipt.batch_id)
    assert not any(job.held for job in services.studio.jobs_of_batches([receipt.batch_id]))
    for verb in ("pause_batch", "pause_batch_now", "resume_batch"):
        assert "no longer exists" in click(services, verb, "")["toast"]  # and not: the whole queue
    assert not services.studio.snapshot().paused


def test_all_failed_again_and_the_list_cleared(services: Services) -> None:
    for _ in range(2):
        services.studio.submit("broken")
        failed(services.jobs, services, "it broke")
    receipt = click(services, "again_failed")["receipt"]
    assert len(services.studio.jobs_of_batches([receipt])) == 2
    one = services.studio.jobs(state="failed")[0].id
    click(services, "forget", one)
    assert one not in [job.id for job in services.studio.jobs()]
    assert "not ended" in click(services, "forget", services.studio.jobs_of_batches([receipt])[0].id)["toast"]
    assert "1 picture" in click(services, "forget_ended")["toast"]
    assert {job.state for job in services.studio.jobs()} == {State.QUEUED}
    assert "There is no failed job left" in click(services, "again_failed")["toast"]


def test_what_happened_opens_a_panel(services: Services) -> None:
    image = made(services)
    panel = click(services, "what_happened", image.job_id)["panel"]
    assert "attempt 1" in panel
    assert f"/thumbnails/{image.id}.webp" in panel


def test_open_star_trash_and_undo(services: Services) -> None:
    image = made(services)
    assert "a red apple" in click(services, "open", image.id)["panel"]
    assert "Starred" in click(services, "star", image.id)["panel"]
    assert services.studio.image(image.id).starred
    click(services, "unstar", image.id)
    gone = click(services, "trash", image.id)
    assert gone["panel"] == ""
    assert f'data-do="restore" data-id="{image.id}"' in gone["toast"]
    assert services.studio.gallery() == []
    click(services, "restore", image.id)
    assert len(services.studio.gallery()) == 1


def test_a_picture_in_the_trash_is_restored_where_it_is_looked_at(services: Services) -> None:
    image = made(services)
    services.studio.trash(image.id)
    looked_at = click(services, "open", image.id)["panel"]
    assert 'data-do="restore_open"' in looked_at
    assert 'data-do="trash"' not in looked_at
    back = click(services, "restore_open", image.id)
    assert 'data-do="trash"' in back["panel"]
    assert "Back in the gallery" in back["toast"]
    assert len(services.studio.gallery()) == 1


def test_use_this_recipe_fills_the_form_and_goes_there(services: Services) -> None:
    image = made(services, seed=4242)
    effect = click(services, "recipe", image.id)
    assert (effect["prompt"], effect["seed"], effect["steps"], effect["count"]) == ("a red apple", "4242", 4, 1)
    assert effect["tabs"].selected == "create"
    assert effect["panel"] == ""
    assert click(services, "recipe_of_job", image.job_id)["seed"] == "4242"


def test_a_recipe_says_which_settings_it_changed(services: Services) -> None:
    image = made(services, seed=4242)
    before = form.fill(image.params)
    for name, value in (("steps", 50), ("negative", "blur"), ("prompt", "other"), ("count", 9)):
        before[form.FORM_FIELDS.index(name)] = value
    values = actions.act(services.studio, Click("recipe", image.id), *before)  # type: ignore[arg-type]
    assert "Applied: Negative prompt, Steps</span>" in values[4]


def test_more_of_a_picture(services: Services) -> None:
    image = made(services, seed=4242)

    def jobs(verb: str) -> list[Any]:
        return services.studio.jobs_of_batches([click(services, verb, image.id)["receipt"]])

    [fresh] = jobs("again_new")
    assert fresh.params.seed != 4242
    [same] = jobs("again_picture")
    assert same.params == image.params
    near = jobs("variations")
    assert {job.params.seed for job in near} == {4242}
    assert len({job.params.variation_seed for job in near}) == len(near) == 4
    [larger] = jobs("upscale")
    assert (larger.params.kind, larger.params.width, larger.params.height) == ("upscale", 256, 256)
    form_now = click(services, "to_inpaint", image.id)
    assert (form_now["kind"], form_now["prompt"], form_now["mask"]) == ("inpaint", "a red apple", "")
    assert services.studio.sources.file(form_now["source"]).exists()
    assert click(services, "to_img2img", image.id)["strength"] == 0.6


def test_a_link_opens_its_picture(services: Services) -> None:
    image = made(services)
    assert f'data-picture="{image.id}"' in actions.linked(services.studio, image.id)
    assert "Picture not found" in actions.linked(services.studio, "gone")
    assert "Picture not found" in click(services, "open_link", "gone")["panel"]
    assert actions.linked(services.studio, "") == SKIP


def test_a_batch_that_was_cancelled_can_be_had_back(services: Services) -> None:
    mine = services.studio.submit("x", count=2).batch_id
    services.studio.submit("another")
    toast = click(services, "cancel_batch", mine)["toast"]
    assert "2 pictures" in toast
    assert services.studio.snapshot().counts[State.QUEUED] == 1
    click(services, "undo_cancel", " ".join(re.findall(r"[0-9A-Z]{26}", toast.split("undo_cancel")[1])))
    assert services.studio.snapshot().counts[State.QUEUED] == 3


def test_a_cancellation_of_many_jobs_is_undone_in_place(services: Services) -> None:
    batches = [services.studio.submit("x", count=40).batch_id, services.studio.submit("y", count=40).batch_id]
    toast = click(services, "cancel_waiting")["toast"]
    named = re.findall(r"[0-9A-Z]{26}", toast.split("undo_cancel_all")[1])
    assert len(named) <= 51  # the ids of all would make the toast too long
    undone = click(services, "undo_cancel_all", " ".join(named))
    assert "80 pictures" in undone["toast"]
    back = undone["receipt"].split()
    assert len(back) == len(batches)
    waiting = services.studio.snapshot().waiting
    assert [job.params.prompt for job in waiting] == (["x"] * 40 + ["y"] * 40)[: len(waiting)]
    assert len(waiting) > 40
    assert services.studio.snapshot().counts[State.QUEUED] == 80
    assert "already" in click(services, "undo_cancel_all", " ".join(named))["toast"]


def test_only_a_part_of_the_settings_is_used(services: Services) -> None:
    image = made(services, seed=4242)
    seed = click(services, "recipe_seed", image.id)
    assert (seed["seed"], seed["tabs"].selected) == ("4242", "create")
    assert set(seed) & set(form.FORM_FIELDS) == {"seed"}
    assert set(click(services, "recipe_size", image.id)) & set(form.FORM_FIELDS) == {"width", "height"}
    words = click(services, "recipe_prompt", image.id)
    assert words["prompt"] == "a red apple"
    assert not {"seed", "width", "model"} & set(words)


def test_again_of_a_picture_works_after_its_job_was_cleared_away(services: Services) -> None:
    image = made(services, seed=4242)
    services.studio.queue.forget(ended=True)
    receipt = click(services, "again_picture", image.id)["receipt"]
    assert services.studio.jobs_of_batches([receipt])[0].params == image.params


@pytest.mark.parametrize("verb", sorted(actions.VERBS))
def test_a_click_on_what_is_not_there_is_told(services: Services, verb: str) -> None:
    effect = click(services, verb, "nope'\"<script>")
    assert "<script>" not in json.dumps({name: str(value) for name, value in effect.items() if name not in FIELDS})


@pytest.mark.parametrize("data", [None, "text", [], {"do": 7}, {"do": "__class__", "id": {}}, {"do": {"x": 1}}])
def test_a_nonsense_event_does_nothing(services: Services, data: Any) -> None:
    event = Click("x")
    event._data = data
    assert all(value == SKIP for value in actions.act(services.studio, event))  # type: ignore[arg-type]


# -- the page's make-up ---------------------------------------------------------------------------------------------


def test_every_component_is_there_once(client: TestClient) -> None:
    components = client.get("/config").json()["components"]
    names = [each["props"]["elem_id"] for each in components if each["props"].get("elem_id")]
    assert [name for name in names if names.count(name) > 1] == []


def test_the_page_keeps_no_connection_open_and_is_out_of_gradios_queue(client: TestClient) -> None:
    config = client.get("/config").json()
    assert config["connect_heartbeat"] is False  # else the seventh tab of a browser hangs
    assert config["analytics_enabled"] is False
    assert not [c for c in config["components"] if c["type"] == "state"]
    for dependency in config["dependencies"]:
        assert dependency["queue"] is (dependency["api_name"] in ("wait", "generate", "watch"))
        assert dependency["show_progress"] == "hidden" or not dependency["backend_fn"]


def test_title_and_footer(client: TestClient) -> None:
    config = client.get("/config").json()
    assert config["title"] == "diffusion-local"
    assert config["footer_links"] == []
    assert config["run_history"] is False
