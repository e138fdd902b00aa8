"""Further kinds of published files: what each is, and whether and where it can be used."""

import json
import zipfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffusion_local import families
from diffusion_local.engine.tensors import read_mapped
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.assembly import Pool
from diffusion_local.models.description import READY, ModelFacts
from diffusion_local.models.directories import bundled_configs
from diffusion_local.models.headers import PICKLE
from diffusion_local.models.identify import read_file
from tests.models.files import read_adapter, read_checkpoint
from tests.models.headers import Tensors, tensors_of, write, write_gguf
from tests.models.test_kinds import tensors_of_class

SDXL, FLUX = "models/sd_xl_base_1.0.safetensors", "models/flux1-dev.safetensors"
UNET = "model.diffusion_model."


def listed(folder: Path, tensors: Tensors, name: str = "x.safetensors") -> ModelFacts:
    return read_checkpoint(write(folder / name, tensors), bundled_configs())


def adapter(folder: Path, kind: str, tensors: Tensors, name: str = "x.safetensors") -> Adapter:
    return read_adapter(write(folder / name, tensors), kind)


def shapes(**named: list[int]) -> Tensors:
    """Tensors in fp16 by name, with ``__`` for dots and without ``.weight``."""
    return {f"{name.replace('__', '.')}.weight": ["F16", shape] for name, shape in named.items()}


def entrance(tensors: Tensors, channels: int) -> Tensors:
    """A UNet with another number of input channels."""
    first = next(name for name in tensors if name.endswith(("input_blocks.0.0.weight", "conv_in.weight")))
    return tensors | {first: ["F16", [320, channels, 3, 3]]}


def matrices(tensors: Tensors) -> list[str]:
    return [name for name, (_, shape) in tensors.items() if len(shape) == 2 and name.endswith(".weight")]


EDM: Tensors = {"edm_vpred.sigma_max": ["F32", []], "edm_vpred.sigma_min": ["F32", []]}


@pytest.mark.parametrize(
    ("marks", "architecture", "scheduler"), [({}, "sdxl_instruct", ""), (EDM, "cosxl_edit", "EDMEulerScheduler")]
)
def test_sdxl_that_reads_a_picture_changes_it(
    marks: Tensors, architecture: str, scheduler: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.safetensors", entrance(tensors_of(SDXL), 8) | marks)
    found = read_checkpoint(path, bundled_configs())
    assert (found.state, found.problem, found.architecture) == ("ready", "", architecture)
    assert found.changes["unet/config.json"] == {"in_channels": 8}
    assert found.scheduler.get("_class_name", "") == scheduler
    assert families.needs_reference(architecture)


@pytest.mark.parametrize(
    ("name", "made", "sentence"),
    [
        ("iclight_sd15_fc", lambda: entrance(tensors_of_class("sd1"), 8), "It is IC-Light"),
        ("iclight_sd15_fbc", lambda: entrance(tensors_of_class("sd1"), 12), "It is IC-Light"),
        ("marigold", lambda: entrance(tensors_of_class("sd2"), 8), "estimates depth or normals"),
        ("flex2", lambda: tensors_of(FLUX) | {"img_in.weight": ["BF16", [3072, 196]]}, "It is Flex.2"),
        ("step1x", lambda: tensors_of(FLUX) | {"connector.S.0.weight": ["BF16", [8, 8]]}, "It is Step1X-Edit"),
        ("layered", lambda: tensors_of("models/qwen_image_bf16.safetensors")
            | {"time_text_embed.addition_t_embedding.weight": ["BF16", [2, 3072]]}, "It is Qwen-Image Layered"),
        ("bagel", lambda: shapes(vae2llm=[8, 8], llm2vae=[8, 8], language_model__model__embed_tokens=[152064, 3584],
            language_model__model__layers__0__self_attn__q_proj=[3584, 3584]), "It is BAGEL"),
        ("hunyuan3", lambda: shapes(patch_embed__model__0=[8, 32, 3, 3], timestep_emb__mlp__0=[8, 8]),
            "It is HunyuanImage 3"),
        ("janus", lambda: shapes(gen_vision_model__quantize__embedding=[16384, 8]), "It is Janus"),
        ("if", lambda: shapes(conv_in=[704, 3, 3, 3], encoder_hid_proj=[2816, 4096], add_embedding__norm1=[4096],
            down_blocks__0__resnets__0__conv1=[8, 8, 3, 3], up_blocks__0__resnets__0__conv1=[8, 8, 3, 3]),
            "It is DeepFloyd IF"),
        ("kandinsky", lambda: shapes(conv_in=[384, 4, 3, 3], encoder_hid_proj__image_embeds=[24576, 1280],
            down_blocks__0__resnets__0__conv1=[8, 8, 3, 3], up_blocks__0__resnets__0__conv1=[8, 8, 3, 3]),
            "It is Kandinsky 2"),
        ("pixart", lambda: shapes(x_embedder__proj=[1152, 4, 2, 2], y_embedder__y_proj__fc1=[1152, 4096],
            t_block__1=[6912, 1152], blocks__0__cross_attn__kv_linear=[2304, 1152]), "It is PixArt"),
        ("supir", lambda: {f"model.control_model.{name}": each for name, each in shapes(
            input_blocks__0__0=[320, 4, 3, 3], input_hint_block__0=[320, 4, 3, 3], time_embed__0=[8, 8]).items()}
            | shapes(model__diffusion_model__project_modules__0__mlp=[8, 8]), "It is SUPIR"),
        ("brushnet", lambda: shapes(brushnet_down_blocks__0=[320, 320, 1, 1], conv_in=[320, 4, 3, 3],
            down_blocks__0__resnets__0__conv1=[8, 8, 3, 3], up_blocks__0__resnets__0__conv1=[8, 8, 3, 3]),
            "It is a BrushNet"),
        ("safety", lambda: {"concept_embeds": ["F32", [17, 768]], "special_care_embeds": ["F32", [3, 768]]}, "safety"),
        ("sam3", lambda: {"tracker.sam_mask_decoder.iou_token.weight": ["F32", [1, 256]]}, "selects objects"),
        ("midas", lambda: shapes(scratch__layer1_rn=[256, 256, 3, 3]), "estimates depth"),
        ("hed", lambda: shapes(block1__convs__0=[64, 3, 3, 3], block1__projection=[1, 64, 1, 1]), "lines or poses"),
        ("openpose", lambda: shapes(conv5_5_CPM_L1=[38, 512, 1, 1]), "lines or poses"),
        ("u2net", lambda: shapes(stage1__rebnconvin__conv_s1=[64, 3, 3, 3]), "cuts out objects"),
        ("blip", lambda: shapes(text_decoder__bert__embeddings__word_embeddings=[30524, 768]), "describes pictures"),
        ("faces", lambda: shapes(module__ClassHead__0__conv1x1=[4, 8, 1, 1], module__BboxHead__0__conv1x1=[8, 8, 1, 1]),
            "finds faces"),
        ("rating", lambda: shapes(layers__0=[1024, 768], layers__2=[128, 1024], layers__7=[1, 16]), "rates pictures"),
        ("audio", lambda: shapes(audio_input_proj__0=[448, 20], clip_input_proj__0=[448, 1024],
            joint_blocks__0__latent_block__attn__qkv=[1344, 448]), "a model for audio"),
    ],
)  # fmt: skip
def test_models_and_networks_are_named(name: str, made: Callable[[], Tensors], sentence: str, tmp_path: Path) -> None:
    found = listed(tmp_path, made(), f"{name}.safetensors")
    assert sentence in found.problem
    assert "move it" not in found.problem


T5 = "encoder.block.0.layer.0.SelfAttention"
CLIP = "text_model.embeddings.token_embedding.weight"
VISION = {
    "vision_model.embeddings.class_embedding": ["F16", [1024]],
    "vision_model.embeddings.patch_embedding.weight": ["F16", [1024, 3, 14, 14]],
    "vision_model.encoder.layers.0.mlp.fc1.weight": ["F16", [4096, 1024]],
    "visual_projection.weight": ["F16", [768, 1024]],
}


@pytest.mark.parametrize(
    ("kind", "tensors", "sentence"),
    [
        ("text_encoder", {"shared.weight": ["F16", [32128, 4096]], f"{T5}.q.weight": ["F16", [4096, 4096]],
                          "encoder.block.0.layer.1.DenseReluDense.wi.weight": ["F16", [16384, 4096]]}, "It is T5 11B"),
        ("text_encoder", {CLIP: ["F16", [49408, 768]],
                          "text_model.embeddings.position_embedding.weight": ["F16", [248, 768]],
                          "text_model.encoder.layers.0.mlp.fc1.weight": ["F16", [3072, 768]]}, "It is Long-CLIP-L"),
        ("text_encoder", {"model.language_model.embed_tokens.weight": ["BF16", [262208, 3840]],
                          "model.language_model.layers.0.self_attn.q_proj.weight": ["BF16", [4096, 3840]],
                          "model.language_model.layers.0.self_attn.q_norm.weight": ["BF16", [256]],
                          "model.language_model.layers.0.post_feedforward_layernorm.weight": ["BF16", [3840]]},
         "It is Gemma 3 12B"),
        ("text_encoder", {"shared.weight": ["BF16", [32128, 4096]], f"{T5}.q.qweight": ["I16", [1024, 4096]],
                          f"{T5}.q.scaled_zeros": ["BF16", [32, 4096]]}, "It is T5-XXL in AWQ"),
        ("image_encoder", {"visual.cls_token": ["F16", [1, 1, 1024]], "visual.blocks.0.attn.q.weight": ["F16", [8, 8]],
                           "text.token_embedding.weight": ["F16", [49408, 768]],
                           "text.transformer.resblocks.0.attn.in_proj_weight": ["F16", [2304, 768]]}, "It is EVA-CLIP"),
        ("ip_adapter", {"image_proj.proj.0.weight": ["F16", [2304, 1152]],
                        "image_proj.proj.2.weight": ["F16", [524288, 2304]],
                        **{f"ip_adapter.{n}.to_k_ip.weight": ["F16", [3072, 4096]] for n in (0, 1)}},
         "It is an IP-Adapter for FLUX.1, which"),
        ("ip_adapter", {"image_proj.proj_in.weight": ["F16", [1280, 1152]],
                        "image_proj.time_embedding.linear_1.weight": ["F16", [1280, 320]],
                        **{f"ip_adapter.{n}.to_k_ip.weight": ["F16", [2432, 2432]] for n in (0, 1)}},
         "It is an IP-Adapter for SD 3, which"),
        ("control", shapes(controlnet_x_embedder=[3072, 68], x_embedder=[3072, 64], controlnet_blocks__0=[3072, 3072],
                           transformer_blocks__0__attn__to_q=[3072, 3072], context_embedder=[3072, 4096]),
         "It is a ControlNet for inpainting for FLUX.1, which"),
        ("control", shapes(pos_embed_input__proj=[2432, 17, 2, 2], controlnet_blocks__0=[2432, 2432],
                           transformer_blocks__0__attn__qkv=[7296, 2432]), "a ControlNet for SD 3, which is"),
        ("control", shapes(controlnet_cond_embedding__conv_in=[16, 3, 3, 3], controlnet_down_blocks__0=[320, 320, 1, 1],
                           encoder_hid_proj=[2048, 4096]), "It is a ControlNet for Kolors, which"),
        ("control", shapes(control_blocks__0__after_proj=[8, 8], control_blocks__0__img_mod__1=[8, 8]),
         "It is a ControlNet for Qwen-Image, which"),
        ("control", {"lora_controlnet": ["F32", [0]], "zero_convs.0.0.weight": ["F16", [320, 320, 1, 1]],
                     "input_hint_block.0.weight": ["F16", [16, 3, 3, 3]]}, "It is a Control-LoRA, which"),
        ("embedding", {"emb_params": ["F32", [4, 2560]]}, "a textual inversion for another model"),
    ],
)  # fmt: skip
def test_parts_and_add_ons_that_are_not_used(kind: str, tensors: Tensors, sentence: str, tmp_path: Path) -> None:
    """In their own folder and in that of models alike, so nobody moves a file that then cannot be used."""
    assert sentence in adapter(tmp_path, kind, tensors).problem
    assert sentence in listed(tmp_path, tensors).problem


def test_a_whole_clip_is_a_text_encoder_and_an_image_encoder(tmp_path: Path) -> None:
    text: Tensors = {CLIP: ["F16", [49408, 768]], "text_model.encoder.layers.0.mlp.fc1.weight": ["F16", [3072, 768]]}
    path = write(tmp_path / "clip.safetensors", VISION | text)
    assert read_adapter(path, "text_encoder").part == "clip_l"
    assert read_adapter(path, "image_encoder").part == "clip_vision_l"
    assert all(read_adapter(path, kind).ready for kind in ("text_encoder", "image_encoder"))
    pool = Pool()
    pool.add_file(path, read_file(path).probe)
    assert pool.best("clip_l", "text_encoder")


def test_small_networks_are_no_textual_inversions(tmp_path: Path) -> None:
    assert "textual inversion" not in listed(tmp_path, shapes(first=[768, 320], second=[4, 768])).problem


def noted(tensors: Tensors, note: dict[str, object], kind: str) -> Tensors:
    """Each matrix quantised, with ComfyUI's note beside it."""
    made = dict(tensors)
    for name in matrices(tensors):
        stem = name.removesuffix(".weight")
        made |= {
            name: [kind, tensors[name][1]],
            f"{stem}.comfy_quant": ["U8", [len(json.dumps(note))]],
            f"{stem}.weight_scale": ["F32", []],
        }
    return made


@pytest.mark.parametrize("form", ["int8_blockwise", "convrot_w4a4", "svdquant_int4", "float8_e4m3fn_rowwise"])
def test_formats_that_cannot_be_dequantised_are_told_at_the_scan(form: str, tmp_path: Path) -> None:
    note: dict[str, object] = {"format": form}
    path = write(tmp_path / "x.safetensors", noted(tensors_of(FLUX), note, "I8"))
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        for name, each in json.loads(file.read(length)).items():
            if name.endswith("comfy_quant"):
                file.seek(8 + length + each["data_offsets"][0])
                file.write(json.dumps(note).encode())
    found = read_checkpoint(path, ())
    assert "cannot be loaded yet" in found.problem
    assert (form if form != "svdquant_int4" else "SVDQuant") in found.problem


@pytest.mark.parametrize(
    ("end", "scheme"),
    [("scaled_zeros", "AWQ"), ("W_q", "HQQ"), ("input_quantizer._amax", "ModelOpt"), ("float8_data", "float8_data")],
)
def test_quantisation_methods_are_named(end: str, scheme: str, tmp_path: Path) -> None:
    tensors = tensors_of(FLUX)
    beside = {f"{name.removesuffix('.weight')}.{end}": ["F32", [1]] for name in matrices(tensors)}
    problem = listed(tmp_path, tensors | beside).problem
    assert scheme in problem
    assert "cannot be loaded yet" in problem


@pytest.mark.parametrize(("model", "title"), [("z_image", "Z-Image"), ("sdxl", "SDXL"), ("qwen_image", "Qwen-Image")])
def test_svdquant_files_without_metadata(model: str, title: str, tmp_path: Path) -> None:
    tensors = tensors_of_class(model)
    made = {name.removesuffix("weight") + "qweight" if name in matrices(tensors) else name: each
            for name, each in tensors.items()}  # fmt: skip
    made |= {name.removesuffix("weight") + "wscales": ["BF16", [1]] for name in matrices(tensors)}
    assert f"It is {title} in SVDQuant" in listed(tmp_path, made).problem


def test_unets_and_vaes_as_gguf_are_usable(tmp_path: Path) -> None:
    whole = tensors_of(SDXL)
    found = read_checkpoint(write_gguf(tmp_path / "all.gguf", whole, "sdxl"), bundled_configs())
    assert found.state == READY, found.problem
    assert found.memory_bytes > 6_000_000_000  # unpacked
    unet = {name.removeprefix(UNET): each for name, each in whole.items() if name.startswith(UNET)}
    alone = read_checkpoint(write_gguf(tmp_path / "unet.gguf", unet, "sdxl"), bundled_configs())
    assert "also needs CLIP-L, CLIP-G and the VAE of SDXL" in alone.problem
    vae = write_gguf(tmp_path / "vae.gguf", tensors_of("parts/flux-ae.safetensors"), "pig", "F16")
    assert read_adapter(vae, "vae").ready


def test_quantised_files_are_counted_in_the_numbers_that_they_run_in(tmp_path: Path) -> None:
    """Two bytes for each weight, as of a file in bf16, except for GGUF, which stays packed."""
    whole = tensors_of(FLUX)
    half = {name: ["F8_E4M3" if name in matrices(whole) else kind, shape] for name, (kind, shape) in whole.items()}
    scales = {name.removesuffix("weight") + "scale_weight": ["F32", []] for name in matrices(whole)}
    plain, scaled, full = (listed(tmp_path, each).memory_bytes for each in (half, half | scales, whole))
    assert plain == scaled == full
    packed = read_checkpoint(write_gguf(tmp_path / "x.gguf", whole, "flux", "Q4_0"), ()).memory_bytes
    assert packed < 0.3 * full


@pytest.mark.parametrize("settings", [defaultdict(dict), Namespace(a=1)], ids=["defaultdict", "namespace"])
def test_pickles_with_settings_are_loaded(settings: object, tmp_path: Path) -> None:
    weights = {"decoder.conv_in.weight": torch.zeros(512, 4, 3, 3), "encoder.conv_in.weight": torch.ones(8, 3, 3, 3)}
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": weights, "settings": settings}, path)
    contents = read_file(path)
    assert (contents.probe.container, contents.probe.calls) == (PICKLE, ())
    assert set(read_mapped(path, "")) == set(weights)


def test_stored_programs_are_named(tmp_path: Path) -> None:
    for module, title in (("__torch__.big.Lama", "a TorchScript program"), ("ultralytics.nn.tasks.Model", "YOLO")):
        place, _, name = module.rpartition(".")
        path = tmp_path / "x.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", f"c{place}\n{name}\n)R.".encode())
        found = read_checkpoint(path, ())
        assert title in found.problem
        assert "would run code" in found.problem


def test_openvino_and_media_under_the_names_of_weights(tmp_path: Path) -> None:
    numbers = bytes(range(256)) * 40
    path = tmp_path / "openvino_model.bin"
    path.write_bytes(numbers)
    assert "is damaged" in read_checkpoint(path, ()).problem
    path.with_suffix(".xml").write_text("<net/>", encoding="utf-8")
    assert "OpenVINO" in read_checkpoint(path, ()).problem
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\0\0\0\x20ftypisom" + numbers)
    assert "(MP4)" in read_checkpoint(path, ()).problem


@pytest.mark.parametrize("prefix", ["base_model.model.model.diffusion_model.", "pipe.dit."])
def test_further_prefixes_of_loras(prefix: str, tmp_path: Path) -> None:
    stems = [f"{prefix}transformer_blocks.{n}.{kind}" for n in range(60) for kind in ("attn.to_q", "img_mlp.net.2")]
    reads = {"attn.to_q": 3072, "img_mlp.net.2": 12288}
    tensors: Tensors = {}
    for stem in stems:
        wide = next(length for kind, length in reads.items() if stem.endswith(kind))
        tensors |= {f"{stem}.lora_A.weight": ["BF16", [4, wide]], f"{stem}.lora_B.weight": ["BF16", [3072, 4]]}
    found = adapter(tmp_path, "lora", tensors)
    assert (found.ready, found.architecture) == (True, "qwen_image")


@pytest.mark.parametrize(
    "tensors",
    [
        shapes(m_head=[64, 4, 3, 3], m_down1__0__res__0=[64, 64, 3, 3]),
        shapes(conv_first=[96, 3, 3, 3], groups__0__conv=[96, 96, 3, 3]),
        shapes(intro=[32, 3, 3, 3], ending=[3, 32, 3, 3], middle_blks__0__conv1=[32, 32, 1, 1]),
    ],
)
def test_networks_of_spandrel(tensors: Tensors, tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.sft"):
        assert adapter(tmp_path, "upscaler", tensors, name).ready


@pytest.mark.parametrize(
    ("stem", "end", "ready"),
    [("layers_0_attention_to_q", "oft_blocks", True), ("layers_0_attention_qkv", "oft_blocks", False),
     ("layers_0_attention_qkv", "oft_R.weight", True), ("layers_0_attention_to_q", "ia3_l", True)],
)  # fmt: skip
def test_rotations_of_fused_layers_are_refused(stem: str, end: str, ready: bool, tmp_path: Path) -> None:
    """The rows of a layer that diffusers splits cannot be rotated together; its columns can be."""
    layers = [stem.replace("0", str(number)) for number in range(30)]
    found = adapter(tmp_path, "lora", {f"lora_unet_{each}.{end}": ["F16", [4, 8, 8]] for each in layers})
    assert ("cannot be applied yet" not in found.problem) == ready


def test_a_textual_inversion_of_an_unusual_width_may_fit_a_model_of_unusual_sizes(tmp_path: Path) -> None:
    assert adapter(tmp_path, "embedding", {"emb_params": ["F32", [4, 256]]}).ready
