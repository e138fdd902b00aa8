"""Builds the objects of one process from its settings: the one place that names the chosen backends."""

from dataclasses import dataclass

from diffusion_local.catalog import Catalog
from diffusion_local.db.database import Database
from diffusion_local.doorbell import url_of
from diffusion_local.library import Library
from diffusion_local.models.places import Places
from diffusion_local.queue import HueyQueue
from diffusion_local.reports.reports import Reports
from diffusion_local.settings import Settings
from diffusion_local.store.blobs import Blobs
from diffusion_local.store.control import QueueControl
from diffusion_local.store.deliveries import DeliveryStore
from diffusion_local.store.downloads import DownloadStore
from diffusion_local.store.files import ImageFiles
from diffusion_local.store.fits import FitStore
from diffusion_local.store.images import ImageStore
from diffusion_local.store.jobs import JobStore
from diffusion_local.store.line import Rules
from diffusion_local.store.local_blobs import LocalBlobs
from diffusion_local.store.notices import NoticeStore
from diffusion_local.store.probe import Probe
from diffusion_local.store.queue_view import QueueView
from diffusion_local.store.sources import Sources
from diffusion_local.store.stores import Stores
from diffusion_local.store.timetable import Timetable
from diffusion_local.store.workers import WorkerStore
from diffusion_local.studio import Studio
from diffusion_local.telling.teller import Teller
from diffusion_local.telling.webhooks import Webhooks


@dataclass(frozen=True, slots=True)
class House:
    """What is kept in one home, opened."""

    settings: Settings
    database: Database
    jobs: JobStore
    control: QueueControl
    view: QueueView
    images: ImageStore
    workers: WorkerStore
    fits: FitStore
    files: ImageFiles
    queue: HueyQueue
    sources: Sources
    catalog: Catalog
    notices: NoticeStore
    deliveries: DeliveryStore
    teller: Teller
    downloads: DownloadStore
    studio: Studio


def open_files(settings: Settings) -> ImageFiles:
    return ImageFiles(LocalBlobs(settings), settings)


def open_house(settings: Settings, blobs: Blobs | None = None) -> House:
    """Make the folders, migrate the database, open everything. Raises DatabaseProblem.

    ``blobs`` keeps the pictures instead of the home's folders.
    """
    settings.make_folders()
    database = Database.open(settings.database)
    rules = Rules(settings.zone, settings.model_streak)
    stores = Stores.of(database, rules)
    files, queue = ImageFiles(blobs, settings) if blobs else open_files(settings), HueyQueue(url_of(settings))
    sources = Sources(settings, stores.source_owners, stores.images, files)
    catalog = Catalog(settings.starter, Places.of(settings), sources.size, sources.paints)
    reports = Reports(settings, stores.reports, stores.view, stores.control, files)
    notices, deliveries = stores.notices, stores.deliveries
    teller = Teller(settings, notices, deliveries, stores.jobs, stores.view, reports, stores.images, files)
    webhooks = Webhooks(settings, notices, deliveries)
    library = Library(settings, catalog, stores.downloads, stores.images, stores.fits, stores.workers)
    timetable, storage = Timetable(database, rules, webhooks.check), Probe(database, files)
    studio = Studio(settings, stores, files, queue, sources, catalog, library, reports, webhooks, timetable, storage)
    return House(
        settings,
        database,
        stores.jobs,
        stores.control,
        stores.view,
        stores.images,
        stores.workers,
        stores.fits,
        files,
        queue,
        sources,
        catalog,
        notices,
        deliveries,
        teller,
        stores.downloads,
        studio,
    )


def open_studio(settings: Settings) -> Studio:
    return open_house(settings).studio
