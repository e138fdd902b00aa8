"""What a list will make: each line checked against the catalogue and expanded, with the sums as they grow."""

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from diffusion_local import prompts
from diffusion_local.catalog import Catalog, Model
from diffusion_local.domain import Kind, Params
from diffusion_local.errors import InvalidParams, QueueFull, echo
from diffusion_local.estimates import Work
from diffusion_local.lists.expansion import MANY, Expander, Text
from diffusion_local.lists.fields import EXPANSIONS, BadLine, Entry
from diffusion_local.lists.formats import bad
from diffusion_local.messages import Message, message
from diffusion_local.options.validate import series, with_tags
from diffusion_local.options.values import check_prompt, whole_number

SHOWN_PROMPTS = 5  # of the first, and of the last
MOST_BAD = 100  # bad lines that are kept; the others are counted
LONGEST = 50  # prompts whose tokens are counted: all of them would take minutes


@dataclass(frozen=True, slots=True)
class ListCheck:
    """What a list would make. ``seconds`` and ``bytes`` are None until this machine has made such pictures."""

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


class CatalogOfNow(Catalog):
    """The catalogue at one moment: its folders are read once, not for each line."""

    def __init__(self, catalog: Catalog) -> None:
        self._found = catalog.all()
        self.shelf = catalog.shelf
        self._starter = catalog.default
        self.size_of = catalog.size_of

    def all(self) -> list[Model]:
        return self._found

    def get(self, model_id: str) -> Model:
        found = next((model for model in self._found if model.id == model_id), None)
        return found or super().get(str(model_id))


class Plan:
    """``pictures_of`` walks the list once; the sums are right when it has ended.

    What is drawn by lot comes from ``seed`` and the line's number, so the same list with the same seed is the same.
    """

    def __init__(
        self, catalog: Catalog, expander: Expander, defaults: Mapping[str, Any], expand: str, seed: int, most: int
    ) -> None:
        self._catalog = CatalogOfNow(catalog)
        self._expander = expander
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

    def pictures_of(self, parsed: Iterable[Entry | BadLine]) -> Iterator[Params]:
        """The Params of all good lines. Raises QueueFull if there are more than the queue can ever hold."""
        for each in parsed:
            if isinstance(each, Entry):
                try:
                    yield from self._entry(each)
                    self.lines += 1
                    continue
                except InvalidParams as error:
                    each = bad(each.line, error.message, str(each.values.get("prompt", "")))
            self.bad_count += 1
            if len(self.bad) < MOST_BAD:
                self.bad.append(each)

    def _entry(self, entry: Entry) -> Iterator[Params]:
        """A line's pictures: all of them, or InvalidParams before the first."""
        values = {**self._defaults, **entry.values}
        expand = values.pop("expand", self._expand)
        count = whole_number("count", values.pop("count", 1), 1, self._most)
        lot = Random(f"{self.seed} {entry.line}")
        if str(values.get("seed", -1)) == "-1":
            values["seed"] = lot.randint(0, 2**31 - 1)
        params = self._catalog.complete(values.pop("prompt", ""), values)
        series(params, count)
        model = self._catalog.get(params.model)
        if not model.ready:
            raise InvalidParams("model", message("not_ready", model=model.id, problem=model.problem))
        node = Text(params.prompt) if expand == "no" else self._expander.parse(params.prompt)
        if isinstance(node, Text):
            return self._counted(params, [node.text.strip()], count)
        if expand == "all":
            if node.count * count > self._most:
                raise InvalidParams("prompt", too_many(node.count, count, self._most))
            for prompt in node.all():
                check_prompt("prompt", prompt, required=params.kind is not Kind.UPSCALE)
            return self._counted(params, (prompt.strip() for prompt in node.all()), count, node.count)
        state = lot.getstate()  # drawn twice alike: once to check, once to take
        for _ in range(count):
            check_prompt("prompt", node.drawn(lot), required=params.kind is not Kind.UPSCALE)
        lot.setstate(state)
        drawn = series(params, count)
        return (each for one in drawn for each in self._counted(one, [node.drawn(lot).strip()], 1))

    def _counted(self, params: Params, prompts: Iterable[str], count: int, different: int = 1) -> Iterator[Params]:
        """For each prompt ``count`` pictures with consecutive seeds, beginning alike: prompts are to be compared."""
        if self.pictures + different * count > self._most:
            raise QueueFull(message("list_many", most=self._most))
        for prompt in prompts:
            self._longest_with(params.model, prompt, params.negative)
            for one in series(params, count):
                self.pictures += 1
                self.models[params.model] += 1
                if len(self.first) < SHOWN_PROMPTS:
                    self.first.append(prompt)
                else:
                    self._newest.append(prompt)
                yield with_tags(replace(one, prompt=prompt))
            self.work[Work.of(params)] += count
            self.pixels += params.width * params.height * count

    def _longest_with(self, model: str, prompt: str, negative: str) -> None:
        each = (max(len(prompt), len(negative)), self.pictures, model, max(prompt, negative, key=len))
        if len(self._longest) < LONGEST:
            heapq.heappush(self._longest, each)
        elif each[0] > self._longest[0][0]:
            heapq.heapreplace(self._longest, each)

    def last(self) -> list[str]:
        """The last prompts, without those that are among the first."""
        return list(self._newest)

    def warnings(self) -> list[str]:
        """How many prompts are longer than their model reads, by model; counted among the longest only."""
        over: Counter[tuple[str, int, bool]] = Counter()
        for _, _, model, text in self._longest:
            found = self._catalog.get(model)
            limit, tokens = prompts.count_read(found, text)
            if limit and tokens > limit:
                over[model, limit, prompts.in_parts(found)] += 1
        some = over.total() == LONGEST
        return [
            message(
                "list_tokens_in_parts" if parts else "list_tokens",
                model=model,
                limit=limit,
                count=message("at_least", count=count) if some else count,
            )
            for (model, limit, parts), count in over.items()
        ]


def too_many(combinations: int, count: int, most: int) -> Message:
    shown = message("more_than", count=MANY) if combinations >= MANY else f"{combinations:,}"
    if count > 1:
        return message("combinations_each", count=shown, each=count, most=most)
    return message("combinations", count=shown, most=most)


def checked_expansion(expand: str) -> str:
    if expand not in EXPANSIONS:
        raise InvalidParams("expand", message("one_of", known=list(EXPANSIONS), got=echo(expand)))
    return expand
