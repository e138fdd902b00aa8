"""Grids in the queue: a batch that knows its axes."""

from typing import Any

import pytest

from diffusion_local.errors import InvalidParams
from tests.batches.conftest import work as work


def test_grids_are_submitted_with_their_axes_and_drawn_with_heads(services: Any, work: Any) -> None:
    studio = services.studio
    options = {"x": "steps: 2,3", "y": "prompt: cat,dog", "width": 128, "height": 128}
    check = studio.grids.check("a cat", **options)
    assert (check.pictures, check.columns, check.rows) == (4, ["steps 2", "steps 3"], ["cat", "dog"])
    assert studio.jobs() == []
    receipt = studio.grids.submit("a cat", **options, name="pets")
    jobs = studio.jobs(batch_id=receipt.batch_id)
    assert [(job.params.prompt, job.params.steps) for job in jobs] == [
        ("a cat", 2), ("a cat", 3), ("a dog", 2), ("a dog", 3),
    ]  # fmt: skip
    assert len({job.params.seed for job in jobs}) == 1
    work()
    assert studio.batches.contact_sheet(receipt.batch_id).exists()
    again = studio.grids.submit("a cat", **options, idempotency_key="k")
    assert studio.grids.submit("a cat", **options, idempotency_key="k").batch_id == again.batch_id


def test_a_grid_with_a_cell_that_cannot_be_enqueues_nothing(studio: Any) -> None:
    with pytest.raises(InvalidParams, match=r"steps: must be from 1 to 100 .* \(cell 2 of the grid\)"):
        studio.grids.submit("a cat", x="steps: 10,2000")
    assert studio.jobs() == []
