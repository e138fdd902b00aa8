"""ControlNets: the pixels of diffusers' own ControlNet pipelines, in every family; passes, files, what is refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import numpy as np
import pytest
import torch
from PIL import Image as PIL
from safetensors.torch import save_file

from diffusion_local.domain import Kind
from diffusion_local.engine import control_forms, control_nets, controls, img2img, preprocessors, samplers
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.home_files import parameters_in
from diffusion_local.engine.hooked import UnmatchedLayer
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.loops import Loop
from diffusion_local.engine.preprocessors import control_picture
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.catalog import Model, read_folder
from diffusion_local.options.types import Control, ControlType
from scripts.starter.control_evaluation import overlap
from tests.engine import test_flow_families as flow
from tests.engine import test_language_families as language
from tests.engine import tiny as small
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.passes import check_passes
from tests.engine.test_sdxl import tiny as tiny_sdxl  # noqa: F401 - a fixture
from tests.models.headers import tensors_of
from tests.support import tiers

JOB: dict[str, Any] = {"model": "tiny", "sampler": "Euler", "steps": 4, "prompt": "a cat", "guidance": 3.0}


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@dataclass(frozen=True)
class Case:
    """A family: its tiny pipeline, a ControlNet for its denoiser, and diffusers' pipeline with both."""

    pipeline: Callable[[Model], Any] | None
    control: Callable[[Any], Any]
    theirs: Callable[[dict[str, Any], Any], Any]
    image: str = "control_image"
    scale: str = "controlnet_conditioning_scale"
    more: tuple[tuple[str, Any], ...] = ()


def unet_control(unet: Any) -> Any:
    return diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 16))


def union_control(unet: Any) -> Any:
    config = control_nets.of_unet({}, unet.config) | {"num_control_type": 6, "num_trans_channel": 16,
        "num_trans_head": 2, "num_proj_channel": 16, "conditioning_embedding_out_channels": (8, 8, 8, 16)}  # fmt: skip
    return diffusers.ControlNetUnionModel.from_config(config)


def flux_control(transformer: Any) -> Any:
    return diffusers.FluxControlNetModel.from_config(dict(transformer.config) | {"num_layers": 1, "num_mode": 5})


def single_flux_control(transformer: Any) -> Any:
    return diffusers.FluxControlNetModel.from_config(dict(transformer.config) | {"num_layers": 1})


def t2i_adapter(unet: Any) -> Any:
    return diffusers.T2IAdapter(channels=list(unet.config.block_out_channels), num_res_blocks=1)


def sd3_control(transformer: Any) -> Any:
    return diffusers.SD3ControlNetModel.from_config(dict(transformer.config) | {"num_layers": 1})


def two_layered_sd3(starter: Model) -> Any:
    """The last layer takes no residuals."""
    pipe = flow.sd3(starter)
    pipe.register_modules(
        transformer=type(pipe.transformer).from_config(dict(pipe.transformer.config) | {"num_layers": 2})
    )
    return pipe


def qwen_control(transformer: Any) -> Any:
    return diffusers.QwenImageControlNetModel.from_config(dict(transformer.config) | {"num_layers": 1})


def z_image_control(transformer: Any) -> Any:
    config = {name: transformer.config[name] for name in ("all_patch_size", "all_f_patch_size", "dim",
        "n_refiner_layers", "n_heads", "n_kv_heads", "norm_eps", "qk_norm")}  # fmt: skip
    return diffusers.ZImageControlNetModel(**config, control_layers_places=[0], control_refiner_layers_places=[],
        control_in_dim=transformer.config.in_channels)  # fmt: skip


def parts(components: dict[str, Any], *left_out: str) -> dict[str, Any]:
    return {name: part for name, part in components.items() if name not in left_out}


CASES = {
    "sd": Case(
        None, unet_control,
        lambda each, net: diffusers.StableDiffusionControlNetPipeline(
            **parts(each, "image_encoder"), controlnet=net, requires_safety_checker=False
        ), image="image",
    ),
    "sdxl": Case(
        None, unet_control,
        lambda each, net: diffusers.StableDiffusionXLControlNetPipeline(
            **parts(each, "image_encoder"), controlnet=net, add_watermarker=False
        ), image="image",
    ),
    "union": Case(
        None, union_control,
        lambda each, net: diffusers.StableDiffusionXLControlNetUnionPipeline(
            **parts(each, "image_encoder"), controlnet=net, add_watermarker=False
        ), more=(("control_mode", [3]),),
    ),
    "flux": Case(
        flow.flux, flux_control,
        lambda each, net: diffusers.FluxControlNetPipeline(**parts(each, "image_encoder", "feature_extractor"),
        controlnet=net), more=(("control_mode", 0),),
    ),
    "flux_single": Case(
        flow.flux, single_flux_control,
        lambda each, net: diffusers.FluxControlNetPipeline(**parts(each, "image_encoder", "feature_extractor"),
        controlnet=net),
    ),
    "t2i_adapter": Case(
        None, t2i_adapter,
        lambda each, net: diffusers.StableDiffusionAdapterPipeline(
            **parts(each, "image_encoder"), adapter=net, requires_safety_checker=False
        ), image="image", scale="adapter_conditioning_scale",
    ),
    "sd3": Case(
        two_layered_sd3, sd3_control,
        lambda each, net: diffusers.StableDiffusion3ControlNetPipeline(
            **parts(each, "image_encoder", "feature_extractor"), controlnet=net
        ),
    ),
    "qwen_image": Case(
        lambda starter: small.qwen_image(), qwen_control,
        lambda each, net: diffusers.QwenImageControlNetPipeline(**each, controlnet=net),
    ),
    "z_image": Case(
        lambda starter: language.z_image(), z_image_control,
        lambda each, net: diffusers.ZImageControlNetPipeline(**each, controlnet=net),
    ),
}  # fmt: skip


#: The first tier compares pixels with a UNet and a transformer and two more of their controls, and has one of both in
#: all other tests; controls of SD 3 and of Z-Image are drawn by the tests of masks.
FIRST = ["sdxl", "union", "flux", "qwen_image"]
EACH = pytest.mark.parametrize("case", tiers(CASES, first=FIRST), indirect=True)
FEW = pytest.mark.parametrize("case", tiers(CASES, first=["sdxl"]), indirect=True)
FEW_TRANSFORMERS = pytest.mark.parametrize("case", tiers(CASES, first=["flux"]), indirect=True)


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tiny(case: str, starter: Model, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    if case in ("sd", "t2i_adapter"):
        return starter
    make = CASES[case].pipeline
    if make is None:
        found: Model = request.getfixturevalue("tiny_sdxl")
        return found
    with torch.random.fork_rng():
        torch.manual_seed(0)
        folder: Path = tmp_path_factory.mktemp("models") / "tiny"
        make(starter).save_pretrained(folder)
    return read_folder(folder, "tiny", "Tiny")


@pytest.fixture
def draw(diffusers_engine: DiffusersEngine, tiny: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch) -> Draw:
    materials = PictureInputs(at_home.settings, at_home.services.files.open_source)
    monkeypatch.setattr(diffusers_engine, "_materials", materials)
    # what diffusers draws from the VAE's posterior is its mode here, so that equal seeds give equal pictures
    gaussian = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(gaussian, "sample", lambda self, generator=None: self.mode())
    diffusers_engine.load(tiny)
    return Draw(diffusers_engine)


@pytest.fixture
def net(draw: Draw, case: str, at_home: Home) -> Any:
    """A ControlNet with random weights, as a diffusers folder in the home."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = CASES[case].control(denoiser(draw))
        for parameter in made.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    made.save_pretrained(at_home.settings.controlnet / "mine")
    if case == "z_image":
        made = made.from_transformer(made, denoiser(draw))
    return made.eval()


def denoiser(draw: Draw) -> Any:
    pipe = draw.engine._loaded.pipe  # type: ignore[attr-defined]
    return getattr(pipe, "unet", None) or pipe.transformer


def job(tiny: Model, **more: Any) -> dict[str, Any]:
    return JOB | {"model": tiny.id, "width": 128, "height": 128} | more


def control(home: Home, **more: Any) -> Control:
    return Control(home.source, ControlType.CANNY, "mine", **more)


def theirs(draw: Draw, case: str, net: Any, picture: PIL.Image, **more: Any) -> PIL.Image:
    pipe = draw.engine._loaded.pipe  # type: ignore[attr-defined]
    own = CASES[case].theirs(pipe.components, net)
    own.scheduler = samplers.scheduler("Euler", dict(draw.engine._loaded.scheduler_config), "")  # type: ignore[attr-defined]
    own.set_progress_bar_config(disable=True)
    scale = {"true_cfg_scale": 3.0} if case == "qwen_image" else {"guidance_scale": 3.0}
    if case == "qwen_image":
        more |= {"negative_prompt": " "}
    picture = [picture] if case == "union" else picture
    found: PIL.Image = own("a cat", **{CASES[case].image: picture}, width=128, height=128, num_inference_steps=4,
        generator=torch.Generator().manual_seed(7), **scale, **dict(CASES[case].more), **more).images[0]  # fmt: skip
    return found


def difference(one: PIL.Image, other: PIL.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@EACH
def test_pixels_are_those_of_diffusers_own_pipeline(
    draw: Draw, tiny: Model, net: Any, case: str, at_home: Home
) -> None:
    edges = control_picture(at_home.circle, "canny", (128, 128))
    plain = draw(**job(tiny)).image
    ours = draw(**job(tiny), controls=(control(at_home, weight=0.8),)).image
    assert difference(ours, theirs(draw, case, net, edges, **{CASES[case].scale: 0.8})) <= 1
    assert difference(ours, plain) > 3
    if case not in ("z_image", "t2i_adapter"):  # whose pipelines have no start and end
        ours = draw(**job(tiny), controls=(control(at_home, start=0.2, end=0.8),)).image
        span = {"control_guidance_start": 0.2, "control_guidance_end": 0.8, "controlnet_conditioning_scale": 1.0}
        assert difference(ours, theirs(draw, case, net, edges, **span)) <= 1
    assert draw(**job(tiny)).image.tobytes() == plain.tobytes()


@FEW
def test_a_single_file_without_configuration_draws_the_same(
    draw: Draw, tiny: Model, net: Any, case: str, at_home: Home
) -> None:
    if case == "union":
        pytest.skip("its transformer has one published size")
    first = draw(**job(tiny), controls=(control(at_home),)).image
    folder = at_home.settings.controlnet
    (folder / "mine/diffusion_pytorch_model.safetensors").rename(folder / "flat.safetensors")
    assert draw(**job(tiny), controls=(replace(control(at_home), model="flat"),)).image.tobytes() == first.tobytes()


@FEW_TRANSFORMERS
def test_passes_are_shared_and_continue_bit_for_bit(
    draw: Draw, tiny: Model, net: Any, case: str, at_home: Home
) -> None:
    if case in ("qwen_image", "union"):
        pytest.skip("pictures of this family have passes of their own, or it is tested with sdxl")
    check_passes(draw.engine, **job(tiny, controls=(control(at_home, start=0.2),)))


@FEW
def test_several_controls_add_up(draw: Draw, tiny: Model, net: Any, at_home: Home) -> None:
    half = draw(**job(tiny), controls=(control(at_home, weight=0.5), control(at_home, weight=0.5))).image
    assert difference(half, draw(**job(tiny), controls=(control(at_home),)).image) <= 2
    assert difference(half, draw(**job(tiny), controls=(control(at_home, weight=0.5),)).image) > 2


@FEW_TRANSFORMERS
def test_other_kinds_of_work_are_steered_too(draw: Draw, tiny: Model, net: Any, at_home: Home) -> None:
    for more in (
        {"kind": Kind.IMG2IMG, "strength": 0.8},
        {"kind": Kind.INPAINT, "strength": 0.8, "mask": at_home.mask},
    ):
        wish = job(tiny, source=at_home.source, **more)
        assert difference(draw(**wish).image, draw(**wish, controls=(control(at_home),)).image) > 3


#: diffusers' pipelines whose ControlNets read a mask beside the picture, and the configuration of these.
MASKED = {
    "sd3": ("StableDiffusion3ControlNetInpaintingPipeline", {"extra_conditioning_channels": 1}),
    "qwen_image": ("QwenImageControlNetInpaintPipeline", {"extra_condition_channels": 4}),
}


@pytest.mark.parametrize("case", tiers(MASKED, first=["sd3"]), indirect=True)
def test_a_control_that_reads_a_mask_sees_what_it_sees_in_diffusers(
    draw: Draw, tiny: Model, case: str, at_home: Home
) -> None:
    name, more = MASKED[case]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = {**denoiser(draw).config, "num_layers": 1} | more
        kind = {"sd3": diffusers.SD3ControlNetModel, "qwen_image": diffusers.QwenImageControlNetModel}[case]
        net = kind.from_config(config)
        for parameter in net.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    net.save_pretrained(at_home.settings.controlnet / "mine")
    plain = draw(**inpainting(tiny, at_home)).image
    made = draw(**inpainting(tiny, at_home), controls=(Control(at_home.source, ControlType.INPAINT, "mine"),)).image
    assert difference(made, plain) > 3
    loaded = draw.engine._loaded  # type: ignore[attr-defined]
    form = control_forms.FORMS[type(denoiser(draw)).__name__]
    seen = form.see(loaded, loaded.controls["mine"][1], at_home.circle, at_home.left)
    left_out = ("image_encoder", "feature_extractor")
    own = getattr(diffusers, name)(**parts(loaded.pipe.components, *left_out), controlnet=net)
    expected = own.prepare_image_with_mask(
        at_home.circle, at_home.left, 128, 128, 1, 1, torch.device("cpu"), torch.float32
    )
    assert torch.allclose(seen, expected.reshape(seen.shape), atol=1e-5)
    with pytest.raises(ModelUnavailable, match="control type inpaint"):
        draw(**inpainting(tiny, at_home), controls=(control(at_home),))


@pytest.mark.parametrize("case", ["z_image"], indirect=True)
def test_z_images_control_for_inpainting_reads_the_mask_and_the_picture_as_in_diffusers(
    draw: Draw, tiny: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers' pipeline also reads a control picture, which is left out here: its channels come first."""
    channels = denoiser(draw).config.in_channels
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = dict(z_image_control(denoiser(draw)).config) | {"control_in_dim": 2 * channels + 1}
        net = diffusers.ZImageControlNetModel.from_config(config)
        for parameter in net.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    net.save_pretrained(at_home.settings.controlnet / "mine")
    plain = draw(**inpainting(tiny, at_home)).image
    wish = inpainting(tiny, at_home) | {"controls": (Control(at_home.source, ControlType.INPAINT, "mine"),)}
    assert difference(draw(**wish).image, plain) > 3
    loaded = draw.engine._loaded  # type: ignore[attr-defined]
    held = loaded.controls["mine"][1]
    [ours] = control_forms.FORMS[type(denoiser(draw)).__name__].see(loaded, held, at_home.circle, at_home.left)
    read = list[torch.Tensor]()
    forward = held.forward
    monkeypatch.setattr(held, "forward", lambda *given, **named: read.append(given[3][0]) or forward(*given, **named))
    own = diffusers.ZImageControlNetInpaintPipeline(**loaded.pipe.components, controlnet=held)
    own.set_progress_bar_config(disable=True)
    own("a cat", image=at_home.circle, mask_image=at_home.left, control_image=at_home.circle, width=128, height=128,
        num_inference_steps=1)  # fmt: skip
    assert torch.allclose(ours[channels:], read[0][channels:], atol=1e-5)
    assert not ours[:channels].any()


def inpainting(tiny: Model, home: Home) -> dict[str, Any]:
    return job(tiny, kind=Kind.INPAINT, source=home.source, mask=home.mask, strength=1.0)


@FEW
def test_a_control_for_inpainting_does_not_see_what_is_painted(
    draw: Draw, tiny: Model, net: Any, case: str, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The half under the mask may hold anything."""
    name, seen = type(denoiser(draw)).__name__, list[torch.Tensor]()
    form = control_forms.FORMS[name]
    noted = replace(form, see=lambda *value: seen.append(form.see(*value)) or seen[-1])
    monkeypatch.setitem(control_forms.FORMS, name, noted)
    other = at_home.circle.copy()
    other.paste("red", (0, 0, 64, 128))
    wish = inpainting(tiny, at_home)
    unlike = wish | {"source": at_home.add(other)}
    for each in (wish, unlike):
        made = draw(**each, controls=(Control(each["source"], ControlType.INPAINT, "mine", mode="canny"),)).image
    assert torch.equal(*seen)
    assert difference(made, draw(**unlike).image) > 3


@pytest.mark.parametrize("case", ["sd"], indirect=True)
class TestFiles:
    def test_one_for_other_widths_is_refused_by_name(self, draw: Draw, tiny: Model, at_home: Home) -> None:
        other = diffusers.ControlNetModel(block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
            cross_attention_dim=256)  # fmt: skip
        other.save_pretrained(at_home.settings.controlnet / "mine")
        with pytest.raises(ModelUnavailable, match="'mine' does not fit"):
            draw(**job(tiny), controls=(control(at_home),))
        assert draw(**job(tiny)).image.size == (128, 128)

    def test_a_missing_and_a_damaged_one_are_named(self, draw: Draw, tiny: Model, net: Any, at_home: Home) -> None:
        with pytest.raises(ModelUnavailable, match="gone"):
            draw(**job(tiny), controls=(replace(control(at_home), model="gone"),))
        path = at_home.settings.controlnet / "mine/diffusion_pytorch_model.safetensors"
        weights = {
            "controlnet_cond_embedding.conv_in.weight": torch.zeros(3),
            "controlnet_down_blocks.0.bias": torch.zeros(1),
        }
        save_file(weights, path)
        with pytest.raises(ModelUnavailable, match="mine"):
            draw(**job(tiny), controls=(control(at_home),))

    def test_the_control_is_in_the_facts(self, draw: Draw, tiny: Model, net: Any, at_home: Home) -> None:
        facts = draw(**job(tiny), controls=(control(at_home),)).facts
        assert len(facts["control_hashes"]["mine"]) == 10


SD15 = {"down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768, "attention_head_dim": 8}  # fmt: skip
SDXL = {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True, "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}  # fmt: skip


def rest_of_ldm() -> dict[str, torch.Tensor]:
    """The tensors that the stored header of SD 1.5's leaves out."""
    hint = ((3, 16), (16, 16), (16, 32), (32, 32), (32, 96), (96, 96), (96, 256), (256, 320))
    zero = (320,) * 4 + (640,) * 3 + (1280,) * 5
    shapes: dict[str, tuple[int, ...]] = {}
    for at, (reads, writes) in enumerate(hint):
        shapes[f"input_hint_block.{2 * at}.weight"] = (writes, reads, 3, 3)
        shapes[f"input_hint_block.{2 * at}.bias"] = (writes,)
    for name, width in [*((f"zero_convs.{at}.0", each) for at, each in enumerate(zero)), ("middle_block_out.0", 1280)]:
        shapes |= {f"{name}.weight": (width, width, 1, 1), f"{name}.bias": (width,)}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("file", "unet"),
    [
        ("parts/control_v11p_sd15_lineart_fp16.safetensors", SD15),
        ("parts/diffusers_xl_canny_full.safetensors", SDXL),
        ("parts/controlnet-union-sdxl-promax.safetensors", SDXL),
    ],
)
def test_published_names_and_shapes_are_loaded(
    file: str, unet: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {name: torch.empty(shape, device="meta") for name, (_, shape) in tensors_of(file).items()}
    if "time_embed.0.weight" in published:
        published |= rest_of_ldm()
    monkeypatch.setattr(control_nets, "read", lambda path: published)
    with accelerate.init_empty_weights():
        model = diffusers.UNet2DConditionModel(**unet, up_block_types=[each.replace("Down", "Up") for each in
            reversed(unet["down_block_types"])])  # fmt: skip
    net = control_nets.load(Path("nowhere"), model, torch.float16)
    assert sum(each.numel() for each in net.parameters()) == sum(each.numel() for each in published.values())


def test_published_flux_union_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    file = "parts/FLUX.1-dev-ControlNet-Union-Pro-2.0.safetensors"
    published = {name: torch.empty(shape, device="meta") for name, (_, shape) in tensors_of(file).items()}
    monkeypatch.setattr(control_nets, "read", lambda path: published)
    with accelerate.init_empty_weights():
        transformer = diffusers.FluxTransformer2DModel(guidance_embeds=True)
    net = control_nets.load(Path("nowhere"), transformer, torch.bfloat16)
    assert sum(each.numel() for each in net.parameters()) == sum(each.numel() for each in published.values())
    with pytest.raises(UnmatchedLayer):
        control_nets.load(Path("nowhere"), torch.nn.Linear(1, 1), torch.float32)


def test_a_configuration_beside_a_file_counts_only_for_its_own_kind(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"some": "other"}))
    assert control_nets.config_beside(tmp_path / "x.safetensors") == {}


@pytest.mark.parametrize("case", ["sdxl"], indirect=True)
def test_a_second_pass_sees_control_pictures_of_its_own_size(
    draw: Draw, tiny: Model, net: Any, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    see = control_forms.FORMS["UNet2DConditionModel"].see

    def noted(loaded: Any, net: Any, picture: PIL.Image, mask: PIL.Image | None) -> Any:
        sizes.append(picture.size)
        return see(loaded, net, picture, mask)

    form = replace(control_forms.FORMS["UNet2DConditionModel"], see=noted)
    monkeypatch.setitem(control_forms.FORMS, "UNet2DConditionModel", form)
    second = {"hires_scale": 2.0, "hires_strength": 0.5, "hires_upscaler": "Lanczos", "hires_steps": 1, "steps": 1}
    made = draw(**job(tiny) | second, controls=(control(at_home),)).image
    assert made.size == (256, 256)
    assert sizes == [(128, 128), (256, 256)]
    tiles = second | {"hires_tile": 128}
    sizes.clear()
    assert draw(**job(tiny) | tiles, controls=(control(at_home),)).image.size == (256, 256)
    assert sizes[0] == (128, 128)
    assert set(sizes[1:]) == {(128, 128)}
    assert len(sizes) > 4


@pytest.mark.parametrize("case", ["sd"], indirect=True)
def test_where_only_the_masked_area_is_painted_the_control_is_that_part(
    draw: Draw, tiny: Model, net: Any, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    see = control_forms.FORMS["UNet2DConditionModel"].see
    form = replace(
        control_forms.FORMS["UNet2DConditionModel"], see=lambda *options: seen.append(options[2]) or see(*options)
    )
    monkeypatch.setitem(control_forms.FORMS, "UNet2DConditionModel", form)
    corner = PIL.new("L", (128, 128), 0)
    corner.paste(255, (0, 0, 32, 32))
    wish = job(tiny, kind=Kind.INPAINT, strength=0.8, source=at_home.source, mask=at_home.add(corner))
    draw(
        **wish, inpaint_area="Only masked", mask_padding=8, controls=(replace(control(at_home), type=ControlType.NONE),)
    )
    assert seen[0].size == (128, 128)
    blue = np.asarray(at_home.circle)[0, 0]
    assert (np.abs(np.asarray(seen[0]).astype(int) - blue) < 3).mean() > 0.9  # the corner, without most of the circle


def test_a_file_in_full_precision_counts_by_its_parameters(at_home: Home) -> None:
    """The memory plan multiplies them by the bytes of the numbers that they are loaded in."""
    materials = PictureInputs(at_home.settings, at_home.services.files.open_source)
    folder = at_home.settings.controlnet
    for name, dtype in (("half", torch.float16), ("full", torch.float32)):
        save_file({"controlnet_cond_embedding.conv_in.weight": torch.zeros(16, 3, 3, 3, dtype=dtype)},
            folder / f"{name}.safetensors")  # fmt: skip
        assert parameters_in(partial(materials.control, name)) == 16 * 27
        (folder / f"{name}.safetensors").unlink()


def test_what_a_model_made_at_the_submit_is_scaled_and_cut(at_home: Home) -> None:
    """Another machine need not have the preprocessor's model."""
    ramp = PIL.linear_gradient("L").resize((64, 64)).convert("RGB")
    depth = replace(control(at_home), type=ControlType.DEPTH, seen=at_home.add(ramp))
    materials = PictureInputs(at_home.settings, at_home.services.files.open_source)
    params = at_home.services.catalog.complete("x", {"seed": 1, "width": 128, "height": 128})

    def seen(box: tuple[int, int, int, int] | None, area: img2img.Area | None = None) -> np.ndarray:
        loop = Loop(params, 0, 0, 0, (128, 128), box)
        return np.asarray(controls.picture_of(depth, materials, loop, area))[:, 0, 0]

    whole = seen(None)
    assert (len(whole), whole[0] < 5, whole[-1] > 250) == (128, True, True)
    assert np.array_equal(seen((0, 64, 128, 128)), whole[64:])
    plain = PIL.new("RGB", (64, 64))
    lower = seen(None, img2img.Area(plain, plain.convert("L"), (0, 32, 32, 64)))
    assert np.abs(lower.astype(int) - np.linspace(128, 255, 128)).max() < 6


@pytest.mark.slow  # of what it is made, the tests of pixels draw more cheaply
@pytest.mark.parametrize("compared", [False, True])
def test_the_starters_own_control_works_out_of_the_box(
    diffusers_engine: DiffusersEngine, trained: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch, compared: bool
) -> None:
    """A picture follows the edges of another one, moved to where the model would not draw it by itself.

    ``compared``: with what it draws by itself; the other picture is then one of its own too.
    """
    diffusers_engine.load(trained)
    materials = PictureInputs(at_home.settings, at_home.services.files.open_source)
    monkeypatch.setattr(diffusers_engine, "_materials", materials)

    def made(seed: int, **more: Any) -> PIL.Image:
        params = at_home.services.catalog.complete("a red apple", {"seed": seed, "steps": 8, **more})
        return diffusers_engine.generate(params, lambda *_: None).image

    apple = made(1) if compared else at_home.circle.resize((256, 256))
    moved = PIL.new("RGB", apple.size, apple.getpixel((2, 2)))  # type: ignore[arg-type]
    moved.paste(apple.resize((150, 150)), (8, 90))
    requested = preprocessors.canny(np.asarray(moved))[..., 0] > 0

    def found(**more: Any) -> float:
        edges = preprocessors.canny(np.asarray(made(5, **more)))[..., 0] > 0
        return float(overlap(requested[None], edges[None])[0])

    assert found(controls=[{"image": at_home.add(moved), "type": "canny"}]) > 0.7
    assert not compared or found() < 0.5
