"""Pictures of the form (source, mask, controls, references) and LoRAs: frames that scripts of the page fill. Pure."""

from collections.abc import Mapping, Sequence

from diffusion_local import serializers
from diffusion_local.domain import Image
from diffusion_local.models.adapters import Adapter, adapter_fits
from diffusion_local.options.types import ControlType, Use
from diffusion_local.options.values import MAX_REFERENCE_WEIGHT
from diffusion_local.web.ui.templates import render

SHOWN_WORDS = 6  # trigger words of a LoRA
KINDS = ("img2img", "inpaint", "upscale")


def panel() -> str:
    """The picture to begin from, the canvas for its mask, and the questions about a dropped file."""
    return render("source.html", kinds=KINDS)


def sample(image: Image | None) -> str:
    """Decoration: the name stands beside it."""
    return f'<img src="{serializers.thumbnail_url(image.id)}" alt="" width="48" height="48">' if image else ""


def loras(adapters: Sequence[Adapter], architecture: str, previews: Mapping[str, str]) -> str:
    """The LoRAs that fit models of an architecture, to choose from; ``previews`` are addresses by name."""
    usable = [each for each in adapters if each.ready]
    fitting = [each for each in usable if adapter_fits(each, architecture)]
    return render("loras.html", loras=fitting, previews=previews, others=len(usable) - len(fitting), words=SHOWN_WORDS)


def controls(adapters: Sequence[Adapter]) -> str:
    """The controls of the form, to add pictures to."""
    return render("controls.html", models=[each for each in adapters if each.ready], kinds=[*map(str, ControlType)])


def references(uses: Sequence[Use]) -> str:
    """The reference pictures of the form, to add pictures for these uses to."""
    return render("references.html", uses=[*map(str, uses)], every=[*map(str, Use)], most_weight=MAX_REFERENCE_WEIGHT)
