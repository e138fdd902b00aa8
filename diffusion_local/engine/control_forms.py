"""How each kind of network reads a control picture, and which arguments of the denoiser its residuals become."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image as PIL

from diffusion_local.engine import control_nets
from diffusion_local.engine.loaded import Loaded
from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.models.references import UNION_MODES, modes_below
from diffusion_local.options.types import Control

#: Arguments of the denoiser's call, by name.
Given = dict[str, Any]


def pixels_of(picture: PIL.Image) -> torch.Tensor:
    """An RGB picture as a tensor, 1 x 3 x H x W, values in 0..1."""
    return torch.from_numpy(np.array(picture)).movedim(-1, 0)[None].float() / 255


def covered(mask: PIL.Image) -> torch.Tensor:
    """Where a mask (L) is white: bool, 1 x 1 x H x W."""
    return torch.from_numpy(np.array(mask))[None, None] >= 128


def masked_pixels(picture: PIL.Image, mask: PIL.Image | None) -> torch.Tensor:
    """A picture in -1..1, 1 x 3 x H x W; -1 where the mask is white."""
    pixels = pixels_of(picture) * 2 - 1
    return pixels if mask is None else pixels.masked_fill(covered(mask), -1)


def spread(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """Repeat a tensor along its first dimension for a batch."""
    return tensor.expand(batch, *tensor.shape[1:])


# -- networks of each kind of denoiser ---------------------------------------------------------------------------------


def see_pixels(loaded: Loaded, net: Any, picture: PIL.Image, mask: PIL.Image | None) -> torch.Tensor:
    """The control picture in pixels (0..1); greyscale for T2I-Adapters with one input channel.

    What the mask covers is -1, as ControlNets for inpainting were trained; union ControlNets read black there.
    """
    pixels = pixels_of(picture)
    if mask is not None:
        pixels = pixels.masked_fill(covered(mask), 0 if isinstance(net, diffusers.ControlNetUnionModel) else -1)
    pixels = pixels.to(net.device, net.dtype)
    if isinstance(net, diffusers.T2IAdapter) and net.config.in_channels == 1:
        return pixels.mean(1, keepdim=True)
    return pixels


def see_latents(loaded: Loaded, net: Any, picture: PIL.Image, mask: PIL.Image | None) -> torch.Tensor:
    """Latents of a control picture in the denoiser's layout (packed for transformers that pack theirs).

    Networks for inpainting read a mask as a further channel: 1 where the picture is kept.
    """
    pipe, family = loaded.pipe, loaded.family
    latents = family.encode(pipe, masked_pixels(picture, mask).to(net.device))
    if mask is not None and control_nets.mask_channels(net):
        latents = torch.cat((latents, keep_mask(mask, latents)), dim=1)
    return family.pack(pipe, latents).to(net.device, net.dtype)


def keep_mask(mask: PIL.Image, latents: torch.Tensor) -> torch.Tensor:
    """1 where a mask keeps the picture, 0 where it is painted, at the size of latents: 1 x 1 x h x w."""
    size = latents.shape[-2:]
    return 1 - torch.nn.functional.interpolate(covered(mask).to(latents), size=size)


def see_flux(loaded: Loaded, net: Any, picture: PIL.Image, mask: PIL.Image | None) -> torch.Tensor:
    """As `see_latents`, or pixels (-1..1) for networks that encode the picture themselves."""
    if net.config.conditioning_embedding_channels is None:
        return see_latents(loaded, net, picture, mask)
    return masked_pixels(picture, mask).to(net.device, net.dtype)


def see_sd3(loaded: Loaded, net: Any, picture: PIL.Image, mask: PIL.Image | None) -> torch.Tensor:
    """As `see_latents`; networks trained with an empty pooled prompt were also trained without the VAE's shift."""
    latents = see_latents(loaded, net, picture, mask)
    if mask is not None:
        return latents
    config = loaded.pipe.vae.config
    shift = config.shift_factor * config.scaling_factor if net.config.force_zeros_for_pooled_projection else 0
    return latents + shift


def see_z_image(loaded: Loaded, net: Any, picture: PIL.Image, mask: PIL.Image | None) -> torch.Tensor:
    """As `see_latents`; later generations have further channels for a mask and the masked picture.

    With a mask the control picture itself is left at zero, otherwise the further channels are.
    """
    latents = see_latents(loaded, net, picture, None)
    more = net.config.control_in_dim - latents.shape[1]
    if mask is not None and more == latents.shape[1] + 1:
        grey = (pixels_of(picture) * 2 - 1).masked_fill(covered(mask), 0)
        seen = loaded.family.encode(loaded.pipe, grey.to(net.device)).to(latents)
        return torch.cat((torch.zeros_like(latents), keep_mask(mask, latents), seen), dim=1)[:, :, None]
    return torch.nn.functional.pad(latents, (0, 0, 0, 0, 0, more))[:, :, None]


def of_unet(net: Any, seen: torch.Tensor, given: Given, control: Control) -> Given:
    """Residuals of a ControlNet, union ControlNet or T2I-Adapter for a UNet."""
    if isinstance(net, diffusers.T2IAdapter):
        states = [state * control.weight for state in net(seen)]
        batch = given["sample"].shape[0]
        return {"down_intrablock_additional_residuals": [spread(state, batch).clone() for state in states]}
    sample = given["sample"][:, : net.config.in_channels]
    batch, common = sample.shape[0], {
        "encoder_hidden_states": given["encoder_hidden_states"], "added_cond_kwargs": given.get("added_cond_kwargs"),
        "conditioning_scale": control.weight, "return_dict": False,
    }  # fmt: skip
    if isinstance(net, diffusers.ControlNetUnionModel):
        mode = mode_of(control, UNION_MODES["sdxl"], net.config.num_control_type)
        kinds = torch.zeros(batch, net.config.num_control_type, device=sample.device, dtype=sample.dtype)
        kinds[:, mode] = 1
        common |= {"controlnet_cond": [spread(seen, batch)], "control_type": kinds, "control_type_idx": [mode]}
    else:
        common |= {"controlnet_cond": spread(seen, batch)}
    down, middle = net(sample, given["timestep"], **common)
    return {"down_block_additional_residuals": list(down), "mid_block_additional_residual": middle}


def of_flux(net: Any, seen: torch.Tensor, given: Given, control: Control) -> Given:
    """Residuals of a ControlNet for FLUX."""
    states, mode = given["hidden_states"], None
    batch = states.shape[0]
    if net.union:
        number = mode_of(control, UNION_MODES["flux"], net.config.num_mode)
        mode = torch.full((batch, 1), number, device=states.device, dtype=torch.long)
    guidance = given.get("guidance") if net.config.guidance_embeds else None
    if net.config.guidance_embeds and guidance is None:  # the denoiser itself takes no guidance
        guidance = torch.full([batch], given["guidance_scale"], device=states.device, dtype=states.dtype)
    names = ("timestep", "pooled_projections", "encoder_hidden_states", "txt_ids", "img_ids")
    double, single = net(
        hidden_states=states, controlnet_cond=spread(seen, batch), controlnet_mode=mode, guidance=guidance,
        conditioning_scale=control.weight, return_dict=False, **{name: given[name] for name in names},
    )  # fmt: skip
    return {"controlnet_block_samples": double, "controlnet_single_block_samples": single}


def of_sd3(net: Any, seen: torch.Tensor, given: Given, control: Control) -> Given:
    """Residuals of a ControlNet for SD3."""
    states, pooled = given["hidden_states"], given["pooled_projections"]
    if net.config.force_zeros_for_pooled_projection:
        pooled = torch.zeros_like(pooled)
    words = given["encoder_hidden_states"] if net.context_embedder is not None else None
    samples = net(
        hidden_states=states, controlnet_cond=spread(seen, states.shape[0]), conditioning_scale=control.weight,
        encoder_hidden_states=words, pooled_projections=pooled, timestep=given["timestep"], return_dict=False,
    )[0]  # fmt: skip
    return {"block_controlnet_hidden_states": samples}


def of_qwen(net: Any, seen: torch.Tensor, given: Given, control: Control) -> Given:
    """Residuals of a ControlNet for Qwen-Image."""
    names = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_mask", "img_shapes")
    samples = net(
        controlnet_cond=spread(seen, given["hidden_states"].shape[0]), conditioning_scale=control.weight,
        return_dict=False, **{name: given.get(name) for name in names},
    )  # fmt: skip
    return {"controlnet_block_samples": samples}


def of_z_image(net: Any, seen: torch.Tensor, given: Given, control: Control) -> Given:
    """Residuals of a ControlNet for Z-Image."""
    pictures = given["x"]
    samples = net(
        pictures, given["t"], given["cap_feats"], [seen[0]] * len(pictures), conditioning_scale=control.weight
    )
    return {"controlnet_block_samples": samples}


def mode_of(control: Control, modes: dict[str, int], count: int) -> int:
    """The mode number of a control in a union ControlNet. Raises ModelUnavailable if the network has no such mode."""
    name = control.mode or str(control.type)
    number = modes.get(name, count)
    if number >= count:
        known = modes_below(modes, count)
        raise ModelUnavailable(message("control_mode", name=control.model, known=known, got=name))
    return number


@dataclass(frozen=True, slots=True)
class Form:
    """How controls work for one class of denoiser.

    ``see(loaded, net, picture, mask)`` makes a network's input from a control picture, without what a mask covers;
    ``residuals`` runs the network and returns arguments for the denoiser. ``shared``: the pipeline calls its denoiser
    twice per step, and both calls use the residuals of the first.
    """

    see: Callable[[Loaded, Any, PIL.Image, PIL.Image | None], Any]
    residuals: Callable[[Any, Any, Given, Control], Given]
    shared: bool = False


FORMS = {
    "UNet2DConditionModel": Form(see_pixels, of_unet),
    "FluxTransformer2DModel": Form(see_flux, of_flux),
    "SD3Transformer2DModel": Form(see_sd3, of_sd3),
    "QwenImageTransformer2DModel": Form(see_latents, of_qwen, shared=True),
    "ZImageTransformer2DModel": Form(see_z_image, of_z_image),
}
