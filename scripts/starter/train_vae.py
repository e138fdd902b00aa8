"""Step 4: train the autoencoder (VAE) that turns 256x256 pictures into 4x32x32 latents and back.

Loss: absolute error, error of gradients, error at coarser scales, squared error, and a small KL term (Kingma and
Welling 2014, arXiv:1312.6114). A quarter of each batch are mosaics of half-size pictures whose latents are the half-
size latents of the parts, so that scaling commutes with encoding (Kouzelis et al. 2025, arXiv:2502.09509). Late in
the run a patch discriminator (Isola et al. 2017, arXiv:1611.07004) sharpens; its gradient is scaled to a fixed part
of the reconstruction's, as in Esser et al. 2021 (arXiv:2012.09841). At the end each latent channel's mean and
deviation are folded into the outer convolutions: the shipped latents have mean 0 and deviation 1 and the scaling
factor is 1.

The run can be resumed from ``vae.pt`` in the output folder (``--resume``). The shipped VAE was trained for 225 s on one
H100 by an earlier version of this script (see README.md).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .models import LATENT_CHANNELS, encode_mean, save_json
from .pack import PIXELS, Pack
from .recipe_sampler import RecipeSampler
from .rendering import render

CROP = 128


def build_vae(channels: tuple[int, ...] = (32, 64, 128, 128), groups: int = 16) -> Any:
    """The untrained autoencoder."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=LATENT_CHANNELS, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels, norm_num_groups=groups, sample_size=PIXELS, mid_block_add_attention=False,
        scaling_factor=1.0,
    )  # fmt: skip


def build_discriminator(width: int = 48) -> nn.Sequential:
    """Judges patches of a picture; hinge loss."""
    w = width
    return nn.Sequential(
        nn.Conv2d(3, w, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(w, 2 * w, 4, 2, 1), nn.GroupNorm(8, 2 * w), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * w, 4 * w, 4, 2, 1), nn.GroupNorm(8, 4 * w), nn.LeakyReLU(0.2),
        nn.Conv2d(4 * w, 4 * w, 3, 1, 1), nn.GroupNorm(8, 4 * w), nn.LeakyReLU(0.2),
        nn.Conv2d(4 * w, 1, 3, 1, 1),
    )  # fmt: skip


def mosaic(x: torch.Tensor) -> torch.Tensor:
    """Four quarters of a batch ``[4k, c, h, w]`` side by side: ``[k, c, 2h, 2w]``."""
    a, b, c, d = x.chunk(4)
    return torch.cat([torch.cat([a, b], 3), torch.cat([c, d], 3)], 2)


def reconstruction_loss(made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Pixels, gradients and coarser scales."""
    loss = (made - target).abs().mean() + 0.5 * (made - target).square().mean()
    for axis in (2, 3):
        loss = loss + 0.6 * (made.diff(dim=axis) - target.diff(dim=axis)).abs().mean()
    for scale in (2, 4, 8):
        loss = loss + 0.25 * (F.avg_pool2d(made, scale) - F.avg_pool2d(target, scale)).abs().mean()
    return loss


def fold_statistics(vae: Any, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Make latents of channel mean ``mean [4]`` and ``deviation [4]`` standard, without changing any reconstruction."""
    n = LATENT_CHANNELS
    inner, outer = vae.quant_conv, vae.post_quant_conv
    with torch.no_grad():
        inner.weight[:n].div_(deviation[:, None, None, None])
        inner.bias[:n].sub_(mean).div_(deviation)
        inner.bias[n:].sub_(2 * deviation.log())  # log-variance
        outer.bias.add_(outer.weight[:, :, 0, 0] @ mean)
        outer.weight.mul_(deviation[None, :, None, None])


@torch.no_grad()
def picture_pool(pack: Pack, n: int, device: torch.device, seed: int, batch: int = 128) -> torch.Tensor:
    """n random compositions, uint8 ``[n, 3, 256, 256]`` on the device."""
    textures = torch.from_numpy(pack.textures()).to(device)
    scenes = torch.from_numpy(pack.backgrounds()).to(device)
    sampler = RecipeSampler(pack, seed)
    pool = torch.empty(n, 3, PIXELS, PIXELS, dtype=torch.uint8, device=device)
    for i in range(0, n, batch):
        recipes = sampler.batch(min(batch, n - i))
        pool[i : i + batch] = (render(textures, scenes, recipes) * 255).round().to(torch.uint8)
    return pool


@torch.no_grad()
def latent_statistics(vae: Any, pool: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each latent channel."""
    z = torch.cat([encode_mean(vae, part.float() / 255).float() for part in pool.split(32)])
    return z.mean((0, 2, 3)), z.std((0, 2, 3))


@torch.no_grad()
def mean_psnr(vae: Any, pool: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio of reconstructions, dB."""
    values = []
    for part in pool.split(32):
        x = part.float() / 255
        y = (vae.decode(encode_mean(vae, x)).sample / 2 + 0.5).clamp(0, 1)
        values.append(-10 * torch.log10((x - y).square().mean((1, 2, 3)).clamp_min(1e-8)))
    return float(torch.cat(values).mean())


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train, fold, save; returns the record."""
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    vae = build_vae(tuple(args.channels), args.groups).to(device, memory_format=torch.channels_last)
    discriminator = build_discriminator(args.discriminator).to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    rival = torch.optim.AdamW(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.9))
    average = [p.detach().clone() for p in vae.parameters()]
    step, spent = 0, 0.0
    checkpoint = out / "vae.pt"
    parts = {"vae": vae, "discriminator": discriminator, "optimizer": optimizer, "rival": rival}
    if args.resume and checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        average, step, spent = saved["average"], saved["step"], saved["seconds"]
        print(f"[vae] resumed at step {step}", flush=True)
    pool = picture_pool(Pack.load(args.data), args.pool, device, args.seed)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    began, last_save = time.time() - spent, time.time()
    while True:
        progress = step / args.steps if args.steps else (time.time() - began) / args.seconds
        if progress >= 1:
            break
        whole = progress > 0.7  # crops first, whole pictures at the end
        batch = max(4, (args.batch // 3 if whole else args.batch) // 4 * 4)
        x = pool[torch.randint(0, len(pool), (batch,), device=device)].float() / 127.5 - 1
        if not whole:
            top, left = (int(v) for v in torch.randint(0, PIXELS - CROP + 1, (2,)))
            x = x[:, :, top : top + CROP, left : left + CROP]
        x = x.contiguous(memory_format=torch.channels_last)
        with autocast:
            mean, log_variance = vae.quant_conv(vae.encoder(x)).float().chunk(2, 1)
            log_variance = log_variance.clamp(-20, 4)
            z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            k = batch // 4
            latents = torch.cat([z[k:], mosaic(F.avg_pool2d(z, 2)[: 4 * k])])
            target = torch.cat([x[k:], mosaic(F.avg_pool2d(x, 2)[: 4 * k])])
            made = vae.decoder(vae.post_quant_conv(latents)).float()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        reconstruction = reconstruction_loss(made, target)
        (direction,) = torch.autograd.grad(reconstruction, made, retain_graph=True)
        adversarial = progress > 0.45 and args.adversarial > 0
        if adversarial:
            copy = made.detach().requires_grad_(True)
            with autocast:
                score = discriminator(copy).float().mean()
            (push,) = torch.autograd.grad(-score, copy)
            ramp = min(1.0, (progress - 0.45) / 0.05)
            direction = direction + push * (args.adversarial * ramp * direction.norm() / push.norm().clamp_min(1e-12))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward([made, args.kl * kl], [direction, None])
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        rate = args.learning_rate * min(1.0, (step + 1) / 150) * (0.485 * (1 + math.cos(math.pi * progress)) + 0.03)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        torch._foreach_lerp_(average, list(vae.parameters()), 1 - min(0.999, (step + 1) / (step + 20)))
        if adversarial:
            with autocast:
                real, fake = discriminator(target).float(), discriminator(made.detach()).float()
            rival.zero_grad(set_to_none=True)
            (F.relu(1 - real).mean() + F.relu(1 + fake).mean()).backward()
            rival.step()
        step += 1
        if step % args.log_every == 0:
            print(
                f"[vae] step {step} loss {float(reconstruction):.4f} kl {float(kl):.3f} progress {progress:.3f}",
                flush=True,
            )
        if time.time() - last_save > 60:
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save(state | {"average": average, "step": step, "seconds": time.time() - began}, checkpoint)
            last_save = time.time()
    with torch.no_grad():
        torch._foreach_copy_(list(vae.parameters()), average)
    vae.eval()
    some = pool[: min(len(pool), 2048)]
    fold_statistics(vae, *latent_statistics(vae, some))
    vae.half().float()  # measure what is shipped: float16 weights
    record = {"steps": step, "psnr_db": round(mean_psnr(vae, some[:512]), 2)}
    vae.half().save_pretrained(out)
    save_json(out / "vae_training.json", record)
    print(f"[vae] {record}", flush=True)
    return record


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the packed art")
    parser.add_argument("--out", required=True, help="folder of the VAE")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--steps", type=int, default=0, help="length in steps, instead of seconds")
    parser.add_argument("--batch", type=int, default=64, help="crops a step; whole pictures: a third of it")
    parser.add_argument("--pool", type=int, default=24000, help="pictures rendered beforehand")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--kl", type=float, default=2e-4)
    parser.add_argument("--adversarial", type=float, default=0.25, help="part of the discriminator's gradient; 0: none")
    parser.add_argument("--channels", type=int, nargs=4, default=[32, 64, 128, 128])
    parser.add_argument("--groups", type=int, default=16, help="groups of the normalisation")
    parser.add_argument("--discriminator", type=int, default=48, help="width of the discriminator")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    train(parse())
