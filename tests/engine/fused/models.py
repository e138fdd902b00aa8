"""Small models of the structure of Stable Diffusion 1 and XL, with random weights, and inputs for them."""

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

SMALL = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 16}


def sd(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = SMALL | {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
    }
    return randomised(UNet2DConditionModel(**config | changes))


def sdxl() -> Any:
    return sd(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )


def vae(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = {"block_out_channels": (32, 32), "norm_num_groups": 8, "latent_channels": 4, "sample_size": 32}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return randomised(AutoencoderKL(**config | kinds | changes))


def randomised(model: Any) -> Any:
    """Norms and biases begin as ones and zeros, which would hide what is left out."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval().requires_grad_(False)


def inputs(unet: Any, pictures: int = 2, size: tuple[int, int] = (16, 24), tokens: int = 7) -> dict[str, Any]:
    torch.manual_seed(1)
    options: dict[str, Any] = {
        "sample": torch.randn(pictures, unet.config.in_channels, *size),
        "timestep": torch.tensor(501.0),
        "encoder_hidden_states": torch.randn(pictures, tokens, 24),
    }
    if unet.config.addition_embed_type:
        ids = torch.tensor([[16.0, 24, 0, 0, 16, 24]] * pictures)
        options["added_cond_kwargs"] = {"text_embeds": torch.randn(pictures, 16), "time_ids": ids}
    return options


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, in L2."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())
