"""Small models in the files that people have: the tensor names of published files, with fewer blocks and numbers.

The text encoders have the width by which they are told, and next to nothing else.
"""

import inspect
import json
import math
import re
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import safetensors.torch
import torch
import transformers
from diffusers.loaders import single_file_utils

from diffusion_local.paths import assets
from tests.engine.test_flow_families import t5
from tests.models.files import original_vae
from tests.models.headers import tensors_of

State = dict[str, torch.Tensor]
#: Words of the tokenizer of T5's kind that language models have here too.
SIGNS = "▁abcdefghijklmnopqrstuvwxyz"


def tokenizer() -> Any:
    words, _ = t5()
    words.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return words


def state_of(file: str, shrink: Callable[[int], int], kept: Callable[[str], str], prefix: str = "") -> State:
    """Random weights under the names of a published file. ``kept`` gives a tensor's name, empty to leave it out."""
    made = {}
    for published, (_, shape) in tensors_of(file).items():
        name = kept(published.removeprefix(prefix)) if published.startswith(prefix) else ""
        if name:
            lengths = [shrink(length) for length in shape]
            made[name] = torch.randn(lengths) / math.sqrt(lengths[-1] if len(lengths) > 1 else 50)
            if name.endswith(("norm.scale", "norm.weight", "_norm1.weight", "_norm2.weight")):
                made[name] = made[name] + 1
    return made


def first_blocks(*names: str) -> Callable[[str], str]:
    """Of numbered blocks only the first."""

    def kept(name: str) -> str:
        return "" if any(re.match(rf"{each}\.[1-9]", name) for each in names) else name

    return kept


def divided(whole: int, by: int) -> Callable[[int], int]:
    """Multiples of a width, divided."""
    return lambda length: length // by if length % whole == 0 else length


def random(module: torch.nn.Module) -> Any:
    with torch.no_grad():
        for each in module.parameters():
            if each.dim() > 1:
                each.copy_(torch.randn_like(each) / math.sqrt(each.shape[-1]))
    return module.eval()


def kl(channels: int) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=4,
        latent_channels=channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def clip(width: int, projection: bool) -> Any:
    vocabulary = json.loads((WORDS / "../text_encoder/config.json").read_text())["vocab_size"]
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=width, eos_token_id=vocabulary - 1,
    )  # fmt: skip
    return random((transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config))


def t5_xxl() -> Any:
    config = transformers.T5Config(
        vocab_size=len(SIGNS) + 3, d_model=4096, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    return random(transformers.T5EncoderModel(config))


def qwen3(cls: Any, layers: int) -> Any:
    config = transformers.Qwen3Config(
        hidden_size=2560, intermediate_size=8, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2,
        head_dim=4, vocab_size=len(SIGNS) + 3, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    return random(cls(config))


#: A tokenizer of CLIP's kind with few words.
WORDS = assets() / "starter/tokenizer"


def clip_words() -> Any:
    return transformers.CLIPTokenizer.from_pretrained(WORDS)


@dataclass
class Layout:
    """A model as its parts come in files: ``parts`` by the file's place, and the pipeline of the same weights."""

    family: str
    parts: dict[str, State]
    pipe: Any

    @property
    def denoiser(self) -> str:
        return next(iter(self.parts))

    def write(self, home: Path, change: Callable[[State], State] = lambda state: state) -> Path:
        """``change`` is made of the denoiser's file, whose path is returned; ``configs`` gets the configuration."""
        for place, state in self.parts.items():
            target = home / place
            target.parent.mkdir(parents=True, exist_ok=True)
            written = change(dict(state)) if place == self.denoiser else state
            safetensors.torch.save_file({name: each.contiguous().clone() for name, each in written.items()}, target)
        self.configure(home)
        return home / self.denoiser

    def configure(self, home: Path) -> None:
        config = home / "configs" / self.family
        self.pipe.save_pretrained(config)
        for heavy in config.rglob("*.safetensors"):
            heavy.unlink()


def loaded(cls: Any, state: State, config: Any) -> Any:
    """diffusers' own model of a file's tensors."""
    with torch.device("meta"):
        empty = cls(**config)
    with tempfile.TemporaryDirectory() as folder:
        empty.save_config(folder)
        return cls.from_single_file(dict(state), config=folder, dtype=torch.float32, local_files_only=True)


def encoder_files(**encoders: Any) -> dict[str, State]:
    return {f"text_encoders/{name}.safetensors": dict(each.state_dict()) for name, each in encoders.items()}


def vae_file(vae: Any) -> State:
    return {name.removeprefix("first_stage_model."): each for name, each in original_vae(vae.state_dict()).items()}


#: Width of a shrunken FLUX.1. diffusers reads files of one width only, so its function is compiled with another.
NARROW = 256


def narrowed(model: str) -> Any:
    """The function that renames the tensors of ``flux`` or ``chroma``."""
    name = f"convert_{model}_transformer_checkpoint_to_diffusers"
    source = textwrap.dedent(inspect.getsource(getattr(single_file_utils, name)))
    assert source.count("inner_dim = 3072") == 1
    scope: dict[str, Any] = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", f"inner_dim = {NARROW}"), scope)  # noqa: S102
    return scope[name]


FLOW = {"use_dynamic_shifting": True, "base_image_seq_len": 256, "max_image_seq_len": 4096}


def flux() -> Layout:
    state = state_of("models/flux1-dev.safetensors", divided(3072, 12), first_blocks("double_blocks", "single_blocks"))
    config = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "guidance_embeds": True}
    words, _ = t5()
    vae, one, two = random(kl(16)), clip(768, False), t5_xxl()
    pipe = diffusers.FluxPipeline(
        transformer=loaded(diffusers.FluxTransformer2DModel, state, config),
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**FLOW),
        text_encoder=one,
        tokenizer=clip_words(),
        text_encoder_2=two,
        tokenizer_2=words,
    )
    encoders = encoder_files(clip_l=one, t5xxl_fp16=two)
    return Layout("flux", {"models/tiny.safetensors": state} | encoders | {"vae/ae.safetensors": vae_file(vae)}, pipe)


def chroma() -> Layout:
    def shrink(length: int) -> int:
        return 128 if length == 5120 else divided(3072, 12)(length)

    state = state_of("models/chroma1-hd.safetensors", shrink, first_blocks("double_blocks", "single_blocks"))
    config = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "approximator_hidden_dim": 128}
    words, _ = t5()
    vae, text = random(kl(16)), t5_xxl()
    pipe = diffusers.ChromaPipeline(
        transformer=loaded(diffusers.ChromaTransformer2DModel, state, config),
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**FLOW),
        text_encoder=text,
        tokenizer=words,
    )
    encoders = encoder_files(t5xxl_fp16=text)
    return Layout("chroma", {"models/tiny.safetensors": state} | encoders | {"vae/ae.safetensors": vae_file(vae)}, pipe)


def sd3() -> Layout:
    def kept(name: str) -> str:
        found = re.match(r"joint_blocks\.(\d+)\.", name)
        if found is None or found[1] == "0":
            return name
        return name.replace(f"joint_blocks.{found[1]}.", "joint_blocks.1.") if found[1] == "23" else ""

    def shrink(length: int) -> int:
        return 64 * 64 if length == 384 * 384 else divided(1536, 12)(length)

    state = state_of("models/sd3.5_medium.safetensors", shrink, kept, "model.diffusion_model.")
    config = {
        "num_layers": 2, "num_attention_heads": 2, "caption_projection_dim": 128, "pos_embed_max_size": 64,
        "qk_norm": "rms_norm", "dual_attention_layers": (0,), "sample_size": 16,
    }  # fmt: skip
    words, _ = t5()
    vae, one, two, three = random(kl(16)), clip(768, True), clip(1280, True), t5_xxl()
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=loaded(diffusers.SD3Transformer2DModel, state, config),
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=one,
        tokenizer=clip_words(),
        text_encoder_2=two,
        tokenizer_2=clip_words(),
        text_encoder_3=three,
        tokenizer_3=words,
    )
    whole = {f"model.diffusion_model.{name}": each for name, each in state.items()} | original_vae(vae.state_dict())
    return Layout("sd3", {"models/tiny.safetensors": whole} | encoder_files(clip_l=one, clip_g=two, t5xxl=three), pipe)


def z_image() -> Layout:
    def shrink(length: int) -> int:
        return 682 if length == 10240 else divided(3840, 15)(length)

    kept = first_blocks("layers", "noise_refiner", "context_refiner")
    state = state_of("models/z_image_turbo_bf16.safetensors", shrink, kept)
    config = {"dim": 256, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
    vae, encoder = random(kl(16)), qwen3(transformers.Qwen3Model, 3)
    pipe = diffusers.ZImagePipeline(
        transformer=loaded(diffusers.ZImageTransformer2DModel, state, config),
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=encoder,
        tokenizer=tokenizer(),
    )
    text = {f"model.{name}": each for name, each in encoder.state_dict().items()}
    parts = {"text_encoders/qwen_3_4b.safetensors": text, "vae/ae.safetensors": vae_file(vae)}
    return Layout("z_image", {"models/tiny.safetensors": state} | parts, pipe)


def flux2() -> Layout:
    kept = first_blocks("double_blocks", "single_blocks")
    state = state_of("models/flux-2-klein-4b.safetensors", divided(3072, 12), kept)
    config = {
        "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "joint_attention_dim": 7680,
        "guidance_embeds": False,
    }  # fmt: skip
    encoder = qwen3(transformers.Qwen3ForCausalLM, 28)
    vae = random(diffusers.AutoencoderKLFlux2(block_out_channels=(8, 8, 8, 16), layers_per_block=2, norm_num_groups=4))
    vae.bn.running_mean.normal_(std=0.1)
    vae.bn.running_var.uniform_(0.5, 1.5)
    pipe = diffusers.Flux2KleinPipeline(
        transformer=loaded(diffusers.Flux2Transformer2DModel, state, config),
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**FLOW),
        text_encoder=encoder,
        tokenizer=tokenizer(),
        is_distilled=True,
    )
    text = {name: each for name, each in encoder.state_dict().items() if name != "lm_head.weight"}
    inner = {"quant_conv.": "encoder.quant_conv.", "post_quant_conv.": "decoder.post_quant_conv."}
    latents = vae_file(vae)
    for ours, theirs in inner.items():
        for name in [each for each in latents if each.startswith(ours)]:
            latents[theirs + name.removeprefix(ours)] = latents.pop(name)
    parts = {"text_encoders/qwen_3_4b.safetensors": text, "vae/flux2-vae.safetensors": latents}
    return Layout("flux2", {"models/tiny.safetensors": state} | parts, pipe)


def qwen_image() -> Layout:
    """Its text encoder is of the true width, so its file is large."""
    state = state_of("models/qwen_image_bf16.safetensors", divided(3072, 12), first_blocks("transformer_blocks"))
    text = random(
        transformers.Qwen2_5_VLTextModel(
            transformers.Qwen2_5_VLTextConfig(
                hidden_size=3584, intermediate_size=8, num_hidden_layers=1, num_attention_heads=28,
                num_key_value_heads=4, vocab_size=len(SIGNS) + 3, max_position_embeddings=1024, pad_token_id=0,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 24, 24]},
            )
        )
    )  # fmt: skip
    with torch.device("cpu"):
        vae = random(diffusers.AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1))
    pipe = diffusers.QwenImagePipeline(
        transformer=loaded(diffusers.QwenImageTransformer2DModel, state, {"num_layers": 1, "num_attention_heads": 2}),
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**FLOW),
        text_encoder=text,
        tokenizer=tokenizer(),
    )
    parts = encoder_files(qwen_2_5_vl_7b=text) | {"vae/qwen_image_vae.safetensors": dict(vae.state_dict())}
    return Layout("qwen_image", {"models/tiny.safetensors": state} | parts, pipe)


#: Tried in one form of the weights only.
ONCE = {"qwen_image": qwen_image}
LAYOUTS = {"flux": flux, "chroma": chroma, "sd3": sd3, "z_image": z_image, "flux2": flux2}


def as_folder(layout: Layout, folder: Path) -> Path:
    """The same weights as a diffusers folder."""
    layout.pipe.save_pretrained(folder)
    return folder
