"""The queue's own window takes part in what a batch may ask for."""

import pytest

from diffusion_local.db.database import Database
from diffusion_local.domain import Lane
from diffusion_local.errors import InvalidParams
from diffusion_local.queue.batch_times import Timetable, Timing
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.order import OrderRules


def test_the_queues_window_counts_for_its_lane_only(database: Database) -> None:
    QueueControl(database).set_window("mon 10:00-11:00")
    timetable = Timetable(database, OrderRules(), lambda url: None)
    with pytest.raises(InvalidParams, match="never opens"):
        timetable.resolve(Lane.BATCH, {"window": "tue 10:00-11:00"})
    assert timetable.resolve(Lane.INTERACTIVE, {"window": "tue 10:00-11:00"}) == Timing("tue 10:00-11:00")
    assert timetable.resolve(Lane.BATCH, {"window": None}) == Timing()
