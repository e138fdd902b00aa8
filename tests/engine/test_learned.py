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
from tests.engine.vision_models import depth_model


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
