"""Writes ``assets/model_layers.json.xz``: the tensors of known denoisers, by which files and LoRAs are identified.

    python scripts/model_layers.py

Names in diffusers' layout come from the classes of the installed diffusers, built on the meta device; names in the
layout of the models' authors come from published files (``tests/models/headers.jsonl.xz``). One line a model.
"""

import json
import lzma
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from diffusion_local.models.known_layers import pack  # noqa: E402
from tests.models.headers import tensors_of  # noqa: E402

TARGET = ROOT / "assets/model_layers.json.xz"
UNET_XL = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "cross_attention_dim": 2048,
    "block_out_channels": [320, 640, 1280], "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"], "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20], "use_linear_projection": True, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
KOLORS = UNET_XL | {
    "encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj", "projection_class_embeddings_input_dim": 5632,
}  # fmt: skip
HIDREAM = {
    "attention_head_dim": 128, "axes_dims_rope": [64, 32, 32], "caption_channels": [4096, 4096], "in_channels": 16,
    "llama_layers": [*range(32), *[31] * 16], "max_resolution": [128, 128], "num_attention_heads": 20,
    "num_layers": 16, "num_single_layers": 32, "num_routed_experts": 4, "num_activated_experts": 2,
    "out_channels": 16, "patch_size": 2, "text_emb_dim": 2048,
}  # fmt: skip
HUNYUAN_DIT = {
    "activation_fn": "gelu-approximate", "attention_head_dim": 88, "cross_attention_dim": 1024, "hidden_size": 1408,
    "cross_attention_dim_t5": 2048, "in_channels": 4, "learn_sigma": True, "mlp_ratio": 4.3637, "num_layers": 40,
    "num_attention_heads": 16, "patch_size": 2, "sample_size": 128, "pooled_projection_dim": 1024, "text_len": 77,
    "text_len_t5": 256,
}  # fmt: skip
PIXART = {"caption_channels": 4096, "sample_size": 128}
OMNIGEN = {
    "rope_scaling": {"long_factor": [1.0] * 48, "short_factor": [1.0] * 48, "type": "su"}, "hidden_size": 3072,
    "num_layers": 32, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 32,
}  # fmt: skip
STAGE_C = {
    "in_channels": 16, "out_channels": 16, "patch_size": 1, "block_out_channels": (2048, 2048),
    "num_attention_heads": (32, 32), "down_num_layers_per_block": (8, 24), "up_num_layers_per_block": (24, 8),
    "down_blocks_repeat_mappers": (1, 1), "up_blocks_repeat_mappers": (1, 1), "clip_text_in_channels": 1280,
    "block_types_per_layer": (("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
    "clip_text_pooled_in_channels": 1280, "clip_image_in_channels": 768, "kernel_size": 3, "switch_level": (False,),
    "timestep_conditioning_type": ("sca", "crp"), "conditioning_dim": 2048, "timestep_ratio_embedding_dim": 64,
}  # fmt: skip
LATTE = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28,
    "cross_attention_dim": 1152, "sample_size": 64, "patch_size": 2, "norm_type": "ada_norm_single",
    "activation_fn": "gelu-approximate", "caption_channels": 4096, "video_length": 16,
}  # fmt: skip
KLEIN_4B = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
KLEIN_9B = {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}
SD35_LARGE = {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm",
              "pos_embed_max_size": 192}  # fmt: skip
SD35_MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "qk_norm": "rms_norm",
               "pos_embed_max_size": 384, "dual_attention_layers": list(range(13))}  # fmt: skip
SD3 = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192}
COGVIEW4 = {"num_layers": 28, "num_attention_heads": 32, "attention_head_dim": 128}
#: By class: what it is (an architecture, or title and product of a model that is not run), and its configuration.
CLASSES: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("FluxTransformer2DModel", "flux_schnell", {}),
    ("FluxTransformer2DModel", "flux_dev", {"guidance_embeds": True}),
    ("Flux2Transformer2DModel", "flux2_dev", {}),
    ("Flux2Transformer2DModel", "flux2_klein_4b", KLEIN_4B | {"guidance_embeds": False}),
    ("Flux2Transformer2DModel", "flux2_klein_9b", KLEIN_9B | {"guidance_embeds": False}),
    ("ChromaTransformer2DModel", "chroma", {}),
    ("SD3Transformer2DModel", "sd3", SD3),
    ("SD3Transformer2DModel", "sd35_large", SD35_LARGE),
    ("SD3Transformer2DModel", "sd35_medium", SD35_MEDIUM),
    ("QwenImageTransformer2DModel", "qwen_image", {}),
    ("QwenImage21Transformer2DModel", "qwen_image21", {}),
    ("ZImageTransformer2DModel", "z_image", {}),
    ("Krea2Transformer2DModel", "krea2", {}),
    ("Lumina2Transformer2DModel", "lumina2", {}),
    ("HiDreamImageTransformer2DModel", "hidream", HIDREAM),
    ("AuraFlowTransformer2DModel", "aura_flow", {}),
    ("ErnieImageTransformer2DModel", "ernie_image", {}),
    ("LongCatImageTransformer2DModel", "longcat_image", {}),
    ("SanaTransformer2DModel", "sana", {}),
    ("PixArtTransformer2DModel", "pixart", PIXART),
    ("PixArtTransformer2DModel", "pixart", PIXART | {"use_additional_conditions": False}),
    ("HunyuanDiT2DModel", "hunyuan_dit", HUNYUAN_DIT),
    ("HunyuanDiT2DModel", "hunyuan_dit", HUNYUAN_DIT | {"use_style_cond_and_image_meta_size": False}),
    ("CogView4Transformer2DModel", "cogview4", COGVIEW4),
    ("OvisImageTransformer2DModel", "ovis_image", {}),
    ("HunyuanImageTransformer2DModel", "hunyuan_image", {}),
    ("HunyuanImageTransformer2DModel", "hunyuan_image", {"guidance_embeds": True, "use_meanflow": True}),
    ("UNet2DConditionModel", "sd1", {"cross_attention_dim": 768}),
    ("UNet2DConditionModel", "sd2", {"cross_attention_dim": 1024, "use_linear_projection": True}),
    ("UNet2DConditionModel", "sdxl", UNET_XL),
    ("UNet2DConditionModel", "kolors", KOLORS),
    ("StableCascadeUNet", "stable_cascade", STAGE_C),
    ("OmniGenTransformer2DModel", "OmniGen/picture", OMNIGEN),
    ("BriaTransformer2DModel", "Bria 3/picture", {}),
    ("BriaFiboTransformer2DModel", "Bria FIBO/picture", {}),
    ("BriaFibo2Transformer2DModel", "Bria FIBO 2/picture", {}),
    ("PRXTransformer2DModel", "PRX/picture", {}),
    ("UVit2DModel", "aMUSEd/picture", {}),
    ("DiTTransformer2DModel", "DiT, which draws classes instead of texts/picture", {}),
    ("AnimaTextConditioner", "the text conditioner of Anima/picture", {}),
    ("Kandinsky6SRTransformer3DModel", "the upscaler of Kandinsky 6/picture", {}),
    ("GlmImageTransformer2DModel", "GLM-Image/picture", {}),
    ("Flux3Transformer2DModel", "FLUX.3/picture", {}),
    ("Ideogram4Transformer2DModel", "Ideogram 4/picture", {}),
    ("NucleusMoEImageTransformer2DModel", "Nucleus-Image/picture", {}),
    ("JoyImageEditTransformer3DModel", "JoyImage Edit/picture", {}),
    ("LuminaNextDiT2DModel", "Lumina-Next/picture", {"num_layers": 24, "num_kv_heads": 8, "cross_attention_dim": 2048}),
    ("PriorTransformer", "the prior of Kandinsky 2 and Karlo/picture", {}),
    ("Kandinsky3UNet", "Kandinsky 3/picture", {}),
    ("CogView3PlusTransformer2DModel", "CogView3-Plus/picture", {}),
    ("Kandinsky5Transformer3DModel", "Kandinsky 5/video", {}),
    ("WanTransformer3DModel", "Wan/video", {}),
    ("WanTransformer3DModel", "Wan/video", {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}),
    ("WanTransformer3DModel", "Wan/video", {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336}),
    ("WanVACETransformer3DModel", "Wan/video", {}),
    ("SkyReelsV2Transformer3DModel", "SkyReels V2/video", {}),
    ("HunyuanVideoTransformer3DModel", "HunyuanVideo/video", {}),
    ("HunyuanVideo15Transformer3DModel", "HunyuanVideo 1.5/video", {}),
    ("LTXVideoTransformer3DModel", "LTX-Video/video", {}),
    ("LTX2VideoTransformer3DModel", "LTX-2/video", {}),
    ("CogVideoXTransformer3DModel", "CogVideoX/video", {}),
    ("CogVideoXTransformer3DModel", "CogVideoX/video", {"num_attention_heads": 48, "num_layers": 42}),
    ("MochiTransformer3DModel", "Mochi/video", {}),
    ("AllegroTransformer3DModel", "Allegro/video", {}),
    ("CosmosTransformer3DModel", "Cosmos 1/video", {}),
    ("LatteTransformer3DModel", "Latte/video", LATTE),
    ("SanaVideoTransformer3DModel", "Sana Video/video", {}),
    ("Kandinsky6Transformer3DModel", "Kandinsky 6/video", {}),
    ("MiniMaxH3Transformer3DModel", "MiniMax H3/video", {}),
    ("MotifVideoTransformer3DModel", "Motif Video/video", {}),
    ("SanaWMTransformer3DModel", "Sana WM/video", {}),
    ("Cosmos3OmniTransformer", "Cosmos 3/video", {}),
    ("StableAudioDiTModel", "Stable Audio/audio", {}),
    ("StableAudio3DiTModel", "Stable Audio 3/audio", {}),
    ("LongCatAudioDiTTransformer", "LongCat AudioDiT/audio", {}),
    ("MiniMaxMusic3Transformer1DModel", "MiniMax Music/audio", {}),
)
#: Published files in the layout of the models' authors.
FILES = (
    ("flux1-dev", "flux_dev"), ("flux1-schnell", "flux_schnell"), ("flux2_dev_fp8mixed", "flux2_dev"),
    ("flux-2-klein-4b", "flux2_klein_4b"), ("chroma1-hd", "chroma"), ("sd3_medium", "sd3"),
    ("sd3.5_large", "sd35_large"), ("sd3.5_medium", "sd35_medium"), ("z_image_turbo_bf16", "z_image"),
    ("aura_flow_0.3", "aura_flow"),
    ("hunyuan_dit_1.2", "hunyuan_dit"), ("stable_cascade_stage_c", "stable_cascade"),
    ("v1-5-pruned-emaonly", "sd1"), ("v2-1_768-ema-pruned", "sd2"), ("sd_xl_base_1.0", "sdxl"),
    ("omnigen2_fp16", "OmniGen 2/picture"),
    ("wan2.1_t2v_1.3B_fp16", "Wan/video"), ("wan2.2_t2v_high_noise_14B_fp8_scaled", "Wan/video"),
    ("wan2.2_ti2v_5B_fp16", "Wan/video"), ("hunyuan_video_t2v_720p_bf16", "HunyuanVideo/video"),
    ("ltxv-2b-0.9.6-dev", "LTX-Video/video"),
)  # fmt: skip
PREFIXES = ("model.diffusion_model.", "model.")
Shapes = dict[str, tuple[int, ...]]


def shapes_of_class(name: str, config: Mapping[str, Any]) -> Shapes:
    import diffusers
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=True):
        model = getattr(diffusers, name)(**config)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def shapes_of_file(stem: str) -> Shapes:
    """Of a denoiser's tensors, without what describes their quantisation."""
    tensors = {name: tuple(shape) for name, (_, shape) in tensors_of(f"models/{stem}.safetensors").items()}
    prefix = next((each for each in PREFIXES if any(name.startswith(each) for name in tensors)), "")
    inside = {name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}
    aids = (".scale_weight", ".scale_input", ".weight_scale", ".input_scale", ".comfy_quant")
    return {name: shape for name, shape in inside.items() if "." in name and not name.endswith(aids)}


def line(what: str, naming: str, source: str, shapes: Shapes) -> str:
    title, _, makes = what.partition("/")
    row = {"model": title, "makes": makes, "naming": naming, "source": source, "tensors": pack(shapes)}
    return json.dumps(row, separators=(",", ":"))


def lines() -> Iterator[str]:
    for name, what, config in CLASSES:
        yield line(what, "diffusers", name, shapes_of_class(name, config))
    for stem, what in FILES:
        yield line(what, "original", f"{stem}.safetensors", shapes_of_file(stem))


def main() -> None:
    """Write the file; builds 55 models without their weights."""
    TARGET.write_bytes(lzma.compress(("\n".join(lines()) + "\n").encode(), preset=9))


if __name__ == "__main__":
    main()
