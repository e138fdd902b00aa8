"""Builds the objects of a process from its settings. No other module chooses backends."""

from dataclasses import dataclass
from functools import lru_cache, partial

from diffusion_local.accounts.pairings import PairingStore
from diffusion_local.accounts.store import AccountStore
from diffusion_local.db.database import Database, open_database
from diffusion_local.engine import vision_models
from diffusion_local.errors import InvalidParams
from diffusion_local.gallery.blobs import Blobs
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.images import ImageStore
from diffusion_local.gallery.local_blobs import LocalBlobs
from diffusion_local.gallery.sources import Sources, is_first_of_several
from diffusion_local.gallery.vision_answers import VisionAnswers
from diffusion_local.health.storage_checks import StorageProbe
from diffusion_local.hub.downloads import DownloadStore
from diffusion_local.machines import Machines
from diffusion_local.messages import message
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.models.plans import MemoryPlans
from diffusion_local.models.service import Library
from diffusion_local.notify.deliveries import DeliveryStore, NoticeStore
from diffusion_local.notify.dispatcher import NotificationDispatcher
from diffusion_local.notify.service import Webhooks
from diffusion_local.queue.batch_times import Timetable
from diffusion_local.queue.batches import BatchRows
from diffusion_local.queue.claims import RefusalStore
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.doorbell import HueyQueue
from diffusion_local.queue.history import FitStore
from diffusion_local.queue.huey_backends import queue_url
from diffusion_local.queue.jobs import JobStore
from diffusion_local.queue.loans import LoanStore
from diffusion_local.queue.machines import MachineStore
from diffusion_local.queue.order import OrderRules
from diffusion_local.queue.views import QueueView
from diffusion_local.queue.workers import LeaseStore, WorkerStore
from diffusion_local.reports.service import Reports
from diffusion_local.settings import Settings
from diffusion_local.stores import Stores
from diffusion_local.studio import Studio


@dataclass(frozen=True, slots=True)
class Services:
    """The opened objects of one home."""

    settings: Settings
    database: Database
    jobs: JobStore
    control: QueueControl
    view: QueueView
    batches: BatchRows
    images: ImageStore
    workers: WorkerStore
    fits: FitStore
    files: ImageFiles
    queue: HueyQueue
    sources: Sources
    catalog: Catalog
    notices: NoticeStore
    deliveries: DeliveryStore
    notifications: NotificationDispatcher
    downloads: DownloadStore
    leases: LeaseStore
    machines: MachineStore
    refusals: RefusalStore
    loans: LoanStore
    accounts: AccountStore
    studio: Studio


def open_files(settings: Settings) -> ImageFiles:
    return ImageFiles(open_blobs(settings), settings)


def open_blobs(settings: Settings) -> Blobs:
    """Open the picture storage that the settings name. Raises InvalidParams."""
    if not settings.gallery:
        return LocalBlobs(settings)
    try:
        from diffusion_local.gallery.object_blobs import open_bucket
    except ImportError:
        raise InvalidParams("gallery", message("gallery_library")) from None
    return open_bucket(settings.gallery)


def open_services(settings: Settings, blobs: Blobs | None = None) -> Services:
    """Create folders, migrate the database and open everything. Raises DatabaseProblem.

    ``blobs``: storage backend for pictures, instead of the one that the settings name.
    """
    settings.make_folders()
    database = open_database(settings)
    rules = OrderRules(settings.zone, settings.model_streak, settings.batch_size == "auto")
    stores = Stores.of(database, rules)
    files, queue = ImageFiles(blobs, settings) if blobs else open_files(settings), HueyQueue(queue_url(settings))
    sources = Sources(
        settings,
        stores.source_owners,
        stores.images,
        files,
        VisionAnswers(stores.vision_answers, settings.preprocessors),
    )
    catalog = Catalog(
        settings.starter,
        ModelDirectories.from_settings(settings),
        sources.size,
        sources.paints,
        sources.seen_by,
        partial(vision_models.check_model, settings.preprocessors),
        lru_cache(maxsize=1024)(partial(is_first_of_several, files)),  # a source never changes
    )
    reports = Reports(settings, stores.reports, stores.view, stores.control, files)
    notices, deliveries = stores.notices, stores.deliveries
    notifier = NotificationDispatcher(
        settings, notices, deliveries, stores.jobs, stores.view, reports, stores.images, files
    )
    webhooks = Webhooks(settings, notices, deliveries)
    plans = MemoryPlans(settings, catalog, stores.fits, stores.workers)
    library = Library(settings, catalog, stores.downloads, stores.images, stores.fits, plans)
    timetable, storage = (
        Timetable(database, rules, webhooks.check),
        StorageProbe(database, files, watched=bool(settings.gallery)),
    )
    leases, machines = LeaseStore(database, settings.lease_seconds), MachineStore(database, settings.zone)
    farm = Machines(settings, machines, leases, PairingStore(database), stores.accounts, stores.jobs, queue, catalog)
    studio = Studio(
        settings, stores, files, queue, sources, catalog, library, plans, reports, webhooks, timetable, storage, farm
    )
    return Services(
        settings,
        database,
        stores.jobs,
        stores.control,
        stores.view,
        stores.batches,
        stores.images,
        stores.workers,
        stores.fits,
        files,
        queue,
        sources,
        catalog,
        notices,
        deliveries,
        notifier,
        stores.downloads,
        leases,
        machines,
        RefusalStore(database),
        LoanStore(database, rules),
        stores.accounts,
        studio,
    )


def open_studio(settings: Settings) -> Studio:
    return open_services(settings).studio
