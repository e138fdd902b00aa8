"""Whether what is put into a model fits it, by name and by what it was made for."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from diffusion_local import families
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.models.adapters import VAE, Adapter, vae_fits


def check_adapter(field: str, name: str, found: list[Adapter], model_architecture: str = "") -> None:
    """Raises InvalidParams for a file that is not there, cannot be used, or is made for other models."""
    adapter = next((each for each in found if each.name == name), None)
    if adapter is None:
        raise InvalidParams(
            field, message("unknown_file", name=echo(name), known=", ".join(e.name for e in found) or "-")
        )
    if not adapter.ready:
        raise InvalidParams(field, message("file_problem", name=echo(name), problem=adapter.problem))
    if model_architecture and not adapter_fits(adapter, model_architecture):
        raise InvalidParams(
            field,
            message(
                "file_fits", name=echo(name), made=title_of(adapter.architecture), wanted=title_of(model_architecture)
            ),
        )


def adapter_fits(adapter: Adapter, architecture: str) -> bool:
    if adapter.kind == VAE:
        return vae_fits(adapter.part, architecture)
    return not adapter.architecture or families.fits(adapter.architecture, architecture)


def title_of(architecture: str) -> str:
    """Of an architecture or a family, as people know it."""
    return families.title_of(architecture) or families.get(architecture).title or architecture


def check_words(adapter: Adapter, texts: Mapping[str, str], architecture: str) -> None:
    """Raises InvalidParams, naming the text, if its words call up a textual inversion that is made for other models."""
    if not adapter.ready or not adapter.architecture or families.fits(adapter.architecture, architecture):
        return
    for field, text in texts.items():
        if holds(text, PurePosixPath(adapter.name).name):
            raise InvalidParams(
                field,
                message(
                    "file_word_of_other",
                    name=echo(adapter.name),
                    base=title_of(adapter.architecture),
                    model=title_of(architecture),
                ),
            )


def holds(text: str, word: str) -> bool:
    """Whether a text has a word, as the engine looks for those of textual inversions."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def whole_name(name: str, found: list[str]) -> str:
    """The name of the only file that is called so, in whatever folder; the name itself if it is one already.

    Raises InvalidParams if files of several folders are called so.
    """
    same = [each for each in found if PurePosixPath(each).name == name] if name not in found else []
    if len(same) > 1:
        raise InvalidParams("loras", message("file_lora_ambiguous", name=echo(name), names=", ".join(same)))
    return same[0] if same else name
