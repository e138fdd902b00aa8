"""Z-Image and Sana, whose text encoders are language models: tiny ones with random weights draw as diffusers draws."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import tokenizers
import torch
import transformers

from diffusion_local.catalog import Model, read_folder
from diffusion_local.domain import Kind
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.materials import Materials
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.test_flow_families import difference, vae

SIGNS = "▁abcdefghijklmnopqrstuvwxyz"


def tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), *((sign, -3.0) for sign in SIGNS)]
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 2)),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )
    found.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return found


SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": len(SIGNS) + 3,
    "max_position_embeddings": 1024,
}


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


def sana() -> Any:
    blocks, widths, scales = ("ResBlock", "EfficientViTBlock"), (8, 8), ((), (5,))
    return diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(
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
        ),
        vae=diffusers.AutoencoderDC(
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
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=transformers.Gemma2Model(transformers.Gemma2Config(**SIZES)),
        tokenizer=tokenizer(),
    )


MAKERS = {"z_image": z_image, "sana": sana}
JOB = {"model": "tiny", "sampler": "Euler", "steps": 2, "prompt": "a cat", "width": 128, "height": 96}


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
    monkeypatch.setattr(diffusers_engine, "_materials", Materials(at_home.settings))
    diffusers_engine.load(tiny)
    return Draw(diffusers_engine)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_pixels_are_those_of_a_bare_pipeline(draw: Draw, tiny: Model, guidance: float) -> None:
    ours = draw(**JOB, guidance=guidance).image
    assert draw.steps == [1, 2]
    preview = draw.previews[-1]()
    assert preview.width * 96 == preview.height * 128
    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny.folder)
    pipe.set_progress_bar_config(disable=True)
    binning = {"use_resolution_binning": False} if tiny.family == "sana" else {}
    theirs = pipe(
        "a cat",
        width=128,
        height=96,
        num_inference_steps=2,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(7),
        **binning,
    ).images[0]
    assert difference(ours, theirs) <= 1


def test_inpainting_keeps_what_the_mask_keeps(draw: Draw, tiny: Model, at_home: Home) -> None:
    if Kind.INPAINT not in tiny.kinds:
        pytest.skip("this family begins from noise only")
    job = {**JOB, "height": 128, "kind": Kind.INPAINT, "source": at_home.source, "mask": at_home.mask, "strength": 0.8}
    kept = (64, 0, 128, 128)
    assert draw(**job).image.crop(kept).tobytes() == at_home.circle.crop(kept).tobytes()
