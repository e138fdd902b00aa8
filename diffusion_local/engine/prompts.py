"""Prompts with weights, and prompts longer than a text encoder reads at once, for models with CLIP text encoders.

The syntax is A1111's (its wiki, "Attention/emphasis"): ``(word)`` weighs 1.1 times as much, ``[word]`` 1.1 times as
little, ``(word:1.3)`` 1.3 times; they nest, and ``\\(`` is a bracket. compel turns the weighted pieces into embeddings,
75 tokens at a time. What has no weight and fits goes the pipeline's own way, to the same pixels as ever.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

UP, DOWN = 1.1, 1 / 1.1
#: Weights further away make noise of a picture.
MOST = 10.0
#: Brackets within brackets that weigh something, of each kind; further ones are text. 1.1 to the 25th is MOST already.
DEEPEST = 50
_MARK = re.compile(r"\\[()\[\]\\]|[(\[]|:\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|[)\]]|[^\\()\[\]:]+|[\\:]")


@dataclass(slots=True)
class Piece:
    """Text with one weight."""

    text: str
    weight: float = 1.0


def pieces(prompt: str) -> list[Piece]:
    """The prompt in pieces of one weight each, without its marks. A bracket that stays open counts to the end."""
    found: list[Piece] = []
    round_open: list[int] = []
    square_open: list[int] = []

    def weigh(start: int, factor: float) -> None:
        for piece in found[start:]:
            piece.weight = math.copysign(min(MOST, abs(piece.weight * factor)), piece.weight * factor)

    for match in _MARK.finditer(prompt):
        mark, weight = match[0], match[1]
        if mark.startswith("\\") and len(mark) == 2:
            found.append(Piece(mark[1]))
        elif mark == "(" and len(round_open) < DEEPEST:
            round_open.append(len(found))
        elif mark == "[" and len(square_open) < DEEPEST:
            square_open.append(len(found))
        elif weight is not None and round_open:
            weigh(round_open.pop(), float(weight))
        elif mark == ")" and round_open:
            weigh(round_open.pop(), UP)
        elif mark == "]" and square_open:
            weigh(square_open.pop(), DOWN)
        else:
            found.append(Piece(mark))
    for start in round_open:
        weigh(start, UP)
    for start in square_open:
        weigh(start, DOWN)
    return merged(found)


def merged(found: list[Piece]) -> list[Piece]:
    """Neighbours of equal weight as one piece; at least one piece."""
    runs: list[list[Piece]] = []
    for piece in found:
        if runs and math.isclose(runs[-1][0].weight, piece.weight):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return [Piece("".join(piece.text for piece in run), run[0].weight) for run in runs] or [Piece("")]


def plain(prompt: str) -> str | None:
    """The text without its marks if all of it weighs 1, else None."""
    found = pieces(prompt)
    return found[0].text if len(found) == 1 and math.isclose(found[0].weight, 1.0) else None


def fits(tokenizer: Any, text: str) -> bool:
    """Whether a text encoder reads it at once."""
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
        each = pieces(prompt)
        found = self.get_embeddings_for_weighted_prompt_fragments(
            [[piece.text for piece in each]], [[piece.weight for piece in each]], device=self.device
        )
        return found.to(self.text_encoder.dtype)

    def pooled(self, prompt: str) -> torch.Tensor:
        """Of the text without its weights: they do not reach it."""
        return self.get_pooled_embeddings(["".join(piece.text for piece in pieces(prompt))], device=self.device)

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
    """A textual inversion of several vectors is a run of tokens of its own; its first one stands in the text."""

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
    """Two embeddings, the shorter one with chunks of empty text at its end."""
    longest = max(first.shape[1], second.shape[1])
    padded = []
    for each in (first, second):
        missing = (longest - each.shape[1]) // empty.shape[1]
        padded.append(torch.cat([each, *[empty.to(each)] * missing], dim=1))
    return padded[0], padded[1]
