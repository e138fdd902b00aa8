"""What a person can ask about a prompt before it is submitted: what would be drawn of its wildcards and choices."""

from typing import Any

from diffusion_local.authority import guarded
from diffusion_local.catalog import Catalog
from diffusion_local.domain import Preview
from diffusion_local.lists.drafts import Drafts, checked_expansion
from diffusion_local.lists.expansion import Expander
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.options.validate import ignored
from diffusion_local.options.values import draw_seed, whole_number
from diffusion_local.settings import Settings

MOST_SHOWN = 20  # prompts of a preview


@guarded("prompts")
class Prompts:
    """Part of the Studio, as ``studio.prompts``."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog

    def preview(
        self, prompt: str, *, count: int = 1, seed: int | None = None, expand: str | None = None, **settings: Any
    ) -> Preview:
        """What a submit would draw; nothing is enqueued. A submit with the ``seed`` that comes back draws the same.

        Raises InvalidParams as ``submit`` does, but for options of a batch, which are not looked at.
        """
        count = whole_number("count", count, 1, self._settings.max_count)
        settings = {name: value for name, value in settings.items() if name not in BATCH_OPTIONS}
        first = draw_seed() if seed is None or seed == -1 else seed
        expand = checked_expansion(expand, self._settings)
        draft = Drafts(self._catalog, Expander(self._settings.wildcards)).draft(
            prompt, settings | {"seed": first}, expand
        )
        each, warnings = draft.pictures(count, expand, self._settings.max_count)
        shown = each[:MOST_SHOWN]
        return Preview(
            pictures=len(each),
            combinations=draft.count,
            seed=draft.params.seed,
            prompts=[params.prompt for params in shown],
            negatives=[params.negative for params in shown],
            loras=[", ".join(map(str, params.loras)) for params in shown],
            warnings=warnings + ignored(draft.params, settings),
        )
