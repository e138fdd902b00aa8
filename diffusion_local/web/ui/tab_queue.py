"""Queue: what runs, what waits, what ended. All of it is drawn; its buttons are ``actions``."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from diffusion_local.domain import Snapshot
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view_queue
from diffusion_local.web.ui.live import live

# -- handlers -------------------------------------------------------------------------------------------------------


def draw(studio: Studio, snapshot: Snapshot, now: datetime) -> str:
    return view_queue.queue(snapshot, studio.images_of(snapshot.ended), now)


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueTab:
    drawn: Any
    asked: tuple[Any, ...] = ()


def layout(studio: Studio) -> QueueTab:
    return QueueTab(live("queue"))
