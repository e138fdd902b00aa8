"""Submits with undrawn wildcards and choices: validated once, then drawn into Params per picture."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random
from typing import Any

from diffusion_local.authority import guarded
from diffusion_local.domain import Preview
from diffusion_local.errors import InvalidParams, Overloaded, echo
from diffusion_local.grammar.tags import LORA_TAGS, Tag
from diffusion_local.grammar.trees import MANY, Node, Text
from diffusion_local.lists.entries import EXPANSIONS
from diffusion_local.lists.wildcards import Expander
from diffusion_local.messages import Message, message
from diffusion_local.models.catalog import Catalog, Model
from diffusion_local.models.plans import MemoryPlans
from diffusion_local.models.prompt_limits import count_read, foreign_words, prompt_warnings, tag_warnings
from diffusion_local.models.starter_words import understood, unknown_words
from diffusion_local.options import values
from diffusion_local.options.table import BATCH_OPTIONS, PICTURES, RECORDS, Params
from diffusion_local.options.types import Kind
from diffusion_local.options.validate import extract_lora_tags, ignored_warnings, lora_from_tag, seed_series
from diffusion_local.options.values import check_integer, check_prompt, draw_seed
from diffusion_local.prompt_helper import MAX_VARIANTS, HelpedPrompt, PromptHelper
from diffusion_local.settings import Settings

MAX_EXAMINED = 10  # different prompts per submit that are examined for warnings

MAX_COUNTED = 10_000  # characters of a prompt whose tokens are counted

#: A drawn (prompt, negative prompt), with tags.
Pair = tuple[str, str]
MAX_SHOWN = 20  # prompts of a preview


@dataclass(frozen=True, slots=True)
class Draft:
    """A validated submit. ``params``: complete, with both prompts as written; ``prompt``, ``negative``: their trees."""

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
        """Number of different prompt pairs, at most MANY."""
        return min(MANY, self.prompt.count * self.negative.count)

    def draw(self, rng: Random) -> Pair:
        return self.prompt.sample(rng), self.negative.sample(rng)

    def all_pairs(self) -> Iterator[Pair]:
        negatives = (
            list(self.negative.combinations()) if self.negative.count > 1 else [next(self.negative.combinations())]
        )
        return ((prompt, negative) for prompt in self.prompt.combinations() for negative in negatives)

    def finish(self, pair: Pair) -> Params:
        """The Params of a drawn pair. Raises InvalidParams."""
        for field, text in zip(("prompt", "negative"), pair, strict=True):
            required = field == "prompt" and self.params.kind is not Kind.UPSCALE
            check_prompt(field, text, required=required)
        prompt, negative = (text.strip() for text in pair)
        done = extract_lora_tags(replace(self.params, prompt=prompt, negative=negative))
        return self.drafts.checked_loras(done, self.model)

    def pairs(self, count: int, expand: str, most: int) -> Iterator[tuple[Pair, int]]:
        """(pair of prompts, index among pictures of equal prompts). Raises InvalidParams for more than ``most``.

        Drawn from the picture's seed: equal submits with equal seeds draw the same.
        """
        if expand == "all" and not self.fixed:
            if self.count * count > most:
                raise InvalidParams("prompt", too_many_combinations(self.count, count, most, "max_count"))
            yield from ((pair, place) for pair in self.all_pairs() for place in range(count))
            return
        rng = Random(str(self.params.seed))
        yield from ((self.draw(rng), place) for place in range(count))

    def pictures(self, count: int, expand: str, most: int) -> tuple[list[Params], list[str]]:
        """(Params of all pictures, warnings about their prompts). Raises InvalidParams."""
        made: list[Params] = []
        seeds = seed_series(self.params, count)
        pairs: dict[Pair, Params] = {}
        for pair, place in self.pairs(count, expand, most):
            params = pairs.get(pair) or pairs.setdefault(pair, self.finish(pair))
            made.append(replace(params, seed=seeds[place].seed, variation_seed=seeds[place].variation_seed))
        found = [*self.drafts.picture_warnings(self.params).values()]
        for (prompt, negative), params in list(pairs.items())[:MAX_EXAMINED]:
            found += [*tag_warnings(prompt, negative).values(), *prompt_warnings(self.model, params)]
        return made, list(dict.fromkeys(found))

    def submit_digest(self, count: int, expand: str) -> str:
        """Digest that identifies the submit if prompts are drawn at random, else ""."""
        if self.fixed:
            return ""
        params = self.params.without_seeds().to_json()
        return sha256(repr((params, count, expand)).encode()).hexdigest()


def field_of_source(params: Params, source_id: str) -> str:
    """The option that names this source picture."""
    single = (name for name in PICTURES if getattr(params, name) == source_id)
    several = (name for name in RECORDS for record in getattr(params, name) if source_id in record.inputs)
    return next(single, "") or next(several)


class Drafts:
    """Creates drafts against one state of the wildcard files, and of the catalogue if it is a `CatalogSnapshot`."""

    def __init__(self, catalog: Catalog, expander: Expander) -> None:
        self._catalog = catalog
        self._expander = expander
        self._fitting: set[tuple[str, str]] = set()
        self._first_of_several: dict[str, bool] = {}
        self._paints = {"": True}  # masks, and whether they contain any white

    def draft(self, prompt: Any, settings: Mapping[str, Any], expand: str) -> Draft:
        """Validate a submit. Raises InvalidParams, also for an unusable LoRA in any possible draw of the prompt."""
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

    def draw_text(self, field: str, text: str, seed: Any, expand: str) -> str:
        """One draw of a text by a seed. Raises InvalidParams."""
        return text if expand == "no" else self._expander.parse(text, field).sample(Random(str(seed)))

    def picture_warnings(self, params: Params) -> dict[str, str]:
        """Warnings about source pictures, one of each kind."""
        warnings = dict(zip(("mask",), self.mask_warnings(params), strict=False))
        for source_id in params.inputs:
            if source_id not in self._first_of_several:
                self._first_of_several[source_id] = self._catalog.is_first_of_several(source_id)
            if self._first_of_several[source_id]:
                warnings["frame"] = message("first_frame", field=field_of_source(params, source_id))
        return warnings

    def mask_warnings(self, params: Params) -> list[str]:
        """A warning for a mask without white; none if the mask cannot be decoded now because of overload."""
        if params.mask not in self._paints:
            try:
                self._paints[params.mask] = self._catalog.paints(params.mask)
            except Overloaded:
                return []
        return [] if self._paints[params.mask] else [message("mask_no_white")]

    def check_tag(self, tag: Tag, params: Params, model: Model) -> None:
        if (tag.name, model.id) not in self._fitting or tag.kind not in LORA_TAGS:
            self.checked_loras(replace(params, loras=(lora_from_tag(tag),)), model)

    def checked_loras(self, params: Params, model: Model) -> Params:
        """The params with each LoRA's full name. Raises InvalidParams for one that is missing or does not fit."""
        if all((lora.name, model.id) in self._fitting for lora in params.loras):
            return params
        named = self._catalog.with_full_names(params)
        self._catalog.check_loras(named, model)
        values.check_loras("loras", named.loras)  # two tags may name one file
        self._fitting |= {(lora.name, model.id) for lora in named.loras}
        return named


def too_many_combinations(combinations: int, count: int, most: int, setting: str = "max_queued") -> Message:
    number = message("more_than", count=MANY) if combinations >= MANY else f"{combinations:,}"
    if count > 1:
        return message("combinations_each", count=number, each=count, most=most, setting=setting)
    return message("combinations", count=number, most=most, setting=setting)


def parse_expansion(expand: str | None, settings: Settings) -> str:
    """The requested expansion mode, by default that of the settings. Raises InvalidParams."""
    expand = expand or settings.expand_prompts
    if expand not in EXPANSIONS:
        raise InvalidParams("expand", message("one_of", known=list(EXPANSIONS), got=echo(expand)))
    return expand


@guarded("prompts")
class Prompts:
    """Prompt use cases, available as ``studio.prompts``."""

    def __init__(self, settings: Settings, catalog: Catalog, plans: MemoryPlans) -> None:
        self._settings = settings
        self._catalog = catalog
        self._plans = plans
        self._helper = PromptHelper(settings)

    def help(self, prompt: str, *, task: str = "rewrite", language: str = "English", count: int = 4) -> HelpedPrompt:
        """Have the prompt helper rewrite, translate or vary a prompt (into ``count`` ones); nothing is enqueued.

        Raises InvalidParams, Conflict if no helper is set, and NotDone if it gives no usable answer.
        """
        return self._helper.help(prompt, task, language, check_integer("count", count, 1, MAX_VARIANTS))

    def count_tokens(self, prompt: str, model: str = "") -> tuple[int, int]:
        """(tokens of a prompt, most tokens that the model's text encoder reads at once); (0, 0) if unknown."""
        limit, count = count_read(self._catalog.get(model) if model else self._catalog.default, prompt[:MAX_COUNTED])
        return count, limit

    def unknown_words(self, prompt: str, model: str = "") -> tuple[str, ...]:
        """Words of a prompt that the built-in starter model does not know; none for other models."""
        found, text = self._catalog.get(model) if model else self._catalog.default, prompt[:MAX_COUNTED]
        foreign = foreign_words(understood(found, text)[0], found.scripts) if found.scripts else []
        return (*unknown_words(found, text), *foreign)

    def vocabulary(self) -> dict[str, list[str]]:
        """Names that a prompt can contain: those of LoRAs, wildcards and textual inversions."""
        return {
            "loras": [each.name for each in self._catalog.loras() if each.ready],
            "wildcards": Expander(self._settings.wildcards).known_names,
            "embeddings": [each.name for each in self._catalog.embeddings() if each.ready],
        }

    def preview(
        self, prompt: str, *, count: int = 1, seed: int | None = None, expand: str | None = None, **settings: Any
    ) -> Preview:
        """What a submit would draw; nothing is enqueued. A submit with the returned ``seed`` draws the same.

        Raises InvalidParams as ``submit`` does, except for batch options, which are ignored.
        """
        count = check_integer("count", count, 1, self._settings.max_count)
        settings = {name: value for name, value in settings.items() if name not in BATCH_OPTIONS}
        first = draw_seed() if seed is None or seed == -1 else seed
        expand = parse_expansion(expand, self._settings)
        draft = Drafts(self._catalog, Expander(self._settings.wildcards)).draft(
            prompt, settings | {"seed": first}, expand
        )
        each, warnings = draft.pictures(count, expand, self._settings.max_count)
        examples = each[:MAX_SHOWN]
        return Preview(
            pictures=len(each),
            combinations=draft.count,
            seed=draft.params.seed,
            prompts=[params.prompt for params in examples],
            negatives=[params.negative for params in examples],
            loras=[", ".join(map(str, params.loras)) for params in examples],
            warnings=warnings + ignored_warnings(draft.params, settings),
            memory=self._plans.of_picture(each[0]),
        )
