"""Endpoints about batches as a whole, grids, and the queue as a file."""

from dataclasses import asdict
from typing import Any

from diffusion_local import shapes
from diffusion_local.options.signature import taking_options
from diffusion_local.studio import Studio

NAMES = (
    "batches",
    "batch",
    "edit_batch",
    "duplicate_batch",
    "check_grid",
    "submit_grid",
    "queue_window",
    "export_queue",
    "import_queue",
)


class Batches:
    """Files of a batch have addresses: ``zip_url`` and ``sheet_url`` of its shape."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def batches(self, limit: int = 20, before: str = "") -> dict:
        """Batches with their progress, newest first: {"batches", "next"}; give `next` as `before` to read on."""
        found = self._studio.batches.page(limit, before or None)
        following = found[-1].batch.id if len(found) == limit else None
        return {"batches": [shapes.progress(each) for each in found], "next": following}

    def batch(self, batch_id: str) -> dict:
        """One batch: counts by state, `done_at` (estimated, null where unknown), `warning` if that is too late."""
        return shapes.progress(self._studio.batches.get(batch_id))

    @taking_options(without=("seed",), batch=True)
    def edit_batch(self, batch_id: str, name: str = "", prompt: str | None = None, **options: Any) -> dict:
        """Rename a batch, and change what still waits of it: {"changed" jobs, "warnings"}. All or nothing.

        An empty time (`window`, `start_at`, `finish_by`) is taken away.
        """
        changes = {field: value for field, value in (options | {"prompt": prompt}).items() if value is not None}
        told: dict[str, Any] = {"changed": 0, "warnings": []}
        if changes or not name:
            edited = self._studio.batches.edit(batch_id, **changes)
            told = {"changed": edited.count, "warnings": edited.warnings}
        if name:
            self._studio.batches.rename(batch_id, name)
        return told

    @taking_options(picture=False, batch=True, last=True)
    def duplicate_batch(self, batch_id: str, name: str = "", **times: Any) -> dict:
        """All its pictures again, with the same seeds, as a batch of its own: {"batch_id", "job_ids", "warnings"}."""
        return shapes.receipt(self._studio.batches.duplicate(batch_id, name, **times))

    @taking_options()
    def check_grid(self, prompt: str, x: str, y: str = "", z: str = "", **options: Any) -> dict:
        """What a grid would make: pictures, heads of columns and rows, models, seconds. Nothing is enqueued.

        An axis is a field with its values: `steps: 10,20,30`, `seed: 1-4`, `prompt: cat,dog` (search and replace).
        """
        return asdict(self._studio.grids.check(prompt, x=x, y=y, z=z, **options))

    @taking_options(batch=True)
    def submit_grid(
        self,
        prompt: str,
        x: str,
        y: str = "",
        z: str = "",
        name: str = "",
        priority: int = 0,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> dict:
        """Enqueue a picture for each combination of the axes: {"batch_id", "job_ids", "warnings"}."""
        receipt = self._studio.grids.submit(
            prompt, x=x, y=y, z=z, name=name, priority=priority, idempotency_key=idempotency_key, **options
        )
        return shapes.receipt(receipt)

    def queue_window(self, window: str = "") -> dict:
        """Start pictures of the batch lane in this window only, such as `23:00-07:00`; empty is always: {"window"}."""
        return {"window": self._studio.set_window(window)}

    def export_queue(self) -> dict:
        """All that waits as a file that /import_queue reads on another machine: {"text"}."""
        return {"text": "".join(self._studio.queue_file.export())}

    def import_queue(self, text: str, skip_bad_lines: bool = False) -> dict:
        """Enqueue what such a file holds: {"batches" (ids with names), "count", "bad_lines", "bad_count"}.

        Read twice it makes nothing twice.
        """
        return asdict(self._studio.queue_file.take(text, skip_bad_lines))
