"""Step 7: put VAE, tokenizer, text encoder and denoiser together into a standard diffusers folder in float16.

The result loads with `StableDiffusionPipeline` and `AutoPipelineForText2Image` / `...Image2Image` / `...Inpainting`.
Weights are split so that no file is larger than 16 MiB.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .models import (
    TEXT_ENCODERS,
    Tokenizer,
    denoiser_config,
    load_vae,
    other_samplers_config,
    scheduler_config,
)

LARGEST_FILE = 16 * 2**20
LARGEST_FOLDER = 60 * 2**20


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
    for file in ("vocab.json", "merges.txt"):
        if (Path(args.tokenizer) / file).exists():
            shutil.copyfile(Path(args.tokenizer) / file, out / "tokenizer" / file)
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
    return parser.parse_args(argv)


if __name__ == "__main__":
    assemble(parse())
