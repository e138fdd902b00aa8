"""Preprocessors whose weights are a model of transformers, run as a process of their own: ``python -m`` this module.

The arguments are the type and the folder of its model; a PNG is read from stdin, and the control picture, RGB of the
same size, is written to stdout as PNG. A failure is one line on stderr and exit status 1. Only safetensors are read, no
code of the folder is run, and nothing is downloaded.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image as PIL

#: Kinds of models whose depth grows with the distance. The others give inverse depth, as ControlNets expect it.
METRIC = ("chmv2", "depth_pro", "glpn", "prompt_depth_anything", "tipsv2_dpt", "zoedepth")


def load(kind: Any, folder: Path) -> Any:
    """A model of a folder, on the CPU. Raises OSError, ValueError, ImportError and others for one that does not fit."""
    model = kind.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    )
    return model.eval()


def processor(folder: Path) -> Any:
    return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def enlarged(maps: torch.Tensor, picture: PIL.Image) -> torch.Tensor:
    """Maps ``[channels, h, w]`` at the size of a picture."""
    size = (picture.height, picture.width)
    return torch.nn.functional.interpolate(maps[None].float(), size, mode="bilinear", align_corners=False)[0]


def depth(picture: PIL.Image, folder: Path) -> PIL.Image:
    """Inverse depth as shades of grey: the nearest point is white, the farthest black."""
    model = load(transformers.AutoModelForDepthEstimation, folder)
    made = model(**processor(folder)(images=picture, return_tensors="pt")).predicted_depth
    values = enlarged(made.reshape(1, *made.shape[-2:]), picture)[0]
    if model.config.model_type in METRIC or getattr(model.config, "depth_estimation_type", "") == "metric":
        values = 1 / values.clamp(min=1e-3)
    if not values.isfinite().all():
        raise ValueError("the model gives numbers that are not finite")
    low, high = values.min(), values.max()
    grey = (values - low) / (high - low) * 255 if high > low else torch.zeros_like(values)
    return PIL.fromarray(grey.round().to(torch.uint8).numpy()).convert("RGB")


FUNCTIONS: dict[str, Callable[[PIL.Image, Path], PIL.Image]] = {"depth": depth}


def main(kind: str, folder: str) -> int:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # What a library prints must not end up in the picture.
    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    try:
        with torch.inference_mode(), PIL.open(io.BytesIO(sys.stdin.buffer.read()), formats=("PNG",)) as picture:
            made = FUNCTIONS[kind](picture.convert("RGB"), Path(folder))
    except Exception as error:  # a model may raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(first, file=sys.stderr)
        return 1
    made.save(answer, "PNG", compress_level=1)
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
