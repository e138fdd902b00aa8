"""Endpoints about prompt lists: look what a list would make, and put it into the queue."""

from dataclasses import asdict
from typing import Any

from diffusion_local.options.signature import taking_options
from diffusion_local.studio import Studio

NAMES = ("check_list", "submit_list")


class Lists:
    """``text`` is the list itself; ``format`` is text, csv or jsonl. The fields of Params hold for lines that say
    nothing.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    @taking_options(last=True)
    def check_list(
        self,
        text: str,
        format: str = "text",
        expand: str = "random",
        expansion_seed: int | None = None,
        count: int | None = None,
        **options: Any,
    ) -> dict:
        """What a list would make: pictures, models, seconds, bytes, first and last prompts, bad lines with reasons.

        Nothing is enqueued. `expand` is random, all or no: what becomes of `{red|blue}` and `__animal__`.
        """
        check = self._studio.lists.check(
            text, format, expand=expand, expansion_seed=expansion_seed, count=count, **options
        )
        return asdict(check)

    @taking_options(batch=True, last=True)
    def submit_list(
        self,
        text: str,
        format: str = "text",
        skip_bad_lines: bool = False,
        name: str = "",
        priority: int = 0,
        idempotency_key: str | None = None,
        expand: str = "random",
        expansion_seed: int | None = None,
        count: int | None = None,
        **options: Any,
    ) -> dict:
        """Enqueue every picture of a list as one batch: {"batch_id", "count", "job_ids" (the first), "bad_lines", ...}.

        A bad line refuses the whole list, unless `skip_bad_lines`. The same idempotency key sent twice makes one batch.
        """
        receipt = self._studio.lists.submit(
            text,
            format,
            skip_bad_lines=skip_bad_lines,
            name=name,
            priority=priority,
            idempotency_key=idempotency_key,
            expand=expand,
            expansion_seed=expansion_seed,
            count=count,
            **options,
        )
        return asdict(receipt)
