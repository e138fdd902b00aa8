"""SD3 and FLUX: models of their architecture with few and random weights draw as diffusers' own pipelines do."""

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from PIL import Image as PIL

from diffusion_local.domain import Kind
from diffusion_local.engine import autoencoder, img2img
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.models.catalog import Model, read_folder
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.passes import check_passes, check_shaping
from tests.support import tiers


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


def vae(channels: int) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def clip(starter: Model, projection: bool) -> Any:
    vocabulary = json.loads((starter.folder / "text_encoder/config.json").read_text())["vocab_size"]
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=16,
        eos_token_id=vocabulary - 1,
    )
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def t5() -> tuple[Any, Any]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), *((sign, -3.0) for sign in "▁abcdefghijklmnopqrstuvwxyz")]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 2)),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )
    config = transformers.T5Config(
        vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return tokenizer, transformers.T5EncoderModel(config)


def sd3(starter: Model) -> Any:
    tokenizer = transformers.CLIPTokenizer.from_pretrained(starter.folder / "tokenizer")
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=64,
        ),
        vae=vae(4),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=clip(starter, True),
        tokenizer=tokenizer,
        text_encoder_2=clip(starter, True),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def flux(starter: Model) -> Any:
    tokenizer_2, text_encoder_2 = t5()
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            axes_dims_rope=[4, 4, 8],
            guidance_embeds=True,
        ),
        vae=vae(4),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=clip(starter, False),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(starter.folder / "tokenizer"),
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
    )


@pytest.fixture(scope="module", params=[sd3, flux], ids=["sd3", "flux"])
def tiny(request: pytest.FixtureRequest, starter: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        folder: Path = tmp_path_factory.mktemp("models") / "tiny"
        request.param(starter).save_pretrained(folder)
    model = read_folder(folder, "tiny", "Tiny")
    assert model.ready, model.problem
    return model


@pytest.fixture
def draw(diffusers_engine: DiffusersEngine, tiny: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch) -> Draw:
    monkeypatch.setattr(
        diffusers_engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    diffusers_engine.load(tiny)
    return Draw(diffusers_engine)


JOB = {"model": "tiny", "sampler": "Euler", "steps": 4, "prompt": "a cat", "guidance": 3.0}


def bare(tiny: Model, kind: str) -> Any:
    auto = {"txt2img": diffusers.AutoPipelineForText2Image, "img2img": diffusers.AutoPipelineForImage2Image}[kind]
    index = json.loads((tiny.folder / "model_index.json").read_text())
    left_out = {name: None for name, spec in index.items() if isinstance(spec, list) and spec[0] is None}
    pipe = auto.from_pretrained(tiny.folder, **left_out)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def difference(one: PIL.Image, other: PIL.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def test_pixels_are_those_of_a_bare_pipeline(draw: Draw, tiny: Model) -> None:
    ours = draw(**JOB, width=128, height=96).image
    assert draw.steps == [1, 2, 3, 4]
    assert all(preview()().size == (128, 96) for preview in draw.previews)
    theirs = bare(tiny, "txt2img")(
        "a cat",
        width=128,
        height=96,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert difference(ours, theirs) <= 1


def test_image_to_image_has_the_pixels_of_diffusers_own_pipeline(draw: Draw, tiny: Model, at_home: Home) -> None:
    ours = draw(**JOB, kind=Kind.IMG2IMG, source=at_home.source, strength=0.5).image
    assert draw.steps == [3, 4]
    pipe = bare(tiny, "img2img")
    with torch.no_grad():
        latents = autoencoder.encode(pipe.vae, img2img.SourceCanvas(at_home.circle).pixels())
    theirs = pipe(
        "a cat",
        image=latents,
        strength=0.5,
        width=128,
        height=128,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert difference(ours, theirs) <= 1


def test_inpainting_keeps_what_the_mask_keeps(draw: Draw, at_home: Home) -> None:
    job = {**JOB, "kind": Kind.INPAINT, "source": at_home.source, "mask": at_home.mask, "strength": 0.8}
    made = draw(**job).image
    kept = (64, 0, 128, 128)
    assert made.crop(kept).tobytes() == at_home.circle.crop(kept).tobytes()
    assert draw(**job).image.tobytes() == made.tobytes()


@pytest.mark.parametrize(("sampler", "schedule"), [("DPM++ 2M", ""), ("UniPC", ""), ("Euler", "Karras")])
def test_the_samplers_of_flow_matching_draw(draw: Draw, sampler: str, schedule: str) -> None:
    assert draw(**JOB | {"sampler": sampler}, schedule=schedule).image.size == (128, 128)


@pytest.mark.parametrize("sampler", tiers(["Euler", "DPM++ 2M", "UniPC"], first=["DPM++ 2M"]))
def test_pictures_share_a_pass_and_continue_bit_for_bit(draw: Draw, sampler: str) -> None:
    check_passes(draw.engine, **JOB | {"sampler": sampler, "steps": 3})


@pytest.mark.slow
def test_pictures_from_others_share_a_pass_and_continue_bit_for_bit(draw: Draw, at_home: Home) -> None:
    source = {"source": at_home.source, "strength": 0.8}
    check_passes(draw.engine, **JOB | source | {"kind": Kind.IMG2IMG, "steps": 4})
    check_passes(draw.engine, **JOB | source | {"kind": Kind.INPAINT, "mask": at_home.mask, "steps": 4})


@pytest.mark.slow
def test_it_makes_a_second_pass_and_paints_within_pictures(draw: Draw, at_home: Home) -> None:
    check_shaping(draw.engine, at_home, **JOB)
