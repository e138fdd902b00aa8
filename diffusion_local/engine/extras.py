"""Additional memory that a picture needs besides its model: ControlNets, IP-Adapters, image encoders, LoRAs,
references.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.memory import Extras
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.formats import open_header
from diffusion_local.models.identify import read_file
from diffusion_local.options.table import Params
from diffusion_local.options.types import Use


def extras_of(params: Params, materials: PictureInputs | None) -> Extras:
    """Sizes from the files' headers. A missing or unreadable file counts as nothing; opening it
    later raises the error.
    """
    if materials is None:
        return Extras()
    adapters = {each.adapter for each in params.references if each.use is not Use.EDIT and each.adapter}
    files = [partial(materials.control, name) for name in {each.model for each in params.controls}]
    files += [partial(materials.lora, name) for name in {each.name for each in params.loras}]
    files += [partial(materials.ip_adapter, name) for name in adapters]
    encoders = [partial(image_encoder_of, name, materials) for name in adapters]
    return Extras(
        beside=sum(map(numbers_in, files)),
        vision=max(map(numbers_in, encoders), default=0),
        references=sum(each.use is Use.EDIT for each in params.references),
    )


def image_encoder_of(adapter: str, materials: PictureInputs) -> Path:
    """The file of the image encoder that an IP-Adapter needs. Raises ModelUnavailable."""
    probe = read_file(materials.ip_adapter(adapter)).probe
    return materials.image_encoder(probe.widths[0], probe.id != "plain")


def numbers_in(find: Callable[[], Path]) -> int:
    """Number of parameters in the file that ``find`` returns."""
    try:
        path = find()
        return sum(tensor.count for tensor in open_header(path).header.tensors.values())
    except (ModelUnavailable, OSError, IndexError):
        return 0
