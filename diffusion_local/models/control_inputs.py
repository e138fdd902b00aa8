"""Inputs of ControlNets besides the control picture, recognised by the shapes of their tensors."""

from diffusion_local.models.weights import TensorView

#: Tensors with one row for each mode of a union ControlNet: of SDXL, of FLUX.
MODE_TABLES = ("task_embedding", "controlnet_mode_embedder.weight")
#: Pairs of tensors that read a control picture and the latents: of Qwen-Image and FLUX, of SD3.
CONTROL_ENTRANCES = (
    ("controlnet_x_embedder.weight", ("img_in.weight", "x_embedder.weight")),
    ("pos_embed_input.proj.weight", ("pos_embed.proj.weight",)),
)
#: Latent channels of SD3, whose ControlNets may lack the tensor that reads them.
SD3_CHANNELS = 16


def modes_of(view: TensorView) -> int:
    """Number of modes of a union ControlNet, 0 for others."""
    return next((shape[0] for name in MODE_TABLES if (shape := view.shape(name))), 0)


def reads_mask(view: TensorView) -> bool:
    """Whether a ControlNet for latents reads further channels beside the control picture."""
    for entrance, latents in CONTROL_ENTRANCES:
        if shape := view.shape(entrance):
            own = next((found[1] for name in latents if (found := view.shape(name))), SD3_CHANNELS)
            return bool(shape[1] > own)
    return False
