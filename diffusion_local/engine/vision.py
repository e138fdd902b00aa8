"""Runs vision models (depth, pose, segmentation, detection, captions) in a separate process: ``python -m`` this module.

The arguments are the task, the folder of its model and the task's own arguments; a PNG is read from stdin. A picture
is written to stdout as PNG of the same size, any other result as JSON. A failure writes one line to stderr and exits
with status 1. No code from the folder is run and nothing is downloaded; transformers models are read from safetensors
only.
"""

import colorsys
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image as PIL
from PIL import ImageDraw

from diffusion_local.engine import saliency
from diffusion_local.engine.vision_models import OPEN_VOCABULARY, names_class

#: Model types that predict distance. The others predict inverse depth, which ControlNets expect.
METRIC = ("chmv2", "depth_pro", "glpn", "prompt_depth_anything", "tipsv2_dpt", "zoedepth")
#: Model types for several kinds of segmentation, of which we use the semantic one.
UNIVERSAL = ("mask2former", "maskformer", "oneformer", "eomt")
#: Number of ADE20K's classes, which ControlNets for segmentation were trained on.
ADE_CLASSES = 150
#: Red, green and blue of each class in hexadecimal, in order.
ADE_COLOURS = (
    "787878b4787806e6e650323204c8037878508c8c8ccc05ffe6e6e604fa07e005ffebff0796053d78784608ff33ff06528fff8cccff04"
    "ff3307cc46030066c83de6faff06330b66ffff0747ff09e00907e6dcdcdcff095c7009ff08ffd607ffe0ffb8060aff47ff290a07ffff"
    "e0ff086608ffff3d06ffc207ff7a0800ff14ff0829ff05990633ffeb0cffa0961400a3ff8c8c8cfa0a0f14ff001fff00ff1f00ffe000"
    "99ff000000ffff470000ebff00adff1f00ff0bc8c8ff520000fff5003dff00ff7000ff85ff0000ffa300ff6600c2ff00008fff33ff00"
    "0052ff00ff2900ffad0a00ffadff0000ff99ff5c00ff00ffff00f5ff0066ffad00ff0014ffb8b8001fff00ff3d0047ffff00cc00ffc2"
    "00ff52000aff0070ff3300ff00c2ff007aff00ffa3ff990000ff0aff70008fff005200ffa3ff00ffeb0008b8aa8500ff00ff5cb800ff"
    "ff001f00b8ff00d6ffff00705cff0000e0ff70e0ff46b8a0a300ff9900ff47ff00ff00a3ffcc00ff008f00ffeb85ff00ff00ebf500ff"
    "ff007afff5000abed4d6ff0000ccff1400ffffff000099ff0029ff00ffcc2900ff29ff00ad00ff00f5ff4700ff7a00ff00ffb8005cff"
    "b8ff000085ffffd60019c2c266ff005c00ff"
)
FOUND_MOST = 20
MOST_CAPTION_TOKENS = 96
#: Florence-2's task token.
FLORENCE_TASK = "<MORE_DETAILED_CAPTION>"
#: Index of COCO's key point (17) for each of OpenPose's (18). The neck, None, is computed from the shoulders.
OPENPOSE_ORDER = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
#: Bones between OpenPose's points, in the order of their colours.
BONES = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip


def load(kind: Any, folder: Path) -> Any:
    """Load a model from a folder, on the CPU. Raises OSError, ValueError, ImportError and others if that fails."""
    model = kind.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    )
    return model.eval()


def load_processor(folder: Path) -> Any:
    return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def enlarged(maps: torch.Tensor, picture: PIL.Image) -> torch.Tensor:
    """Resize maps (channels x h x w) to the size of a picture."""
    size = (picture.height, picture.width)
    return torch.nn.functional.interpolate(maps[None].float(), size, mode="bilinear", align_corners=False)[0]


def depth(picture: PIL.Image, folder: Path) -> PIL.Image:
    """Inverse depth in greyscale: the nearest point is white, the farthest black."""
    grey = inverse_depth(picture, folder) * 255
    return PIL.fromarray(grey.round().to(torch.uint8).numpy()).convert("RGB")


def inverse_depth(picture: PIL.Image, folder: Path) -> torch.Tensor:
    """Inverse depth of each pixel (h x w): 1 at the nearest point, 0 at the farthest.

    Raises ValueError if the model's output is not finite.
    """
    model = load(transformers.AutoModelForDepthEstimation, folder)
    made = model(**load_processor(folder)(images=picture, return_tensors="pt")).predicted_depth
    values = enlarged(made.reshape(1, *made.shape[-2:]), picture)[0]
    if model.config.model_type in METRIC or getattr(model.config, "depth_estimation_type", "") == "metric":
        values = 1 / values.clamp(min=1e-3)
    if not values.isfinite().all():
        raise ValueError("the model gives numbers that are not finite")
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


#: FLATNESS: the z component in `normal`; larger values flatten surfaces. Points with an inverse depth below BACKGROUND
#: are background. Both as in the MiDaS normals that the first ControlNets were trained on.
FLATNESS, BACKGROUND = 2 * np.pi, 0.1


def normal(picture: PIL.Image, folder: Path) -> PIL.Image:
    """Surface normals estimated from depth: red points right, green down, blue towards the viewer."""
    values = inverse_depth(picture, folder)
    padded = torch.nn.functional.pad(values[None, None], (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    slopes = torch.nn.functional.conv2d(padded, torch.stack((sobel, sobel.T))[:, None])[0] * 255
    slopes = slopes * (values >= BACKGROUND)
    towards = torch.full_like(values, FLATNESS)
    made = torch.nn.functional.normalize(torch.stack((slopes[0], slopes[1], towards)), dim=0)
    return PIL.fromarray((made * 127.5 + 127.5).clamp(0, 255).to(torch.uint8).movedim(0, -1).numpy())


def segment(picture: PIL.Image, folder: Path) -> PIL.Image:
    """The class of each pixel, in the colours of ADE20K's 150 classes.

    Raises ValueError if the model has another number of classes.
    """
    kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if len(kind.id2label) != ADE_CLASSES:
        raise ValueError(f"the model knows {len(kind.id2label)} classes instead of ADE20K's {ADE_CLASSES}")
    several = kind.model_type in UNIVERSAL
    auto = transformers.AutoModelForUniversalSegmentation if several else transformers.AutoModelForSemanticSegmentation
    model, processor = load(auto, folder), load_processor(folder)
    made = model(**processor(images=picture, return_tensors="pt"))
    if several:
        size = [(picture.height, picture.width)]
        classes = processor.post_process_semantic_segmentation(made, target_sizes=size)[0]
    else:
        classes = enlarged(made.logits[0], picture).argmax(0)
    table = np.frombuffer(bytes.fromhex(ADE_COLOURS), np.uint8).reshape(ADE_CLASSES, 3)
    return PIL.fromarray(table[classes.clamp(0, ADE_CLASSES - 1).numpy()])


# -- what is in a picture ----------------------------------------------------------------------------------------------


def detect(picture: PIL.Image, folder: Path, least: str, *words: str) -> list[dict[str, Any]]:
    """Objects named by ``words``: box (left, top, right, bottom in pixels), score and word, the highest score first.

    ``least``: minimum score, as text. Raises ValueError if the detector does not know a word.
    """
    kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    size, threshold = (picture.height, picture.width), float(least)
    hits = []
    if kind.model_type in OPEN_VOCABULARY:
        model = load(transformers.AutoModelForZeroShotObjectDetection, folder)
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        for word in words:  # one at a time: models confuse words that they get together
            hits += [(*each, word) for each in by_word(picture, model, processor, word, threshold, size)]
    else:
        model, processor = load(transformers.AutoModelForObjectDetection, folder), load_processor(folder)
        made = model(**processor(images=picture, return_tensors="pt"))
        detections = processor.post_process_object_detection(made, threshold=threshold, target_sizes=[size])[0]
        labels = {number: str(name).lower() for number, name in model.config.id2label.items()}
        for word in words:
            if not any(names_class(word, name) for name in labels.values()):
                known = ", ".join(sorted(set(labels.values()))[:FOUND_MOST])
                raise ValueError(f"the detector does not know {word!r}; it knows {known}")
            each = zip(
                detections["scores"].tolist(), detections["labels"].tolist(), detections["boxes"].tolist(), strict=True
            )
            hits += [(score, box, word) for score, label, box in each if names_class(word, labels.get(label, ""))]
    hits.sort(key=lambda each: -each[0])
    return [{"score": score, "box": within(box, picture.size), "word": word} for score, box, word in hits][:FOUND_MOST]


def by_word(
    picture: PIL.Image, model: Any, processor: Any, word: str, threshold: float, size: tuple[int, int]
) -> list[tuple[float, list[float]]]:
    """(score, box) of the objects that one word names, found by an open-vocabulary detector."""
    owl = model.config.model_type.startswith("owl")
    inputs = processor(images=picture, text=[[word]] if owl else f"{word.lower()}.", return_tensors="pt")
    more = {} if owl else {"input_ids": inputs["input_ids"], "text_threshold": threshold}
    detections = processor.post_process_grounded_object_detection(
        model(**inputs), threshold=threshold, target_sizes=[size], **more
    )[0]
    return list(zip(detections["scores"].tolist(), detections["boxes"].tolist(), strict=True))


def within(box: list[float], size: tuple[int, int]) -> list[int]:
    """Round a box to whole pixels and clip it to a picture."""
    left, top, right, bottom = box
    return [
        max(0, min(size[0], round(left))), max(0, min(size[1], round(top))),
        max(0, min(size[0], round(right))), max(0, min(size[1], round(bottom))),
    ]  # fmt: skip


def background(picture: PIL.Image, folder: Path) -> PIL.Image:
    """A greyscale mask of the picture's main object: white is the object. Raises ValueError without a weights file."""
    path = saliency.weights_in(folder)
    if path is None:
        raise ValueError("there is no file of weights")
    return saliency.mask(picture, saliency.read(path))


def caption(picture: PIL.Image, folder: Path) -> str:
    """Describe a picture in words."""
    model = load(transformers.AutoModelForImageTextToText, folder)
    processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    florence = model.config.model_type == "florence2"
    inputs = processor(images=picture, return_tensors="pt", **({"text": FLORENCE_TASK} if florence else {}))
    ids = model.generate(**inputs, max_new_tokens=MOST_CAPTION_TOKENS, num_beams=3, do_sample=False)
    return str(processor.batch_decode(ids, skip_special_tokens=True)[0]).strip()


# -- poses -------------------------------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]
LEFT_SHOULDER, RIGHT_SHOULDER = 5, 6
#: Minimum confidence of a person and of a point; maximum number of people; size of a crop relative to the person's box.
PERSON, POINT, PEOPLE, MARGIN = 0.5, 0.3, 20, 1.25
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def openpose(picture: PIL.Image, folder: Path) -> PIL.Image:
    """Skeletons of the people in OpenPose's colours on black: bodies, without hands and faces."""
    found = people(picture, folder / "detector")
    points = key_points(picture, found, folder / "pose") if found else torch.empty(0, 17, 3)
    return draw_skeletons(points, picture.size)


def people(picture: PIL.Image, folder: Path) -> list[Box]:
    """Boxes (left, top, right, bottom in pixels) of the people in a picture, the highest score first."""
    model, processor = load(transformers.AutoModelForObjectDetection, folder), load_processor(folder)
    persons = [number for number, name in model.config.id2label.items() if str(name).lower() == "person"]
    if not persons:
        raise ValueError("the detector knows no class 'person'")
    made = model(**processor(images=picture, return_tensors="pt"))
    size = [(picture.height, picture.width)]
    detections = processor.post_process_object_detection(made, threshold=PERSON, target_sizes=size)[0]
    each = zip(detections["scores"].tolist(), detections["labels"].tolist(), detections["boxes"].tolist(), strict=True)
    return [tuple(box) for _, label, box in sorted(each, reverse=True) if label in persons][:PEOPLE]


def key_points(picture: PIL.Image, boxes: list[Box], folder: Path) -> torch.Tensor:
    """COCO's key points (people x 17 x 3): x and y in pixels, confidence. ``boxes``: the people's boxes."""
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
    """Enlarge a box by a margin and to the aspect ratio ``shape`` (width / height)."""
    left, top, right, bottom = box
    width = max(right - left, (bottom - top) * shape) * MARGIN
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - width / 2, y - width / shape / 2, x + width / 2, y + width / shape / 2


def peaks(maps: torch.Tensor, part: Box) -> torch.Tensor:
    """Maxima of heat maps (17 x h x w) of a crop: x, y in pixels of the whole picture, confidence (17 x 3)."""
    height, width = maps.shape[1:]
    sure, place = maps.flatten(1).max(1)
    left, top, right, bottom = part
    x = left + (place % width + 0.5) / width * (right - left)
    y = top + (place // width + 0.5) / height * (bottom - top)
    return torch.stack((x, y, sure), 1)


def draw_skeletons(people: torch.Tensor, size: tuple[int, int]) -> PIL.Image:
    """Draw people's key points (people x 17 x 3) as OpenPose skeletons on black."""
    picture = PIL.new("RGB", size)
    pen = ImageDraw.Draw(picture)
    thick = max(1, round(min(size) / 128))
    for person in people.tolist():
        neck = [(a + b) / 2 for a, b in zip(person[LEFT_SHOULDER], person[RIGHT_SHOULDER], strict=True)]
        neck[2] = min(person[LEFT_SHOULDER][2], person[RIGHT_SHOULDER][2])
        points = [neck if at is None else person[at] for at in OPENPOSE_ORDER]
        for colour, (one, other) in enumerate(BONES):
            if min(points[one][2], points[other][2]) >= POINT:
                shade = tuple(round(part * 0.6) for part in colour_of(colour))
                pen.line((*points[one][:2], *points[other][:2]), shade, 2 * thick)
        for colour, (x, y, sure) in enumerate(points):
            if sure >= POINT:
                pen.ellipse((x - thick, y - thick, x + thick, y + thick), colour_of(colour))
    return picture


def colour_of(number: int) -> tuple[int, int, int]:
    """OpenPose's colour of a bone or point: the hue circle in 18 steps."""
    red, green, blue = (round(part * 255) for part in colorsys.hsv_to_rgb(number / 18, 1, 1))
    return red, green, blue


FUNCTION_BY_TASK: dict[str, Callable[..., Any]] = {
    "depth": depth,
    "normal": normal,
    "openpose": openpose,
    "segment": segment,
    "detect": detect,
    "background": background,
    "caption": caption,
}


def main(kind: str, folder: str, *words: str) -> int:
    """Run one task, and return the exit status."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # Keep libraries from printing into the result.
    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    try:
        with torch.inference_mode(), PIL.open(io.BytesIO(sys.stdin.buffer.read()), formats=("PNG",)) as picture:
            made = FUNCTION_BY_TASK[kind](picture.convert("RGB"), Path(folder), *words)
    except Exception as error:  # a model may raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(first, file=sys.stderr)
        return 1
    if isinstance(made, PIL.Image):
        made.save(answer, "PNG", compress_level=1)
    else:
        answer.write(json.dumps(made).encode())
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
