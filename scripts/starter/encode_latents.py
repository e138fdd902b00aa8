"""Step 5: render random compositions and encode them with the VAE, into shards that the training reads.

Each shard is one safetensors file: ``latents`` float16 ``[n, 4, 32, 32]``, ``tokens`` int16 ``[n, 6, 77]`` (six
captions a picture) and ``kinds`` uint8 ``[n]`` (index into `recipes.KINDS`). Recipes and tokens are made by CPU
processes, pixels and latents on one device. One process a GPU; training may start as soon as the first shard is there.
Shards that exist are kept, so a broken run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from .models import LATENT_CHANNELS, LATENT_SIDE, Tokenizer, encode_mean, load_vae
from .pack import Pack
from .recipe_sampler import RecipeSampler
from .recipes import POOL_SHARES, Recipes
from .rendering import render

_worker: dict = {}


def _prepare_worker(data: str, tokenizer: str) -> None:
    torch.set_num_threads(1)
    _worker["pack"], _worker["tokenizer"] = Pack.load(data), Tokenizer(tokenizer)


def _make_recipes(seed: int, n: int, shares: tuple[float, ...]) -> tuple[Recipes, np.ndarray]:
    recipes = RecipeSampler(_worker["pack"], seed, shares).batch(n)
    tokens = _worker["tokenizer"]([caption for captions in recipes.captions for caption in captions])
    return recipes, tokens.reshape(n, -1, tokens.shape[1])


def shard_path(folder: str | Path, part: int, number: int) -> Path:
    """Name of shard ``number`` of process ``part``."""
    return Path(folder) / f"part{part}-{number:04d}.safetensors"


def encode_shards(args: argparse.Namespace) -> int:
    """Make ``args.shards`` shards of ``args.shard_size`` pictures; returns how many were made."""
    device = torch.device(args.device)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    todo = [k for k in range(args.first, args.first + args.shards) if not shard_path(out, args.part, k).exists()]
    if not todo:
        return 0
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        args.processes, mp_context=context, initializer=_prepare_worker, initargs=(args.data, args.tokenizer)
    ) as workers:
        seeds = {k: args.seed + 1_000_003 * args.part + 7919 * k for k in todo}

        def submit(k: int) -> list[Future]:
            chunk = min(args.batch, args.shard_size)
            return [
                workers.submit(_make_recipes, seeds[k] * 64 + i, min(chunk, args.shard_size - i * chunk), POOL_SHARES)
                for i in range(-(-args.shard_size // chunk))
            ]

        queue = {k: submit(k) for k in todo[:3]}
        pack = Pack.load(args.data)
        textures = torch.from_numpy(pack.textures(threads=args.processes)).to(device)
        scenes = torch.from_numpy(pack.backgrounds(threads=args.processes)).to(device)
        vae = load_vae(args.vae).to(device, memory_format=torch.channels_last)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            vae = vae.bfloat16()
        print(f"[encode {args.part}] ready after {time.monotonic() - started:.1f} s", flush=True)
        torch.manual_seed(args.seed + args.part)
        for done, k in enumerate(todo):
            for ahead in todo[done + 1 : done + 4]:
                if ahead not in queue:
                    queue[ahead] = submit(ahead)
            latents = torch.empty(args.shard_size, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE, dtype=torch.float16)
            tokens, kinds, at = [], [], 0
            for future in queue.pop(k):
                recipes, rows = future.result()
                with torch.no_grad():
                    pixels = render(textures, scenes, recipes).to(vae.dtype, memory_format=torch.channels_last)
                    latents[at : at + len(rows)] = encode_mean(vae, pixels).float().half().cpu()
                tokens.append(rows)
                kinds.append(recipes.kinds)
                at += len(rows)
            path = shard_path(out, args.part, k)
            save_file(
                {
                    "latents": latents,
                    "tokens": torch.from_numpy(np.concatenate(tokens)),
                    "kinds": torch.from_numpy(np.concatenate(kinds)),
                },
                str(path) + ".part",
            )
            Path(str(path) + ".part").replace(path)
            if done % 8 == 0 or done == len(todo) - 1:
                rate = (done + 1) * args.shard_size / (time.monotonic() - started)
                spread = f"mean {latents.float().mean():.3f}, deviation {latents.float().std():.3f}"
                print(f"[encode {args.part}] {done + 1} of {len(todo)} shards, {rate:.0f}/s, {spread}", flush=True)
    return len(todo)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the packed art")
    parser.add_argument("--vae", required=True, help="folder of the trained VAE")
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    parser.add_argument("--out", required=True, help="folder for the shards")
    parser.add_argument("--shards", type=int, default=16, help="how many shards to make")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument("--shard-size", type=int, default=8192, help="pictures in a shard")
    parser.add_argument("--part", type=int, default=0, help="which process this is (one a GPU)")
    parser.add_argument("--batch", type=int, default=256, help="pictures rendered at once")
    parser.add_argument("--processes", type=int, default=2, help="CPU processes that make recipes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


if __name__ == "__main__":
    encode_shards(parse())
