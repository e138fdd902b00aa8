"""All stores of one database."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

from diffusion_local.accounts.store import AccountStore
from diffusion_local.db.database import Database
from diffusion_local.gallery.boards import BoardStore
from diffusion_local.gallery.images import ImageStore
from diffusion_local.gallery.source_owners import SourceOwners
from diffusion_local.gallery.vision_answers import VisionAnswerStore
from diffusion_local.hub.downloads import DownloadStore
from diffusion_local.notify.deliveries import DeliveryStore, NoticeStore
from diffusion_local.queue.batches import BatchResults, BatchRows, GraphStore
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.groups import QueueGroups
from diffusion_local.queue.history import FitStore
from diffusion_local.queue.jobs import JobStore
from diffusion_local.queue.order import OrderRules
from diffusion_local.queue.views import QueueCounts, QueueView, count_queue
from diffusion_local.queue.workers import WorkerStore
from diffusion_local.reports.store import ReportStore


@dataclass(frozen=True, slots=True)
class Stores:
    """All stores; ``compose`` passes each use case those that it needs."""

    jobs: JobStore
    control: QueueControl
    view: QueueView
    groups: QueueGroups
    graphs: GraphStore
    batches: BatchRows
    results: BatchResults
    reports: ReportStore
    images: ImageStore
    boards: BoardStore
    source_owners: SourceOwners
    vision_answers: VisionAnswerStore
    workers: WorkerStore
    fits: FitStore
    notices: NoticeStore
    deliveries: DeliveryStore
    downloads: DownloadStore
    accounts: AccountStore
    tally: Callable[[], QueueCounts]

    @classmethod
    def of(cls, database: Database, rules: OrderRules) -> Self:
        """``rules``: queue order and time zone."""
        return cls(
            JobStore(database, rules),
            QueueControl(database),
            QueueView(database, rules),
            QueueGroups(database, rules),
            GraphStore(database),
            BatchRows(database, rules),
            BatchResults(database),
            ReportStore(database),
            ImageStore(database),
            BoardStore(database),
            SourceOwners(database),
            VisionAnswerStore(database),
            WorkerStore(database),
            FitStore(database),
            NoticeStore(database),
            DeliveryStore(database),
            DownloadStore(database),
            AccountStore(database),
            partial(count_queue, database, rules),
        )
