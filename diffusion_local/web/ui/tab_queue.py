"""The Queue tab: batches with their jobs, unfinished before ended ones. Drawn by the server; ``actions`` handles its
buttons.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from diffusion_local.domain import Snapshot
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view_queue
from diffusion_local.web.ui.live import hidden, live
from diffusion_local.web.ui.page_urls import QueueState
from diffusion_local.web.ui.view_queue import Page, ShownBatch

LIVE, ENDED = 15, 10  # batches on a page
FEW, MANY = 8, 50  # visible jobs of an open batch: at first, and after "show more"

# -- handlers -------------------------------------------------------------------------------------------------------


def draw(studio: Studio, snapshot: Snapshot, now: datetime, query: Any) -> str:
    """The tab at the position and with the filters in ``asked``, a written QueueState."""
    place, groups = QueueState.parse(query), studio.groups
    live = groups.live(place.wanted, LIVE + 1, place.live[-1] if place.live else None)
    ended = groups.ended(place.wanted, ENDED + 1, place.ended[-1] if place.ended else None)
    shown = []
    for number, group in enumerate([*live[:LIVE], *ended[:ENDED]]):
        batch_id, alone = group.progress.batch.id, sum(group.progress.counts.values()) == 1
        first = number == 0 and bool(live) and not place.live
        opened = batch_id not in place.shut and (batch_id in place.opened or group.running or first)
        window = None
        if alone or opened or (place.wanted and batch_id not in place.shut):
            count = MANY if batch_id in place.wide else FEW
            window = groups.window(batch_id, place.wanted, count, place.wide.get(batch_id))
        shown.append(ShownBatch(group, window, alone))
    cut = min(LIVE, len(live))
    pages = (Page(shown[:cut], len(live) > LIVE), Page(shown[cut:], len(ended) > ENDED))
    images = studio.images_of([job for each in shown if each.window for job in each.window.jobs if job.finished_at])
    choices = {"model": groups.models(), "owner": groups.owners()}
    return view_queue.queue(snapshot, place, *pages, groups.others_waiting(), choices, images, now)


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueTab:
    place: Any  # written by queue.js
    drawn: Any

    @property
    def poll_inputs(self) -> list[Any]:
        return [self.place]


def layout(studio: Studio) -> QueueTab:
    return QueueTab(hidden(elem_id="queue-place"), live("queue"))
