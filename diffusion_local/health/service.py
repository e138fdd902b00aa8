"""How this machine does: the doctor's findings, looked for beside the work, GPUs, disk and versions."""

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

FRESH_SECONDS = 5.0  # for which GPUs and disk are not asked again, however many pages look


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """What changes all the time. Bytes; ``free`` and ``gallery`` are of the home's disk, ``memory`` is (used, all) of
    this machine's main memory."""

    gpus: tuple[Gpu, ...]
    free: int
    total: int
    gallery: int
    memory: tuple[int, int] = (0, 0)


@guarded("health")
class Health:
    """One per process."""

    def __init__(self, settings: Settings, images: ImageStore, files: ImageFiles) -> None:
        self._settings = settings
        self._images = images
        self._files = files
        self._lock = threading.Lock()
        self._looking = False
        self._findings: list[Finding] | None = None
        self._vitals: tuple[float, HealthStatus] | None = None

    @property
    def looking(self) -> bool:
        return self._looking

    def findings(self) -> list[Finding]:
        """What the doctor found last; the first question sends it to look, and it takes some seconds."""
        if self._findings is None:
            self._send_doctor()
        return self._findings or []

    def look(self) -> None:
        """Send the doctor to look, unless it does already; ``findings`` has what comes of it."""
        self._send_doctor()

    def _send_doctor(self) -> None:
        with self._lock:
            if self._looking:
                return
            self._looking = True
        threading.Thread(target=self._examine, name="health", daemon=True).start()

    def _examine(self) -> None:
        try:
            with acting(LOCAL):  # a thread acts for nobody; it looks at the machine, whoever sent it
                self._findings = examine(self._settings, self._files)
        except Exception:
            log.exception("the health could not be looked at")
            self._findings = []
        finally:
            self._looking = False

    def vitals(self) -> HealthStatus:
        now = time.monotonic()
        if self._vitals is None or now - self._vitals[0] > FRESH_SECONDS:
            self._vitals = (now, self._look_at_vitals())
        return self._vitals[1]

    def _look_at_vitals(self) -> HealthStatus:
        disk = shutil.disk_usage(self._settings.home)
        memory = psutil.virtual_memory()
        used = (memory.total - memory.available, memory.total)
        return HealthStatus(tuple(gpus.read()), disk.free, disk.total, self._images.about_bytes(), used)

    def versions(self) -> list[Finding]:
        return list(versions(self._settings))

    def shows_paths(self) -> bool:
        """Paths are for an admin who signed in, and for whoever sits at this machine."""
        who = actor.current()
        at_home = is_loopback(self._settings.host) and not self._settings.trusted_proxies
        return Scope.ADMIN in who.scopes and (who.source == "session" or at_home)
