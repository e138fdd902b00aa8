"""Help with Create's prompt: token count, suggestions while typing, and presets (``prompts.js``)."""

import json
from typing import Any

from diffusion_local.domain import shortened
from diffusion_local.errors import UserError
from diffusion_local.messages import verbatim
from diffusion_local.studio import Studio
from diffusion_local.web.ui import form

TAGGED = 300  # newest pictures whose prompts provide suggestions
MOST_TAGS, MOST_TAG = 400, 60  # suggestions from prompts, and characters of each
MOST_UNKNOWN = 200  # characters of the unknown words
MOST_PRESET = 100_000  # characters


def on_tokens(studio: Studio, prompt: Any, model_id: Any) -> str:
    """``count/limit`` of the prompt's tokens, empty if unknown; then, after a tab, the words that the starter
    model does not know.
    """
    asked = prompt if isinstance(prompt, str) else "", str(model_id or "")
    try:
        count, limit = studio.prompts.count_tokens(*asked)
        unknown = shortened(", ".join(studio.prompts.unknown_words(*asked)), MOST_UNKNOWN)
    except UserError:  # the model was removed
        return ""
    return (f"{count}/{limit}" if limit else "") + (f"\t{unknown}" if unknown else "")


def is_shown(warning: str) -> bool:
    """Whether the bar below the prompt shows a submit's warning already: words that the model does not know."""
    found = verbatim(warning)
    return found.id == "unknown_words" and found.params["field"] == "prompt"


def on_preset(studio: Studio, text: Any) -> list[Any]:
    """Fill the form from a preset of the browser, a JSON object by field name. An invalid one changes nothing."""
    try:
        found = json.loads(text) if isinstance(text, str) and len(text) <= MOST_PRESET else {}
        values = {name: value for name, value in dict(found).items() if name in form.FORM_FIELDS and is_plain(value)}
    except (ValueError, TypeError, RecursionError):
        values = {}
    return form.only(**values)


def is_plain(value: Any) -> bool:
    """Whether a component can show the value."""
    if isinstance(value, list):
        return all(isinstance(each, str) for each in value)
    return value is None or isinstance(value, str | int | float)


def vocabulary(studio: Studio) -> str:
    """What the prompt's suggestions need, as JSON: names of LoRAs, wildcards and embeddings, the most frequent phrases
    of the newest prompts (``tags``), the form's fields, and whether a prompt helper is configured (``helper``).
    """
    counts: dict[str, int] = {}
    for image in studio.pictures.page(TAGGED):
        for part in image.params.prompt.split(","):
            tag = part.strip()
            if 1 < len(tag) <= MOST_TAG:
                counts[tag] = counts.get(tag, 0) + 1
    tags = sorted(counts, key=lambda tag: -counts[tag])[:MOST_TAGS]
    more = {
        "tags": tags,
        "fields": form.FORM_FIELDS,
        "helper": bool(studio.preferences.settings.prompt_helper_url.strip()),
    }
    return json.dumps(studio.prompts.vocabulary() | more, ensure_ascii=False)
