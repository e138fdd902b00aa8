"""Builds the objects of one process from its settings: the one place that names the chosen backends."""

from dataclasses import dataclass

from diffusion_local.catalog import Catalog
from diffusion_local.doorbell import url_of
from diffusion_local.library import Library
from diffusion_local.models.places import Places
from diffusion_local.queue import HueyQueue
from diffusion_local.reports.reports import Reports
from diffusion_local.settings import Settings
from diffusion_local.store.blobs import Blobs
from diffusion_local.store.boards import BoardStore
from diffusion_local.store.control import QueueControl
from diffusion_local.store.database import Database
from diffusion_local.store.deliveries import DeliveryStore
from diffusion_local.store.downloads import DownloadStore
from diffusion_local.store.files import ImageFiles
from diffusion_local.store.fits import FitStore
from diffusion_local.store.images import ImageStore
from diffusion_local.store.jobs import JobStore
from diffusion_local.store.line import Rules
from diffusion_local.store.local_blobs import LocalBlobs
from diffusion_local.store.notices import NoticeStore
from diffusion_local.store.queue_view import QueueView
from diffusion_local.store.source_owners import SourceOwners
from diffusion_local.store.sources import Sources
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
    jobs, control, view = JobStore(database, rules), QueueControl(database), QueueView(database, rules)
    images, workers, fits = ImageStore(database), WorkerStore(database), FitStore(database)
    files, queue = ImageFiles(blobs, settings) if blobs else open_files(settings), HueyQueue(url_of(settings))
    sources = Sources(settings, SourceOwners(database), images, files)
    catalog = Catalog(settings.starter, Places.of(settings), sources.size, sources.paints)
    notices, deliveries = NoticeStore(database), DeliveryStore(database)
    reports = Reports(settings, database, view, control, files)
    teller = Teller(settings, notices, deliveries, jobs, view, reports, images, files)
    webhooks = Webhooks(settings, notices, deliveries)
    downloads = DownloadStore(database)
    library = Library(settings, catalog, downloads, images, fits, workers)
    studio = Studio(
        settings,
        jobs,
        control,
        view,
        images,
        workers,
        files,
        queue,
        sources,
        catalog,
        library,
        reports,
        webhooks,
        BoardStore(database),
    )
    return House(
        settings,
        database,
        jobs,
        control,
        view,
        images,
        workers,
        fits,
        files,
        queue,
        sources,
        catalog,
        notices,
        deliveries,
        teller,
        downloads,
        studio,
    )


def open_studio(settings: Settings) -> Studio:
    return open_house(settings).studio
