"""Plans a list: each line validated against the catalogue and expanded, with running totals."""

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from diffusion_local.errors import InvalidParams, QueueFull
from diffusion_local.lists.drafts import Draft, Drafts, Pair, too_many_combinations
from diffusion_local.lists.entries import BadLine, Entry
from diffusion_local.lists.list_formats import bad_line
from diffusion_local.lists.wildcards import Expander
from diffusion_local.messages import message
from diffusion_local.models import prompt_limits
from diffusion_local.models.catalog import Catalog, Model
from diffusion_local.options.table import Params
from diffusion_local.options.validate import seed_series
from diffusion_local.options.values import check_integer
from diffusion_local.queue.estimates import Work

SHOWN_PROMPTS = 5  # number of first and of last prompts shown
MAX_BAD_LINES = 100  # bad lines kept; further ones are only counted
MAX_COUNTED = 50  # longest prompts, whose tokens are counted; counting all would take minutes


@dataclass(frozen=True, slots=True)
class ListCheck:
    """What a list would make. ``seconds`` and ``bytes``: None if unknown."""

    lines: int
    pictures: int
    models: dict[str, int]
    seconds: float | None
    bytes: int | None
    first: list[str]
    last: list[str]
    bad_lines: list[BadLine]
    bad_count: int
    warnings: list[str]
    expansion_seed: int


class CatalogSnapshot(Catalog):
    """The catalogue at one moment: its folders are read once instead of per line."""

    def __init__(self, catalog: Catalog) -> None:
        self._found = catalog.all()
        self.index = catalog.index
        self._starter = catalog.default
        self.size_of = catalog.size_of
        self.paints, self.see, self.check_task = catalog.paints, catalog.see, catalog.check_task
        self.is_first_of_several = catalog.is_first_of_several

    def all(self) -> list[Model]:
        return self._found

    def get(self, model_id: str) -> Model:
        found = next((model for model in self._found if model.id == model_id), None)
        return found or super().get(str(model_id))


class ListPlan:
    """Plans a list. ``pictures_of`` reads it once; the totals are complete afterwards.

    Random draws depend only on ``seed`` and the line number, so a list is reproducible.
    """

    def __init__(
        self, catalog: Catalog, expander: Expander, defaults: Mapping[str, Any], expand: str, seed: int, most: int
    ) -> None:
        self._catalog = CatalogSnapshot(catalog)
        self._drafts = Drafts(self._catalog, expander)
        self._defaults = defaults
        self._expand = expand
        self._most = most
        self.seed = seed
        self.lines = 0
        self.pictures = 0
        self.models: Counter[str] = Counter()
        self.work: Counter[Work] = Counter()
        self.pixels = 0
        self.first: list[str] = []
        self._newest: deque[str] = deque(maxlen=SHOWN_PROMPTS)
        self.bad: list[BadLine] = []
        self.bad_count = 0
        self._longest: list[tuple[int, int, str, str]] = []
        self._warnings: dict[str, str] = {}

    def pictures_of(self, parsed: Iterable[Entry | BadLine]) -> Iterator[Params]:
        """The Params of all good lines. Raises QueueFull if they exceed the queue's capacity."""
        for each in parsed:
            if isinstance(each, Entry):
                try:
                    yield from self._entry(each)
                    self.lines += 1
                    continue
                except InvalidParams as error:
                    each = bad_line(each.line, error.message, str(each.values.get("prompt", "")))
            self.bad_count += 1
            if len(self.bad) < MAX_BAD_LINES:
                self.bad.append(each)

    def _entry(self, entry: Entry) -> Iterator[Params]:
        """The pictures of a line. Raises InvalidParams before the first one is returned."""
        values = {**self._defaults, **entry.values}
        expand = values.pop("expand", self._expand)
        count = check_integer("count", values.pop("count", 1), 1, self._most)
        rng = Random(f"{self.seed} {entry.line}")
        if str(values.get("seed", -1)) == "-1":
            values["seed"] = rng.randint(0, 2**31 - 1)
        draft = self._drafts.draft(values.pop("prompt", ""), values, expand)
        seeds = seed_series(draft.params, count)
        if draft.fixed:
            pair = draft.draw(rng)
            draft.finish(pair)
            return self._count(draft, [pair], seeds)
        if expand == "all":
            if draft.count * count > self._most:
                raise InvalidParams("prompt", too_many_combinations(draft.count, count, self._most))
            for pair in draft.all_pairs():
                draft.finish(pair)
            return self._count(draft, draft.all_pairs(), seeds, draft.count)
        state = rng.getstate()  # draw twice with equal results: first to validate, then to use
        for _ in range(count):
            draft.finish(draft.draw(rng))
        rng.setstate(state)
        return (each for one in seeds for each in self._count(draft, [draft.draw(rng)], [one]))

    def _count(
        self, draft: Draft, pairs: Iterable[Pair], seeds: Sequence[Params], different: int = 1
    ) -> Iterator[Params]:
        """A picture per seed for each pair of prompts, starting with the same seed, to make prompts comparable."""
        params, count = draft.params, len(seeds)
        if self.pictures + different * count > self._most:
            raise QueueFull(message("list_many", most=self._most))
        for pair in pairs:
            done, prompt = draft.finish(pair), pair[0].strip()
            self._note_length(params.model, prompt, done.negative)
            self._add_warnings(draft.model, done, pair)
            for one in seeds:
                self.pictures += 1
                self.models[params.model] += 1
                if len(self.first) < SHOWN_PROMPTS:
                    self.first.append(prompt)
                else:
                    self._newest.append(prompt)
                yield replace(done, seed=one.seed, variation_seed=one.variation_seed)
            self.work[Work.of_params(params)] += count
            self.pixels += math.prod(params.final_size) * count

    def _add_warnings(self, model: Model, params: Params, pair: Pair) -> None:
        """Keep only one warning of each kind, because a list may have thousands of lines."""
        if params.inputs:
            self._warnings = self._drafts.picture_warnings(params) | self._warnings
        if any(sign in text for text in pair for sign in prompt_limits.SYNTAX):
            found = prompt_limits.tag_warnings(*pair) | prompt_limits.syntax_warnings(model, params)
            self._warnings = found | self._warnings

    def _note_length(self, model: str, prompt: str, negative: str) -> None:
        each = (max(len(prompt), len(negative)), self.pictures, model, max(prompt, negative, key=len))
        if len(self._longest) < MAX_COUNTED:
            heapq.heappush(self._longest, each)
        elif each[0] > self._longest[0][0]:
            heapq.heapreplace(self._longest, each)

    def last(self) -> list[str]:
        """The last prompts that are not among the first."""
        return list(self._newest)

    def warnings(self) -> list[str]:
        """All warnings, including the number of prompts per model, among the longest, that exceed its token limit."""
        over: Counter[tuple[str, int, bool]] = Counter()
        for _, _, model, text in self._longest:
            found = self._catalog.get(model)
            limit, tokens = prompt_limits.count_read(found, text)
            if limit and tokens > limit:
                over[model, limit, prompt_limits.reads_whole_prompts(found)] += 1
        some = over.total() == MAX_COUNTED
        return list(self._warnings.values()) + [
            message(
                "list_tokens_in_parts" if parts else "list_tokens",
                model=model,
                limit=limit,
                count=message("at_least", count=count) if some else count,
            )
            for (model, limit, parts), count in over.items()
        ]
