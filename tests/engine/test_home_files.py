"""What a picture needs beside its model: counted by the headers of the files, and told in the plan."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusion_local.engine.home_files import extras_of
from diffusion_local.engine.memory import GIB, LADDERS, Extras, Weights, estimate
from diffusion_local.options.types import Control, Lora, Reference, Use
from tests.support import PARAMS

FLUX = Weights({"transformer": 12 * 10**9, "text_encoder_2": 5 * 10**9, "vae": 84 * 10**6})


class Files:
    """Files of a home, each with as many numbers as told."""

    def __init__(self, folder: Path, **numbers: int) -> None:
        self.folder = folder
        for name, count in numbers.items():
            save_file({"a": torch.zeros(count)}, folder / f"{name}.safetensors")

    def find(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    control = lora = ip_adapter = find


def test_each_file_counts_once(tmp_path: Path) -> None:
    files = Files(tmp_path, net=100, ink=10)
    requested = replace(
        PARAMS,
        loras=(Lora("ink", 1.0), Lora("missing", 1.0)),
        controls=(Control(image="a", model="net"), Control(image="b", model="net")),
        references=(Reference(image="a"), Reference(image="b")),
    )
    assert extras_of(requested, files) == Extras(beside=110, vision=0, references=2)  # type: ignore[arg-type]
    assert extras_of(requested, None) == Extras()


def test_an_adapter_brings_its_image_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion_local.engine import home_files

    files = Files(tmp_path, plus=50, vit=700)
    monkeypatch.setattr(home_files, "image_encoder_of", lambda name, materials: materials.find("vit"))
    requested = replace(PARAMS, references=(Reference(image="a", use=Use.STYLE, adapter="plus"),))
    assert extras_of(requested, files) == Extras(beside=50, vision=700, references=0)  # type: ignore[arg-type]


def test_extras_raise_every_rung() -> None:
    bare = estimate(FLUX, 2, 1024, 1024)
    for rung in set(LADDERS["cuda"]) | set(LADDERS["cpu"]):
        beside = estimate(FLUX, 2, 1024, 1024, extras=Extras(beside=GIB)).bytes_at(rung)
        assert beside - bare.bytes_at(rung) > 2 * GIB, rung
        seen = estimate(FLUX, 2, 1024, 1024, extras=Extras(vision=20 * GIB)).bytes_at(rung)
        assert seen > 40 * GIB, rung
    more = estimate(FLUX, 2, 1024, 1024, extras=Extras(references=2))
    assert more.step == 3 * bare.step
    unet = Weights({"unet": 860 * 10**6, "vae": 84 * 10**6})
    assert estimate(unet, 2, 512, 512, extras=Extras(references=1)).step == 1.5 * estimate(unet, 2, 512, 512).step
