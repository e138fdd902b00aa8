"""Shared by families with a UNet and CLIP text encoders: weighted prompts, and prompts longer than an encoder's window.

compel encodes the pieces parsed by ``grammar.prompt_weights``, 75 tokens at a time. Prompts without weights that fit
the window go through the pipeline itself, so their pixels do not change.
"""

from collections.abc import Callable
from typing import Any

import torch
from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode
from PIL import Image as PIL

from diffusion_local.engine import img2img
from diffusion_local.engine.family import Conditioning
from diffusion_local.grammar.prompt_weights import parse_parts, without_weights
from diffusion_local.options.table import Params

#: Guidance by the picture of InstructPix2Pix where none is given.
IMAGE_GUIDANCE = 1.5


def fits_window(tokenizer: Any, text: str) -> bool:
    """Whether a text fits into the text encoder's window."""
    return len(tokenizer(text, truncation=False, verbose=False).input_ids) <= tokenizer.model_max_length


class Encoder(EmbeddingsProvider):
    """One CLIP text encoder. ``layer`` counts hidden states from the end, 0 is the last."""

    def __init__(self, pipe: Any, number: str, layer: int, normalized: bool, device: Any) -> None:
        self._layer = layer
        self._normalized = normalized
        super().__init__(
            getattr(pipe, f"tokenizer{number}"),
            getattr(pipe, f"text_encoder{number}"),
            textual_inversion_manager=Inversions(getattr(pipe, f"tokenizer{number}")),
            dtype_for_device_getter=lambda device: torch.float32,
            truncate=False,
            returned_embeddings_type=ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED,
            device=device,
            split_long_text_mode=SplitLongTextMode.PHRASES,
        )

    def __call__(self, prompt: str) -> torch.Tensor:
        """1 x (77 times the number of chunks) x channels."""
        embeddings = [
            self.get_embeddings_for_weighted_prompt_fragments(
                [[piece.text for piece in part]], [[piece.weight for piece in part]], device=self.device
            )
            for part in parse_parts(prompt)
        ]
        return torch.cat(embeddings, dim=1).to(self.text_encoder.dtype)

    def pooled(self, prompt: str) -> torch.Tensor:
        """Pooled embedding, which ignores weights."""
        text = " ".join("".join(piece.text for piece in part) for part in parse_parts(prompt))
        return self.get_pooled_embeddings([text], device=self.device)

    def _encode_token_ids_to_embeddings(
        self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        output = self.text_encoder(token_ids, attention_mask, output_hidden_states=True, return_dict=True)
        if self._layer == 0 and self._normalized:
            return output.last_hidden_state
        hidden = output.hidden_states[-(self._layer + 1)]
        model: Any = getattr(self.text_encoder, "text_model", self.text_encoder)  # transformers 5 has no layer between
        return model.final_layer_norm(hidden) if self._normalized else hidden


class Inversions:
    """Expands a textual inversion of several vectors to its run of tokens; the text holds only the first one."""

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.get_added_vocab()
        self._runs: dict[int, list[int]] = {}
        for word, first in added.items():
            later = [added[f"{word}_{number}"] for number in range(1, 100) if f"{word}_{number}" in added]
            if later:
                self._runs[first] = [first, *later]

    def expand_textual_inversion_token_ids_if_necessary(self, token_ids: list[int]) -> list[int]:
        return [each for token in token_ids for each in self._runs.get(token, [token])]


def same_length(first: torch.Tensor, second: torch.Tensor, empty: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two embeddings, the shorter one padded with chunks of empty text."""
    longest = max(first.shape[1], second.shape[1])
    padded = []
    for each in (first, second):
        missing = (longest - each.shape[1]) // empty.shape[1]
        padded.append(torch.cat([each, *[empty.to(each)] * missing], dim=1))
    return padded[0], padded[1]


def unweighted_short_texts(pipe: Any, prompt: str, negative: str | None) -> tuple[str | None, str | None]:
    """Both texts without markup; (None, None) if one has weights or exceeds the encoder's window."""
    texts = [without_weights(each) for each in (prompt, negative) if each is not None]
    if any(text is None or not fits_window(pipe.tokenizer, text) for text in texts):
        return None, None
    return texts[0], texts[1] if negative is not None else None


def prompt_tensors(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    """The result of ``embed`` as pipelines use it between steps: negative and prompt in one tensor."""
    names = {"prompt_embeds": "prompt_embeds", "add_text_embeds": "pooled_prompt_embeds"}
    tensors = {}
    for pipeline_name, name in names.items():
        if name in conditioning:
            both = [conditioning[f"negative_{name}"], conditioning[name]]
            tensors[pipeline_name] = torch.cat([each for each in both if each is not None])
    return tensors


def uses_guidance(pipe: Any, guidance: float) -> bool:
    """False for distilled models (LCM), which take guidance as an input instead."""
    return guidance > 1 and pipe.unet.config.time_cond_proj_dim is None


def instructed(params: Params, pictures: list[PIL.Image]) -> dict[str, Any]:
    """Call arguments of InstructPix2Pix's pipelines."""
    canvas = img2img.make_canvas(pictures[0], (params.width, params.height))
    return {"image": canvas.source, "image_guidance_scale": params.image_guidance or IMAGE_GUIDANCE}


def sized_by_picture(run: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline that takes its size from the picture."""
    return lambda width, height, **options: run(**options)


def latent_shape(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    scale = pipe.vae_scale_factor
    return (1, pipe.vae.config.latent_channels, height // scale, width // scale)


def upcast_vae(pipe: Any) -> Any:
    """The pipeline, with its VAE in fp32 if it would overflow in fp16."""
    if pipe.vae.config.force_upcast:
        pipe.vae.to(dtype=torch.float32)
    return pipe
