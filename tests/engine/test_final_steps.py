"""Details that a detector finds are painted anew in the finished picture; its main object is cut out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PIL
from safetensors.torch import save_file

from diffusion_local.domain import Kind
from diffusion_local.engine import Part, Pass, Picture, final_steps, painting
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.vision_models import Detection
from diffusion_local.errors import BadImage, ModelUnavailable, OutOfMemory, Stopped
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.options.types import Detail
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.vision_models import detector_model, saliency_weights
from tests.support import PARAMS

JOB: dict[str, Any] = {"prompt": "a cat", "width": 256, "height": 256, "steps": 4, "guidance": 3.5, "sampler": "Euler"}
FACE = Detail("face", prompt="a red apple", strength=0.5)
BOX = (160, 96, 224, 176)


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Detection]]:
    """What the detector finds, by word."""
    found: dict[str, list[Detection]] = {"face": [Detection(BOX, 0.9)]}
    monkeypatch.setattr(PictureInputs, "check_tasks", lambda self, params: None)
    monkeypatch.setattr(PictureInputs, "find", lambda self, picture, word, least, check: found.get(word, []))
    return found


def outside(made: PIL.Image, plain: PIL.Image, box: tuple[int, int, int, int], margin: int) -> int:
    """The largest difference beyond a margin around a box."""
    difference = np.abs(np.asarray(made).astype(int) - np.asarray(plain))
    left, top, right, bottom = box
    difference[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = 0
    return int(difference.max())


def test_only_what_is_found_is_painted_anew(draw_at_home: Draw, finds: dict[str, list[Detection]]) -> None:
    plain = draw_at_home(**JOB).image
    made = draw_at_home(**JOB, details=(FACE,))
    assert draw_at_home.steps == [1, 2, 3, 4, 7, 8]  # half of four steps is made of the detail
    assert made.facts["details"] == [{"target": "face", "box": list(BOX), "score": 0.9}]
    assert outside(made.image, plain, BOX, 16) == 0
    assert np.abs(np.asarray(made.image.crop(BOX)).astype(int) - np.asarray(plain.crop(BOX))).mean() > 3
    assert draw_at_home(**JOB, details=(FACE,)).image.tobytes() == made.image.tobytes()
    assert draw_at_home(**JOB).image.tobytes() == plain.tobytes()


def test_where_nothing_is_found_the_picture_stays_and_its_steps_are_counted(
    draw_at_home: Draw, finds: dict[str, list[Detection]]
) -> None:
    plain = draw_at_home(**JOB).image
    finds["face"] = [Detection((10, 10, 14, 90), 0.8)]  # too narrow
    params = {"details": (FACE, Detail("hand", steps=3))}
    made = draw_at_home(**JOB, **params)
    assert made.image.tobytes() == plain.tobytes()
    assert draw_at_home.steps[-1] == replace(PARAMS, **JOB, **params).total_steps == 11


def test_several_finds_share_the_steps_of_one(draw_at_home: Draw, finds: dict[str, list[Detection]]) -> None:
    finds["face"] = [Detection(BOX, 0.9), Detection((8, 8, 72, 72), 0.6), Detection((90, 180, 150, 250), 0.5)]
    made = draw_at_home(**JOB, details=(replace(FACE, limit=2),))
    assert [each["score"] for each in made.facts["details"]] == [0.9, 0.6]
    assert draw_at_home.steps == sorted(draw_at_home.steps)
    assert draw_at_home.steps[-1] == 8


def test_it_follows_a_second_pass_and_inpainting(
    draw_at_home: Draw, at_home: Home, finds: dict[str, list[Detection]]
) -> None:
    twice = {"hires_scale": 1.5, "hires_steps": 1, "hires_upscaler": "Lanczos"}
    made = draw_at_home(**JOB | twice, details=(FACE,)).image
    assert made.size == (384, 384)
    assert outside(made, draw_at_home(**JOB | twice).image, BOX, 16) == 0
    wish = {"kind": Kind.INPAINT, "source": at_home.source, "mask": at_home.mask, "strength": 0.9}
    assert draw_at_home(**JOB | wish, details=(FACE,)).image.size == (256, 256)


def test_pictures_of_a_pass_have_details_of_their_own(draw_at_home: Draw, finds: dict[str, list[Detection]]) -> None:
    parts = [Part(replace(PARAMS, **JOB | {"prompt": each, "details": (FACE,)}), lambda *step: None) for each in "ab"]
    draw_at_home.engine.run(Pass(list(parts)))
    alone = draw_at_home(**JOB | {"prompt": "b"}, details=(FACE,)).image
    together = parts[1].result().image
    assert np.abs(np.asarray(alone).astype(int) - np.asarray(together)).max() <= 6


def test_a_cancel_among_the_details_ends_its_part_alone(draw_at_home: Draw, finds: dict[str, list[Detection]]) -> None:
    def stop(step: int, preview: Any) -> None:
        if step > 4:
            raise Stopped("cancel")

    params = replace(PARAMS, **JOB, details=(FACE,))
    parts = [Part(params, stop), Part(replace(params, prompt="a dog"), lambda *step: None)]
    draw_at_home.engine.run(Pass(list(parts)))
    assert isinstance(parts[0].problem, Stopped)
    assert parts[1].result().facts["details"]
    assert draw_at_home(**JOB).image.size == (256, 256)


def test_a_detail_is_painted_at_the_models_own_size(draw_at_home: Draw, finds: dict[str, list[Detection]]) -> None:
    loaded = draw_at_home.engine._loaded  # type: ignore[attr-defined]
    assert final_steps.own_size(loaded, replace(PARAMS, width=512, height=320)) == (256, 256)
    assert final_steps.own_size(loaded, replace(PARAMS, width=128, height=192)) == (128, 192)


@pytest.mark.usefixtures("vision_in_this_process")
def test_the_detector_of_the_home_is_asked(draw_at_home: Draw, at_home: Home) -> None:
    detector_model(at_home.settings.preprocessors)
    made = draw_at_home(**JOB | {"steps": 2}, details=(Detail("person", confidence=0.0, steps=1, limit=1),))
    assert len(made.facts["details"]) <= 1
    with pytest.raises(ModelUnavailable, match="'face'"):
        draw_at_home(**JOB | {"steps": 2}, details=(FACE,))
    (at_home.settings.preprocessors / "detector/config.json").unlink()
    with pytest.raises(ModelUnavailable, match="preprocessors/detector"):
        draw_at_home(**JOB | {"steps": 2}, details=(FACE,))


def test_words_of_embeddings_in_the_prompts_of_details_are_loaded(
    draw_at_home: Draw, at_home: Home, finds: dict[str, list[Detection]]
) -> None:
    loaded = draw_at_home.engine._loaded  # type: ignore[attr-defined]
    width = loaded.pipe.text_encoder.get_input_embeddings().weight.shape[1]
    path = at_home.settings.embeddings / "zwickel.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.randn(2, width, generator=torch.Generator().manual_seed(1))}, path)
    made = draw_at_home(**JOB | {"steps": 2}, details=(replace(FACE, prompt="a zwickel apple"),))
    assert list(made.facts["embedding_hashes"]) == ["zwickel"]


def failing(error: Exception) -> Callable[..., Any]:
    def raising(*arguments: Any) -> Any:
        raise error

    return raising


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("find", ModelUnavailable(message("not_loaded", model="detector"))),
        ("find", ZeroDivisionError()),
        ("painted", BadImage()),
    ],
)
def test_a_fault_among_the_details_keeps_the_picture(
    draw_at_home: Draw,
    finds: dict[str, list[Detection]],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: Exception,
) -> None:
    plain = draw_at_home(**JOB).image
    monkeypatch.setattr(PictureInputs if where == "find" else final_steps, where, failing(error))
    made = draw_at_home(**JOB, details=(FACE,))
    assert made.image.tobytes() == plain.tobytes()
    assert list(made.facts["incomplete"]) == ["details"]
    assert made.facts["engine"] == "diffusers"


def test_out_of_memory_among_the_details_makes_the_pass_again_until_the_last_rung(
    draw_at_home: Draw, finds: dict[str, list[Detection]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No picture of the pass passes for finished without its details."""
    monkeypatch.setattr(final_steps, "painted", failing(OutOfMemory()))
    parts = [Part(replace(PARAMS, **JOB | {"prompt": each, "details": (FACE,)}), lambda *step: None) for each in "ab"]
    with pytest.raises(OutOfMemory):
        draw_at_home.engine.run(Pass(list(parts)))
    assert all(part.live for part in parts)
    monkeypatch.setattr(type(draw_at_home.engine), "ladder", (draw_at_home.engine._loaded.rung,))  # type: ignore[attr-defined]
    draw_at_home.engine.run(Pass(list(parts)))
    assert all(list(part.result().facts["incomplete"]) == ["details"] for part in parts)


def test_a_picture_whose_background_is_not_found_stays_as_it_is(
    draw_at_home: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PictureInputs, "check_tasks", lambda self, params: None)
    plain = draw_at_home(**JOB).image
    made = draw_at_home(**JOB, background="transparent")
    assert (made.image.mode, made.image.tobytes()) == ("RGB", plain.tobytes())
    assert list(made.facts["incomplete"]) == ["background"]


def test_a_cancel_is_heard_while_a_detector_looks(
    draw_at_home: Draw, finds: dict[str, list[Detection]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def looking(self: Any, picture: Any, word: str, least: float, check: Callable[[], None]) -> list[Detection]:
        check()
        pytest.fail("the look went on")

    def cancelled(step: int, preview: Any) -> None:
        if step == JOB["steps"] and calls.count(step) == 1:
            raise Stopped("cancel")
        calls.append(step)

    calls: list[int] = []
    monkeypatch.setattr(PictureInputs, "find", looking)
    part = Part(replace(PARAMS, **JOB, details=(FACE,)), cancelled)
    draw_at_home.engine.run(Pass([part]))
    assert isinstance(part.problem, Stopped)


def test_a_failed_picture_is_not_cut_out(draw_at_home: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed() -> Any:
        raise BadImage

    def paint(loaded: Any, crew: Pass, *more: Any) -> None:
        for part in crew.parts:
            part.made = Picture(failed)

    monkeypatch.setattr(PictureInputs, "check_tasks", lambda self, params: None)
    monkeypatch.setattr(painting, "paint", paint)
    part = Part(replace(PARAMS, **JOB, background="transparent"), lambda *step: None)
    draw_at_home.engine.run(Pass([part]))
    assert isinstance(part.problem, BadImage)
    assert part.made is None


@pytest.mark.usefixtures("vision_in_this_process")
def test_the_main_object_is_cut_out(draw_at_home: Draw, at_home: Home) -> None:
    folder = at_home.settings.preprocessors / "background"
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    save_file(saliency_weights(), folder / "u2netp.safetensors")
    plain = draw_at_home(**JOB).image
    made = draw_at_home(**JOB, background="transparent")
    assert (made.image.mode, made.image.size, made.facts["engine"]) == ("RGBA", (256, 256), "diffusers")
    assert made.image.convert("RGB").tobytes() == plain.tobytes()
    low, high = made.image.getchannel("A").getextrema()
    assert low < high
    kept = {"kind": Kind.UPSCALE, "source": at_home.source, "upscaler": "Lanczos", "scale": 1.0, "steps": 1}
    cut = draw_at_home(prompt="", width=128, height=128, background="transparent", **kept).image
    assert cut.convert("RGB").tobytes() == at_home.circle.tobytes()
