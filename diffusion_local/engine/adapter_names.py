"""Maps layer names in adapter files to layers of diffusers' models.

Files use diffusers' names, with dots or underscores, or the original names by the models' authors, which ComfyUI and
most trainers use.
"""

import re
from collections.abc import Iterable, Mapping

#: Layer names. Several, in the order of their rows, if the original model has a single layer in their place.
Targets = tuple[str, ...]

QKV = ("to_q", "to_k", "to_v")
TEXT_STREAM_PROJECTIONS = ("add_q_proj", "add_k_proj", "add_v_proj")
_LAYER = r"\1.\2"
#: Layers of the original UNet's blocks -> diffusers' names.
RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
OUTSIDE = {
    "input_blocks_0_0": "conv_in",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "out_2": "conv_out",
}
UNET_BLOCK = re.compile(r"(input|output)_blocks_(\d+)_(\d+)_?(.*)|middle_block_(\d)_(.*)")


def attn(block: str, names: Iterable[str], part: str = "attn") -> Targets:
    return tuple(rf"{block}.{part}.{name}" for name in names)


def block(name: str) -> str:
    return rf"{name}.\1"


_DOUBLE, _SINGLE = block("transformer_blocks"), block("single_transformer_blocks")
#: Names of FLUX.1 and models derived from it.
_FLUX: dict[str, Targets] = {
    r"double_blocks_(\d+)_img_attn_qkv": attn(_DOUBLE, QKV),
    r"double_blocks_(\d+)_txt_attn_qkv": attn(_DOUBLE, TEXT_STREAM_PROJECTIONS),
    r"double_blocks_(\d+)_img_attn_proj": (rf"{_DOUBLE}.attn.to_out.0",),
    r"double_blocks_(\d+)_txt_attn_proj": (rf"{_DOUBLE}.attn.to_add_out",),
    r"double_blocks_(\d+)_img_mlp_0": (rf"{_DOUBLE}.ff.net.0.proj",),
    r"double_blocks_(\d+)_img_mlp_2": (rf"{_DOUBLE}.ff.net.2",),
    r"double_blocks_(\d+)_txt_mlp_0": (rf"{_DOUBLE}.ff_context.net.0.proj",),
    r"double_blocks_(\d+)_txt_mlp_2": (rf"{_DOUBLE}.ff_context.net.2",),
    r"double_blocks_(\d+)_img_mod_lin": (rf"{_DOUBLE}.norm1.linear",),
    r"double_blocks_(\d+)_txt_mod_lin": (rf"{_DOUBLE}.norm1_context.linear",),
    r"single_blocks_(\d+)_linear1": (*attn(_SINGLE, QKV), rf"{_SINGLE}.proj_mlp"),
    r"single_blocks_(\d+)_linear2": (rf"{_SINGLE}.proj_out",),
    r"single_blocks_(\d+)_modulation_lin": (rf"{_SINGLE}.norm.linear",),
    r"img_in": ("x_embedder",),
    r"txt_in": ("context_embedder",),
    r"time_in_in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    r"time_in_out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    r"guidance_in_in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    r"guidance_in_out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    r"vector_in_in_layer": ("time_text_embed.text_embedder.linear_1",),
    r"vector_in_out_layer": ("time_text_embed.text_embedder.linear_2",),
    r"final_layer_linear": ("proj_out",),
}
_FLUX2: dict[str, Targets] = {
    **{name: targets for name, targets in _FLUX.items() if "_attn_" in name},
    r"double_blocks_(\d+)_img_mlp_0": (rf"{_DOUBLE}.ff.linear_in",),
    r"double_blocks_(\d+)_img_mlp_2": (rf"{_DOUBLE}.ff.linear_out",),
    r"double_blocks_(\d+)_txt_mlp_0": (rf"{_DOUBLE}.ff_context.linear_in",),
    r"double_blocks_(\d+)_txt_mlp_2": (rf"{_DOUBLE}.ff_context.linear_out",),
    r"single_blocks_(\d+)_linear1": (rf"{_SINGLE}.attn.to_qkv_mlp_proj",),
    r"single_blocks_(\d+)_linear2": (rf"{_SINGLE}.attn.to_out",),
    r"img_in": ("x_embedder",),
    r"txt_in": ("context_embedder",),
    r"time_in_in_layer": ("time_guidance_embed.timestep_embedder.linear_1",),
    r"time_in_out_layer": ("time_guidance_embed.timestep_embedder.linear_2",),
    r"(double_stream_modulation_img|double_stream_modulation_txt|single_stream_modulation)_lin": (r"\1.linear",),
    r"final_layer_linear": ("proj_out",),
}
_Z_IMAGE: dict[str, Targets] = {
    r"(layers|noise_refiner|context_refiner)_(\d+)_attention_qkv": attn(_LAYER, QKV, "attention"),
    r"(layers|noise_refiner|context_refiner)_(\d+)_attention_out": (rf"{_LAYER}.attention.to_out.0",),
}
_LUMINA2: dict[str, Targets] = {
    r"(layers|noise_refiner|context_refiner)_(\d+)_attention_qkv": attn(_LAYER, QKV),
    r"(layers|noise_refiner|context_refiner)_(\d+)_attention_out": (rf"{_LAYER}.attn.to_out.0",),
    r"(layers|noise_refiner|context_refiner)_(\d+)_feed_forward_w(\d)": (rf"{_LAYER}.feed_forward.linear_\3",),
    r"(layers|noise_refiner)_(\d+)_adaLN_modulation_1": (rf"{_LAYER}.norm1.linear",),
}
_SD3: dict[str, Targets] = {
    r"joint_blocks_(\d+)_x_block_attn_qkv": attn(_DOUBLE, QKV),
    r"joint_blocks_(\d+)_x_block_attn2_qkv": attn(_DOUBLE, QKV, "attn2"),
    r"joint_blocks_(\d+)_context_block_attn_qkv": attn(_DOUBLE, TEXT_STREAM_PROJECTIONS),
    r"joint_blocks_(\d+)_x_block_attn_proj": (rf"{_DOUBLE}.attn.to_out.0",),
    r"joint_blocks_(\d+)_x_block_attn2_proj": (rf"{_DOUBLE}.attn2.to_out.0",),
    r"joint_blocks_(\d+)_context_block_attn_proj": (rf"{_DOUBLE}.attn.to_add_out",),
    r"joint_blocks_(\d+)_x_block_mlp_fc1": (rf"{_DOUBLE}.ff.net.0.proj",),
    r"joint_blocks_(\d+)_x_block_mlp_fc2": (rf"{_DOUBLE}.ff.net.2",),
    r"joint_blocks_(\d+)_context_block_mlp_fc1": (rf"{_DOUBLE}.ff_context.net.0.proj",),
    r"joint_blocks_(\d+)_context_block_mlp_fc2": (rf"{_DOUBLE}.ff_context.net.2",),
    r"joint_blocks_(\d+)_x_block_adaLN_modulation_1": (rf"{_DOUBLE}.norm1.linear",),
    r"joint_blocks_(\d+)_context_block_adaLN_modulation_1": (rf"{_DOUBLE}.norm1_context.linear",),
    r"t_embedder_mlp_0": ("time_text_embed.timestep_embedder.linear_1",),
    r"t_embedder_mlp_2": ("time_text_embed.timestep_embedder.linear_2",),
    r"y_embedder_mlp_0": ("time_text_embed.text_embedder.linear_1",),
    r"y_embedder_mlp_2": ("time_text_embed.text_embedder.linear_2",),
    r"final_layer_linear": ("proj_out",),
}
_KREA2: dict[str, Targets] = {
    r"blocks_(\d+)_attn_w([qkv])": (rf"{_DOUBLE}.attn.to_\2",),
    r"blocks_(\d+)_attn_wo": (rf"{_DOUBLE}.attn.to_out.0",),
    r"blocks_(\d+)_attn_gate": (rf"{_DOUBLE}.attn.to_gate",),
    r"blocks_(\d+)_mlp_(gate|up|down)": (rf"{_DOUBLE}.ff.\2",),
    r"first": ("img_in",),
    r"last_linear": ("final_layer.linear",),
    r"txtfusion_projector": ("text_fusion.projector",),
}
#: Original names by family: regular expression for the name with underscores -> layers of diffusers' model.
LAYERS_OF_NAME: Mapping[str, Mapping[str, Targets]] = {
    "flux": _FLUX,
    "chroma": _FLUX,
    "flux2": _FLUX2,
    "flux2_dev": _FLUX2,
    "z_image": _Z_IMAGE,
    "lumina2": _LUMINA2,
    "sd3": _SD3,
    "krea2": _KREA2,
}


class Layers:
    """Finds layers of one part of a model by any of their names. ``names``: diffusers' names; ``family``: the model's,
    empty for its text encoders; ``per_level``: ResNet blocks per level of a UNet.
    """

    def __init__(self, names: Iterable[str], family: str = "", per_level: int = 2) -> None:
        self._flat = {name.replace(".", "_"): name for name in names}
        self._rules = [(re.compile(rf"{key}\Z"), found) for key, found in LAYERS_OF_NAME.get(family, {}).items()]
        self._per_level = per_level

    def with_name(self, stem: str) -> Targets:
        """The layers with this name, given without prefix; empty if there is none."""
        flat = stem.replace(".", "_")
        for known in (flat, flat.removeprefix("text_model_"), f"text_model_{flat}", self._of_unet(flat)):
            if known in self._flat:
                return (self._flat[known],)
        for expression, targets in self._rules:
            if found := expression.match(flat):
                layers = tuple(found.expand(target) for target in targets)
                return layers if all(layer.replace(".", "_") in self._flat for layer in layers) else ()
        return ()

    def _of_unet(self, flat: str) -> str:
        if flat in OUTSIDE:
            return OUTSIDE[flat]
        found = UNET_BLOCK.match(flat)
        if not found:
            return ""
        side, number, place, rest, middle, inner = found.groups()
        if middle is not None:
            where = "attentions_0" if middle == "1" else f"resnets_{int(middle) // 2}"
            return f"mid_block_{where}_{RESNET.get(inner, inner)}"
        each = self._per_level + 1
        if side == "input":
            level, index = divmod(int(number) - 1, each)
            if rest == "op":
                return f"down_blocks_{level}_downsamplers_0_conv"
            start = f"down_blocks_{level}"
        else:
            level, index = divmod(int(number), each)
            if rest == "conv":
                return f"up_blocks_{level}_upsamplers_0_conv"
            start = f"up_blocks_{level}"
        return f"{start}_{'resnets' if place == '0' else 'attentions'}_{index}_{RESNET.get(rest, rest)}"
