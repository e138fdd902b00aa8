"""Loading takes little more memory than what stays: files are mapped, and each tensor is converted once."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.engine.shrunken import Layout, State, divided, first_blocks, loaded, state_of, z_image
from tests.engine.test_split_files import eight_bits, scaled_fp8

CHILD = """
import json, re, sys, threading
from pathlib import Path
import torch
from diffusion_local.engine import single_file
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.paths import assets

torch.set_num_threads(1)


def model(home):
    places = ModelDirectories(home / "models", vae=home / "vae", text_encoders=home / "text_encoders",
                              configs=home / "configs")
    found = Catalog(assets() / "starter", places).get("tiny")
    assert found.ready, found.problem
    return found


def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024


small, large = (model(Path(each)) for each in sys.argv[1:])
single_file.load(small, torch.bfloat16)
before, peak, done = anonymous(), 0, threading.Event()


def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())


thread = threading.Thread(target=watch)
thread.start()
pipe = single_file.load(large, torch.bfloat16)
done.set()
thread.join()
parts = (pipe.transformer, pipe.vae, pipe.text_encoder)
stays = sum(each.nbytes for part in parts for each in part.state_dict().values())
print(json.dumps({"peak": max(peak, anonymous()) - before, "stays": stays, "after": anonymous() - before}))
"""


def wide() -> Layout:
    """A Z-Image of 350 MB in half precision."""
    kept = first_blocks("noise_refiner", "context_refiner")

    def few(name: str) -> str:
        return "" if name.startswith("layers.") and int(name.split(".")[1]) >= 8 else kept(name)

    def shrink(length: int) -> int:
        return 3413 if length == 10240 else divided(3840, 3)(length)

    state = state_of("models/z_image_turbo_bf16.safetensors", shrink, few)
    made = z_image()
    config = {"dim": 1280, "n_layers": 8, "n_refiner_layers": 1, "n_heads": 10, "n_kv_heads": 10}
    made.pipe.register_modules(transformer=loaded(type(made.pipe.transformer), state, config))
    made.parts["models/tiny.safetensors"] = state
    return made


def halves(state: State) -> State:
    return {name: each.half() for name, each in state.items()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
@pytest.mark.parametrize(
    ("change", "most"),
    [
        (halves, 1.15),
        (lambda state: {name: each.bfloat16() for name, each in state.items()}, 0.4),
        (lambda state: eight_bits(halves(state))[0], 1.15),
        (lambda state: scaled_fp8(halves(state))[0], 1.15),
    ],
    ids=["fp16", "bf16", "fp8", "fp8_scaled"],
)
def test_the_peak_is_near_what_stays(change: Callable[[State], State], most: float, tmp_path: Path) -> None:
    """A file whose numbers are those that the model runs in is only mapped."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z_image().write(tmp_path / "small", halves)
        wide().write(tmp_path / "large", change)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "small"), str(tmp_path / "large")]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert answer["stays"] > 300_000_000
    assert answer["peak"] <= most * answer["stays"], answer
