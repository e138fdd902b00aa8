"""Between pictures and latents.

Pixels are float in [-1, 1], N x 3 x H x W; latents are N x C x h x w, scaled as the denoiser sees them. A VAE made for
video, which some models of pictures have, is given one frame.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.errors import BadImage
from diffusion_local.messages import message


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The mode of the posterior, scaled."""
    pixels = pixels.to(vae.dtype)
    encoded = vae.encode(pixels[:, :, None] if is_video_vae(vae) else pixels)
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    if is_video_vae(vae):
        latents = latents[:, :, 0]
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std * _scale(vae)


def encode_safely(vae: Any, run: Callable[[], torch.Tensor], in_fp32: Callable[[], None]) -> tuple[torch.Tensor, str]:
    """Encode with ``run``, retrying in fp32 as ``decode`` does: (latents, a note if retried). Raises BadImage."""
    latents, said = run(), ""
    if not torch.isfinite(latents).all() and vae.dtype != torch.float32:
        said = f"the VAE gave no numbers in {str(vae.dtype).removeprefix('torch.')} and was run again in float32"
        in_fp32()
        latents = run()
    if not torch.isfinite(latents).all():
        raise BadImage(message("source_nan"))
    return latents, said


def decode(
    vae: Any,
    latents: torch.Tensor,
    in_fp32: Callable[[], None],
    decoder: Callable[[torch.Tensor], torch.Tensor] | None = None,
    refuse: Callable[[str], None] = lambda why: None,
) -> tuple[PIL.Image, str]:
    """The first picture of the latents, and a sentence where it took a second try, else an empty string.

    A half precision VAE that overflows, to NaN or to a black picture, is run again after ``in_fp32``, which makes it
    compute in fp32 from then on. A picture that stays black is one all the same: it is kept, and flagged later.
    ``decoder`` is tried before the VAE itself; ``refuse`` is told why it failed. Raises BadImage where there are no
    numbers.
    """
    if not torch.isfinite(latents).all():
        raise BadImage(message("out_of_range"))
    mean, std = _statistics(vae, latents)
    latents = latents / _scale(vae) * std + mean
    pixels, said = None if decoder is None else _checked(decoder(latents)[0]), ""
    wrong = "" if decoder is None else _unusable(pixels)
    if decoder is None or wrong:
        pixels = _decode(vae, latents)
    problem = _unusable(pixels)
    if problem and vae.dtype != torch.float32:
        said = f"the VAE gave {problem} in {str(vae.dtype).removeprefix('torch.')} and was run again in float32"
        in_fp32()
        pixels = _decode(vae, latents)
    if wrong and not _unusable(pixels):  # a picture that is black either way was painted so
        refuse(f"the VAE gave {wrong}")
    if pixels is None:
        raise BadImage(message("noise_nan"))
    return PIL.fromarray(pixels.permute(1, 2, 0).cpu().numpy()), said


def decode_later(
    vae: Any,
    latents: torch.Tensor,
    decoder: Callable[[torch.Tensor], torch.Tensor] | None,
    again: Callable[[str], tuple[PIL.Image, str]],
    lock: AbstractContextManager[Any],
) -> Callable[[], tuple[PIL.Image, str]]:
    """Have a CUDA device decode, by ``decoder`` or else the VAE itself, without waiting for it.

    The function that is returned waits, checks, and gives what ``decode`` gives; any thread may call it. A picture that
    fails its checks is what ``again(problem)`` makes of it, called while ``lock`` is held; without a problem of the
    VAE it is the latents that are no numbers.
    """
    mean, std = _statistics(vae, latents)
    unscaled = latents / _scale(vae) * std + mean
    run = decoder or (lambda latents: decode_pixels(vae, latents))
    pixels = run(unscaled)[0]
    shown = _eight_bits(pixels).permute(1, 2, 0).contiguous()
    sound = torch.stack([torch.isfinite(latents).all(), torch.isfinite(pixels).all(), shown.any()])
    arrived = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in (shown, sound)]
    for there, here in zip(arrived, (shown, sound), strict=True):
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
    """Pixels of unscaled latents."""
    latents = latents.to(vae.dtype)
    if is_video_vae(vae):
        frame: torch.Tensor = vae.decode(latents[:, :, None], return_dict=False)[0][:, :, 0]
        return frame
    pixels: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


def _decode(vae: Any, latents: torch.Tensor) -> torch.Tensor | None:
    """3 x H x W, 8 bits a channel; None where the VAE gave no numbers."""
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
    """Mean and standard deviation of the latents by channel (some SDXL kin), or the shift of all (SD3, FLUX)."""
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return getattr(vae.config, "shift_factor", None) or 0.0, 1.0
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)
