"""U²-Net and IS-Net: networks that separate a picture's main object from its background.

One function runs both, and the smaller U²-NetP, from the tensor names and shapes of their published weights. Each
stage is itself a small U-Net; the stages' outputs at all resolutions are fused (U²-Net), or only the finest is used
(IS-Net).
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image as PIL
from safetensors.torch import load_file
from torch.nn import functional as F

from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import message

State = dict[str, torch.Tensor]
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt")
#: Encoder layers of each stage's nested U-Net. 0: four dilated layers at constant resolution, see FLAT_REACH.
STAGES = {"stage1": 7, "stage2": 6, "stage3": 5, "stage4": 4, "stage5": 0, "stage6": 0}
WAY_UP = ("stage5", "stage4", "stage3", "stage2", "stage1")
FLAT_REACH = (1, 2, 4, 8)
#: Side in pixels of each network's square training pictures.
U2NET_SIDE, ISNET_SIDE = 320, 1024
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ISNET_TENSOR = "stage1.rebnconvin.conv_s1.weight"


def weights_in(folder: Path) -> Path | None:
    """The weights file in a folder (the first by name), or None."""
    found = (
        sorted(path for path in folder.glob("*") if path.suffix.lower() in WEIGHTS_SUFFIXES) if folder.is_dir() else []
    )
    return found[0] if found else None


def read(path: Path) -> State:
    """The weights of a file; pickles are read without executing code. Raises ModelUnavailable for other networks."""
    state = (
        load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    )
    state = {name.removeprefix("module."): tensor.float() for name, tensor in state.items() if torch.is_tensor(tensor)}
    if ISNET_TENSOR not in state or "side1.weight" not in state:
        raise ModelUnavailable(message("no_saliency", file=path.name))
    return state


def mask(picture: PIL.Image, state: State) -> PIL.Image:
    """A mask (L, the picture's size): how likely each pixel belongs to the main object.

    Raises ValueError if the network's output is not finite.
    """
    fused = "outconv.weight" in state
    side = U2NET_SIDE if fused else ISNET_SIDE
    small = picture.convert("RGB").resize((side, side), PIL.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).movedim(-1, 0)[None].float()
    if fused:
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
        pixels = (pixels / pixels.max().clamp(min=1) - mean) / deviation
    else:
        pixels = pixels / 255 - 0.5
    scores = saliency(pixels, state, fused)[0, 0]
    low, high = scores.min(), scores.max()
    if not bool((high - low).isfinite()):
        raise ValueError("the network gives numbers that are not finite")
    grey = (scores - low) / (high - low).clamp(min=1e-6) * 255
    made = PIL.fromarray(grey.round().to(torch.uint8).numpy())
    return made.resize(picture.size, PIL.Resampling.BILINEAR)


def saliency(pixels: torch.Tensor, state: State, fused: bool) -> torch.Tensor:
    """Run the network: 1 x 3 x H x W to 1 x 1 x H x W in [0, 1]. ``fused``: U²-Net, else IS-Net."""
    x = pixels
    if not fused:
        x = F.conv2d(x, state["conv_in.weight"], state["conv_in.bias"], stride=2, padding=1)
    down: list[torch.Tensor] = []
    for name in STAGES:
        x = stage(halved(x) if down else x, state, name, STAGES[name])
        down.append(x)
    ways = [down[-1]]
    for name, beside in zip(WAY_UP, reversed(down[:-1]), strict=True):
        x = stage(torch.cat((resized(x, beside), beside), 1), state, f"{name}d", STAGES[name])
        ways.append(x)
    side_outputs: list[torch.Tensor] = []
    for number, each in enumerate(reversed(ways), 1):
        side = F.conv2d(each, state[f"side{number}.weight"], state[f"side{number}.bias"], padding=1)
        side_outputs.append(resized(side, side_outputs[0] if side_outputs and fused else pixels))
        if not fused:
            return side_outputs[0].sigmoid()
    return F.conv2d(torch.cat(side_outputs, 1), state["outconv.weight"], state["outconv.bias"]).sigmoid()


def stage(x: torch.Tensor, state: State, name: str, height: int) -> torch.Tensor:
    """A nested U-Net with ``height`` levels (0: dilated layers instead), plus a residual from its first layer."""
    first = x = layer(x, state, f"{name}.rebnconvin")
    down = []
    count = height or len(FLAT_REACH)
    for number in range(1, count + 1):
        last = number == count
        reach = (2 if last else 1) if height else FLAT_REACH[number - 1]
        if height and number > 1 and not last:
            x = halved(x)
        x = layer(x, state, f"{name}.rebnconv{number}", reach)
        down.append(x)
    for number in range(count - 1, 0, -1):
        beside = down[number - 1]
        reach = 1 if height else FLAT_REACH[number - 1]
        x = layer(torch.cat((resized(x, beside), beside), 1), state, f"{name}.rebnconv{number}d", reach)
    return x + first


def layer(x: torch.Tensor, state: State, name: str, reach: int = 1) -> torch.Tensor:
    """3 x 3 convolution with dilation ``reach``, batch normalisation and ReLU."""
    x = F.conv2d(x, state[f"{name}.conv_s1.weight"], state[f"{name}.conv_s1.bias"], padding=reach, dilation=reach)
    mean, variance, weight, bias = (
        state[f"{name}.bn_s1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.relu(F.batch_norm(x, mean, variance, weight, bias))


def halved(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True)


def resized(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    size = (like.shape[-2], like.shape[-1])
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
