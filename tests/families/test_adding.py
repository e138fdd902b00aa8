"""What it takes to add a family: two modules and a line of the curated list; in a copy of the program."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PACKAGE, REPOSITORY

RECORD = '''"""A family that is made up for a test."""

from diffusion_local.families.family import Architecture, Family, every_kind
from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.samplers import FLOW

FAMILY = Family(
    id="dummy",
    title="Dummy",
    pipelines=every_kind("DummyPipeline"),
    architectures={
        "dummy": Architecture(
            title="Dummy 1", signs=(Sign(has=("dummy_blocks.0",)),), loras=(LoraSign(parts=("dummy_blocks_#",)),)
        )
    },
    limits=Limits(multiple=64, max_steps=9),
    defaults=Defaults(width=256, height=256, steps=2, guidance=3.0, sampler="Euler"),
    sampling=FLOW,
    tokens=20,
    negative=False,
)
'''
#: Its models are Stable Diffusion's under another class, so that the starter's weights can draw.
ENGINE = '''"""A family that is made up for a test."""

from diffusion_local.engine.families import sd

FAMILY = sd.FAMILY
'''
KNOWN = {
    "id": "someone/dummy", "title": "Dummy One", "family": "dummy", "architecture": "dummy", "words": [],
    "licence": "MIT", "gated": False, "disk_gb": 1.0, "memory_gb": 1.0, "variant": "", "width": 128, "height": 128,
    "steps": 3, "guidance": 2.0, "sampler": "Euler", "about": "", "source": "https://huggingface.co/someone/dummy",
}  # fmt: skip
USE = """
import json, sys
from dataclasses import replace
from pathlib import Path

import diffusion_local
from diffusion_local import families
from diffusion_local.models import prompt_limits as prompts
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_services
from diffusion_local.worker.__main__ import open_engine
from diffusion_local.errors import InvalidParams
from diffusion_local.models.curated import curated_models
from diffusion_local.settings import Settings
from diffusion_local.web.ui import view_models
from tests.models.files import write_header

run_as(LOCAL)
home = Path(sys.argv[1])
assert Path(diffusion_local.__file__).is_relative_to(home.parent), diffusion_local.__file__
services = open_services(Settings(home=home, device="cpu"))
model = services.catalog.get("mine")
write_header(services.settings.models / "one.safetensors", {"dummy_blocks.0.weight": (8, 8)})
layer = {f"dummy_blocks.0.lora_{part}.weight": (8, 8) for part in "AB"}
write_header(services.settings.loras / "style.safetensors", layer)
params = services.catalog.complete("apple " * 30, {"seed": 1, "model": "mine", "negative": "red", "loras": ["style"]})


def refused(**settings):
    try:
        services.catalog.complete("x", {"seed": 1, "model": "mine"} | settings)
    except InvalidParams as error:
        return error.message


told = {
    "model": [model.family, model.architecture, model.problem, list(model.kinds)],
    "defaults": [params.width, params.steps, params.guidance, params.sampler],
    "refused": [refused(width=200), refused(steps=10), refused(sampler="DDIM"), refused(schedule="Uniform")],
    "warnings": prompts.prompt_warnings(model, params),
    "file": services.catalog.get("one").problem,
    "lora": [each.architecture for each in services.catalog.loras()],
    "card": view_models.card(model, None, (), (), {}).family == "Dummy 1",
    "offered": "someone/dummy" in [each.id for each in services.studio.library.known()],
}
engine = open_engine(services.settings, "cpu0", services.files.open_source)
engine.load(model)
told["picture"] = engine.generate(replace(params, loras=()), lambda done, preview: None).image.size
print("TOLD", json.dumps(told))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The program with one more family, and a home with a model of it."""
    place = tmp_path / "copy"
    for name in ("diffusion_local", "tests"):
        shutil.copytree(REPOSITORY / name, place / name)  # with what is compiled
    shutil.copy(REPOSITORY / "pyproject.toml", place)
    (place / "assets").mkdir()
    for path in (REPOSITORY / "assets").iterdir():
        if path.name != "models.json":
            (place / "assets" / path.name).symlink_to(path)
    (place / PACKAGE.name / "families/dummy.py").write_text(RECORD)
    (place / PACKAGE.name / "engine/families/dummy.py").write_text(ENGINE)
    known = json.loads((REPOSITORY / "assets/models.json").read_text(encoding="utf-8"))
    (place / "assets/models.json").write_text(json.dumps([*known, KNOWN]))
    mine = place / "home/models/mine"
    shutil.copytree(REPOSITORY / "assets/starter", mine)
    index = json.loads((mine / "model_index.json").read_text())
    (mine / "model_index.json").write_text(json.dumps(index | {"_class_name": "DummyPipeline"}))
    return place


def run(place: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.slow  # starts the copy in a process of its own; the contract that it breaks is in the first tier
@pytest.mark.timeout(600)
def test_a_family_is_two_modules_and_a_line_of_the_curated_list(copy: Path) -> None:
    text = run(copy, "-c", USE, str(copy / "home"))
    assert "TOLD " in text, text
    found = json.loads(text.partition("TOLD ")[2].splitlines()[0])
    assert found["model"] == ["dummy", "dummy", "", ["txt2img", "img2img", "inpaint"]]
    assert found["defaults"] == [128, 3, 2.0, "Euler"]  # of the curated list
    width, steps, sampler, schedule = found["refused"]
    assert "multiple of 64" in width
    assert "from 1 to 9" in steps
    assert "Euler, DPM++ 2M, UniPC" in sampler
    assert "Automatic, Karras, Exponential" in schedule
    assert any("reads 18 tokens" in each for each in found["warnings"])
    assert any("no negative prompt" in each for each in found["warnings"])
    assert "It is Dummy 1 (fp16), which runs from a complete diffusers folder" in found["file"]
    assert found["lora"] == ["dummy"]
    assert (found["card"], found["offered"]) == (True, True)
    assert found["picture"] == [128, 128]


@pytest.mark.slow  # starts the copy in a process of its own; the contract that it breaks is in the first tier
@pytest.mark.timeout(600)
def test_a_family_without_its_engine_half_is_reported(copy: Path) -> None:
    (copy / PACKAGE.name / "engine/families/dummy.py").unlink()
    command = ("-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist")
    text = run(copy, *command, "tests/families/test_registry.py", "-k", "test_the_supported_families")
    assert "FAILED tests/families/test_registry.py::test_the_supported_families_are_those_of_the_engine" in text, text
