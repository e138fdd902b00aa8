"""Encodes pictures to latents and decodes latents to pictures.

Pixels are float in [-1, 1], N x 3 x H x W; latents are N x C x h x w, scaled as the denoiser expects them. Video VAEs,
which some image models use, are given a single frame.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.errors import BadImage
from diffusion_local.messages import message


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The mode of the VAE's posterior, scaled."""
    pixels = pixels.to(vae.dtype)
    encoded = vae.encode(pixels[:, :, None] if is_video_vae(vae) else pixels)
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded[0]
    if is_video_vae(vae):
        latents = latents[:, :, 0]
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std * _scale(vae)


def encode_safely(vae: Any, run: Callable[[], torch.Tensor], in_fp32: Callable[[], None]) -> tuple[torch.Tensor, str]:
    """Encode with ``run``, retrying in fp32 like ``decode``: (latents, a note if retried, else "").

    Raises BadImage if the result is not finite.
    """
    latents, note = run(), ""
    if not torch.isfinite(latents).all() and vae.dtype != torch.float32:
        note = f"the VAE gave no numbers in {str(vae.dtype).removeprefix('torch.')} and was run again in float32"
        in_fp32()
        latents = run()
    if not torch.isfinite(latents).all():
        raise BadImage(message("source_nan"))
    return latents, note


def decode(
    vae: Any,
    latents: torch.Tensor,
    in_fp32: Callable[[], None],
    decoder: Callable[[torch.Tensor], torch.Tensor] | None = None,
    refuse: Callable[[str], None] = lambda why: None,
) -> tuple[PIL.Image, str]:
    """Decode the first picture: (picture, a note if it took a second try, else "").

    If a half-precision VAE overflows (NaN or an all-black picture), ``in_fp32`` is called, which switches it to fp32
    for good, and decoding is repeated. A picture that is still black is returned; the quality check flags it later.
    ``decoder`` is tried before the VAE itself; if it fails, ``refuse`` gets the reason. Raises BadImage if the result
    is not finite.
    """
    if not torch.isfinite(latents).all():
        raise BadImage(message("out_of_range"))
    mean, std = _statistics(vae, latents)
    latents = latents / _scale(vae) * std + mean
    pixels, note = None if decoder is None else _checked(decoder(latents)[0]), ""
    wrong = "" if decoder is None else _unusable(pixels)
    if decoder is None or wrong:
        pixels = _decode(vae, latents)
    problem = _unusable(pixels)
    if problem and vae.dtype != torch.float32:
        note = f"the VAE gave {problem} in {str(vae.dtype).removeprefix('torch.')} and was run again in float32"
        in_fp32()
        pixels = _decode(vae, latents)
    if wrong and not _unusable(pixels):  # black from both: the latents are black
        refuse(f"the VAE gave {wrong}")
    if pixels is None:
        raise BadImage(message("noise_nan"))
    return PIL.fromarray(pixels.permute(1, 2, 0).cpu().numpy()), note


def decode_later(
    vae: Any,
    latents: torch.Tensor,
    decoder: Callable[[torch.Tensor], torch.Tensor] | None,
    again: Callable[[str], tuple[PIL.Image, str]],
    lock: AbstractContextManager[Any],
) -> Callable[[], tuple[PIL.Image, str]]:
    """Launch decoding on a CUDA device, with ``decoder`` or else the VAE, without waiting for it.

    The returned function waits, checks the result, and returns the same as ``decode``; any thread may call it. If the
    check fails, the result of ``again(problem)`` is used instead, called with ``lock`` held; an empty ``problem`` means
    that the latents, not the VAE, are not finite.
    """
    mean, std = _statistics(vae, latents)
    unscaled = latents / _scale(vae) * std + mean
    run = decoder or (lambda latents: decode_pixels(vae, latents))
    pixels = run(unscaled)[0]
    picture_bytes = _eight_bits(pixels).permute(1, 2, 0).contiguous()
    sound = torch.stack([torch.isfinite(latents).all(), torch.isfinite(pixels).all(), picture_bytes.any()])
    arrived = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in (picture_bytes, sound)]
    for there, here in zip(arrived, (picture_bytes, sound), strict=True):
        there.copy_(here, non_blocking=True)
    done = torch.cuda.Event(blocking=True)
    done.record()

    def finished() -> tuple[PIL.Image, str]:
        done.synchronize()
        finite_latents, finite, lit = arrived[1].tolist()
        if finite_latents and finite and lit:
            return PIL.fromarray(arrived[0].numpy().copy()), ""
        with lock, torch.no_grad():
            return again("" if not finite_latents else "no numbers" if not finite else "a black picture")

    return finished


def is_video_vae(vae: Any) -> bool:
    """Whether the VAE expects a time axis after the channels."""
    return hasattr(vae.config, "temperal_downsample")  # as diffusers spells it


def decode_pixels(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode unscaled latents to pixels."""
    latents = latents.to(vae.dtype)
    if is_video_vae(vae):
        frame: torch.Tensor = vae.decode(latents[:, :, None], return_dict=False)[0][:, :, 0]
        return frame
    pixels: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


def _decode(vae: Any, latents: torch.Tensor) -> torch.Tensor | None:
    """3 x H x W, 8 bits per channel; None if the VAE's output is not finite."""
    return _checked(decode_pixels(vae, latents)[0])


def _checked(pixels: torch.Tensor) -> torch.Tensor | None:
    return _eight_bits(pixels) if torch.isfinite(pixels).all() else None


def _eight_bits(pixels: torch.Tensor) -> torch.Tensor:
    """Convert pixels in [-1, 1] to uint8."""
    return ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def _unusable(pixels: torch.Tensor | None) -> str:
    return "no numbers" if pixels is None else "" if pixels.any() else "a black picture"


def _scale(vae: Any) -> float:
    return getattr(vae.config, "scaling_factor", None) or 1.0  # FLUX.2's has none


def _statistics(vae: Any, latents: torch.Tensor) -> tuple[Any, Any]:
    """Per-channel mean and standard deviation of the latents (some SDXL derivatives), or one shift
    for all (SD3, FLUX).
    """
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return getattr(vae.config, "shift_factor", None) or 0.0, 1.0
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)
