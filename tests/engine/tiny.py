"""Models of many families with few and random weights: the true classes and names, with tiny sizes."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import sentencepiece
import tokenizers
import torch
import transformers
from diffusers.pipelines.kolors import ChatGLMTokenizer, text_encoder

SIGNS = "▁abcdefghijklmnopqrstuvwxyz"
#: Of a language model.
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": len(SIGNS) + 3,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
#: Of the vision model beside it, which no pipeline for text to image calls.
SIGHT = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
#: How a language model of this size turns three position axes: halves of its head.
AXES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def tokenizer() -> Any:
    """One that reads letters, whatever a family's own class is."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), *((sign, -3.0) for sign in SIGNS)]
    reader = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 2))
    reader.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=reader,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )
    found.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return found


def vae(channels: int, **more: Any) -> Any:
    return diffusers.AutoencoderKL(
        **{
            "block_out_channels": (8, 8, 8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": channels,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "shift_factor": 0.06,
            "scaling_factor": 1.5,
        }
        | more
    )


def video_vae(channels: int) -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1 * number for number in range(channels)],
        latents_std=[1.0 + 0.1 * number for number in range(channels)],
    )


def t5(kind: Any = transformers.T5EncoderModel, width: int = 32) -> Any:
    config = transformers.UMT5Config if kind is transformers.UMT5EncoderModel else transformers.T5Config
    return kind(
        config(
            vocab_size=len(SIGNS) + 3,
            d_model=width,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        )
    )


def flow(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


def chroma() -> Any:
    return diffusers.ChromaPipeline(
        transformer=diffusers.ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=16,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
        vae=vae(4),
        scheduler=flow(use_dynamic_shifting=True),
        text_encoder=t5(),
        tokenizer=tokenizer(),
    )


def lumina2() -> Any:
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=16,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(1024, 64, 64),
            cap_feat_dim=16,
        ),
        vae=vae(4),
        scheduler=flow(shift=6.0),
        text_encoder=transformers.Gemma2Model(transformers.Gemma2Config(**SIZES)),
        tokenizer=tokenizer(),
    )


def aura_flow() -> Any:
    return diffusers.AuraFlowPipeline(
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=16,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pos_embed_max_size=256,
        ),
        vae=vae(4, shift_factor=None),
        scheduler=flow(shift=1.73),
        text_encoder=t5(transformers.UMT5EncoderModel),
        tokenizer=tokenizer(),
    )


def cogview4() -> Any:
    return diffusers.CogView4Pipeline(
        transformer=diffusers.CogView4Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=16,
            time_embed_dim=8,
            condition_dim=4,
            rope_axes_dim=(16, 16),
        ),
        vae=vae(4, shift_factor=None),
        scheduler=flow(base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"),
        text_encoder=transformers.GlmModel(transformers.GlmConfig(**SIZES)),
        tokenizer=tokenizer(),
    )


def qwen25_vl() -> Any:
    return transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config=SIZES | {"rope_parameters": AXES}, vision_config=SIGHT, image_token_id=5, video_token_id=6
        )
    )


def qwen_image() -> Any:
    return diffusers.QwenImagePipeline(
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=video_vae(4),
        scheduler=flow(use_dynamic_shifting=True),
        text_encoder=qwen25_vl(),
        tokenizer=tokenizer(),
    )


def krea2() -> Any:
    """Its text is read from several of the encoder's layers."""
    config = transformers.Qwen3VLConfig(
        text_config=SIZES | {"rope_parameters": AXES}, vision_config=SIGHT | {"deepstack_visual_indexes": [0]}
    )
    return diffusers.Krea2Pipeline(
        transformer=diffusers.Krea2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=16,
            text_hidden_dim=16,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=16,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=video_vae(4),
        scheduler=flow(use_dynamic_shifting=True),
        text_encoder=transformers.Qwen3VLModel(config),
        tokenizer=tokenizer(),
        text_encoder_select_layers=(0, 2),
    )


def ernie_image() -> Any:
    return diffusers.ErnieImagePipeline(
        transformer=diffusers.ErnieImageTransformer2DModel(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=1,
            ffn_hidden_size=32,
            in_channels=16,
            out_channels=16,
            text_in_dim=16,
            rope_axes_dim=(4, 6, 6),
        ),
        vae=diffusers.AutoencoderKLFlux2(
            block_out_channels=(8, 8, 8, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4
        ),
        scheduler=flow(shift=3.0),
        text_encoder=mistral(transformers.Mistral3Model, "ministral3"),
        tokenizer=tokenizer(),
    )


def ovis_image() -> Any:
    return diffusers.OvisImagePipeline(
        transformer=diffusers.OvisImageTransformer2DModel(
            in_channels=16,
            out_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=vae(4),
        scheduler=flow(use_dynamic_shifting=True),
        text_encoder=transformers.Qwen3Model(transformers.Qwen3Config(**SIZES)),
        tokenizer=tokenizer(),
    )


def longcat_image() -> Any:
    return diffusers.LongCatImagePipeline(
        transformer=diffusers.LongCatImageTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=[4, 6, 6],
        ),
        vae=vae(16),
        scheduler=flow(use_dynamic_shifting=True),
        text_encoder=qwen25_vl(),
        tokenizer=tokenizer(),
        text_processor=None,
    )


def sentencepiece_model(folder: Path) -> Path:
    """A vocabulary of the kind that ChatGLM's tokenizer reads, of 300 pieces."""
    text = folder / "text.txt"
    text.write_text("\n".join(f"a {sign}{other} cat" for sign in SIGNS[1:] for other in SIGNS[1:]))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=300, byte_fallback=True, minloglevel=2
    )
    return folder / "tokenizer.model"


def chatglm(width: int = 16) -> Any:
    config = text_encoder.ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=320,
        hidden_size=width,
        ffn_hidden_size=32,
        kv_channels=8,
        num_attention_heads=2,
        seq_length=256,
        multi_query_attention=True,
        multi_query_group_num=1,
        add_qkv_bias=True,
        original_rope=True,
    )
    made = text_encoder.ChatGLMModel(config)
    with torch.no_grad():
        for each in made.parameters():  # which are not initialised
            each.normal_(std=0.2)
    return made


def kolors(text: int = 16, cross: int = 24, time: int = 8) -> Any:
    """Widths: ``text`` of the text encoder, ``cross`` of its projection in the UNet, ``time`` of each embedded size."""
    with tempfile.TemporaryDirectory() as folder:
        reader = ChatGLMTokenizer(str(sentencepiece_model(Path(folder))))
        vocabulary = (Path(folder) / "tokenizer.model").read_bytes()
    reader.save_vocabulary = partial(write_vocabulary, vocabulary)
    return diffusers.KolorsPipeline(
        vae=vae(4, shift_factor=None, use_quant_conv=True, use_post_quant_conv=True, layers_per_block=2),
        text_encoder=chatglm(text),
        tokenizer=reader,
        unet=diffusers.UNet2DConditionModel(
            block_out_channels=(16, 32, 32),
            layers_per_block=2,
            sample_size=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=time,
            transformer_layers_per_block=(1, 2, 1),
            projection_class_embeddings_input_dim=text + 6 * time,
            cross_attention_dim=cross,
            encoder_hid_dim=text,
            encoder_hid_dim_type="text_proj",
            norm_num_groups=8,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.014, num_train_timesteps=1100,
            timestep_spacing="leading", steps_offset=1,
        ),
    )  # fmt: skip


def write_vocabulary(content: bytes, folder: str, filename_prefix: str | None = None) -> tuple[str]:
    """As a tokenizer saves its vocabulary, from a file that is gone."""
    target = Path(folder) / "tokenizer.model"
    target.write_bytes(content)
    return (str(target),)


def clip(width: int) -> Any:
    return transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=len(SIGNS) + 3,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=width,
            max_position_embeddings=248,
            eos_token_id=1,
        )
    )


def hidream() -> Any:
    return diffusers.HiDreamImagePipeline(
        transformer=diffusers.HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=[32, 16],
            text_emb_dim=16,
            axes_dims_rope=(8, 4, 4),
            max_resolution=(32, 32),
            llama_layers=[0, 1],
        ),
        vae=vae(4),
        scheduler=flow(shift=3.0),
        text_encoder=clip(8),
        tokenizer=tokenizer(),
        text_encoder_2=clip(8),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5(),
        tokenizer_3=tokenizer(),
        text_encoder_4=transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, attn_implementation="eager")),
        tokenizer_4=tokenizer(),
    )


def flux2_dev() -> Any:
    """Its text is read from three of the encoder's layers, up to the 30th."""
    reader = tokenizer()
    reader.chat_template = "{% for message in messages %}{{ message['content'][0]['text'] }}{% endfor %}"
    return diffusers.Flux2Pipeline(
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
        ),
        vae=diffusers.AutoencoderKLFlux2(
            block_out_channels=(8, 8, 8, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4
        ),
        scheduler=flow(use_dynamic_shifting=True),
        text_encoder=mistral(transformers.Mistral3ForConditionalGeneration, "mistral", 31),
        tokenizer=reader,
    )


def mistral(kind: Any, text: str, layers: int = 2) -> Any:
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return kind(
        transformers.Mistral3Config(
            text_config=SIZES | {"model_type": text, "num_hidden_layers": layers},
            vision_config=sight | {"model_type": "pixtral"},
        )
    )


def hunyuan_dit() -> Any:
    return diffusers.HunyuanDiTPipeline(
        transformer=diffusers.HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            patch_size=2,
            sample_size=32,
            hidden_size=32,
            num_layers=2,
            cross_attention_dim=16,
            cross_attention_dim_t5=32,
            pooled_projection_dim=16,
        ),
        vae=vae(4, shift_factor=None),
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False
        ),
        text_encoder=transformers.BertModel(
            transformers.BertConfig(
                vocab_size=len(SIGNS) + 3,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
            )
        ),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def hunyuan_image() -> Any:
    return diffusers.HunyuanImagePipeline(
        transformer=diffusers.HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=(1, 1),
            text_embed_dim=16,
            text_embed_2_dim=32,
            rope_axes_dim=(8, 8),
        ),
        vae=diffusers.AutoencoderKLHunyuanImage(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 32, 32, 32, 32, 32),
            layers_per_block=1,
            spatial_compression_ratio=32,
            sample_size=128,
            scaling_factor=0.75,
        ),
        scheduler=flow(shift=7.0),
        text_encoder=qwen25_vl(),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(),
        guider=diffusers.AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=1),
    )


#: What makes a pipeline of each family.
MAKERS: dict[str, Callable[[], Any]] = {
    each.__name__: each
    for each in (
        chroma,
        lumina2,
        aura_flow,
        cogview4,
        qwen_image,
        krea2,
        ernie_image,
        ovis_image,
        longcat_image,
        kolors,
        hidream,
        flux2_dev,
        hunyuan_dit,
        hunyuan_image,
    )
}
