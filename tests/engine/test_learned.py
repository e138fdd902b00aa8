"""Preprocessors whose weights are a model: tiny random models of transformers, in this process and in their own."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PIL
from PIL import ImageDraw

from diffusion_local.engine import learned, vision
from diffusion_local.errors import InvalidParams
from tests.engine.vision_models import depth_model, pose_model


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
        given = transformers.AutoImageProcessor.from_pretrained(folder)
        told = transformers.pipeline("depth-estimation", model=model, image_processor=given)(picture)
    assert (made.size, made.mode, made.getextrema()) == (picture.size, "RGB", ((0, 255),) * 3)
    values = torch.as_tensor(told["predicted_depth"])
    expected = (values - values.min()) / (values.max() - values.min()) * 255
    difference = np.abs(np.asarray(made)[..., 0].astype(float) - expected.numpy())
    assert difference.mean() < 4  # one is enlarged with bicubic, the other with bilinear interpolation


def test_metric_depth_is_turned_round(tmp_path: Path) -> None:
    """Near is white, whether a model gives distances or their inverse."""
    relative, metric = (depth_model(tmp_path / kind, kind) for kind in ("relative", "metric"))
    with torch.inference_mode():
        near, far = (np.asarray(vision.depth(scene(), each))[..., 0].astype(float) for each in (relative, metric))
    assert np.corrcoef(near.ravel(), far.ravel())[0, 1] < -0.5


def test_a_process_of_its_own_makes_the_same_picture(tmp_path: Path) -> None:
    folder = depth_model(tmp_path / "depth")
    model = learned.model_of("depth", tmp_path, "controls")
    with torch.inference_mode():
        expected = vision.depth(scene(), folder)
    made = learned.preprocess(scene(), model, "controls")
    assert np.abs(np.asarray(made).astype(int) - np.asarray(expected)).max() <= 1


def test_people_are_those_that_the_detector_is_sure_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pose_model(tmp_path / "openpose")
    monkeypatch.setattr(vision, "PERSON", 0.0)
    with torch.inference_mode():
        given = transformers.AutoImageProcessor.from_pretrained(folder / "detector")
        model = transformers.AutoModelForObjectDetection.from_pretrained(folder / "detector").eval()
        told = given.post_process_object_detection(
            model(**given(images=scene(), return_tensors="pt")), threshold=0.0, target_sizes=[(40, 72)]
        )[0]
        expected = [tuple(box) for label, box in zip(told["labels"], told["boxes"].tolist(), strict=True) if label == 1]
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
    made = vision.drawn(person, (128, 128))
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
            learned.model_of("openpose", tmp_path, "controls")
        (tmp_path / "openpose" / part).mkdir(parents=True)
        (tmp_path / "openpose" / part / "config.json").write_text("{}")
    assert len(learned.model_of("openpose", tmp_path, "controls").version) == 2


def test_a_missing_model_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match=r"depth.*preprocessors/depth.*depth-anything/") as refused:
        learned.model_of("depth", tmp_path, "controls")
    assert refused.value.field == "controls"


def test_another_model_is_another_version(tmp_path: Path) -> None:
    depth_model(tmp_path / "depth")
    before = learned.model_of("depth", tmp_path, "controls").version
    (tmp_path / "depth" / "config.json").write_text("{}")
    assert learned.model_of("depth", tmp_path, "controls").version != before


def test_a_model_that_fails_is_refused_without_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "config.json").write_text('{"model_type": "bert"}')
    model = learned.model_of("depth", tmp_path, "controls")
    with pytest.raises(InvalidParams, match="preprocessors/depth") as refused:
        learned.preprocess(scene(), model, "controls")
    assert str(tmp_path) not in str(refused.value.message)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    folder = depth_model(tmp_path / "depth")
    model = transformers.AutoModelForDepthEstimation.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        vision.depth(scene(), folder)
