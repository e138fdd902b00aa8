"""Files of further kinds are told as what they are: each was called something else, or ready and then failed."""

from pathlib import Path

import pytest

from diffusion_local.models.known_layers import LAYER_NUMBER, known_models, unpack
from tests.models.files import read_adapter, read_checkpoint
from tests.models.headers import Tensors, write, write_gguf


def tensors_of_class(model: str, naming: str = "diffusers") -> Tensors:
    known = next(each for each in known_models() if each.model == model and each.naming == naming)
    return {name: ["BF16", list(shape)] for name, shape in unpack(known.tensors).items()}


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("OmniGen", "It is OmniGen, which is recognised"),  # was Ministral 3B
        ("Latte", "It is Latte, a model for video"),  # was PixArt
        ("Lumina-Next", "It is Lumina-Next, which is recognised"),
        ("Kandinsky 3", "It is Kandinsky 3, which is recognised"),
        ("the prior of Kandinsky 2 and Karlo", "It is the prior of Kandinsky 2"),
        ("Stable Audio", "a model for audio"),
    ],
)
def test_models_that_are_not_run_are_named(tmp_path: Path, model: str, sentence: str) -> None:
    found = read_checkpoint(write(tmp_path / "x.safetensors", tensors_of_class(model)), ())
    assert sentence in found.problem


@pytest.mark.parametrize(("model", "naming"), [("flux_dev", "original"), ("z_image", "diffusers"), ("sd1", "original")])
def test_missing_and_unknown_layers_of_a_denoiser_are_told(tmp_path: Path, model: str, naming: str) -> None:
    whole = tensors_of_class(model, naming)
    missing = next(name for name in reversed(whole) if name.endswith(".weight"))
    fewer = {name: tensor for name, tensor in whole.items() if name != missing}
    more = whole | {"strange_layer.weight": ["BF16", [8, 8]]}
    marked = whole | {"v_pred": ["F32", [0]]}
    files = {
        name: read_checkpoint(write(tmp_path / f"{name}.safetensors", tensors), ())
        for name, tensors in (("whole", whole), ("fewer", fewer), ("more", more), ("marked", marked))
    }
    assert "needs" in files["whole"].problem
    assert "needs" in files["marked"].problem
    assert "without some of its layers" in files["fewer"].problem
    assert missing in files["fewer"].problem or LAYER_NUMBER.sub("#", missing) in files["fewer"].problem
    assert "has layers that" in files["more"].problem
    assert "strange_layer.weight" in files["more"].problem


def test_an_omni_transformer_is_told_from_the_plain_one(tmp_path: Path) -> None:
    """It needs an image encoder that no file beside it holds."""
    tensors = tensors_of_class("z_image", "diffusers")
    more = {"siglip_embedder.0.weight": ["BF16", [1152]], "siglip_embedder.1.weight": ["BF16", [3840, 1152]]}
    found = read_checkpoint(write(tmp_path / "omni.safetensors", tensors | more), ())
    assert "Z-Image Omni" in found.problem
    assert "diffusers folder" in found.problem


def conv(width: int, channels: int, **more: list[int]) -> Tensors:
    names = {
        "encoder.conv_in": [128, 3, 3, 3],
        "decoder.conv_in": [width, channels, 3, 3],
        "decoder.conv_out": [3, 128, 3, 3],
        "decoder.norm_out": [128],
        **{name.replace("__", "."): shape for name, shape in more.items()},
    }
    return {f"{name}.weight": ["F16", shape] for name, shape in names.items()}


VIDEO_VAE = conv(512, 4, decoder__mid__block_1__time_stack__conv=[512, 512, 3, 1, 1])
HALF = {name: tensor for name, tensor in conv(512, 4).items() if not name.startswith("encoder")}


@pytest.mark.parametrize(
    ("kind", "tensors", "sentence"),
    [
        ("vae", VIDEO_VAE, "the VAE of Stable Video Diffusion"),
        ("vae", conv(512, 4, decoder__condition_encoder__layers__0=[8, 3, 3, 3]), "an asymmetric VAE"),
        ("vae", conv(512, 4, decoder__up_blocks__0__temp_convs__1__conv1=[8, 8, 3, 1, 1]), "the VAE of Allegro"),
        ("vae", conv(1024, 16), "the VAE of CogView4"),
        ("vae", conv(512, 4, quantize__embedding=[8192, 4]), "a VAE with a codebook"),
        ("vae", HALF, "the decoder of a VAE without its encoder"),
        ("embedding", {"clip_l": ["F32", [2, 768]], "t5": ["F32", [2, 4096]]}, "for FLUX.1"),
        ("embedding", {"clip_l": ["F32", [2, 768]], "clip_g": ["F32", [2, 1280]], "t5xxl": ["F32", [2, 4096]]}, "SD 3"),
        ("embedding", {"text_encoders_0": ["F32", [2, 768]], "text_encoders_1": ["F32", [2, 1280]]}, "for SDXL"),
        ("control", {"difference": ["F16", [1]], "input_hint_block.0.weight": ["F16", [16, 3, 3, 3]],
                     "zero_convs.0.0.weight": ["F16", [320, 320, 1, 1]]}, "which is recognised but cannot be used"),
        ("control", {"controlnet_cond_embedding.conv_in.weight": ["F16", [16, 3, 3, 3]],
                     "controlnet_down_blocks.0.weight": ["F16", [320, 320, 1, 1]],
                     "down_blocks.0.motion_modules.0.norm.weight": ["F16", [320]]}, "cannot be used yet"),
        ("ip_adapter", {"ip_adapter.1.to_k_ip.weight": ["F16", [640, 2048]],
                        "image_proj.proj_in.weight": ["F16", [1280, 512]]}, "FaceID"),
        ("text_encoder", {"model.embed_tokens.weight": ["F16", [32000, 4096]],
                          "model.layers.0.self_attn.q_proj.weight": ["F16", [4096, 4096]]}, "a language model"),
        ("upscaler", {"params_ema.stylegan_decoder.x.weight": ["F32", [8, 8, 3, 3]]}, "restores faces"),
    ],
)  # fmt: skip
def test_what_is_not_used_is_named(tmp_path: Path, kind: str, tensors: Tensors, sentence: str) -> None:
    found = read_adapter(write(tmp_path / "x.safetensors", tensors), kind)
    assert not found.ready
    assert sentence in found.problem


def test_ip_adapters_for_kolors_are_told_from_those_for_sdxl(tmp_path: Path) -> None:
    tensors: Tensors = {"ip_adapter.1.to_k_ip.weight": ["F16", [640, 2048]],
                        "image_proj.latents": ["F16", [1, 16, 2048]],
                        "image_proj.proj_in.weight": ["F16", [2048, 1024]]}  # fmt: skip
    found = read_adapter(write(tmp_path / "x.safetensors", tensors), "ip_adapter")
    assert (found.problem, found.architecture, found.widths) == ("", "kolors", (1024,))


@pytest.mark.parametrize(
    "tensors",
    [
        {"m_head.0.weight": ["F32", [64, 3, 3, 3]], "m_tail.0.weight": ["F32", [3, 64, 3, 3]]},
        {"intro.weight": ["F32", [32, 3, 3, 3]], "ending.weight": ["F32", [3, 32, 3, 3]], "encoders.0.x": ["F32", [1]]},
        {"gblocks.0.weight": ["F32", [64, 3, 3, 3]], "upsampler.0.weight": ["F32", [48, 64, 3, 3]]},
    ],
)
def test_more_networks_of_spandrel_are_upscalers(tmp_path: Path, tensors: Tensors) -> None:
    assert read_adapter(write(tmp_path / "x.safetensors", tensors), "upscaler").ready


@pytest.mark.parametrize(
    ("architecture", "width", "words", "sentence"),
    [
        ("phi3", 5120, 100352, "a language model, but none"),
        ("llama", 4096, 32768, "a language model, but none"),
        ("llama", 4096, 128256, "It is Llama 3.1 8B"),
    ],
)
def test_language_models_as_gguf(tmp_path: Path, architecture: str, width: int, words: int, sentence: str) -> None:
    tensors: Tensors = {"token_embd.weight": ["F16", [words, width]], "blk.0.attn_q.weight": ["F16", [width, width]]}
    found = read_checkpoint(write_gguf(tmp_path / "x.gguf", tensors, architecture), ())
    assert sentence in found.problem


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (b"\xef\xbb\xbf<!doctype html>", "is a web page"),
        (b"<!-- saved --><html>", "is a web page"),
        (b"Rar!\x1a\x07\x01\x00", "is an archive (RAR)"),
        (b"7z\xbc\xaf\x27\x1c", "is an archive (7z)"),
        (b"\x89PNG\r\n\x1a\n", "another kind of file (PNG)"),
    ],
)
def test_other_files_under_the_name_of_a_model(tmp_path: Path, start: bytes, sentence: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(start + bytes(range(256)) * 40)
    assert sentence in read_checkpoint(path, ()).problem
