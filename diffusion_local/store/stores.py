"""Every store of one database, opened once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

from diffusion_local.db.database import Database
from diffusion_local.store.accounts import AccountStore
from diffusion_local.store.batch_rows import BatchRows
from diffusion_local.store.batches import Results
from diffusion_local.store.boards import BoardStore
from diffusion_local.store.control import QueueControl
from diffusion_local.store.deliveries import DeliveryStore
from diffusion_local.store.downloads import DownloadStore
from diffusion_local.store.fits import FitStore
from diffusion_local.store.images import ImageStore
from diffusion_local.store.jobs import JobStore
from diffusion_local.store.line import Rules
from diffusion_local.store.notices import NoticeStore
from diffusion_local.store.queue_groups import QueueGroups
from diffusion_local.store.queue_view import QueueView
from diffusion_local.store.reports import ReportStore
from diffusion_local.store.source_owners import SourceOwners
from diffusion_local.store.tally import Tally, read_tally
from diffusion_local.store.workers import WorkerStore


@dataclass(frozen=True, slots=True)
class Stores:
    """``compose`` hands each use-case those that it needs."""

    jobs: JobStore
    control: QueueControl
    view: QueueView
    groups: QueueGroups
    batches: BatchRows
    results: Results
    reports: ReportStore
    images: ImageStore
    boards: BoardStore
    source_owners: SourceOwners
    workers: WorkerStore
    fits: FitStore
    notices: NoticeStore
    deliveries: DeliveryStore
    downloads: DownloadStore
    accounts: AccountStore
    tally: Callable[[], Tally]

    @classmethod
    def of(cls, database: Database, rules: Rules) -> Self:
        """``rules`` hold for the order of the queue and for times."""
        return cls(
            JobStore(database, rules),
            QueueControl(database),
            QueueView(database, rules),
            QueueGroups(database, rules),
            BatchRows(database, rules),
            Results(database),
            ReportStore(database),
            ImageStore(database),
            BoardStore(database),
            SourceOwners(database),
            WorkerStore(database),
            FitStore(database),
            NoticeStore(database),
            DeliveryStore(database),
            DownloadStore(database),
            AccountStore(database),
            partial(read_tally, database),
        )
