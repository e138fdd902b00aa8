"""A submit whose wildcards and choices are not yet drawn: checked once, then drawn into Params for each picture."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random
from typing import Any

from diffusion_local.authority import guarded
from diffusion_local.domain import Kind, Params, Preview
from diffusion_local.errors import InvalidParams, Overloaded, echo
from diffusion_local.grammar.tags import LORAS, Tag
from diffusion_local.grammar.trees import MANY, Node, Text
from diffusion_local.lists.entries import EXPANSIONS
from diffusion_local.lists.wildcards import Expander
from diffusion_local.messages import Message, message
from diffusion_local.models.catalog import Catalog, Model
from diffusion_local.models.prompt_limits import prompt_warnings, tag_warnings
from diffusion_local.options.table import BATCH_OPTIONS
from diffusion_local.options.validate import ignored, series, tag_lora, with_tags
from diffusion_local.options.values import check_prompt, draw_seed, whole_number
from diffusion_local.settings import Settings

WARNED_OF = 10  # different prompts of one submit that are looked at for warnings

#: A prompt and its negative prompt as drawn, tags included.
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Draft:
    """``params`` are complete, with both prompts as they were written; ``prompt`` and ``negative`` are their trees."""

    params: Params
    model: Model
    prompt: Node
    negative: Node
    drafts: "Drafts"

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to draw."""
        return isinstance(self.prompt, Text) and isinstance(self.negative, Text)

    @property
    def count(self) -> int:
        """How many different pairs of prompts can be drawn, at most MANY."""
        return min(MANY, self.prompt.count * self.negative.count)

    def drawn(self, lot: Random) -> Pair:
        return self.prompt.drawn(lot), self.negative.drawn(lot)

    def all(self) -> Iterator[Pair]:
        negatives = list(self.negative.all()) if self.negative.count > 1 else [next(self.negative.all())]
        return ((prompt, negative) for prompt in self.prompt.all() for negative in negatives)

    def finished(self, pair: Pair) -> Params:
        """The Params of a drawn pair. Raises InvalidParams."""
        for field, text in zip(("prompt", "negative"), pair, strict=True):
            required = field == "prompt" and self.params.kind is not Kind.UPSCALE
            check_prompt(field, text, required=required)
        prompt, negative = (text.strip() for text in pair)
        done = with_tags(replace(self.params, prompt=prompt, negative=negative))
        self.drafts.check_loras(done, self.model)
        return done

    def pairs(self, count: int, expand: str, most: int) -> Iterator[tuple[Pair, int]]:
        """(pair of prompts, its place among the pictures of equal seeds). Raises InvalidParams for more than ``most``.

        Drawn by the picture's seed: the same submit with the same seed draws the same.
        """
        if expand == "all" and not self.fixed:
            if self.count * count > most:
                raise InvalidParams("prompt", too_many(self.count, count, most, "max_count"))
            yield from ((pair, place) for pair in self.all() for place in range(count))
            return
        lot = Random(str(self.params.seed))
        yield from ((self.drawn(lot), place) for place in range(count))

    def pictures(self, count: int, expand: str, most: int) -> tuple[list[Params], list[str]]:
        """The Params of all pictures, and what is to be said about their prompts. Raises InvalidParams."""
        made: list[Params] = []
        seeds = series(self.params, count)
        pairs: dict[Pair, Params] = {}
        for pair, place in self.pairs(count, expand, most):
            params = pairs.get(pair) or pairs.setdefault(pair, self.finished(pair))
            made.append(replace(params, seed=seeds[place].seed, variation_seed=seeds[place].variation_seed))
        found = self.drafts.mask_warnings(self.params)
        for (prompt, negative), params in list(pairs.items())[:WARNED_OF]:
            found += [*tag_warnings(prompt, negative).values(), *prompt_warnings(self.model, params)]
        return made, list(dict.fromkeys(found))

    def request(self, count: int, expand: str) -> str:
        """What tells one submit from another where prompts are drawn at random; empty where they are not."""
        if self.fixed:
            return ""
        told = self.params.without_seeds().to_json()
        return sha256(repr((told, count, expand)).encode()).hexdigest()


class Drafts:
    """Reads submits against one state of the wildcard files, and of the catalogue if that is one (`CatalogOfNow`)."""

    def __init__(self, catalog: Catalog, expander: Expander) -> None:
        self._catalog = catalog
        self._expander = expander
        self._fitting: set[tuple[str, str]] = set()
        self._paints = {"": True}  # masks, and whether there is anything white in them

    def draft(self, prompt: Any, settings: Mapping[str, Any], expand: str) -> Draft:
        """Raises InvalidParams, also for a LoRA that any drawing of the prompt names and that cannot be used."""
        params = self._catalog.complete(prompt, settings, drawn=False)
        model = self._catalog.get(params.model)
        if not model.ready:
            raise InvalidParams("model", message("not_ready", model=model.id, problem=model.problem))
        if expand == "no":
            nodes: list[Node] = [Text(params.prompt), Text(params.negative)]
        else:
            nodes = [self._expander.parse(params.prompt), self._expander.parse(params.negative, "negative")]
        for tag in nodes[0].tags:
            self.check_tag(tag, params, model)
        return Draft(params, model, nodes[0], nodes[1], self)

    def drawn(self, field: str, text: str, seed: Any, expand: str) -> str:
        """One drawing of a text by a seed. Raises InvalidParams."""
        return text if expand == "no" else self._expander.parse(text, field).drawn(Random(str(seed)))

    def mask_warnings(self, params: Params) -> list[str]:
        """A mask that cannot be looked at now, as too many pictures are being decoded, is not warned of."""
        if params.mask not in self._paints:
            try:
                self._paints[params.mask] = self._catalog.paints(params.mask)
            except Overloaded:
                return []
        return [] if self._paints[params.mask] else [message("mask_no_white")]

    def check_tag(self, tag: Tag, params: Params, model: Model) -> None:
        if (tag.name, model.id) not in self._fitting or tag.kind not in LORAS:
            self.check_loras(replace(params, loras=(tag_lora(tag),)), model)

    def check_loras(self, params: Params, model: Model) -> None:
        """Raises InvalidParams for a LoRA that is not there or does not fit."""
        if all((lora.name, model.id) in self._fitting for lora in params.loras):
            return
        self._catalog.check_loras(params, model)
        self._fitting |= {(lora.name, model.id) for lora in params.loras}


def too_many(combinations: int, count: int, most: int, setting: str = "max_queued") -> Message:
    shown = message("more_than", count=MANY) if combinations >= MANY else f"{combinations:,}"
    if count > 1:
        return message("combinations_each", count=shown, each=count, most=most, setting=setting)
    return message("combinations", count=shown, most=most, setting=setting)


def checked_expansion(expand: str | None, settings: Settings) -> str:
    """What becomes of wildcards and choices: as asked for, else as set. Raises InvalidParams."""
    expand = expand or settings.expand_prompts
    if expand not in EXPANSIONS:
        raise InvalidParams("expand", message("one_of", known=list(EXPANSIONS), got=echo(expand)))
    return expand


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
