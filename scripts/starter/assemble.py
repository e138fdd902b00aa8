"""Step 7: put VAE, tokenizer, text encoder and denoiser together into a diffusers folder, the denoiser in int8.

VAE and text encoder are float16. Matrices of the denoiser are int8 with one scale for each row, which
`diffusion_local.engine.loading` dequantises; ``--plain`` keeps float16, which `StableDiffusionPipeline` loads as well.
Weights are split so that no file is larger than 16 MiB.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file

from .models import (
    TEXT_ENCODERS,
    Tokenizer,
    denoiser_config,
    load_vae,
    other_samplers_config,
    scheduler_config,
)

LARGEST_FILE = 16 * 2**20
LARGEST_FOLDER = 40 * 2**20


def build_text_encoder(weights: dict[str, torch.Tensor], name: str, tokenizer: Tokenizer) -> Any:
    """`transformers.CLIPTextModel` with these weights, whichever prefix the installed version uses."""
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = TEXT_ENCODERS[name]
    config = CLIPTextConfig(
        vocab_size=tokenizer.vocabulary, hidden_size=sizes["width"], intermediate_size=4 * sizes["width"],
        projection_dim=sizes["width"], num_hidden_layers=sizes["layers"], num_attention_heads=sizes["heads"],
        max_position_embeddings=77, hidden_act="quick_gelu", bos_token_id=tokenizer.begin,
        eos_token_id=tokenizer.end, pad_token_id=tokenizer.end,
    )  # fmt: skip
    encoder = CLIPTextModel(config)
    own = encoder.state_dict()
    prefix = "text_model." if any(key.startswith("text_model.") for key in own) else ""
    missing = encoder.load_state_dict({prefix + k: v.float() for k, v in weights.items()}, strict=False)
    if missing.unexpected_keys or [k for k in missing.missing_keys if "position_ids" not in k]:
        raise ValueError(f"text encoder does not fit: {missing}")
    return encoder.eval()


def build_pipeline(weights: str | Path, vae: str | Path, tokenizer: str | Path, name: str = "base") -> Any:
    """The pipeline in float32 from ``unet.safetensors`` and ``text_encoder.safetensors`` in ``weights``."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTokenizer

    folder = Path(weights)
    unet = UNet2DConditionModel(**denoiser_config(name))
    unet.load_state_dict({k: v.float() for k, v in load_file(folder / "unet.safetensors").items()})
    text_encoder = build_text_encoder(load_file(folder / "text_encoder.safetensors"), name, Tokenizer(tokenizer))
    return StableDiffusionPipeline(
        vae=load_vae(vae), text_encoder=text_encoder, tokenizer=CLIPTokenizer.from_pretrained(tokenizer),
        unet=unet.eval(), scheduler=DPMSolverMultistepScheduler(**scheduler_config()), safety_checker=None,
        feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip


def quantise_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 numbers of the same shape, and the scale of each row, of shape (rows, 1), with the least squared error."""
    rows = weight.detach().reshape(len(weight), -1).float()
    largest = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    best = torch.full_like(largest, torch.inf)
    scales, numbers = largest.clone(), torch.zeros_like(rows)
    for share in torch.linspace(0.7, 1.0, 31).tolist():  # a smaller scale clips the largest, and is finer for the rest
        scale = largest * share
        tried = (rows / scale).round().clamp(-127, 127)
        error = (tried * scale - rows).square().sum(1, keepdim=True)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, scale, scales)
        numbers = torch.where(better, tried, numbers)
    return numbers.to(torch.int8).reshape(weight.shape), scales


def quantise_folder(part: Path) -> None:
    """Rewrite a part's weights as int8 rows, in files of at most 15 MB, with a note in its configuration."""
    state: dict[str, torch.Tensor] = {}
    for file in sorted(part.glob("*.safetensors")):
        state |= load_file(file)
        file.unlink()
    for name, tensor in list(state.items()):
        if tensor.dim() > 1:
            state[name], state[name.removesuffix("weight") + "weight_scale"] = quantise_rows(tensor)
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="diffusion_pytorch_model{suffix}.safetensors", max_shard_size="15MB"
    )
    for file_name, names in split.filename_to_tensors.items():
        save_file({name: state[name].contiguous() for name in names}, part / file_name, {"format": "pt"})
    if split.is_sharded:
        _write_index(part, split)
    config = json.loads((part / "config.json").read_text()) | {"quantization_config": {"quant_method": "int8_rows"}}
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write_index(part: Path, split: Any) -> None:
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    text = json.dumps(index, indent=1, sort_keys=True)
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(text + "\n")


def sizes(folder: str | Path) -> tuple[int, int]:
    """Largest file and sum of all files below ``folder``, in bytes."""
    found = [p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()]
    return max(found), sum(found)


def assemble(args: argparse.Namespace) -> tuple[int, int]:
    """Write the folder; returns `sizes` and raises if a limit is broken."""
    pipeline = build_pipeline(args.weights, args.vae, args.tokenizer, args.model).to(torch.float16)
    out = Path(args.out)
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(out / part, ignore_errors=True)
    pipeline.save_pretrained(out, max_shard_size="15MB")
    if not args.plain:
        quantise_folder(out / "unet")
    words = out / "tokenizer" / "tokenizer.json"
    words.write_text(json.dumps(json.loads(words.read_text()), ensure_ascii=False, separators=(",", ":")))
    sampler = out / "scheduler" / "scheduler_config.json"
    settings = json.loads(sampler.read_text()) | other_samplers_config()
    settings.pop("lambda_min_clipped", None)  # the default, minus infinity, which is no JSON
    sampler.write_text(json.dumps(settings, indent=2) + "\n")
    for config in out.rglob("config.json"):  # no path of the machine that made it
        values = json.loads(config.read_text())
        values.pop("_name_or_path", None)
        config.write_text(json.dumps(values, indent=2) + "\n")
    largest, total = sizes(out)
    if largest > LARGEST_FILE or total > LARGEST_FOLDER:
        raise ValueError(f"too large: a file of {largest} bytes, {total} bytes in all")
    print(f"{out}: largest file {largest / 2**20:.1f} MiB, {total / 2**20:.1f} MiB in all")
    return largest, total


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="folder with unet.safetensors and text_encoder.safetensors")
    parser.add_argument("--vae", required=True, help="folder of the trained VAE")
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    parser.add_argument("--out", required=True, help="folder of the model")
    parser.add_argument("--model", default="base", choices=sorted(TEXT_ENCODERS))
    parser.add_argument("--plain", action="store_true", help="keep the denoiser in float16")
    return parser.parse_args(argv)


if __name__ == "__main__":
    assemble(parse())
