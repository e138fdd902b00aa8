"""IP-Adapters: additional cross-attention of a UNet to an image encoder's features of reference pictures.

The image encoder is in memory only while the pictures of a pass are encoded. The features are cached with the model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image as PIL
from PIL import ImageOps

from diffusion_local.engine import img2img, placement
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.loops import Loop
from diffusion_local.engine.tensors import read_finite
from diffusion_local.models.identify import read_file
from diffusion_local.options.table import Params
from diffusion_local.options.types import Reference, Use

#: Attention heads of the image encoders; cannot be inferred from their tensors.
RESAMPLER_HEADS = 16
#: Where diffusers keeps a UNet's own projection of prompts while there are IP-Adapters.
OWN_PROJECTION = "text_encoder_hid_proj"
#: Number of embeddings cached per model.
KEPT = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """An IP-Adapter with the pictures that it reads at one strength.

    ``mask``: source id of a picture that restricts it to a region, or empty.
    """

    adapter: str
    weight: float
    mask: str
    images: tuple[str, ...]


def slots_of(references: tuple[Reference, ...]) -> tuple[Slot, ...]:
    """Group references into slots: pictures with the same adapter and weight share one; each masked one has its own."""
    slots: list[Slot] = []
    for each in references:
        if each.use is Use.EDIT:
            continue
        same = next(
            (
                at
                for at, slot in enumerate(slots)
                if (slot.adapter, slot.weight, slot.mask, each.mask) == (each.adapter, each.weight, "", "")
            ),
            None,
        )
        if same is None:
            slots.append(Slot(each.adapter, each.weight, each.mask, (each.image,)))
        else:
            slots[same] = replace(slots[same], images=(*slots[same].images, each.image))
    return tuple(slots)


def put_in(loaded: Loaded, params: Params, materials: PictureInputs) -> None:
    """Load the adapters named in ``params`` into the model at their strengths, and unload all others."""
    slots = slots_of(params.references)
    names = tuple(slot.adapter for slot in slots)
    if names != loaded.ip_adapters:
        loaded.weights_change()
        loaded.ip_adapters = ()
        with placement.without_hooks(loaded.pipe, loaded.rung):
            if loaded.pipe.unet.config.encoder_hid_dim_type == placement.IP_ADAPTER_INPUT:
                unload(loaded.pipe)
            if names and loaded.rung == "attention_slicing":
                loaded.pipe.disable_attention_slicing()
            if names:
                states = [read(materials.ip_adapter(name)) for name in names]
                try:
                    loaded.pipe.load_ip_adapter(
                        states, subfolder="", weight_name=[""] * len(names), image_encoder_folder=None
                    )
                except Exception:
                    unload(loaded.pipe)  # part of it may be in the UNet already
                    placement.slice_attention(loaded.pipe, loaded.rung)
                    raise
            else:
                placement.slice_attention(loaded.pipe, loaded.rung)
        loaded.ip_adapters = names
    loaded.seen = None
    if slots:
        loaded.pipe.set_ip_adapter_scale([slot.weight for slot in slots])
        loaded.seen = AdapterInputs(
            [embedded(loaded, slot, materials) for slot in slots],
            [materials.source(slot.mask) if slot.mask else None for slot in slots],
        )


def unload(pipe: Any) -> None:
    """Remove all IP-Adapters. diffusers would lose the UNet's own projection of prompts (Kolors) where loading failed
    early, and at the second time.
    """
    unet, text = pipe.unet, "text_proj"
    own = getattr(unet, OWN_PROJECTION, None) or (
        unet.encoder_hid_proj if unet.config.encoder_hid_dim_type == text else None
    )
    pipe.unload_ip_adapter()
    if hasattr(unet, OWN_PROJECTION):
        delattr(unet, OWN_PROJECTION)
    if own is not None:
        unet.encoder_hid_proj, unet.config.encoder_hid_dim_type = own, text


@dataclass(frozen=True, slots=True)
class AdapterInputs:
    """Adapter inputs of a pass: per slot the (negative, positive) embeddings of its pictures, and its mask or None."""

    embeddings: list[tuple[torch.Tensor, torch.Tensor]]
    masks: list[PIL.Image | None]

    def arguments(
        self, loop: Loop, canvas: img2img.SourceCanvas | None, guided: bool, device: Any, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Arguments for the call of the pipeline. ``guided``: whether it uses classifier-free guidance."""
        pairs = [(against.to(device, dtype), positive.to(device, dtype)) for against, positive in self.embeddings]
        arguments: dict[str, Any] = {
            "ip_adapter_image_embeds": [torch.cat(pair) if guided else pair[1] for pair in pairs]
        }
        if any(self.masks):
            width, height = loop.params.width, loop.params.height
            white = PIL.new("L", (width, height), 255)
            shades = [white if mask is None else mask_of_loop(mask, loop, canvas) for mask in self.masks]
            spread = [IPAdapterMaskProcessor().preprocess(each, height, width) for each in shades]
            counts = [positive.shape[1] for _, positive in self.embeddings]
            masks = [
                each.reshape(1, 1, *each.shape[-2:]).expand(1, count, -1, -1).to(device, dtype)
                for each, count in zip(spread, counts, strict=True)
            ]
            arguments["cross_attention_kwargs"] = {"ip_adapter_masks": masks}
        return arguments


def mask_of_loop(mask: PIL.Image, loop: Loop, canvas: img2img.SourceCanvas | None) -> PIL.Image:
    """The part of a full-picture mask (L) that a loop covers: all of it, a tile, or the repainted area."""
    shade = img2img.flatten_alpha(mask, "black").convert("L")
    if loop.box is not None:
        return ImageOps.fit(shade, loop.whole, PIL.Resampling.BILINEAR).crop(loop.box)
    area = None if canvas is None else canvas.area
    if area is not None:
        shade = ImageOps.fit(shade, area.picture.size, PIL.Resampling.BILINEAR).crop(area.box)
    return ImageOps.fit(shade, loop.whole, PIL.Resampling.BILINEAR)


def adapted(
    loaded: Loaded, loop: Loop, canvas: img2img.SourceCanvas | None, run: Callable[..., Any]
) -> Callable[..., Any]:
    """Bind the IP-Adapters' inputs to the pipeline's call ``run``."""
    if loaded.seen is None:
        return run
    guided = loaded.family.uses_guidance(loaded.pipe, loop.params.guidance)
    device = loaded.pipe._execution_device
    return partial(run, **loaded.seen.arguments(loop, canvas, guided, device, loaded.dtype))


def embedded(loaded: Loaded, slot: Slot, materials: PictureInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """(unconditional, conditional) features of a slot's pictures, each 1 x pictures x features; cached."""
    key = (slot.adapter, slot.images)
    if key not in loaded.embeddings:
        probe = read_file(materials.ip_adapter(slot.adapter)).probe
        hidden = probe.id != "plain"
        pictures = [img2img.flatten_alpha(materials.source(each), "white").convert("RGB") for each in slot.images]
        encoder = image_encoder(
            materials.image_encoder(probe.widths[0], hidden), loaded.pipe._execution_device, loaded.dtype
        )
        loaded.embeddings[key] = encode(encoder, pictures, hidden)
        while len(loaded.embeddings) > KEPT:
            loaded.embeddings.popitem(last=False)
    loaded.embeddings.move_to_end(key)
    return loaded.embeddings[key]


def encode(encoder: Any, pictures: list[PIL.Image], hidden: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(unconditional, conditional) features of pictures. ``hidden``: hidden states instead of pooled embeddings."""
    side = encoder.config.image_size
    processor = transformers.CLIPImageProcessorPil(size=side, crop_size=side)
    pixels = processor(pictures, return_tensors="pt").pixel_values.to(encoder.device, encoder.dtype)
    if hidden:
        positive = encoder(pixels, output_hidden_states=True).hidden_states[-2]
        against = encoder(torch.zeros_like(pixels), output_hidden_states=True).hidden_states[-2]
    else:
        positive = encoder(pixels).image_embeds
        against = torch.zeros_like(positive)
    return against[None].cpu(), positive[None].cpu()


def image_encoder(path: Path, device: Any, dtype: torch.dtype) -> Any:
    """Load a CLIP image encoder, configured by ``config.json`` beside the file, or else by its tensors' shapes."""
    state = read_finite(path)
    if (path.parent / "config.json").is_file():
        config = transformers.CLIPVisionConfig.from_pretrained(path.parent, local_files_only=True)
    else:
        config = transformers.CLIPVisionConfig(**sizes(state))
    encoder = transformers.CLIPVisionModelWithProjection.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype
    )
    return encoder.to(device).eval()


def sizes(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Arguments of a CLIP vision configuration, inferred from tensor shapes."""
    patches = state["vision_model.embeddings.patch_embedding.weight"]
    places = len(state["vision_model.embeddings.position_embedding.weight"]) - 1
    layers = {name.split(".")[3] for name in state if name.startswith("vision_model.encoder.layers.")}
    feed, _ = state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape
    # OpenAI's ViT-L uses another activation than OpenCLIP's larger encoders.
    activation = "quick_gelu" if patches.shape[0] == 1024 else "gelu"
    return {
        "hidden_size": patches.shape[0],
        "intermediate_size": feed,
        "num_hidden_layers": len(layers),
        "num_attention_heads": RESAMPLER_HEADS,
        "patch_size": patches.shape[-1],
        "image_size": round(places**0.5) * patches.shape[-1],
        "projection_dim": state["visual_projection.weight"].shape[0],
        "hidden_act": activation,
    }


def read(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Read the weights of an IP-Adapter, as diffusers' ``load_ip_adapter`` takes them."""
    state = read_finite(path)
    return {part: dict(below(state, f"{part}.")) for part in ("image_proj", "ip_adapter")}


def below(state: dict[str, torch.Tensor], prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in state.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor
