"""The Lists tab without a browser: what is asked, what a check says, what its buttons and those of batches do."""

import base64
import json
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import Lane, State
from diffusion_local.errors import InvalidParams
from diffusion_local.web.ui import actions, form_lists, tab_lists, view, view_batches
from diffusion_local.web.ui.words import speaking
from tests.support import FAILURE, claimed
from tests.web.conftest import drawn

SMALL = {"size": "128x128", "steps": "2"}


def form(**changes: Any) -> list[Any]:
    """The form's values, as a browser sends them."""
    values: dict[str, Any] = dict.fromkeys(form_lists.LIST_FIELDS, "")
    values |= {"mode": "list", "format": "text", "expand": "random", "count": 1, "priority": 0}
    return list((values | changes).values())


def check(services: Services, **changes: Any) -> str:
    return tab_lists.on_check(services.studio, *form(**changes))


class Click:
    def __init__(self, verb: str, key: str = "") -> None:
        self._data = {"do": verb, "id": key}


def press(services: Services, verb: str, key: str = "", sent: str = "", **changes: Any) -> str:
    return tab_lists.on_press(services.studio, Click(verb, key), sent, *form(**changes))  # type: ignore[arg-type]


def act(services: Services, verb: str, key: str = "") -> dict[str, Any]:
    values = actions.act(services.studio, Click(verb, key))  # type: ignore[arg-type]
    names = ("toast", "receipt", "tabs", "panel", "told", "batches")
    result = dict(zip(names, values, strict=False))
    return {name: value for name, value in result.items() if value != {"__type__": "update"}}


def batch_of(services: Services, text: str = "a red apple\na blue heart", **more: Any) -> str:
    return services.studio.lists.submit(text, **SMALL, **more).batch_id


def shown(services: Services, at: str = "") -> str:
    return tab_lists.draw(services.studio, services.studio.snapshot(), view.utc(), at)


# -- the form -------------------------------------------------------------------------------------------------------


def test_what_is_empty_is_absent() -> None:
    asked = form_lists.read(form(text="a red apple", steps=" 4 ", window="23:00-07:00"))
    assert not asked.grid
    assert asked.list == ("a red apple", {"format": "text", "expand": "random", "steps": "4", "count": 1})
    assert asked.times == {"window": "23:00-07:00"}
    assert asked.batch == {"name": "", "priority": 0}


def test_a_cleared_number_is_as_it_was_offered() -> None:
    asked = form_lists.read(form(text="a red apple", count=None, priority=None))
    assert (asked.list[1]["count"], asked.batch["priority"]) == (1, 0)


def test_an_axis_is_its_field_and_values() -> None:
    value = form(mode="grid", prompt="a red apple", axis_x="lora moss", values_x="0.5,1", size="128x256")
    prompt, settings = form_lists.read(value).axes
    assert prompt == "a red apple"
    assert settings == {"width": 128, "height": 256, "x": "lora moss: 0.5,1", "y": "", "z": ""}
    with pytest.raises(InvalidParams, match="size"):
        _ = form_lists.read(form(mode="grid", size="large")).axes


# -- check and queue ------------------------------------------------------------------------------------------------


def test_a_check_tells_the_bad_line_and_queues_nothing(services: Services) -> None:
    text = check(services, text="a red apple\na pear --steps many\na {red|blue} boat --count 3", **SMALL)
    assert ">4 pictures<" in text
    assert "from 2 lines" in text
    assert "<td>2</td>" in text
    assert "<b>Steps</b> must be" in text
    assert "Queue 4 pictures, skip 1 bad line<" in text
    assert services.studio.snapshot().counts[State.QUEUED] == 0
    with speaking("zh"):
        assert "<b>步数</b> 必须" in check(services, text="a pear --steps many\na plum", **SMALL)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": " \n"}, "List has no prompt."),
        ({"text": "a plum", "window": "always"}, "Only between must be hours"),
        ({"text": "a plum", "count": -2}, "<b>Pictures</b> must be from 1"),
        ({"text": "a plum", "count": 1.5}, "<b>Pictures</b> must be a whole number"),
        ({"text": "a plum", "size": "large"}, "Size must be WIDTHxHEIGHT"),
        ({"mode": "grid", "prompt": "a plum"}, "Across (X) must be an axis"),
        ({"mode": "grid", "prompt": "a plum", "axis_x": "prompt", "values_x": "apple,pear"}, "Prompt must contain"),
        ({"text": "a plum --model <b>nothing</b>"}, "&lt;b&gt;nothing"),
    ],
)
def test_what_cannot_be_is_told_by_its_label(services: Services, changes: dict[str, Any], words: str) -> None:
    text = check(services, **changes)
    assert words in text
    assert "queue_" not in text
    assert "<b>nothing" not in text


def test_what_is_queued_is_what_was_shown_and_twice_is_once(services: Services) -> None:
    options = {"text": "a {red|blue|green|black|white} boat --count 5\nbad --steps x", "name": "Boats", **SMALL}
    text = check(services, **options)
    key = text.partition('data-do="queue_skipping" data-id="')[2].partition('"')[0]
    seed = int(key.split()[1])
    assert "1 bad line" in press(services, "queue_list", key, **options)  # not skipped unless it was said
    for _ in range(2):
        assert "In the queue: 5 pictures" in press(services, "queue_skipping", key, **options)
    [progress] = services.studio.batches.page(large=True)
    assert (progress.batch.name, progress.batch.lane, progress.batch.count) == ("Boats", Lane.BATCH, 5)
    made = services.studio.lists.check(options["text"], expansion_seed=seed, **SMALL)
    assert sorted(job.params.prompt for job in services.studio.jobs()) == sorted(made.first)


def test_a_grid_is_counted_and_queued(services: Services) -> None:
    options = {"mode": "grid", "prompt": "a red apple", "axis_x": "prompt", "values_x": "red,blue"}
    options |= {"axis_y": "steps", "values_y": "1-3", "size": "128x128"}
    text = check(services, **options)
    assert ">6 pictures<" in text
    assert "2 × 3" in text
    assert "In the queue: 6 pictures" in press(services, "queue_grid", "key", **options)
    assert services.studio.snapshot().counts[State.QUEUED] == 6


def test_an_unknown_press_does_nothing(services: Services) -> None:
    assert press(services, "nonsense", text="a red apple") == ""
    assert services.studio.snapshot().counts[State.QUEUED] == 0


# -- files ----------------------------------------------------------------------------------------------------------


def sent(what: str, name: str, data: bytes) -> str:
    return json.dumps({"what": what, "name": name, "data": base64.b64encode(data).decode()})


def test_a_file_becomes_the_list(services: Services) -> None:
    assert tab_lists.on_file(services.studio, sent("list", "night.csv", "prompt\n苹果".encode("gbk"))) == [
        "",
        "prompt\n苹果",
        "csv",
        "night",
    ]
    text = tab_lists.on_file(services.studio, sent("list", "a.txt", b"\0\1\2" * 100))[0]
    assert "List is a binary file" in text


@pytest.mark.parametrize("written", ["", "{}", "[]", '{"what": "list", "name": "a", "data": "§"}', "null"])
def test_what_is_no_file_is_told(services: Services, written: str) -> None:
    assert "File must be a file" in tab_lists.on_file(services.studio, written)[0]


def test_the_queue_comes_from_a_file_without_its_bad_lines_if_so_wished(services: Services) -> None:
    batch_of(services)
    lines = "".join(services.studio.queue_file.export())
    services.studio.queue.cancel(waiting=True)
    written = sent("queue", "q.jsonl", (lines + "nonsense\n").encode())
    text = tab_lists.on_file(services.studio, written)[0]
    assert "1 bad line" in text
    assert "import_skipping" in text
    assert services.studio.snapshot().counts[State.QUEUED] == 0
    assert "In the queue: 2 pictures" in press(services, "import_skipping", sent=written)
    assert services.studio.snapshot().counts[State.QUEUED] == 2


# -- batches --------------------------------------------------------------------------------------------------------


def test_the_list_of_batches_has_no_single_pictures_that_somebody_waits_for(services: Services) -> None:
    services.studio.submit("a red apple")
    assert "No batches yet" in shown(services)
    assert "{red|blue|green}" in shown(services)
    several = services.studio.submit("a red apple", count=2).batch_id
    listed = batch_of(services, name="<i>Night</i>")
    text = shown(services)
    assert text.index(f'data-key="{listed}"') < text.index(f'data-key="{several}"')
    assert "&lt;i&gt;Night" in text
    assert text.count("batch-line") == 2


def test_pages_of_batches(services: Services) -> None:
    ids = [batch_of(services) for _ in range(view_batches.BATCHES_PER_PAGE + 1)]
    assert ids[0] not in shown(services)
    at = act(services, "batches_at", ids[1])["batches"]
    assert shown(services, at).count("batch-line") == 1
    assert ids[0] in shown(services, at)
    assert "No older batches" in shown(services, ids[0])


def test_how_far_a_batch_is(services: Services) -> None:
    batch_id = batch_of(services, "a red apple\na blue heart\na green tree", window="23:00-07:00")
    assert "0 of 3 pictures done" in shown(services)
    assert "only 23:00-07:00" in shown(services)
    services.studio.batches.edit(batch_id, window="")
    drawn(services, claimed(services.jobs))
    services.jobs.fail(claimed(services.jobs).claim, FAILURE)
    text = shown(services)
    assert "1 of 3 pictures done" in text
    assert "1 failed" in text
    assert 'aria-valuenow="66.7"' in text
    assert f"/api/v1/batches/{batch_id}/sheet.webp" in text
    assert "Queued again: 1 picture" in act(services, "batch_again", batch_id)["toast"]
    services.studio.queue.cancel(batch_id=batch_id)
    assert "Finished" in shown(services)
    services.studio.queue.cancel(batch_id=batch_of(services, "a\nb"))
    assert '<span class="quiet">Cancelled</span>' in shown(services)


def test_a_late_batch_says_so(services: Services) -> None:
    batch_id = batch_of(services)
    progress = services.studio.batches.get(batch_id)
    from dataclasses import replace

    late = replace(
        progress, batch=replace(progress.batch, finish_by="2030-01-01T00:00:00Z"), warning="finish_by: estimated"
    )
    assert "It will not be done by" in view_batches.batches([late], [], view.utc())


def test_renaming_copying_and_arranging(services: Services) -> None:
    batch_id = batch_of(services)
    act(services, "batch_rename", f"{batch_id}\nTonight")
    assert services.studio.batches.get(batch_id).batch.name == "Tonight"
    assert "In the queue: 2 pictures" in act(services, "batch_duplicate", batch_id)["toast"]
    for verb, priority in (("batch_up", 1), ("batch_down", 0), ("batch_down", -1)):
        act(services, verb, batch_id)
        assert {job.priority for job in services.studio.jobs(batch_id=batch_id)} == {priority}
    services.studio.queue.cancel(batch_id=batch_id)
    assert "None of them is waiting" in act(services, "batch_up", batch_id)["toast"]
    for verb in ("batch_up", "batch_again", "batch_panel", "batch_change", "batch_duplicate", "batch_rename"):
        assert "warn" in act(services, verb, "nothing")["toast"]


def test_what_waits_is_changed_by_the_panel(services: Services) -> None:
    batch_id = batch_of(services, window="23:00-07:00")
    assert 'value="23:00-07:00"' in act(services, "batch_panel", batch_id)["panel"]
    text = act(services, "batch_change", f"{batch_id}\nmodel=&size=256x128&steps=3&window=")
    assert "Changed: 2 pictures" in text["toast"]
    assert text["panel"] == ""
    jobs = services.studio.jobs(batch_id=batch_id)
    assert {(job.params.width, job.params.height, job.params.steps) for job in jobs} == {(256, 128, 3)}
    assert services.studio.batches.get(batch_id).batch.window == ""
    refused = act(services, "batch_change", f"{batch_id}\nsteps=many")["panel"]
    assert "Steps must be" in refused
    assert act(services, "batch_change", f"{batch_id}\nmodel=&steps=") == {"panel": ""}
