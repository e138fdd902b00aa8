"""Health use cases: doctor findings (computed in the background), GPUs, disk and versions."""

import logging
import shutil
import threading
import time
from dataclasses import dataclass

import psutil

from diffusion_local import actor
from diffusion_local.actor import LOCAL, Scope, acting
from diffusion_local.authority import guarded
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.images import ImageStore
from diffusion_local.health.doctor import Finding, examine, versions
from diffusion_local.settings import Settings
from diffusion_local.system import gpus
from diffusion_local.system.gpus import Gpu
from diffusion_local.system.network import is_loopback

log = logging.getLogger(__name__)

FRESH_SECONDS = 5.0  # how long GPU and disk figures are cached


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """Current figures in bytes. ``free``, ``total``: the home's disk; ``gallery``: its pictures; ``memory``: (used,
    total) main memory.
    """

    gpus: tuple[Gpu, ...]
    free: int
    total: int
    gallery: int
    memory: tuple[int, int] = (0, 0)


@guarded("health")
class Health:
    """Health use cases, available as ``studio.health``. One per process."""

    def __init__(self, settings: Settings, images: ImageStore, files: ImageFiles) -> None:
        self._settings = settings
        self._images = images
        self._files = files
        self._lock = threading.Lock()
        self._examining = False
        self._findings: list[Finding] | None = None
        self._vitals: tuple[float, HealthStatus] | None = None

    @property
    def looking(self) -> bool:
        return self._examining

    def findings(self) -> list[Finding]:
        """The doctor's last findings. The first call starts the doctor, which takes some seconds."""
        if self._findings is None:
            self._send_doctor()
        return self._findings or []

    def start_check(self) -> None:
        """Start the doctor unless it is running; ``findings`` has the result."""
        self._send_doctor()

    def _send_doctor(self) -> None:
        with self._lock:
            if self._examining:
                return
            self._examining = True
        threading.Thread(target=self._examine, name="health", daemon=True).start()

    def _examine(self) -> None:
        try:
            with acting(LOCAL):  # a new thread has no actor
                self._findings = examine(self._settings, self._files)
        except Exception:
            log.exception("the health check failed")
            self._findings = []
        finally:
            self._examining = False

    def vitals(self) -> HealthStatus:
        now = time.monotonic()
        if self._vitals is None or now - self._vitals[0] > FRESH_SECONDS:
            self._vitals = (now, self._read_vitals())
        return self._vitals[1]

    def _read_vitals(self) -> HealthStatus:
        disk = shutil.disk_usage(self._settings.home)
        memory = psutil.virtual_memory()
        used = (memory.total - memory.available, memory.total)
        return HealthStatus(tuple(gpus.read()), disk.free, disk.total, self._images.estimated_bytes(), used)

    def versions(self) -> list[Finding]:
        return list(versions(self._settings))

    def shows_paths(self) -> bool:
        """Whether findings may include paths: for admins who signed in, and for the local user."""
        who = actor.current()
        at_home = is_loopback(self._settings.host) and not self._settings.trusted_proxies
        return Scope.ADMIN in who.scopes and (who.source == "session" or at_home)
