"""Preprocessors whose weights are a model of transformers, run as a process of their own: ``python -m`` this module.

The arguments are the type and the folder of its model; a PNG is read from stdin, and the control picture, RGB of the
same size, is written to stdout as PNG. A failure is one line on stderr and exit status 1. Only safetensors are read, no
code of the folder is run, and nothing is downloaded.
"""

import colorsys
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image as PIL
from PIL import ImageDraw

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


# -- poses -------------------------------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]
#: COCO's 17 key points in OpenPose's order of 18; its second, the neck, lies between the shoulders.
ORDER = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
LEFT_SHOULDER, RIGHT_SHOULDER = 5, 6
#: Bones between OpenPose's points, in the order of their colours.
BONES = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip
#: Least confidence of a person and of a point; most people; size of the part that is read, relative to the person.
PERSON, POINT, PEOPLE, MARGIN = 0.5, 0.3, 20, 1.25
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def openpose(picture: PIL.Image, folder: Path) -> PIL.Image:
    """The people's skeletons in OpenPose's colours on black: bodies without hands and faces."""
    found = people(picture, folder / "detector")
    points = key_points(picture, found, folder / "pose") if found else torch.empty(0, 17, 3)
    return drawn(points, picture.size)


def people(picture: PIL.Image, folder: Path) -> list[Box]:
    """Boxes (left, top, right, bottom in pixels) of the people in a picture, the surest first."""
    model, given = load(transformers.AutoModelForObjectDetection, folder), processor(folder)
    persons = [number for number, name in model.config.id2label.items() if str(name).lower() == "person"]
    if not persons:
        raise ValueError("the detector knows no class 'person'")
    made = model(**given(images=picture, return_tensors="pt"))
    size = [(picture.height, picture.width)]
    told = given.post_process_object_detection(made, threshold=PERSON, target_sizes=size)[0]
    each = zip(told["scores"].tolist(), told["labels"].tolist(), told["boxes"].tolist(), strict=True)
    return [tuple(box) for _, label, box in sorted(each, reverse=True) if label in persons][:PEOPLE]


def key_points(picture: PIL.Image, boxes: list[Box], folder: Path) -> torch.Tensor:
    """COCO's key points ``[people, 17, 3]`` of people: x and y in pixels, confidence."""
    model = load(transformers.AutoModelForPoseEstimation, folder)
    height, width = model.config.backbone_config.image_size
    parts = [around(box, width / height) for box in boxes]
    cut = [picture.transform((width, height), PIL.Transform.EXTENT, part, PIL.Resampling.BILINEAR) for part in parts]
    pixels = torch.stack([torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8) for each in cut])
    pixels = pixels.reshape(len(cut), height, width, 3).movedim(-1, 1).float() / 255
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
    experts = getattr(model.config.backbone_config, "num_experts", 1) > 1
    more = {"dataset_index": torch.zeros(len(cut), dtype=torch.long)} if experts else {}
    maps = model(pixel_values=(pixels - mean) / deviation, **more).heatmaps
    if maps.shape[1] != 17:
        raise ValueError(f"the model finds {maps.shape[1]} key points instead of COCO's 17")
    return torch.stack([peaks(each, part) for each, part in zip(maps, parts, strict=True)])


def around(box: Box, shape: float) -> Box:
    """A box with a margin in the proportions ``shape`` (width by height)."""
    left, top, right, bottom = box
    width = max(right - left, (bottom - top) * shape) * MARGIN
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - width / 2, y - width / shape / 2, x + width / 2, y + width / shape / 2


def peaks(maps: torch.Tensor, part: Box) -> torch.Tensor:
    """The highest places of maps ``[17, h, w]`` in the pixels of the picture that they are a part of."""
    height, width = maps.shape[1:]
    sure, place = maps.flatten(1).max(1)
    left, top, right, bottom = part
    x = left + (place % width + 0.5) / width * (right - left)
    y = top + (place // width + 0.5) / height * (bottom - top)
    return torch.stack((x, y, sure), 1)


def drawn(people: torch.Tensor, size: tuple[int, int]) -> PIL.Image:
    picture = PIL.new("RGB", size)
    pen = ImageDraw.Draw(picture)
    thick = max(1, round(min(size) / 128))
    for person in people.tolist():
        neck = [(a + b) / 2 for a, b in zip(person[LEFT_SHOULDER], person[RIGHT_SHOULDER], strict=True)]
        neck[2] = min(person[LEFT_SHOULDER][2], person[RIGHT_SHOULDER][2])
        points = [neck if at is None else person[at] for at in ORDER]
        for colour, (one, other) in enumerate(BONES):
            if min(points[one][2], points[other][2]) >= POINT:
                shade = tuple(round(part * 0.6) for part in colour_of(colour))
                pen.line((*points[one][:2], *points[other][:2]), shade, 2 * thick)
        for colour, (x, y, sure) in enumerate(points):
            if sure >= POINT:
                pen.ellipse((x - thick, y - thick, x + thick, y + thick), colour_of(colour))
    return picture


def colour_of(number: int) -> tuple[int, int, int]:
    """OpenPose's colours go round the circle of hues in 18 steps."""
    red, green, blue = (round(part * 255) for part in colorsys.hsv_to_rgb(number / 18, 1, 1))
    return red, green, blue


FUNCTIONS: dict[str, Callable[[PIL.Image, Path], PIL.Image]] = {"depth": depth, "openpose": openpose}


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
