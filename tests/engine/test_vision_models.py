"""Preprocessors whose weights are a model: tiny random models of transformers, in this process and in their own."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PIL
from PIL import ImageDraw
from safetensors.torch import save_file

from diffusion_local.engine import saliency, vision, vision_models
from diffusion_local.errors import InvalidParams, ModelUnavailable, Overloaded, Stopped
from diffusion_local.paths import assets
from tests.engine.vision_models import (
    caption_model,
    depth_model,
    detector_model,
    pose_model,
    saliency_weights,
    segment_model,
    words_detector,
)
from tests.support import eventually, refused


def scene(size: tuple[int, int] = (72, 40)) -> PIL.Image:
    picture = PIL.new("RGB", size, "navy")
    ImageDraw.Draw(picture).ellipse((20, 8, 44, 30), fill="orange")
    return picture


def test_depth_is_the_models_own_from_black_to_white(tmp_path: Path) -> None:
    folder = depth_model(tmp_path / "depth")
    picture = scene()
    with torch.inference_mode():
        made = vision.depth(picture, folder)
        model = transformers.AutoModelForDepthEstimation.from_pretrained(folder).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        result = transformers.pipeline("depth-estimation", model=model, image_processor=processor)(picture)
    assert (made.size, made.mode, made.getextrema()) == (picture.size, "RGB", ((0, 255),) * 3)
    values = torch.as_tensor(result["predicted_depth"])
    expected = (values - values.min()) / (values.max() - values.min()) * 255
    difference = np.abs(np.asarray(made)[..., 0].astype(float) - expected.numpy())
    assert difference.mean() < 4  # one is enlarged with bicubic, the other with bilinear interpolation


def test_metric_depth_is_turned_round(tmp_path: Path) -> None:
    """Near is white, whether a model gives distances or their inverse."""
    relative, metric = (depth_model(tmp_path / kind, kind) for kind in ("relative", "metric"))
    with torch.inference_mode():
        near, far = (np.asarray(vision.depth(scene(), each))[..., 0].astype(float) for each in (relative, metric))
    assert np.corrcoef(near.ravel(), far.ravel())[0, 1] < -0.5


@pytest.mark.slow
def test_a_process_of_its_own_makes_the_same_picture(tmp_path: Path) -> None:
    folder = depth_model(tmp_path / "depth")
    model = vision_models.find_model("depth", tmp_path, "controls")
    with torch.inference_mode():
        expected = vision.depth(scene(), folder)
    made = vision_models.preprocess(scene(), model, "controls")
    assert np.abs(np.asarray(made).astype(int) - np.asarray(expected)).max() <= 1


def test_people_are_those_that_the_detector_is_sure_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pose_model(tmp_path / "openpose")
    monkeypatch.setattr(vision, "PERSON", 0.0)
    with torch.inference_mode():
        processor = transformers.AutoImageProcessor.from_pretrained(folder / "detector")
        model = transformers.AutoModelForObjectDetection.from_pretrained(folder / "detector").eval()
        result = processor.post_process_object_detection(
            model(**processor(images=scene(), return_tensors="pt")), threshold=0.0, target_sizes=[(40, 72)]
        )[0]
        expected = [
            tuple(box) for label, box in zip(result["labels"], result["boxes"].tolist(), strict=True) if label == 1
        ]
        assert sorted(vision.people(scene(), folder / "detector")) == sorted(expected)
        monkeypatch.setattr(vision, "PERSON", 1.0)
        assert vision.openpose(scene(), folder).getbbox() is None  # nobody is there


def test_key_points_lie_where_the_models_maps_peak(tmp_path: Path) -> None:
    folder = pose_model(tmp_path / "openpose")
    box = (20.0, 8.0, 44.0, 30.0)
    with torch.inference_mode():
        points = vision.key_points(scene(), [box, box], folder / "pose")
    assert points.shape == (2, 17, 3)
    left, top, right, bottom = vision.around(box, 0.75)
    assert (right - left) / (bottom - top) == pytest.approx(0.75)
    assert (points[..., 0] >= left).all()
    assert (points[..., 1] <= bottom).all()
    maps = torch.zeros(17, 16, 12)
    maps[torch.arange(17), 4, 9] = 0.8
    assert vision.peaks(maps, (100, 50, 112, 66))[3].tolist() == pytest.approx([109.5, 54.5, 0.8])


def test_a_skeleton_has_openposes_points_and_colours() -> None:
    person = torch.zeros(1, 17, 3)
    for at, x, y in ((0, 64, 20), (5, 84, 40), (6, 44, 40), (8, 34, 70), (11, 76, 90)):
        person[0, at] = torch.tensor([x, y, 0.9])
    made = vision.draw_skeletons(person, (128, 128))
    places = {"nose": (64, 20), "neck": (64, 40), "right shoulder": (44, 40), "right elbow": (34, 70),
        "left shoulder": (84, 40), "left hip": (76, 90), "left knee": (0, 0)}  # fmt: skip
    assert {name: made.getpixel(place) for name, place in places.items()} == {
        "nose": (255, 0, 0), "neck": (255, 85, 0), "right shoulder": (255, 170, 0), "right elbow": (255, 255, 0),
        "left shoulder": (85, 255, 0), "left hip": (0, 85, 255), "left knee": (0, 0, 0),
    }  # fmt: skip
    assert made.getpixel((54, 40)) == (153, 0, 0)  # the bone from the neck to the right shoulder


def test_each_part_of_a_pose_is_asked_for(tmp_path: Path) -> None:
    for part, example in (("detector", "rtdetr"), ("pose", "vitpose")):
        with pytest.raises(InvalidParams, match=f"preprocessors/openpose/{part} .*{example}"):
            vision_models.find_model("openpose", tmp_path, "controls")
        (tmp_path / "openpose" / part).mkdir(parents=True)
        (tmp_path / "openpose" / part / "config.json").write_text("{}")
    assert len(vision_models.find_model("openpose", tmp_path, "controls").version) == 2


def test_a_missing_model_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match=r"depth.*preprocessors/depth.*depth-anything/") as refused:
        vision_models.find_model("depth", tmp_path, "controls")
    assert refused.value.field == "controls"


def test_another_model_is_another_version(tmp_path: Path) -> None:
    depth_model(tmp_path / "depth")
    before = vision_models.find_model("depth", tmp_path, "controls").version
    (tmp_path / "depth" / "config.json").write_text("{}")
    assert vision_models.find_model("depth", tmp_path, "controls").version != before


@pytest.mark.usefixtures("vision_in_this_process")
def test_a_model_that_fails_is_refused_without_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "config.json").write_text('{"model_type": "bert"}')
    model = vision_models.find_model("depth", tmp_path, "controls")
    with pytest.raises(InvalidParams, match="preprocessors/depth") as refused:
        vision_models.preprocess(scene(), model, "controls")
    assert str(tmp_path) not in str(refused.value.message)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    folder = depth_model(tmp_path / "depth")
    model = transformers.AutoModelForDepthEstimation.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        vision.depth(scene(), folder)


def test_normals_are_those_of_the_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slope = torch.linspace(0.2, 1, 72).expand(40, 72).clone()
    slope[20:] = 0.5
    monkeypatch.setattr(vision, "inverse_depth", lambda picture, folder: slope)
    made = np.asarray(vision.normal(scene(), tmp_path)).astype(int)
    assert made.shape == (40, 72, 3)
    assert made[30, 40].tolist() == [127, 127, 255]  # flat, facing the viewer
    assert made[10, 40, 0] > 200  # the nearer the further to the right
    assert made[10, 40, 1] == 127
    slope[:] = 0.05
    assert (np.asarray(vision.normal(scene(), tmp_path)) == [127, 127, 255]).all()  # the background is flat


def test_segments_have_the_colours_of_their_classes(tmp_path: Path) -> None:
    folder = segment_model(tmp_path / "segment")
    with torch.inference_mode():
        made = vision.segment(scene(), folder)
        model = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        result = processor.post_process_semantic_segmentation(
            model(**processor(images=scene(), return_tensors="pt")), target_sizes=[(40, 72)]
        )[0]
    colours = [bytes.fromhex(vision.ADE_COLOURS[6 * at : 6 * at + 6]) for at in range(150)]
    assert len(set(colours)) == 149  # two grey ones are the same in the table that ControlNets know
    assert (made.size, made.mode) == ((72, 40), "RGB")
    assert [made.getpixel((x, y)) for x, y in ((0, 0), (30, 20))] == [
        tuple(colours[result[y, x]]) for x, y in ((0, 0), (30, 20))
    ]
    with pytest.raises(ValueError, match="19 classes"):
        vision.segment(scene(), segment_model(tmp_path / "streets", 19))


def test_a_detector_finds_the_classes_that_it_knows(tmp_path: Path) -> None:
    folder = detector_model(tmp_path)
    with torch.inference_mode():
        cats, both = (vision.detect(scene(), folder, "0.0", *words) for words in (["cats"], ["Cat", "person"]))
        assert len(cats) <= len(both) == 3
        assert [each["box"] for each in cats] == [each["box"] for each in both if each["word"] == "Cat"]
        assert [each["score"] for each in both] == sorted((each["score"] for each in both), reverse=True)
        assert all(0 <= each["box"][0] <= each["box"][2] <= 72 and each["box"][3] <= 40 for each in both)
        assert vision.detect(scene(), folder, "1.0", "cat") == []
        with pytest.raises(ValueError, match="does not know 'face'; it knows cat, person"):
            vision.detect(scene(), folder, "0.3", "face")


@pytest.mark.usefixtures("vision_in_this_process")
def test_a_detector_by_words_finds_anything_that_is_named(tmp_path: Path) -> None:
    folder = words_detector(tmp_path / "detector", assets() / "starter/tokenizer")
    model = vision_models.find_model("detect", tmp_path, "details[0].target")
    found = vision_models.detect(scene(), model, "details[0].target", "orange ball", 0.0)
    assert len(found) == 4  # one for each patch
    assert found[0].score >= found[-1].score
    with torch.inference_mode():
        assert len(vision.detect(scene(), folder, "0.999", "orange ball")) == 0


@pytest.mark.usefixtures("vision_in_this_process")
def test_a_caption_is_text(tmp_path: Path) -> None:
    caption_model(tmp_path / "caption", assets() / "starter/tokenizer")
    model = vision_models.find_model("caption", tmp_path, "image")
    result = vision_models.describe(scene(), model, "image")
    assert isinstance(result, str)
    with torch.inference_mode():
        assert result == vision.caption(scene(), tmp_path / "caption")


@pytest.mark.parametrize("fused", [True, False])
def test_the_main_object_is_told_from_its_background(
    tmp_path: Path, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saliency, "ISNET_SIDE", 128)
    torch.manual_seed(3)
    state = saliency_weights(fused=fused)
    path = tmp_path / "u2netp.safetensors"
    save_file(state, path)
    made = saliency.mask(scene(), saliency.read(path))
    assert (made.size, made.mode) == ((72, 40), "L")
    assert made.getextrema()[1] > made.getextrema()[0]
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "u2netp.pth")
    assert saliency.mask(scene(), saliency.read(tmp_path / "u2netp.pth")).tobytes() == made.tobytes()
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelUnavailable, match="u2netp"):
        saliency.read(path)


def test_weights_that_are_missing_are_named_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match=r"U²-Net or IS-Net.*preprocessors/background"):
        vision_models.find_model("background", tmp_path, "background")
    with pytest.raises(InvalidParams, match="preprocessors/detector"):
        vision_models.find_model("detect", tmp_path, "details[0].target")


def test_a_word_that_the_detector_does_not_know_is_refused_before_the_work(tmp_path: Path) -> None:
    detector_model(tmp_path)
    for word in ("cat", "Persons", ""):
        vision_models.check_model(tmp_path, "detect", "details[0].target", word)
    with refused(InvalidParams, "detector_word", "details[0].target"):
        vision_models.check_model(tmp_path, "detect", "details[0].target", "hand")
    config = tmp_path / "detector/config.json"
    config.write_text('{"model_type": "owlvit"}')
    vision_models.check_model(tmp_path, "detect", "details[0].target", "hand")
    config.write_text("no json")
    vision_models.check_model(tmp_path, "detect", "details[0].target", "anything")


def test_only_some_threads_wait_for_their_turn() -> None:
    """They are the server's: if all of them waited for captions, no page would be answered."""
    with ThreadPoolExecutor(vision_models.MAX_WAITING + 1) as pool:
        with vision_models.exclusive(), vision_models.exclusive():  # one thread may enter twice
            waiting = [pool.submit(enter) for _ in range(vision_models.MAX_WAITING + 1)]
            assert eventually(lambda: any(each.done() for each in waiting))
            assert sum(each.done() for each in waiting) == 1
        refusals = [each.exception() for each in waiting]
    assert [type(each) for each in refusals if each] == [Overloaded]
    assert enter()


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> vision_models.VisionModel:
    """A model whose process runs a script instead."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(vision_models.sys, "executable", str(path))
    return vision_models.VisionModel("caption", tmp_path, ())


@pytest.mark.timeout(30)
def test_a_picture_larger_than_a_pipe_reaches_a_process_that_starts_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_models, "CHECK_SECONDS", 0.05)
    command = [sys.executable, "-c", "import sys, time; time.sleep(0.3); print(len(sys.stdin.buffer.read()))"]
    ended = vision_models.run_child(command, bytes(1_000_000), lambda: None)
    assert (ended.returncode, ended.stdout.strip()) == (0, b"1000000")
    deaf = [sys.executable, "-c", "import sys; sys.exit(3)"]
    assert vision_models.run_child(deaf, bytes(1_000_000), lambda: None).returncode == 3


def test_a_look_ends_when_it_is_called_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = tmp_path / "begun"
    model = stand_in(tmp_path, monkeypatch, f"echo $$ > {begun}; exec sleep 600")

    def check() -> None:
        if begun.exists() and begun.read_text():
            raise Stopped("cancel")

    with pytest.raises(Stopped):
        vision_models.run_model(scene(), model, "image", check=check)
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


def test_a_look_that_is_killed_is_tried_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = tmp_path / "once"
    model = stand_in(
        tmp_path, monkeypatch, f"cat > /dev/null; test -f {once} && echo '\"a cat\"' && exit; : > {once}; kill -9 $$"
    )
    assert vision_models.describe(scene(), model, "image") == "a cat"
    model = stand_in(tmp_path, monkeypatch, "kill -9 $$")
    with refused(InvalidParams, "preprocessor_failed", "image"):
        vision_models.describe(scene(), model, "image")


def enter() -> bool:
    with vision_models.exclusive():
        return True
