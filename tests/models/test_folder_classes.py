"""Every pipeline class of diffusers is run or named; pickles in a diffusers folder are never loaded."""

import json
import pickle
from pathlib import Path

import diffusers
import pytest
import torch

from diffusion_local import families
from diffusion_local.models.folders import read_folder
from diffusion_local.models.foreign_pipelines import unsupported_class
from tests.models.files import write_header

CLASSES = sorted(name for name in dir(diffusers) if name.endswith("Pipeline") and "Modular" not in name)
#: The class of all others.
ROOT = "DiffusionPipeline"


def test_every_pipeline_of_diffusers_is_run_or_named() -> None:
    assert len(CLASSES) > 250
    unnamed = [
        name
        for name in CLASSES
        if families.of_pipeline(name)[0] is families.UNKNOWN and unsupported_class(name).id == "pipeline_class"
    ]
    assert unnamed == [ROOT]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Kandinsky5T2IPipeline", "It is Kandinsky 5, which is recognised but cannot be run yet."),
        ("Kandinsky5T2VPipeline", "It is Kandinsky 5, a model for video."),
        ("KandinskyV22Pipeline", "It is Kandinsky 2.2, which"),
        ("QwenImageLayeredPipeline", "It is Qwen-Image-Layered, which"),
        ("HunyuanImageRefinerPipeline", "the refiner of HunyuanImage 2.1, which"),
        ("LongCatAudioDiTPipeline", "a model for audio"),
        ("LLaDA2Pipeline", "a model for text"),
        ("StableDiffusionXLAdapterPipeline", "It is a variant of SDXL with the pipeline class"),
        ("FluxControlNetPipeline", "It is a variant of FLUX.1 with the pipeline class"),
        ("NewModelPipeline", "Its pipeline class 'NewModelPipeline' is not supported."),
    ],
)
def test_a_folder_of_another_class_is_named(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}), encoding="utf-8")
    found = read_folder(tmp_path)
    assert sentence in found.problem
    assert found.state != "ready"


class Touch:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self._trace,)  # type: ignore[return-value]


@pytest.mark.parametrize("beside", [(), ("vae",)], ids=["pickles only", "beside safetensors"])
@pytest.mark.parametrize("file", ["diffusion_pytorch_model.bin", "pytorch_model.bin", "diffusion_pytorch_model.ckpt"])
def test_a_pickle_inside_a_folder_is_refused_and_never_opened(tmp_path: Path, file: str, beside: tuple[str]) -> None:
    folder, trace = tmp_path / "model", tmp_path / "ran"
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    index = {"_class_name": "StableDiffusionPipeline", **{part: ["diffusers", name] for part, name in parts.items()}}
    for part in parts:
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}", encoding="utf-8")
        if part in beside:
            write_header(folder / part / "diffusion_pytorch_model.safetensors", {"conv_in.weight": (4, 4)})
        else:
            torch.save({"conv_in.weight": Touch(trace)}, folder / part / file)
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    found = read_folder(folder)
    assert found.state != "ready"
    assert "can run code" in found.problem or "no weights" in found.problem
    assert not trace.exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(next(folder.rglob(file)), weights_only=True)
    assert not trace.exists()
