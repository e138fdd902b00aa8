"""Families whose text encoders are language models, or T5: tiny ones with random weights draw as diffusers draws."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PIL

from diffusion_local import families
from diffusion_local.domain import Kind
from diffusion_local.engine import autoencoder, img2img, loading
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.families import FAMILIES
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.models.catalog import Model, read_folder
from tests.engine import tiny as models
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.passes import check_alone, check_passes, check_shaping
from tests.engine.test_flow_families import difference, t5
from tests.engine.tiny import SIZES, tokenizer, vae
from tests.support import tiers


def z_image() -> Any:
    return diffusers.ZImagePipeline(
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[1024, 32, 32],
        ),
        vae=vae(4),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=transformers.Qwen3Model(transformers.Qwen3Config(**SIZES)),
        tokenizer=tokenizer(),
    )


def dc_ae() -> Any:
    blocks, widths, scales = ("ResBlock", "EfficientViTBlock"), (8, 8), ((), (5,))
    return diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )


def sana_transformer(**more: Any) -> Any:
    return diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        sample_size=32,
        **more,
    )


def sana() -> Any:
    return diffusers.SanaPipeline(
        transformer=sana_transformer(),
        vae=dc_ae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=transformers.Gemma2Model(transformers.Gemma2Config(**SIZES)),
        tokenizer=tokenizer(),
    )


def sana_sprint() -> Any:
    return diffusers.SanaSprintPipeline(
        transformer=sana_transformer(guidance_embeds=True, qk_norm="rms_norm_across_heads"),
        vae=dc_ae(),
        scheduler=diffusers.SCMScheduler(),
        text_encoder=transformers.Gemma2Model(transformers.Gemma2Config(**SIZES)),
        tokenizer=tokenizer(),
    )


def flux2() -> Any:
    """Undistilled, as its base model is. Its text is read from three of the encoder's layers, up to the 27th."""
    return diffusers.Flux2KleinPipeline(
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        vae=diffusers.AutoencoderKLFlux2(
            block_out_channels=(8, 8, 8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES | {"num_hidden_layers": 28})),
        tokenizer=tokenizer(),
    )


def pixart() -> Any:
    reads, encoder = t5()
    return diffusers.PixArtSigmaPipeline(
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=32,
            cross_attention_dim=32,
        ),
        vae=vae(4),
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_schedule="linear"),
        text_encoder=encoder,
        tokenizer=reads,
    )


MAKERS = {"z_image": z_image, "sana": sana, "sana_sprint": sana_sprint, "flux2": flux2, "pixart": pixart}
MAKERS |= models.MAKERS
#: Families whose models are drawn by test_diffusers_engine, test_sdxl and test_flow_families.
DRAWN_ELSEWHERE = {"sd", "sdxl", "sd3", "flux"}


def test_every_family_is_drawn_by_a_test() -> None:
    assert set(FAMILIES) - set(MAKERS) == DRAWN_ELSEWHERE


#: The first tier draws once with every family; all else with a video VAE, one encoder, several, and a sampler of SD.
FEW = pytest.mark.parametrize("tiny", tiers(MAKERS, first=["qwen_image", "flux2", "hidream", "pixart"]), indirect=True)

JOB = {"model": "tiny", "steps": 2, "prompt": "a cat", "width": 128, "height": 96}


@pytest.fixture(scope="module", params=MAKERS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        folder: Path = tmp_path_factory.mktemp("models") / "tiny"
        MAKERS[request.param]().save_pretrained(folder)
    model = read_folder(folder, "tiny", "Tiny")
    assert (model.problem, model.family) == ("", request.param)
    return model


@pytest.fixture
def draw(diffusers_engine: DiffusersEngine, tiny: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch) -> Draw:
    monkeypatch.setattr(
        diffusers_engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    diffusers_engine.load(tiny)
    return Draw(diffusers_engine)


def job(model: Model, **more: Any) -> dict[str, Any]:
    """With the sampler that the family's own scheduler is."""
    own = {"sana_sprint": "SCM", "pixart": "DPM++ 2M", "hunyuan_dit": "DDPM"}
    return JOB | {"sampler": own.get(model.family, "Euler")} | more


def reference(family: str, pipe: Any, guidance: float) -> dict[str, Any]:
    """Further arguments of diffusers' own pipeline, which is prepared for this strength of guidance."""
    match family:
        case "qwen_image":
            return {"true_cfg_scale": guidance, "negative_prompt": " "}
        case "hidream":  # so that the size stays as it is, as below
            pipe.default_sample_size = (128 * 96) ** 0.5 / 8 + 1e-6
        case "hunyuan_image":
            pipe.guider = pipe.guider.new(guidance_scale=guidance) if guidance > 1 else None
            return {}
        case "longcat_image":
            return {"guidance_scale": guidance, "enable_prompt_rewrite": False}
        case "sana" | "sana_sprint" | "pixart" | "hunyuan_dit":
            return {"guidance_scale": guidance, "use_resolution_binning": False}
    return {"guidance_scale": guidance}


@pytest.mark.parametrize("guidance", tiers([0.0, 3.0], first=[3.0]))
def test_pixels_are_those_of_a_bare_pipeline(draw: Draw, tiny: Model, guidance: float) -> None:
    ours = draw(**job(tiny, guidance=guidance)).image
    assert draw.steps == [1, 2]
    preview = draw.previews[-1]()()
    assert preview.width * 96 == preview.height * 128
    left_out = {"text_processor": None} if tiny.family == "longcat_image" else {}
    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny.folder, **left_out)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        prompt="a cat",
        width=128,
        height=96,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(7),
        **reference(tiny.family, pipe, guidance),
    ).images[0]
    assert difference(ours, theirs) <= 1


@FEW
def test_inpainting_keeps_what_the_mask_keeps(draw: Draw, tiny: Model, at_home: Home) -> None:
    wish = {"kind": Kind.INPAINT, "source": at_home.source, "mask": at_home.mask, "strength": 0.8}
    kept = (64, 0, 128, 128)
    assert draw(**job(tiny, height=128, **wish)).image.crop(kept).tobytes() == at_home.circle.crop(kept).tobytes()


@FEW
def test_image_to_image_comes_nearer_to_the_source_with_less_strength(draw: Draw, tiny: Model, at_home: Home) -> None:
    """The last steps of many: what is left of the source is what the VAE, here a random one, makes of it."""
    loaded = draw.engine._loaded  # type: ignore[attr-defined]
    with torch.no_grad():
        latents = autoencoder.encode(loaded.pipe.vae, img2img.SourceCanvas(at_home.circle).pixels())
        copy, _ = autoencoder.decode(loaded.pipe.vae, latents, lambda: None)
    wish = {"kind": Kind.IMG2IMG, "source": at_home.source, "height": 128, "steps": 10}
    weak, strong = (mean_difference(draw(**job(tiny, strength=s, **wish)).image, copy) for s in (0.1, 1.0))
    assert weak < strong


def mean_difference(one: PIL.Image, other: PIL.Image) -> float:
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).mean())


def test_what_a_family_packs_it_unpacks(draw: Draw, tiny: Model, at_home: Home) -> None:
    loaded = draw.engine._loaded  # type: ignore[attr-defined]
    pipe, family, pixels = loaded.pipe, loaded.family, img2img.SourceCanvas(at_home.circle).pixels()
    with torch.no_grad():
        latents, known = family.encode(pipe, pixels), autoencoder.encode(pipe.vae, pixels)
    assert tuple(latents.shape) == family.latent_shape(pipe, 128, 128)
    assert torch.allclose(family.unpack(pipe, 128, 128)(family.pack(pipe, latents)), latents)
    assert torch.allclose(family.to_vae_latents(pipe)(latents), known, atol=1e-5)


@pytest.mark.parametrize("mark", tiers(["bf16", "fp16"], first=["fp16"]))
def test_weights_that_are_there_in_half_precision_only_are_loaded(
    diffusers_engine: DiffusersEngine, tmp_path: Path, mark: str
) -> None:
    sana().save_pretrained(tmp_path / "tiny", variant=mark)
    assert not list(tmp_path.glob("tiny/transformer/diffusion_pytorch_model.safetensors"))
    diffusers_engine.load(read_folder(tmp_path / "tiny", "tiny", "Tiny"))
    assert Draw(diffusers_engine)(**JOB, sampler="Euler").image.size == (128, 96)


def test_the_form_of_weights_follows_the_numbers_they_run_in(tmp_path: Path) -> None:
    def chosen(*names: str) -> list[str | None]:
        for name in names:
            (tmp_path / f"{name}.safetensors").touch()
        return [loading.variant(tmp_path, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]

    assert chosen("model.bf16-00001-of-00002") == ["bf16"] * 3
    assert chosen("model.fp16") == ["fp16", "fp16", "bf16"]
    assert chosen("model") == [None, "fp16", "bf16"]


@pytest.mark.parametrize("tiny", ["sana_sprint"], indirect=True)
def test_sprint_begins_from_a_picture_as_diffusers_own_pipeline_does(draw: Draw, tiny: Model, at_home: Home) -> None:
    wish = {"kind": Kind.IMG2IMG, "source": at_home.source, "height": 128, "steps": 4, "guidance": 4.5}
    ours = draw(**job(tiny, strength=0.5, **wish)).image
    assert draw.steps == [3, 4]
    pipe = diffusers.SanaSprintImg2ImgPipeline.from_pretrained(tiny.folder)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        prompt="a cat",
        image=at_home.circle,
        strength=0.5,
        width=128,
        height=128,
        num_inference_steps=4,
        intermediate_timesteps=None,
        guidance_scale=4.5,
        generator=torch.Generator().manual_seed(7),
        use_resolution_binning=False,
    ).images[0]
    assert difference(ours, theirs) <= 1


@pytest.mark.parametrize("tiny", ["pixart"], indirect=True)
@pytest.mark.parametrize("sampler", tiers(["Heun", "Euler a", "UniPC", "DDIM"], first=["Heun", "DDIM"]))
def test_pixart_takes_the_samplers_of_sd(draw: Draw, at_home: Home, sampler: str) -> None:
    wish = {"sampler": sampler, "height": 128, "kind": Kind.INPAINT, "source": at_home.source, "mask": at_home.mask}
    assert draw(**JOB | wish, strength=0.5).image.size == (128, 128)
    assert draw.steps == [2]


@pytest.mark.parametrize("tiny", tiers(MAKERS, first=["qwen_image", "pixart"]), indirect=True)
def test_every_sampler_of_a_family_draws(draw: Draw, tiny: Model, at_home: Home) -> None:
    wish = {"kind": Kind.IMG2IMG, "source": at_home.source, "height": 128, "strength": 0.6, "steps": 4}
    for sampler in families.get(tiny.family).sampling.samplers:
        assert draw(**job(tiny, **wish) | {"sampler": sampler}).image.size == (128, 128)
        assert draw.steps == [3, 4]


@pytest.mark.parametrize("tiny", tiers(MAKERS, first=["qwen_image", "hidream", "pixart"]), indirect=True)
def test_pictures_share_a_pass_and_continue_bit_for_bit(draw: Draw, tiny: Model) -> None:
    check = check_passes if FAMILIES[tiny.family].together else check_alone
    check(draw.engine, **job(tiny, steps=3))


@pytest.mark.slow
def test_it_makes_a_second_pass_and_paints_within_pictures(draw: Draw, tiny: Model, at_home: Home) -> None:
    check_shaping(draw.engine, at_home, **job(tiny))
