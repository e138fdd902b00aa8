"""Models that read pictures beside the prompt draw as diffusers' own pipelines do. Tiny, with random weights."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image as PIL

from diffusion_local.domain import Kind
from diffusion_local.engine import img2img, unet
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.families import qwen_image
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.errors import ModelUnavailable, Stopped
from diffusion_local.models.catalog import Model, read_folder
from diffusion_local.options.types import Reference
from tests.engine import test_ip_adapters
from tests.engine import tiny as models
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.passes import check_passes
from tests.engine.test_flow_families import difference, flux
from tests.engine.test_language_families import flux2, z_image
from tests.support import PARAMS, tiers

JOB = {"model": "tiny", "sampler": "Euler", "steps": 2, "prompt": "a cat", "width": 128, "height": 96}
MARKS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


def kontext(starter: Model) -> Any:
    return diffusers.FluxKontextPipeline(**flux(starter).components)


def klein(starter: Model) -> Any:
    return flux2()


def dev(starter: Model) -> Any:
    return models.flux2_dev()


def qwen(pipeline: Any) -> Any:
    """With a tokenizer that knows where pictures stand, and an encoder that sees."""
    parts = models.qwen_image().components
    reader = parts["tokenizer"]
    reader.add_special_tokens({"additional_special_tokens": MARKS})
    first = len(reader) - len(MARKS)
    config = transformers.Qwen2_5_VLConfig(
        text_config=models.SIZES | {"rope_parameters": models.AXES, "vocab_size": len(reader)},
        vision_config=models.SIGHT | {"fullatt_block_indexes": [0]},
        vision_start_token_id=first,
        vision_end_token_id=first + 1,
        image_token_id=first + 2,
        video_token_id=first + 3,
    )
    looks = transformers.Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, max_pixels=12845056, min_pixels=3136)
    parts |= {"text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(config), "tokenizer": reader}
    pipe = pipeline(**parts, processor=None)
    pipe.looks = looks
    return pipe


def qwen_edit(starter: Model) -> Any:
    return qwen(diffusers.QwenImageEditPipeline)


def qwen_edit_plus(starter: Model) -> Any:
    return qwen(diffusers.QwenImageEditPlusPipeline)


def z_image_omni(starter: Model) -> Any:
    """With an encoder that sees the pictures, beside the VAE."""
    parts = z_image().components
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = transformers.Siglip2VisionConfig(**sight, num_patches=64, patch_size=16)
    config = {name: value for name, value in parts["transformer"].config.items() if not name.startswith("_")}
    return diffusers.ZImageOmniPipeline(
        **parts | {"transformer": diffusers.ZImageTransformer2DModel(**config | {"siglip_feat_dim": 16})},
        siglip=transformers.Siglip2VisionModel(vision),
        siglip_processor=transformers.Siglip2ImageProcessorPil(patch_size=16, max_num_patches=64),
    )


def instruct(starter: Model) -> Any:
    config = json.loads((starter.folder / "unet/config.json").read_text()) | {"in_channels": 8}
    config.pop("quantization_config", None)
    unet = diffusers.UNet2DConditionModel.from_config(config)
    parts = diffusers.StableDiffusionPipeline.from_pretrained(
        starter.folder, unet=unet, safety_checker=None, dtype=torch.float32
    ).components
    return diffusers.StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)


def instruct_xl(starter: Model) -> Any:
    parts = test_ip_adapters.pipeline("sdxl", starter).components
    config = {name: value for name, value in parts["unet"].config.items() if not name.startswith("_")}
    kept = {name: part for name, part in parts.items() if name not in ("image_encoder", "feature_extractor")}
    return diffusers.StableDiffusionXLInstructPix2PixPipeline(
        **kept | {"unet": diffusers.UNet2DConditionModel(**config | {"in_channels": 8})}, add_watermarker=False
    )


def cosxl_edit(starter: Model) -> Any:
    pipe = instruct_xl(starter)
    pipe.register_modules(scheduler=diffusers.EDMEulerScheduler(prediction_type="v_prediction", sigma_data=1.0))
    return pipe


MAKERS = {
    "flux_kontext": kontext,
    "flux2": klein,
    "flux2_dev": dev,
    "qwen_image_edit": qwen_edit,
    "qwen_image_edit_plus": qwen_edit_plus,
    "z_image_omni": z_image_omni,
    "sd1_instruct": instruct,
    "sdxl_instruct": instruct_xl,
    "cosxl_edit": cosxl_edit,
}
#: Models whose picture has the size of the result.
INSTRUCTED = ("sd1_instruct", "sdxl_instruct", "cosxl_edit")


#: The first tier compares pixels with all pipelines but three, which are nearly others; all else is tried with these.
FEW = pytest.mark.parametrize("tiny", tiers(MAKERS, first=["flux2", "sd1_instruct"]), indirect=True)


@pytest.fixture(scope="module", params=MAKERS)
def tiny(request: pytest.FixtureRequest, starter: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        folder: Path = tmp_path_factory.mktemp("models") / "tiny"
        pipe = MAKERS[request.param](starter)
        pipe.save_pretrained(folder)
        if looks := getattr(pipe, "looks", None):
            looks.save_pretrained(folder / "processor")
    model = read_folder(folder, "tiny", "Tiny")
    assert (model.problem, model.architecture) == ("", request.param)
    return model


@pytest.fixture(autouse=True)
def small_references(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide by 16 the million pixels to which pipelines enlarge each reference, but in slow tests."""
    if request.node.get_closest_marker("slow"):
        return
    sizes = [(width // 4, height // 4) for width, height in pipeline_flux_kontext.PREFERRED_KONTEXT_RESOLUTIONS]
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", sizes)
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        fit = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, fit=fit: fit(area / 16, ratio))


@pytest.fixture
def draw(diffusers_engine: DiffusersEngine, tiny: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch) -> Draw:
    monkeypatch.setattr(
        diffusers_engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    diffusers_engine.load(tiny)
    return Draw(diffusers_engine)


def other_picture(home: Home) -> tuple[str, PIL.Image]:
    picture = PIL.linear_gradient("L").convert("RGB").resize((96, 160))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return home.services.studio.sources.add(file.getvalue()).id, picture


def bare(tiny: Model) -> Any:
    """diffusers' own pipeline of the folder."""
    more = {}
    if tiny.family == "qwen_image":
        looks = transformers.Qwen2VLImageProcessorPil.from_pretrained(tiny.folder / "processor")
        reader = transformers.AutoTokenizer.from_pretrained(tiny.folder / "tokenizer")
        more = {"processor": qwen_image.Processor(looks, reader)}
    if tiny.family == "sd":
        more = {"safety_checker": None}
    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny.folder, dtype=torch.float32, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def their_arguments(tiny: Model, pictures: list[PIL.Image]) -> dict[str, Any]:
    sized = {"width": 128, "height": 96}
    match tiny.architecture:
        case "flux_kontext":
            return sized | {"image": pictures[0], "max_area": 128 * 96, "guidance_scale": 3.0}
        case "qwen_image_edit":
            return sized | {"image": pictures[0], "true_cfg_scale": 3.0, "negative_prompt": " "}
        case "qwen_image_edit_plus":
            return sized | {"image": pictures, "true_cfg_scale": 3.0, "negative_prompt": " "}
        case "sdxl_instruct" | "cosxl_edit":
            return sized | {"image": pictures[0], "image_guidance_scale": 2.0, "guidance_scale": 3.0}
        case "sd1_instruct":
            return {"image": pictures[0].resize((128, 96)), "image_guidance_scale": 2.0, "guidance_scale": 3.0}
    return sized | {"image": pictures, "guidance_scale": 3.0}


def most(tiny: Model) -> int:
    return 1 if tiny.architecture in ("flux_kontext", "qwen_image_edit", *INSTRUCTED) else 2


@pytest.mark.parametrize(
    "tiny",
    tiers(MAKERS, first=[each for each in MAKERS if each not in ("flux2_dev", "qwen_image_edit", "sdxl_instruct")]),
    indirect=True,
)
def test_pixels_are_those_of_diffusers_own_pipeline(
    draw: Draw, tiny: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, picture = other_picture(at_home)
    ids, pictures = [at_home.source, second], [at_home.circle, picture]
    if tiny.architecture in INSTRUCTED:
        wide = at_home.circle.resize((128, 96))
        file = io.BytesIO()
        wide.save(file, "PNG")
        ids, pictures = [at_home.services.studio.sources.add(file.getvalue()).id], [wide]
    ids, pictures = ids[: most(tiny)], pictures[: most(tiny)]
    references = tuple(map(Reference, ids))
    more = {"image_guidance": 2.0} if tiny.architecture in INSTRUCTED else {}
    ours = draw(**JOB, guidance=3.0, references=references, **more).image
    assert draw.steps == [1, 2]
    pipe = bare(tiny)
    if tiny.architecture == "z_image_omni":  # its pipeline encodes references in bf16, whatever the VAE's dtype is
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    if tiny.architecture == "sd1_instruct":
        pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.is_cosxl_edit = tiny.architecture == "cosxl_edit"  # which its folder does not tell
    theirs = pipe(
        prompt="a cat",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(7),
        **their_arguments(tiny, pictures),
    ).images[0]
    assert difference(ours, theirs) <= 1
    if not more:
        without = draw(**JOB, guidance=3.0, references=(Reference(second),)).image
        assert difference(ours, without) > 0


@pytest.mark.slow  # encodes pictures of a million pixels; the test above uses smaller ones
@pytest.mark.parametrize("tiny", ["flux_kontext", "qwen_image_edit", "qwen_image_edit_plus"], indirect=True)
def test_pixels_are_the_same_at_the_true_size_of_references(
    draw: Draw, tiny: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_pixels_are_those_of_diffusers_own_pipeline(draw, tiny, at_home, monkeypatch)


@FEW
def test_the_order_and_the_number_of_pictures_count(draw: Draw, tiny: Model, at_home: Home) -> None:
    if most(tiny) == 1:
        return
    second, _ = other_picture(at_home)
    job = JOB | {"guidance": 3.0}
    both = draw(**job, references=(Reference(at_home.source), Reference(second))).image
    turned = draw(**job, references=(Reference(second), Reference(at_home.source))).image
    one = draw(**job, references=(Reference(at_home.source),)).image
    assert len({each.tobytes() for each in (both, turned, one)}) == 3


@FEW
def test_a_picture_begins_from_another_one_beside_its_references(draw: Draw, tiny: Model, at_home: Home) -> None:
    if Kind.INPAINT not in tiny.kinds:
        return
    wish = {"kind": Kind.INPAINT, "source": at_home.source, "mask": at_home.mask, "strength": 0.8, "height": 128}
    made = draw(**JOB | wish, guidance=3.0, references=(Reference(at_home.source),)).image
    kept = (64, 0, 128, 128)
    assert made.crop(kept).tobytes() == at_home.circle.crop(kept).tobytes()


@pytest.mark.parametrize("tiny", [pytest.param("flux_kontext", marks=pytest.mark.slow), "sd1_instruct"], indirect=True)
def test_pictures_with_references_share_a_pass(draw: Draw, tiny: Model, at_home: Home) -> None:
    check_passes(draw.engine, **JOB | {"steps": 3, "guidance": 3.0, "references": (Reference(at_home.source),)})


@FEW
def test_transparent_parts_of_a_reference_are_white(draw: Draw, tiny: Model, at_home: Home) -> None:
    ids = []
    for ground in ((255, 255, 255, 255), (255, 0, 0, 0)):
        picture = PIL.new("RGBA", (128, 96), ground)
        picture.paste((0, 0, 255, 255), (20, 20, 60, 60))
        file = io.BytesIO()
        picture.save(file, "PNG")
        ids.append(at_home.services.studio.sources.add(file.getvalue()).id)
    one, other = (np.asarray(draw(**JOB, guidance=3.0, references=(Reference(each),)).image) for each in ids)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("tiny", ["sd1_instruct"], indirect=True)
def test_each_tile_of_a_second_pass_is_instructed_by_its_part_of_the_picture(
    draw: Draw, tiny: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[PIL.Image] = []
    own = unet.instructed
    monkeypatch.setattr(
        unet, "instructed", lambda params, pictures: (seen.append(pictures[0]), own(params, pictures))[1]
    )
    tiles = {"hires_scale": 2.0, "hires_tile": 128, "hires_upscaler": "Lanczos", "hires_steps": 1}
    draw(**JOB | {"height": 64}, guidance=3.0, references=(Reference(at_home.source),), **tiles)
    whole = img2img.make_canvas(at_home.circle, (256, 128)).source
    boxes = [(left, 0, left + 128, 128) for left in (0, 64, 128)]
    assert [each.tobytes() for each in seen[1:]] == [whole.crop(box).tobytes() for box in boxes]


@pytest.mark.parametrize("tiny", tiers(["flux_kontext", "sd1_instruct"], first=["sd1_instruct"]), indirect=True)
def test_any_picture_can_be_read_and_a_cancel_leaves_the_model_as_it_was(
    draw: Draw, tiny: Model, at_home: Home
) -> None:
    wish = JOB | {"guidance": 3.0}
    whole = draw(**wish, references=(Reference(at_home.source),)).image
    for mode, size in (("L", (64, 64)), ("RGBA", (64, 512)), ("LA", (512, 64)), ("RGB", (1600, 1200))):
        made = draw(**wish, references=(Reference(at_home.add(PIL.new(mode, size))),))
        assert made.image.size == (128, 96)

    def stop(step: int, preview: Any) -> None:
        raise Stopped("cancel")

    with pytest.raises(Stopped):
        draw.engine.generate(replace(PARAMS, **wish, references=(Reference(at_home.source),)), stop)
    with pytest.raises(ModelUnavailable):
        draw(**wish, references=(Reference("e" * 64),))
    assert draw(**wish, references=(Reference(at_home.source),)).image.tobytes() == whole.tobytes()
