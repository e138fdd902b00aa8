"""Parts of models in separate files: text encoders, VAEs, image encoders, add-ons.

Each part has an id, by which ``families`` refer to it, and is recognised by the names and shapes of its tensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from diffusion_local.families.sign import Shape, Sign
from diffusion_local.models.headers import GGUF, Header
from diffusion_local.models.weights import TensorView

TEXT_ENCODER, VAE, VISION = "text_encoder", "vae", "image_encoder"
#: Shared ids of VAEs that differ only in their weights.
LATENTS = {"vae_sd1": "vae_sd", "vae_sdxl": "vae_sd", "vae_flux": "vae_16", "vae_sd3": "vae_16"}
VAE_TITLES = {
    "vae_sd1": "the VAE of SD 1 and SD 2", "vae_sdxl": "the VAE of SDXL", "vae_flux": "the VAE of FLUX.1",
    "vae_sd3": "the VAE of SD 3",
}  # fmt: skip
#: Id of small VAEs for previews, which stand for one of the others and are never taken as a model's own VAE.
TINY = "taesd"
#: Tensors of small VAEs whose second dimension is the number of latent channels.
TINY_ENTRANCES = ("1.weight", "decoder.1.weight", "decoder.layers.0.weight", "taesd_decoder.1.weight")
UMT5_WORDS = 256384
#: Vocabulary sizes that distinguish text encoders from other language models of the same size.
GGUF_WORDS = {"llama31_8b": 128256, "mistral_small": 131072, "t5_xxl": 32128}
#: Widths inside of the MLP that do so too.
GGUF_MLP = {"mistral_small": 32768}
#: Tensor names of parts; the text before one in a file's tensor name is the part's prefix.
ANCHORS = (
    "text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight", "token_embedding.weight",
    "shared.weight", "encoder.embed_tokens.weight", "language_model.embed_tokens.weight", "embed_tokens.weight",
    "embedding.word_embeddings.weight", "embeddings.word_embeddings.weight", "encoder.layers.0.mixer.Wqkv.weight",
)  # fmt: skip
VAE_ANCHORS = (
    "decoder.conv_in.weight", "decoder.conv1.weight", "decoder.conv_in.conv.weight", "vquantizer.codebook.weight",
    "per_channel_statistics.mean-of-means",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A known part.

    ``title`` completes "It is ..."; ``signs`` identify the part by its tensor names without prefix; ``tokenizer``: kind
    of a text encoder's tokenizer, which models share.
    """

    id: str
    kind: str
    title: str
    signs: tuple[Sign, ...]
    gguf: tuple[str, int] | None = None
    tokenizer: str = ""


def sign(*has: str, lacks: tuple[str, ...] = (), **shapes: Shape) -> Sign:
    """A sign with shapes as keyword arguments: tensor names with ``__`` for dots and without ``.weight``."""
    named = {f"{name.replace('__', '.')}.weight": shape for name, shape in shapes.items()}
    return Sign(has=has, lacks=lacks, shapes=named)


def clip(width: int) -> tuple[Sign, ...]:
    return (
        Sign(
            has=("text_model.encoder.layers.0",),
            shapes={"text_model.embeddings.token_embedding.weight": (None, width)},
        ),
        Sign(has=("encoder.layers.0.self_attn",), shapes={"embeddings.token_embedding.weight": (None, width)}),
        Sign(has=("transformer.resblocks.0",), shapes={"token_embedding.weight": (None, width)}),
    )


def t5(words: int | None, width: int) -> tuple[Sign, ...]:
    block = "encoder.block.0.layer.0.SelfAttention"
    return (
        Sign(has=(block,), shapes={"shared.weight": (words, width)}),
        Sign(has=(block,), lacks=("shared",), shapes={"encoder.embed_tokens.weight": (words, width)}),
    )


def language(words: int | None, width: int, *has: str, lacks: tuple[str, ...] = ()) -> tuple[Sign, ...]:
    """Signs of a decoder-only language model, with tensor names ``layers...`` or ``model.layers...``."""
    return (
        Sign(
            has=("layers.0.self_attn.q_proj", *(f"layers.0.{each}" for each in has)),
            lacks=tuple(f"layers.0.{each}" for each in lacks),
            shapes={"embed_tokens.weight": (words, width)},
        ),
    )


QK, BIAS, AFTER = "self_attn.q_norm", "self_attn.q_proj.bias", "post_feedforward_layernorm"
TEXT_ENCODERS = (
    Part("clip_l", TEXT_ENCODER, "CLIP-L", clip(768), tokenizer="clip"),
    Part("clip_l_long", TEXT_ENCODER, "Long-CLIP-L (for longer prompts)", (
        Sign(has=("text_model.encoder.layers.0",),
             shapes={"text_model.embeddings.token_embedding.weight": (None, 768),
                     "text_model.embeddings.position_embedding.weight": (248, 768)}),
        Sign(has=("transformer.resblocks.0",),
             shapes={"token_embedding.weight": (None, 768), "positional_embedding": (248, 768)}),
    )),
    Part("clip_h", TEXT_ENCODER, "OpenCLIP-H", clip(1024), tokenizer="clip"),
    Part("clip_g", TEXT_ENCODER, "CLIP-G", clip(1280), tokenizer="clip"),
    Part("t5_xxl", TEXT_ENCODER, "T5-XXL", t5(None, 4096), ("t5", 4096), "t5"),
    Part("t5_11b", TEXT_ENCODER, "T5 11B (of Cosmos)", (
        Sign(has=("encoder.block.0.layer.0.SelfAttention", "encoder.block.0.layer.1.DenseReluDense.wi"),
             shapes={"shared.weight": (None, 4096)}),
        Sign(has=("encoder.block.0.layer.0.SelfAttention", "encoder.block.0.layer.1.DenseReluDense.wi"),
             shapes={"encoder.embed_tokens.weight": (None, 4096)}),
        Sign(has=("encoder.block.0.layer.0.SelfAttention", "encoder.block.0.layer.1.DenseReluDense.wi"),
             shapes={"encoder.block.0.layer.0.SelfAttention.q.weight": (16384, 1024)}),
    )),
    Part("umt5_xxl", TEXT_ENCODER, "UMT5-XXL", (
        *t5(256384, 4096),
        Sign(has=("blocks.0.attn.q", "blocks.0.ffn.gate"), shapes={"token_embedding.weight": (256384, 4096)}),
    )),
    Part("t5_xl", TEXT_ENCODER, "T5-XL", t5(None, 2048), ("t5", 2048)),
    Part("mt5_xl", TEXT_ENCODER, "mT5-XL", t5(250112, 2048)),
    Part("mt5_xxl", TEXT_ENCODER, "mT5-XXL", t5(250112, 4096)),
    Part("t5_base", TEXT_ENCODER, "T5-Base", t5(None, 768), ("t5", 768), "t5"),
    Part("umt5_base", TEXT_ENCODER, "UMT5-Base (of ACE-Step)", t5(256384, 768)),
    Part("byt5", TEXT_ENCODER, "ByT5", (*t5(384, 1472), *t5(1510, 1472), *t5(None, 1472))),
    Part("qwen3_06b", TEXT_ENCODER, "Qwen3 0.6B", language(None, 1024, QK, lacks=(AFTER,)), ("qwen3", 1024), "qwen"),
    Part("qwen3_17b", TEXT_ENCODER, "Qwen3 1.7B", language(None, 2048, QK, lacks=(AFTER,)), ("qwen3", 2048), "qwen"),
    Part("qwen3_4b", TEXT_ENCODER, "Qwen3 4B", language(None, 2560, QK, lacks=(AFTER,)), ("qwen3", 2560), "qwen"),
    Part("qwen3_8b", TEXT_ENCODER, "Qwen3 8B", language(None, 4096, QK, lacks=(AFTER,)), ("qwen3", 4096), "qwen"),
    Part("qwen3_vl_4b", TEXT_ENCODER, "Qwen3-VL 4B", (
        Sign(has=("language_model.layers.0.self_attn.q_norm", "visual"),
             shapes={"language_model.embed_tokens.weight": (None, 2560)}),
        Sign(has=("layers.0.self_attn.q_norm", "visual"), shapes={"embed_tokens.weight": (None, 2560)}),
    ), ("qwen3vl", 2560), "qwen"),
    Part("qwen3_vl_8b", TEXT_ENCODER, "Qwen3-VL 8B", (
        Sign(has=("language_model.layers.0.self_attn.q_norm", "visual"),
             shapes={"language_model.embed_tokens.weight": (None, 4096)}),
        Sign(has=("layers.0.self_attn.q_norm", "visual"), shapes={"embed_tokens.weight": (None, 4096)}),
    ), ("qwen3vl", 4096), "qwen"),
    Part("qwen25_vl_7b", TEXT_ENCODER, "Qwen2.5-VL 7B", (
        *language(None, 3584, BIAS),
        Sign(has=("language_model.layers.0.self_attn.q_proj.bias",),
             shapes={"language_model.embed_tokens.weight": (None, 3584)}),
    ), ("qwen2vl", 3584), "qwen"),
    Part("qwen25_vl_3b", TEXT_ENCODER, "Qwen2.5-VL 3B", language(None, 2048, BIAS), ("qwen2vl", 2048), "qwen"),
    Part("gemma2_2b", TEXT_ENCODER, "Gemma 2 2B", language(None, 2304, AFTER), ("gemma2", 2304), "gemma2"),
    Part("gemma3_1b", TEXT_ENCODER, "Gemma 3 1B", language(None, 1152, AFTER, QK), ("gemma3", 1152), "gemma3"),
    Part("gemma3_4b", TEXT_ENCODER, "Gemma 3 4B", language(None, 2560, AFTER, QK), ("gemma3", 2560), "gemma3"),
    Part("gemma3_12b", TEXT_ENCODER, "Gemma 3 12B", language(None, 3840, AFTER, QK), ("gemma3", 3840), "gemma3"),
    Part("llama31_8b", TEXT_ENCODER, "Llama 3.1 8B", language(128256, 4096, lacks=(QK, BIAS, AFTER)),
         ("llama", 4096), "llama3"),
    Part("llava_llama3", TEXT_ENCODER, "LLaVA Llama 3 8B", language(128320, 4096, lacks=(QK, BIAS, AFTER))),
    Part("mistral_small", TEXT_ENCODER, "Mistral Small 24B", (
        Sign(has=("layers.0.self_attn.q_proj",),
             shapes={"embed_tokens.weight": (131072, 5120), "layers.0.mlp.gate_proj.weight": (32768, None)}),
    ), ("llama", 5120), "mistral"),
    Part("ministral_3b", TEXT_ENCODER, "Ministral 3B", language(131072, 3072, lacks=(QK, BIAS, AFTER)),
         ("mistral3", 3072)),
    Part("chatglm3_6b", TEXT_ENCODER, "ChatGLM3 6B", (
        sign("encoder.layers.0.self_attention.query_key_value", embedding__word_embeddings=(65024, 4096)),
        sign("encoder.layers.0.self_attention.query_key_value"),
    ), tokenizer="chatglm"),
    Part("bert_hunyuan", TEXT_ENCODER, "the Chinese CLIP of Hunyuan-DiT", (
        sign("encoder.layer.0.attention.self.query", embeddings__word_embeddings=(47020, 1024)),
    )),
    Part("clip_other", TEXT_ENCODER, "a CLIP text encoder of another size", (
        sign("text_model.encoder.layers.0", "text_model.embeddings.token_embedding"),
    )),
    Part("bert", TEXT_ENCODER, "BERT or XLM-R", (
        sign("encoder.layer.0.attention.self.query", "embeddings.word_embeddings"),
    )),
    Part("language_model", TEXT_ENCODER, "a language model", (
        sign("layers.0.self_attn", "embed_tokens"),
        sign("encoder.block.0.layer.0.SelfAttention", "encoder.final_layer_norm"),
    )),
    Part("jina_clip", TEXT_ENCODER, "Jina CLIP", (sign("encoder.layers.0.mixer.Wqkv"),)),
)  # fmt: skip


def kl(channels: int, *has: str, lacks: tuple[str, ...] = ()) -> Sign:
    """Sign of VAEs with Stable Diffusion's architecture and this number of latent channels."""
    return Sign(has=has, lacks=lacks, shapes={"decoder.conv_in.weight": (None, channels, None, None)})


#: VAEs; files with only an encoder or only a decoder also count.
VAES = (
    Part("vae_sd", VAE, "the VAE of Stable Diffusion (SD 1, SD 2 or SDXL)", (kl(4),)),
    Part("vae_16", VAE, "a VAE with 16 channels (FLUX.1 or SD 3)", (kl(16),)),
    Part("vae_x4", VAE, "the VAE of SD 2's 4x upscaler", (
        kl(4, "decoder.up_blocks.2", lacks=("decoder.up_blocks.3",)), kl(4, "decoder.up.2", lacks=("decoder.up.3",)),
    )),
    Part("vae_kvae", VAE, "a KVAE (of Kandinsky)", (kl(16, "decoder.mid.block_1.norm1.norm_layer"),)),
    Part("vae_cogview4", VAE, "the VAE of CogView4", (
        Sign(has=("decoder.conv_in",), shapes={"decoder.conv_in.weight": (1024, 16, None, None)}),
    )),
    Part("vae_svd", VAE, "the VAE of Stable Video Diffusion", (
        kl(4, "decoder.mid_block.resnets.0.spatial_res_block"), kl(4, "decoder.mid.block_1.time_stack"),
    )),
    Part("vae_allegro", VAE, "the VAE of Allegro", (kl(4, "decoder.up_blocks.0.temp_convs"),)),
    Part("vae_asymmetric", VAE, "an asymmetric VAE for inpainting", (kl(4, "decoder.condition_encoder"),)),
    Part("vae_vq", VAE, "a VAE with a codebook (VQ)", (
        Sign(has=("quantize.embedding", "decoder.conv_in", "encoder.conv_in")),
    )),
    Part("vae_half", VAE, "the decoder of a VAE without its encoder", (
        Sign(has=("decoder.conv_in", "decoder.conv_out", "decoder.norm_out"), lacks=("encoder",),
             shapes={"decoder.conv_in.weight": (None, None, None, None)}),
        Sign(has=("decoder.conv_in", "decoder.conv_out", "decoder.conv_norm_out"), lacks=("encoder",),
             shapes={"decoder.conv_in.weight": (None, None, None, None)}),
    )),
    Part("vae_qwen21", VAE, "the VAE of Qwen-Image 2.1", (kl(64, "decoder.mid_block.resnets.0.norm1.gamma"),)),
    Part("vae_flux2", VAE, "the VAE of FLUX.2", (kl(32),)),
    Part("vae_hunyuan_image", VAE, "the VAE of HunyuanImage 2.1", (kl(64), kl(64, lacks=("quant_conv",)))),
    Part("vae_dc", VAE, "the VAE of Sana (DC-AE)", (
        sign("decoder.stages", "encoder.stages"),
        kl(32, "decoder.up_blocks.0.0.conv"),
        kl(32, "decoder.up_blocks.0.0.attn"),
        kl(32, "encoder.down_blocks.0.0.conv1", "decoder.up_blocks.0"),
        kl(128, "decoder.up_blocks.0"),
        kl(512, "decoder.up_blocks.0"),
    )),
    Part("vae_wan21", VAE, "the VAE of Wan 2.1 and Qwen-Image", (
        Sign(has=("decoder.middle.0.residual",), shapes={"decoder.conv1.weight": (None, 16, None, None, None)}),
        Sign(has=("decoder.mid_block.attentions.0.to_qkv",),
             shapes={"decoder.conv_in.weight": (None, 16, None, None, None)}),
    )),
    Part("vae_wan22", VAE, "the VAE of Wan 2.2 5B", (
        Sign(has=("decoder.middle.0.residual",), shapes={"decoder.conv1.weight": (None, 48, None, None, None)}),
        Sign(has=("decoder.mid_block.attentions.0.to_qkv",),
             shapes={"decoder.conv_in.weight": (None, 48, None, None, None)}),
    )),
    Part("vae_hunyuan_video", VAE, "the VAE of HunyuanVideo", (
        Sign(has=("decoder.mid", "post_quant_conv"),
             shapes={"decoder.conv_in.conv.weight": (None, 16, None, None, None)}),
        Sign(has=("decoder.mid_block", "post_quant_conv"),
             shapes={"decoder.conv_in.conv.weight": (None, 16, None, None, None)}),
    )),
    Part("vae_cogvideox", VAE, "the VAE of CogVideoX", (
        Sign(has=("decoder.mid_block.resnets.0.norm1.conv_y",)), Sign(has=("decoder.mid.block_1.norm1.conv_y",)),
    )),
    Part("vae_ltx", VAE, "the VAE of LTX-Video", (
        sign("per_channel_statistics", "decoder.up_blocks.0"),
        Sign(has=("latents_mean", "decoder.conv_in.conv")),
        Sign(has=("decoder.up_blocks.0",), lacks=("decoder.mid_block.resnets.0.norm1",),
             shapes={"decoder.conv_in.conv.weight": (None, 128, None, None, None)}),
    )),
    Part("vae_ltx_audio", VAE, "the audio VAE of LTX-2", (
        Sign(has=("latents_mean", "decoder.mid"), shapes={"decoder.conv_in.conv.weight": (None,) * 4}),
    )),
    Part("vae_mochi", VAE, "the VAE of Mochi", (
        sign("decoder.block_in.resnets.0"), sign("decoder.blocks.0.0", "decoder.output_proj"),
        sign("layers.4.layers.0", "layers.0.0"),
    )),
    Part("stage_a", VAE, "Stable Cascade's stage A, a VAE", (sign("vquantizer.codebook", "in_block.1"),)),
    Part("effnet", VISION, "the image encoder of Stable Cascade", (sign("backbone.1.0.block", "mapper.0"),)),
    Part("consistency_decoder", VAE, "the consistency decoder of SD 1", (
        kl(7), Sign(has=("embed_image", "down.0")), Sign(has=("decoder_unet", "encoder.conv_in")),
    )),
    Part("taehv", VAE, "TAEHV, a small VAE of video models for previews", (
        Sign(has=("decoder.1", "decoder.3.conv.0", "decoder.7.conv", "encoder.0"), lacks=("1",)),
    )),
    Part(TINY, VAE, "TAESD, a small VAE for previews", (
        Sign(has=("1", "3.conv.0"), shapes={"1.weight": (64, None, 3, 3)}),
        Sign(has=("0", "1.conv.0"), shapes={"0.weight": (64, 3, 3, 3)}),
        Sign(has=("decoder.layers.0",), shapes={"decoder.layers.0.weight": (64, None, 3, 3)}),
        Sign(has=("decoder.layers.0", "encoder.layers.0"), shapes={"decoder.layers.0.weight": (64, None, 3, 3)}),
        Sign(has=("decoder.1", "decoder.3.conv.0")),
        Sign(has=("taesd_decoder",)),
    )),
    Part("vae_audio", VAE, "an audio VAE", (
        sign("decoder.block.0.conv_t1.weight_g"), sign("decoder.layers.0.weight_g"),
        sign("decoder.layers.0.weight_v"), sign("vocoder"), sign("dcae.encoder"),
    )),
)  # fmt: skip
VISIONS = (
    Part("siglip", VISION, "SigLIP, an image encoder", (
        Sign(has=("vision_model.embeddings.patch_embedding", "vision_model.head")),
        Sign(has=("embeddings.patch_embedding", "embeddings.position_embedding", "head.probe")),
        Sign(has=("vision_model.embeddings.patch_embedding",), lacks=("vision_model.embeddings.class_embedding",)),
    )),
    Part("clip_vision", VISION, "CLIP vision, an image encoder", (
        sign("vision_model.embeddings.class_embedding", "vision_model.encoder.layers.0"),
        sign("visual.transformer.resblocks.0"),
        sign("embeddings.class_embedding", "pre_layrnorm", "encoder.layers.0"),
    )),
    Part("clip_vision_wan", VISION, "the image encoder of Wan", (
        sign("visual.patch_embedding", "visual.transformer.0", "visual.cls_embedding"),
    )),
    Part("clip_vision_h", VISION, "CLIP vision ViT-H, an image encoder", (
        Sign(has=("vision_model.embeddings.class_embedding", "vision_model.encoder.layers.31"),
             shapes={"vision_model.embeddings.patch_embedding.weight": (1280, 3, 14, 14)}),
    )),
    Part("clip_vision_g", VISION, "CLIP vision ViT-bigG, an image encoder", (
        Sign(has=("vision_model.embeddings.class_embedding", "vision_model.encoder.layers.0"),
             shapes={"vision_model.embeddings.patch_embedding.weight": (1664, 3, 14, 14)}),
    )),
    Part("clip_vision_l", VISION, "CLIP vision ViT-L, an image encoder", (
        Sign(has=("vision_model.embeddings.class_embedding", "vision_model.encoder.layers.0"),
             shapes={"vision_model.embeddings.patch_embedding.weight": (1024, 3, 14, 14)}),
    )),
    Part("eva_clip", VISION, "EVA-CLIP, an image encoder", (sign("visual.blocks.0.attn", "visual.cls_token"),)),
    Part("dino", VISION, "DINO, an image encoder", (
        sign("embeddings.cls_token", "embeddings.register_tokens", "layer.0.attention"),
        sign("embeddings.cls_token", "embeddings.register_tokens", "model.layer.0.attention"),
        sign("embeddings.patch_embeddings.projection", "encoder.layer.0.attention.attention.query"),
        sign("embeddings.patch_embeddings", "encoder.layer.0.norm1"),
        sign("cls_token", "blocks.0.ls1", "patch_embed.proj"),
    )),
)  # fmt: skip
PARTS_BY_ID = {part.id: part for part in (*TEXT_ENCODERS, *VAES, *VISIONS)}


def title_of(part: str) -> str:
    """Display title, such as T5-XXL, or the VAE of FLUX.1."""
    return VAE_TITLES.get(part) or (PARTS_BY_ID[part].title if part in PARTS_BY_ID else part)


def prefixes(header: Header, anchors: tuple[str, ...]) -> Iterator[str]:
    """Prefixes of the parts in a file, each once."""
    seen = set()
    for name in header.tensors:
        if name.endswith(anchors):
            for anchor in anchors:
                before = name.removesuffix(anchor)
                if before != name and (not before or before.endswith(".")) and before not in seen:
                    seen.add(before)  # the prefix before the longest anchor comes first
                    yield before


def best_match(view: TensorView, among: tuple[Part, ...]) -> Part | None:
    """The part with the most specific matching sign, or None."""
    matches = [
        (each.specificity, at, part)
        for at, part in enumerate(among)
        for each in part.signs
        if each.matches(view.names, view.shape)
    ]
    return max(matches, key=lambda each: each[:2])[2] if matches else None


def part_of_gguf(header: Header) -> Part | None:
    """Detect a text encoder in llama.cpp's layout."""
    kind = header.metadata.get("general.architecture", "").removesuffix("encoder")
    shape = header.shape("token_embd.weight")
    width = shape[-1] if shape else 0
    if header.container != GGUF or shape is None:
        return None
    if kind == "t5" and shape[0] == UMT5_WORDS:
        return PARTS_BY_ID["umt5_xxl"]
    kinds = (kind, "llama") if kind == "mistral3" else (kind,)
    found = next((part for each in kinds for part in TEXT_ENCODERS if part.gguf == (each, width)), None)
    part = found.id if found else ""
    mlp = header.shape("blk.0.ffn_gate.weight")
    same = GGUF_WORDS.get(part, shape[0]) == shape[0] and (mlp is None or GGUF_MLP.get(part, mlp[0]) == mlp[0])
    return found if found and same else PARTS_BY_ID["language_model"]
