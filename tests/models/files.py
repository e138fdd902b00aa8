"""Files that look like real ones: headers with true names and shapes over sparse content, and small checkpoints in
the layout of the original training code, written out of a diffusers pipeline."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusion_local.errors import ModelUnavailable, message_of
from diffusion_local.models import adapters, assembly
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.assembly import Pool
from diffusion_local.models.description import INCOMPLETE, ModelFacts, incomplete
from diffusion_local.models.identify import read_file

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}


def write_header(
    path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None, dtype: str = "F16"
) -> Path:
    """A safetensors file of these tensors; their content is a hole that takes no room on the disk."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, shape in shapes.items():
        size = SIZES[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    return path


def completed(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Tensors of a LoRA, with the second matrix of each layer that names only its first."""
    found = dict(shapes)
    for name, shape in shapes.items():
        for down, up in (("lora_down", "lora_up"), ("lora_A", "lora_B")):
            if down in name:
                found.setdefault(name.replace(down, up), (8, shape[0]))
    return found


def unet(width: int, channels: int = 4, first: int = 320) -> dict[str, tuple[int, ...]]:
    block = "4.1" if width in (2048, 1280) else "1.1"
    return {
        "model.diffusion_model.input_blocks.0.0.weight": (first, channels, 3, 3),
        f"model.diffusion_model.input_blocks.{block}.transformer_blocks.0.attn2.to_k.weight": (640, width),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
    }


SD1 = unet(768) | {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768)}
SD1_INPAINT = unet(768, 9) | {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (8, 768)}
SD2 = unet(1024) | {"cond_stage_model.model.token_embedding.weight": (49408, 1024)}
SDXL = unet(2048) | {
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    "conditioner.embedders.1.model.token_embedding.weight": (49408, 1280),
}
REFINER = unet(1280) | {
    "model.diffusion_model.label_emb.0.0.weight": (1536, 2560),
    "conditioner.embedders.0.model.token_embedding.weight": (49408, 1280),
}
FLUX = {
    "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
    "single_blocks.0.norm.key_norm.scale": (128,),
    "vector_in.in_layer.bias": (3072,),
    "txt_in.bias": (3072,),
    "img_in.weight": (3072, 64),
}
SD3 = {
    "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
    "model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.bias": (9216,),
    "model.diffusion_model.context_embedder.bias": (1536,),
}
UNET_OF_DIFFUSERS = {
    "conv_in.weight": (320, 4, 3, 3),
    "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "up_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
}
LORA = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 768),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (320, 4),
}
STARTER_LORA = {
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 256),
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (192, 4),
}
LORA_XL = completed(
    {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 2048),
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 1280),
    }
)
VAE = {"decoder.conv_in.weight": (512, 4, 3, 3), "encoder.conv_in.weight": (128, 3, 3, 3)}
UPSCALER = {"conv_first.weight": (64, 3, 3, 3), "conv_last.weight": (3, 64, 3, 3), "conv_first.bias": (64,)}
CONTROLNET = {
    "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
    "controlnet_down_blocks.0.weight": (96, 96, 1, 1),
}
EMBEDDING = {"emb_params": (4, 768)}
TEXT_ENCODER = {
    "text_model.embeddings.token_embedding.weight": (49408, 768),
    "text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
}


class Trap:
    """What a pickle of it does when it is opened: run a command that leaves ``path`` behind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._path}",)


RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet(state: dict[str, Any]) -> dict[str, Any]:
    """Of a UNet with two resnets in each level, as Stable Diffusion 1 and 2 and SDXL have."""
    attends = any(name.startswith("up_blocks.0.attentions.") for name in state)
    return {"model.diffusion_model." + unet_name(name, attends): tensor for name, tensor in state.items()}


def unet_name(name: str, attends: bool) -> str:
    """``attends``: the innermost level has attention beside its resnets."""
    for ours, theirs in OUTER.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    parts = name.split(".")
    if parts[0] == "encoder_hid_proj":
        return name
    if parts[0] == "mid_block":
        number = 1 if parts[1] == "attentions" else 2 * int(parts[2])
        return f"middle_block.{number}." + inner(parts[1], parts[3:])
    level, kind, number = int(parts[1]), parts[2], int(parts[3])
    down = parts[0] == "down_blocks"
    if kind == "downsamplers":
        return f"input_blocks.{3 * (level + 1)}.0.op." + parts[-1]
    if kind == "upsamplers":
        return f"output_blocks.{3 * level + 2}.{1 if level == 0 and not attends else 2}." + ".".join(parts[4:])
    place = f"input_blocks.{3 * level + number + 1}" if down else f"output_blocks.{3 * level + number}"
    return f"{place}.{1 if kind == 'attentions' else 0}." + inner(kind, parts[4:])


def inner(kind: str, rest: list[str]) -> str:
    return ".".join([RESNET[rest[0]], *rest[1:]] if kind == "resnets" else rest)


def original_vae(state: dict[str, Any], levels: int = 4) -> dict[str, Any]:
    found = {}
    for name, tensor in state.items():
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0." in name:
            name = name.replace("mid_block.attentions.0.", "mid.attn_1.")
            for ours, theirs in (
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):
                name = name.replace(ours, theirs)
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        found["first_stage_model." + name] = tensor
    return found


def original_encoder(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "cond_stage_model.transformer." + (name if name.startswith("text_model.") else "text_model." + name): tensor
        for name, tensor in state.items()
    }


def read_adapter(path: Path, kind: str) -> Adapter:
    """An entry for a file in the folder of this kind; whatever is wrong becomes its ``problem``."""
    try:
        return adapters.describe(path, kind, read_file(path))
    except (ModelUnavailable, OSError) as problem:
        return Adapter(
            path.stem,
            kind,
            path,
            state=INCOMPLETE,
            problem=message_of(problem),
        )


def read_checkpoint(path: Path, configs: Iterable[Path], pool: Pool | None = None) -> ModelFacts:
    """``configs`` are folders in which a fitting configuration may be, the preferred first; ``pool`` has the parts that
    other files hold."""
    try:
        return assembly.describe(path, read_file(path), tuple(configs), pool or Pool())
    except ModelUnavailable as problem:
        return incomplete(problem.message, size_bytes=path.stat().st_size)


#: For a UNet whose text is 256 wide, as the starter's; it reads what the image encoder projects.
IP_ADAPTER = {
    "ip_adapter.1.to_k_ip.weight": (64, 256),
    "ip_adapter.1.to_v_ip.weight": (64, 256),
    "image_proj.proj.weight": (1024, 24),
}
CLIP_VISION = {
    "vision_model.embeddings.class_embedding": (32,),
    "vision_model.embeddings.patch_embedding.weight": (32, 3, 8, 8),
    "vision_model.encoder.layers.0.mlp.fc1.weight": (48, 32),
    "visual_projection.weight": (24, 32),
}
