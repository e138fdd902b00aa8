"""Noise from seeds: on the CPU in fp32, so that it is the same on every device and in every dtype."""

import torch

from diffusion_local.domain import Params


def draw(params: Params, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Generator]:
    """The noise of a picture, and the generator for what samplers draw on their way.

    With a variation seed the noise is on the way, along the sphere, from the seed's to that seed's.
    """
    generator = torch.Generator().manual_seed(params.seed)
    noise = torch.randn(shape, generator=generator)
    if params.variation_seed is not None and params.variation_strength:
        other = torch.randn(shape, generator=torch.Generator().manual_seed(params.variation_seed))
        noise = slerp(noise[0], other[0], params.variation_strength)[None]
    return noise, generator


def slerp(low: torch.Tensor, high: torch.Tensor, share: float) -> torch.Tensor:
    """Spherical interpolation of two C x h x w, column by column as A1111 does it (``modules/rng.py``)."""
    unit_low = low / torch.norm(low, dim=1, keepdim=True)
    unit_high = high / torch.norm(high, dim=1, keepdim=True)
    dot = (unit_low * unit_high).sum(1)
    if dot.mean() > 0.9995:
        return low * (1 - share) + high * share
    angle = torch.acos(dot.clamp(-1, 1))
    from_low = torch.sin((1.0 - share) * angle) / torch.sin(angle)
    from_high = torch.sin(share * angle) / torch.sin(angle)
    return from_low.unsqueeze(1) * low + from_high.unsqueeze(1) * high
