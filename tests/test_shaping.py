"""Options that shape a picture, by every way in: direct, lists of each format, grids, copies; and other accounts."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local import families
from diffusion_local.actor import SCOPES, Actor, Role, acting
from diffusion_local.compose import Services
from diffusion_local.domain import DeviceMemory
from diffusion_local.errors import DatabaseProblem, InvalidParams, NotFound, UserError
from diffusion_local.gallery.recipes import read_text
from diffusion_local.messages import verbatim
from diffusion_local.models.plans import MemoryPlans
from diffusion_local.options.a1111 import format_recipe
from diffusion_local.options.table import OPTIONS, Params
from diffusion_local.studio import Studio
from tests.support import claimed
from tests.web.conftest import drawn

ANN, BOB = (Actor(name, Role.USER, SCOPES[Role.USER], sees_all=False) for name in ("ann", "bob"))
SMALL: dict[str, Any] = {"width": 128, "height": 128, "steps": 4, "seed": 7}


def png(colour: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    PIL.new(mode, (128, 128), colour).save(file, "PNG")
    return file.getvalue()


def shapes(source: str, mask: str) -> dict[str, dict[str, Any]]:
    """Options by feature."""
    inpaint = {"source": source, "mask": mask, "strength": 0.9}
    return {
        "second pass": {"hires_scale": 2, "hires_steps": 3, "hires_strength": 0.35, "hires_upscaler": "Lanczos"},
        "tiles": {"hires_scale": 2, "hires_tile": 192, "hires_upscaler": "Latent (bicubic)"},
        "control": {"controls": [{"image": source, "type": "canny", "weight": 0.8, "start": 0.1, "end": 0.9}]},
        "references": {"references": [{"image": source, "mask": mask, "weight": 0.5}]},
        "img2img": {"source": source, "strength": 0.6},
        "inpaint": inpaint | {"inpaint_area": "Only masked", "mask_padding": 16, "mask_blur": 4, "mask_edges": "Soft"},
        "outpaint": {"kind": "inpaint", "source": source, "outpaint": "left:64 bottom:64", "width": 192, "height": 192},
        "details": {"details": [{"target": "face", "prompt": "a smile, wide", "strength": 0.3, "limit": 2}]},
        "background": {"background": "transparent"},
        "regions": {
            "regions": [{"prompt": "a fox, red", "width": 0.5}, {"prompt": "50% moss:x", "x": 0.5, "width": 0.5}]
        },
    }


FEATURES = list(shapes("", ""))


@pytest.fixture
def studio(services: Services, monkeypatch: pytest.MonkeyPatch) -> Studio:
    """Whose model takes references, and whose home has every model that looks at pictures."""
    monkeypatch.setattr(families, "references_of", lambda architecture: 3)
    monkeypatch.setattr(services.catalog, "check_task", lambda task, field, word: None)
    return services.studio


def wishes(studio: Studio) -> dict[str, dict[str, Any]]:
    return shapes(studio.sources.add(png("red")).id, studio.sources.add(png("white", "L")).id)


def params_of(studio: Studio, batch_id: str) -> list[Params]:
    return [job.params for job in studio.jobs(batch_id=batch_id)]


def text_of(name: str, value: Any) -> str:
    """A value as a person writes it in a list."""
    record = OPTIONS[name].record
    return ", ".join(str(record.from_dict(each)) for each in value) if record else str(value)


def as_flags(options: dict[str, Any]) -> str:
    return " ".join(["a tree", *(f"--{name} {json.dumps(text_of(name, value))}" for name, value in options.items())])


def as_csv(options: dict[str, Any]) -> str:
    file = io.StringIO()
    csv.writer(file).writerows(
        [["prompt", *options], ["a tree", *(text_of(name, value) for name, value in options.items())]]
    )
    return file.getvalue()


LISTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "text": as_flags,
    "csv": as_csv,
    "jsonl": lambda options: json.dumps({"prompt": "a tree"} | options),
    "json": lambda options: json.dumps([{"prompt": "a tree"} | options]),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_list_of_each_format_asks_for_the_same_as_a_submit(studio: Studio, feature: str) -> None:
    options = SMALL | wishes(studio)[feature]
    [expected] = params_of(studio, studio.submit("a tree", **options).batch_id)
    for form, write in LISTS.items():
        assert params_of(studio, studio.lists.submit(write(options), form).batch_id) == [expected], form
    for form in ("csv", "jsonl"):
        exported = "".join(studio.lists.export(studio.submit("a tree", **options).batch_id, form))
        assert params_of(studio, studio.lists.submit(exported, form).batch_id) == [expected], f"exported {form}"
    defaults = {name: value for name, value in options.items() if name not in ("kind",)}
    assert params_of(studio, studio.lists.submit("a tree", "text", **defaults).batch_id) == [expected]


def test_the_memory_of_a_control_is_told_before_the_picture_is_made(studio: Studio, services: Services) -> None:
    """By the preview of a submit, and by the answer to it."""
    room = DeviceMemory("cuda", 12 * 2**30, bf16=True)
    services.workers.register("gpu0", 1, "A GPU", room)
    services.workers.update("gpu0", "idle", free=room.bytes)
    controls = wishes(studio)["control"]
    plain, controlled = (studio.prompts.preview("a tree", **SMALL, **more).memory for more in ({}, controls))
    assert controlled[0].takes_bytes > plain[0].takes_bytes
    assert set(controlled[0].additions) == {"controlnet/starter-edges"}
    assert studio.submit("a tree", **SMALL, **controls).memory == controlled
    assert studio.submit("a tree", **SMALL).memory == []


def test_nothing_is_enqueued_if_the_memory_cannot_be_planned(
    studio: Studio, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error after the jobs were stored would make the client send them again."""

    def fail(*_: object) -> None:
        raise DatabaseProblem(verbatim("locked"))

    monkeypatch.setattr(MemoryPlans, "of_picture", fail)
    with pytest.raises(DatabaseProblem):
        studio.submit("a tree", **SMALL, **wishes(studio)["control"])
    assert services.studio.jobs() == []


@pytest.mark.parametrize("feature", FEATURES)
def test_a_grid_and_copies_ask_for_the_same(studio: Studio, services: Services, feature: str) -> None:
    options = {name: value for name, value in (SMALL | wishes(studio)[feature]).items() if name != "seed"}
    receipt = studio.grids.submit("a tree", x="seed: 7, 8", **options)
    cells = params_of(studio, receipt.batch_id)
    [expected] = params_of(studio, studio.submit("a tree", seed=7, **options).batch_id)
    assert cells == [expected, replace(expected, seed=8, controls=cells[1].controls)]
    assert params_of(studio, studio.batches.duplicate(receipt.batch_id).batch_id) == cells
    queued = sorted((job.params.to_json() for job in studio.jobs()), key=str)
    file = "".join(studio.queue_file.export())
    studio.queue.cancel(waiting=True)
    studio.queue.forget(ended=True)
    studio.queue_file.take(file)
    assert sorted((job.params.to_json() for job in studio.jobs()), key=str) == queued
    image = drawn(services, claimed(services.jobs))
    assert image.params == expected
    [again] = params_of(studio, studio.queue.again([image.job_id], exactly=True).batch_id)
    assert replace(again, rung="", place="") == replace(expected, rung="", place="")


@pytest.mark.parametrize(
    "axis",
    ["hires_scale: 1.5, 2", "hires_strength: 0.2-0.6 (+0.2)", "background: transparent,", "mask_blur: 0-8 (+4)"],
)
def test_options_that_shape_may_be_axes(studio: Studio, axis: str) -> None:
    own = wishes(studio)["inpaint" if axis.startswith("mask") else "second pass"]
    name = axis.partition(":")[0]
    options = {each: value for each, value in (SMALL | own).items() if each != name}
    found = params_of(studio, studio.grids.submit("a tree", x=axis, **options).batch_id)
    assert len({getattr(each, name) for each in found}) == len(found) > 1


@pytest.mark.parametrize("feature", FEATURES)
def test_a_recipe_reads_back(studio: Studio, services: Services, feature: str) -> None:
    """The text of a saved picture, and its own JSON, give the options again."""
    options = SMALL | wishes(studio)[feature]
    studio.submit("a tree", **options)
    image = drawn(services, claimed(services.jobs))
    assert Params.from_json(image.params.to_json()) == image.params
    found = read_text(format_recipe(image.params, image.facts)).settings
    for name in options:
        if OPTIONS[name].a1111:
            assert found[name] == getattr(image.params, name), name


# -- pictures of other accounts ---------------------------------------------------------------------------------------


def naming(picture: str, own: str, mask: str) -> dict[str, dict[str, Any]]:
    """Every option that names a picture, with one that is not the caller's."""
    return {
        "source": {"source": picture},
        "mask": {"source": own, "mask": picture},
        "outpaint": {"kind": "inpaint", "source": picture, "outpaint": "left:64", "width": 192},
        "upscale": {"kind": "upscale", "source": picture, "scale": 2},
        "reference": {"references": [{"image": picture}]},
        "reference's mask": {"references": [{"image": own, "mask": picture}]},
        "second reference": {"references": [{"image": own}, {"image": picture}]},
        "control": {"controls": [{"image": picture, "type": "canny"}]},
        "ready control": {"controls": [{"image": picture, "type": "none"}]},
    }


def asks(studio: Studio, options: dict[str, Any], own_batch: str) -> dict[str, Callable[[], Any]]:
    """Every sentence that takes options of a picture."""
    wish = SMALL | options
    without_seed = {name: value for name, value in wish.items() if name != "seed"}
    found: dict[str, Callable[[], Any]] = {
        "submit": lambda: studio.submit("a tree", **wish),
        "grid": lambda: studio.grids.submit("a tree", x="seed: 1, 2", **without_seed),
        "list with defaults": lambda: studio.lists.submit("a tree", "text", **wish),
        "edit": lambda: studio.batches.edit(own_batch, **options),
    }
    found |= {
        form: (lambda write=write, form=form: studio.lists.submit(write(wish), form)) for form, write in LISTS.items()
    }
    return found


def refusal(ask: Callable[[], Any], picture: str) -> str:
    """The error of a request without the picture's id."""
    with pytest.raises((InvalidParams, NotFound)) as raised:
        ask()
    return f"{type(raised.value).__name__} {raised.value.message}".replace(picture, "X").replace(picture[:12], "X")


@pytest.mark.parametrize("place", list(naming("", "", "")))
def test_the_picture_of_another_account_is_refused_as_one_that_does_not_exist(studio: Studio, place: str) -> None:
    with acting(ANN):
        hers = studio.sources.add(png("blue")).id
        studio.submit("a tree", source=hers, width=128, height=128)
    nobodys = "0" * 63 + "1"
    with acting(BOB):
        own, mask = studio.sources.add(png("red")).id, studio.sources.add(png("white", "L")).id
        batch_id = studio.submit("a tree", **SMALL).batch_id
        result = [
            {name: refusal(ask, each) for name, ask in asks(studio, naming(each, own, mask)[place], batch_id).items()}
            for each in (hers, nobodys)
        ]
        assert result[0] == result[1]
        sources = studio.sources
        for ask in (
            partial(sources.preview_control, type="canny", width=64, height=64),
            sources.describe,
            sources.own_source,
        ):
            assert refusal(partial(ask, hers), hers) == refusal(partial(ask, nobodys), nobodys)
        assert refusal(partial(sources.remove, hers), hers) == refusal(partial(sources.remove, nobodys), nobodys)
        with pytest.raises(NotFound):
            studio.sources.file(hers)  # nothing of the above made it readable


def test_nobody_says_what_a_control_sees(studio: Studio) -> None:
    """It would make another account's picture one of the caller's own."""
    with acting(ANN):
        hers = studio.sources.add(png("blue")).id
    with acting(BOB):
        own = studio.sources.add(png("red")).id
        studio.submit("a tree", **SMALL, controls=[{"image": own, "type": "canny", "seen": hers}])
        file = "".join(studio.queue_file.export())
        [seen] = {job.params.controls[0].seen for job in studio.jobs()}
        assert seen != hers
        studio.queue_file.take(file.replace(seen, hers))
        assert hers not in {job.params.controls[0].seen for job in studio.jobs()}
        with pytest.raises(NotFound):
            studio.sources.file(hers)


def test_a_gallery_picture_of_another_account_is_refused_as_one_that_does_not_exist(
    studio: Studio, services: Services
) -> None:
    with acting(ANN):
        studio.submit("a tree", **SMALL)
        hers = drawn(services, claimed(services.jobs)).id
    nobodys = "7" * len(hers)
    with acting(BOB):
        for ask in (studio.sources.from_image, studio.image, lambda image: studio.pictures.star([image])):
            with pytest.raises(UserError) as one:
                ask(hers)
            with pytest.raises(UserError) as other:
                ask(nobodys)
            assert str(one.value).replace(hers, "X") == str(other.value).replace(nobodys, "X")
