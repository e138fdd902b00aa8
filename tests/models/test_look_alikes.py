"""Files that resemble others: each was taken for another model, called ready, or refused with a wrong reason."""

from pathlib import Path

import pytest

from diffusion_local.models.directories import bundled_configs
from diffusion_local.models.identify import read_file
from diffusion_local.models.known_layers import known_models, unpack
from tests.models.files import read_adapter, read_checkpoint
from tests.models.headers import Tensors, tensors_of, write, write_gguf
from tests.models.test_kinds import tensors_of_class
from tests.models.test_more_kinds import matrices, shapes

BERT = {"encoder.layer.0.attention.self.query.weight": ["F16", [1024, 1024]]}
T5 = {"encoder.block.0.layer.0.SelfAttention.q.weight": ["F16", [4096, 4096]]}


def words(count: int, width: int, name: str = "shared.weight") -> Tensors:
    return {name: ["F16", [count, width]]}


def language(count: int, width: int, mlp: int) -> Tensors:
    return words(count, width, "model.embed_tokens.weight") | {
        "model.layers.0.self_attn.q_proj.weight": ["F16", [4096, width]],
        "model.layers.0.mlp.gate_proj.weight": ["F16", [mlp, width]],
    }


@pytest.mark.parametrize(
    ("tensors", "ready", "part"),
    [
        (words(47020, 1024, "embeddings.word_embeddings.weight") | BERT, True, "bert_hunyuan"),
        (words(250002, 1024, "embeddings.word_embeddings.weight") | BERT, False, "bert"),  # XLM-R
        (words(32128, 4096) | T5, True, "t5_xxl"),
        (words(250112, 4096) | T5, False, "mt5_xxl"),
        (words(256384, 768) | T5, False, "umt5_base"),
        (language(131072, 5120, 32768), True, "mistral_small"),
        (language(131072, 5120, 14336), False, "language_model"),  # Mistral Nemo
        (language(131072, 3072, 9216), True, "ministral_3b"),
        (language(128256, 3072, 8192), False, "language_model"),  # Llama 3.2
        (shapes(text_model__embeddings__token_embedding=[49408, 512], text_model__encoder__layers__0__mlp__fc1=[8, 8]),
            False, "clip_other"),
    ],
)  # fmt: skip
def test_text_encoders_of_other_models_are_not_ready(tensors: Tensors, ready: bool, part: str, tmp_path: Path) -> None:
    found = read_adapter(write(tmp_path / "x.safetensors", tensors), "text_encoder")
    assert (found.ready, found.part) == (ready, part)


@pytest.mark.parametrize(
    ("architecture", "count", "mlp", "sentence"),
    [("llama", 131072, 32768, "Mistral Small"), ("llama", 131072, 14336, "a language model, but none"),
     ("t5encoder", 250112, 4, "a language model, but none")],
)  # fmt: skip
def test_language_models_of_one_width_as_gguf(
    architecture: str, count: int, mlp: int, sentence: str, tmp_path: Path
) -> None:
    width = 4096 if architecture.startswith("t5") else 5120
    tensors = words(count, width, "token_embd.weight") | {"blk.0.ffn_gate.weight": ["F16", [mlp, width]]}
    assert sentence in read_checkpoint(write_gguf(tmp_path / "x.gguf", tensors, architecture), ()).problem


def tiny_unet(width: int, **more: list[int]) -> Tensors:
    return shapes(conv_in=[320, 4, 3, 3], down_blocks__0__resnets__0__conv1=[320, 320, 3, 3],
                  up_blocks__0__resnets__0__conv1=[320, 320, 3, 3],
                  down_blocks__0__attentions__0__transformer_blocks__0__attn2__to_k=[320, width], **more)  # fmt: skip


def with_entrance(model: str, channels: int) -> Tensors:
    return tensors_of_class(model) | {"conv_in.weight": ["F16", [320, channels, 3, 3]]}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (tiny_unet(1280), "text embeddings of width 1280"),  # Latent Diffusion, was the refiner
        (tiny_unet(1280, add_embedding__linear_1=[1280, 2560]), "SDXL refiner"),
        (tensors_of("models/v1-5-pruned-emaonly.safetensors") | shapes(cc_projection=[768, 772]),
            "It is Zero123, which turns objects, a model for 3D"),
        (tiny_unet(768, down_blocks__0__resnets__0__norm1__linear=[768, 1536]), "x2 upscaler of latents"),
        (with_entrance("sd1", 8) | shapes(mid_block__strange=[8, 8]), "has layers that InstructPix2Pix"),
        (shapes(visual_embeddings__in_layer=[2560, 64], text_transformer_blocks__0__x=[8, 8]), "Kandinsky 5 Image"),
        (shapes(visual_embeddings__in_layer=[1792, 132], text_transformer_blocks__0__x=[8, 8]), "a model for video"),
        (shapes(time_embed__t_embedder__linear_1=[8, 8], patch_embed__proj=[8, 8],
            transformer_blocks__0__attn2__to_q=[8, 8]), "It is Cosmos Predict 2"),
        (shapes(decoder__conv_in=[512, 4, 3, 3], decoder__up_blocks__2__x=[8], encoder__conv_in=[128, 3, 3, 3]),
            "the VAE of SD 2's 4x upscaler"),
        (shapes(visual__patch_embedding=[1280, 3, 14, 14], visual__transformer__0__attn__to_qkv=[8, 8])
            | {"visual.cls_embedding": ["F16", [1, 1, 1280]]}, "the image encoder of Wan"),
        ({"head": ["F32", [320, 5, 3, 3]]}, "Fooocus"),
        (shapes(vision_encoder__layers__0__x=[8, 8], mask_decoder__x=[8, 8]), "Segment Anything"),
        (shapes(vit__embeddings__x=[8, 8], classifier=[2, 768]), "classifies or tags"),
        (shapes(class_head__dense0=[8, 8], box_head__dense0=[8, 8]), "finds objects"),
        (shapes(quantizer__layers__0__codebook__x=[8, 8], decoder__layers__0__conv=[8, 8]), "sounds and speech"),
    ],
)  # fmt: skip
def test_look_alikes_are_named(tensors: Tensors, sentence: str, tmp_path: Path) -> None:
    problem = read_checkpoint(write(tmp_path / "x.safetensors", tensors), bundled_configs()).problem
    assert sentence in problem
    assert "move it" not in problem


@pytest.mark.parametrize("model", sorted({each.model for each in known_models() if each.makes}))
def test_every_known_model_that_is_not_run_is_named(model: str, tmp_path: Path) -> None:
    problem = read_checkpoint(write(tmp_path / "x.safetensors", tensors_of_class_of(model)), ()).problem
    assert model.split()[0] in problem or "Wan" in problem  # SkyReels V2 has Wan's layers


def tensors_of_class_of(model: str) -> Tensors:
    known = next(each for each in known_models() if each.model == model)
    return {name: ["BF16", list(shape)] for name, shape in unpack(known.tensors).items()}


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("model", ["hunyuan_dit", "hunyuan_image"])
def test_versions_of_a_model_are_whole(model: str, at: int, tmp_path: Path) -> None:
    """Hunyuan-DiT 1.2 was told to lack layers; HunyuanImage 2.1 distilled to be another model."""
    rows = [each for each in known_models() if (each.model, each.naming) == (model, "diffusers")]
    tensors: Tensors = {name: ["BF16", list(shape)] for name, shape in unpack(rows[at].tensors).items()}
    assert "which also needs" in read_checkpoint(write(tmp_path / "x.safetensors", tensors), ()).problem


def nvfp4(shape: list[int]) -> Tensors:
    return {"weight": ["U8", [shape[0], shape[1] // 2]], "weight_scale": ["F8_E4M3", [shape[0], shape[1] // 16]],
            "weight_scale_2": ["F32", []]}  # fmt: skip


def sdnq(shape: list[int]) -> Tensors:
    return {"weight": ["U8", [shape[0] * shape[1] // 2]], "scale": ["BF16", [shape[0], shape[1] // 32, 1]],
            "zero_point": ["BF16", [shape[0], shape[1] // 32, 1]]}  # fmt: skip


def sdnq_int8(shape: list[int]) -> Tensors:
    return {"weight": ["I8", shape], "scale": ["BF16", [shape[0], 1]]}


def torchao(shape: list[int]) -> Tensors:
    return {"_weight_qdata": ["I8", shape], "_weight_scale": ["BF16", [shape[0]]]}


def mlx(shape: list[int]) -> Tensors:
    return {"weight": ["U32", [shape[0], shape[1] // 8]], "scales": ["BF16", [shape[0], shape[1] // 64]],
            "biases": ["BF16", [shape[0], shape[1] // 64]]}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "form", "title"),
    [
        ("flux2_dev", nvfp4, "FLUX.2 dev in NVFP4"),  # was FLUX.2 klein 4B
        ("flux2_klein_4b", sdnq, "FLUX.2 klein 4B in SDNQ"),
        ("flux2_klein_9b", torchao, "FLUX.2 klein 9B in torchao"),
        ("longcat_image", nvfp4, "LongCat-Image in NVFP4"),  # was Bria 3
        ("qwen_image", sdnq_int8, "Qwen-Image in SDNQ"),  # was ready
        ("flux_dev", sdnq_int8, "FLUX.1 dev in SDNQ"),  # was another model
        ("z_image", mlx, "Z-Image in MLX"),
    ],
)
def test_packed_models_are_told_by_their_unpacked_sizes(model: str, form: object, title: str, tmp_path: Path) -> None:
    tensors = tensors_of_class(model)
    packed = {name: each for name, each in tensors.items() if name not in matrices(tensors)}
    for name in matrices(tensors):
        stem = name.removesuffix("weight")
        packed |= {stem + end: each for end, each in form(tensors[name][1]).items()}  # type: ignore[operator]
    problem = read_checkpoint(write(tmp_path / "x.safetensors", packed), bundled_configs()).problem
    assert f"It is {title}, which cannot be loaded yet" in problem


def test_a_transformer_with_fewer_blocks_is_built_with_them(tmp_path: Path) -> None:
    tensors = {name: each for name, each in tensors_of_class("qwen_image").items() if ".59." not in name}
    probe = read_file(write(tmp_path / "pruned.safetensors", tensors)).probe
    assert dict(probe.sizes)["num_layers"] == 59


@pytest.mark.parametrize("method", ["loha", "lokr"])
@pytest.mark.parametrize("model", ["sd1", "sdxl"])
def test_flattened_kernels_of_adapters_are_layers_of_their_base(model: str, method: str, tmp_path: Path) -> None:
    """LyCORIS stores them so without Tucker factors; the layers were left out."""
    made: Tensors = {}
    for name, (_, shape) in tensors_of_class(model).items():
        if name.endswith(("conv1.weight", "to_k.weight")):
            stem = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            rows, columns = shape[0], shape[1] * (9 if len(shape) == 4 else 1)
            ends = {
                "hada_w1_a": [rows, 4],
                "hada_w1_b": [4, columns],
                "hada_w2_a": [rows, 4],
                "hada_w2_b": [4, columns],
            }
            if method == "lokr":
                ends = {"lokr_w1": [8, 8], "lokr_w2_a": [rows // 8, 4], "lokr_w2_b": [4, columns // 8]}
            made |= {f"{stem}.{end}": ["F16", size] for end, size in ends.items()}
    found = read_adapter(write(tmp_path / "x.safetensors", made), "lora")
    assert (found.ready, found.problem, found.architecture) == (True, "", model)


def test_a_model_of_draw_things_is_named(tmp_path: Path) -> None:
    (tmp_path / "flux_1_dev_q8p.ckpt").write_bytes(b"SQLite format 3\0" + bytes(5000))
    assert "SQLite database, as Draw Things" in read_checkpoint(tmp_path / "flux_1_dev_q8p.ckpt", ()).problem
