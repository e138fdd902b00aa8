"""Use cases of models: list, add from other folders, download from the hub, remove."""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from filelock import FileLock

from diffusion_local import actor, disk, families
from diffusion_local.authority import guarded
from diffusion_local.domain import DeviceMemory, Fit, Image, MemoryPlan
from diffusion_local.engine import vision_models
from diffusion_local.errors import Conflict, InvalidParams, NotFound, echo
from diffusion_local.gallery.images import ImageStore
from diffusion_local.hub.downloads import (
    MAX_NAME,
    Download,
    DownloadStore,
    civitai_source,
    is_link,
    is_weights,
    name_in,
    provisional_name,
    shown_source,
)
from diffusion_local.messages import message
from diffusion_local.models import side_files
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import Catalog, Model, from_entry
from diffusion_local.models.curated import REPO, CuratedModel, curated_models
from diffusion_local.models.file_formats import WEIGHT_SUFFIXES
from diffusion_local.models.index import STARTER
from diffusion_local.models.plans import MemoryPlans
from diffusion_local.models.verdicts import PLACES
from diffusion_local.notify.outbound_hosts import AllowedTargets, check_target, parse_url
from diffusion_local.options.values import check_prompt
from diffusion_local.paths import expanded
from diffusion_local.queue.history import FitStore
from diffusion_local.settings import PRECISIONS, Settings

FOLDERS = ("models", *PLACES.values())
#: URL of a repository or a file in it: https://huggingface.co/owner/name/blob/main/folder/file?download=true
HUB_ADDRESS = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[^/?#]+/[^/?#]+)"
    r"(?:/(?:blob|resolve|tree|raw)/(?P<revision>[^/?#]+)(?:/(?P<file>[^?#]*))?)?/?(?:[?#].*)?"
)


@dataclass(frozen=True, slots=True)
class RemovedModel:
    """A removed model. ``moved_to``: where its files are now, "" if they stayed."""

    id: str
    moved_to: str
    words: str


@guarded("library")
class Library:
    """Part of the Studio, as ``studio.library``."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        downloads: DownloadStore,
        images: ImageStore,
        fits: FitStore,
        plans: MemoryPlans,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._downloads = downloads
        self._images = images
        self._fits = fits
        self._plans = plans

    # -- queries ---------------------------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        """Every entry, the default model first; rescans the folders."""
        return self._catalog.all()

    def model(self, model_id: str) -> Model:
        return self._catalog.get(model_id)

    def adapters(self) -> dict[str, list[Adapter]]:
        """Adapters by folder: loras, vae, upscalers, embeddings, controlnet, text_encoders."""
        return {folder: self._catalog.index.adapters(kind) for kind, folder in PLACES.items()}

    def tasks(self) -> list[str]:
        """Tasks that have a model in preprocessors/: depth, normal, openpose, segment, detect, caption, background."""
        return vision_models.available(self._settings.preprocessors)

    def samples(self) -> dict[str, Image]:
        """Newest picture per model, among the newest of the gallery."""
        return self._images.newest_of_models()

    def previews(self) -> dict[tuple[str, str], Path]:
        """Preview pictures beside the files of models and adapters, by (folder, file name without suffix)."""
        files = [("models", model.path) for model in self.models() if model.file]
        files += [(folder, each.path) for folder, found in self.adapters().items() for each in found]
        return {(folder, path.stem): found for folder, path in files if (found := side_files.picture(path))}

    def preview(self, folder: str, name: str) -> Path:
        """One of ``previews``. Raises NotFound."""
        found = self.previews().get((folder, name))
        if found is None:
            raise NotFound(message("no_preview", name=echo(name)))
        return found

    def fits(self) -> dict[str, list[Fit]]:
        """Successful memory measurements per model, newest first."""
        return self._fits.successful()

    def plans(self, *models: Model) -> dict[str, list[MemoryPlan]]:
        """Memory plans per model for each device; for all models if none is given. Models not ready have none."""
        return self._plans.of_models(*(models or self.models()))

    def largest(self) -> DeviceMemory:
        """The device with the most memory; empty before any worker registered."""
        return self._plans.largest()

    def known(self) -> list[CuratedModel]:
        """The curated models that can be downloaded and that this version can run."""
        return [each for each in curated_models() if each.id and families.get(each.family).supported]

    # -- add and remove --------------------------------------------------------------------------------------------

    def add(self, path: str) -> list[Model]:
        """Add models in place, without copying: a diffusers folder, a checkpoint, or a folder of these.

        Returns the new entries. Raises InvalidParams if none is usable.
        """
        check_prompt("path", path, required=True)
        there = expanded(path.strip()).absolute()
        try:
            there.stat()
        except (OSError, ValueError):
            raise InvalidParams("path", message("local_path", path=echo(path.strip()))) from None
        if there.is_relative_to(self._settings.models.absolute()):
            raise InvalidParams("path", message("local_inside"))
        found = self._described(there)
        usable = [model for model in found if model.ready]
        if not usable:
            why = found[0].problem if found else "there is no checkpoint and no diffusers folder."
            raise InvalidParams("path", message("local_none", problem=why))
        self._change(lambda paths: [*paths, str(there)] if str(there) not in paths else paths)
        real = {model.path.resolve() for model in usable}
        return [model for model in self._catalog.all() if model.path.resolve() in real]

    def remove(self, model_id: str) -> RemovedModel:
        """Remove a model from the catalogue.

        Files in ``models/`` are moved to ``removed/``, from where they can be moved back; other files are not touched.
        Raises Conflict for the starter model, and NotFound.
        """
        if model_id == STARTER:
            raise Conflict(message("starter_stays"))
        entry = next((each for each in self._catalog.index.entries() if each.id == model_id), None)
        if entry is None:
            raise NotFound(message("no_model_named", model=echo(model_id)))
        if entry.added:
            named = next(path for path in self._catalog.index.added() if entry.path.is_relative_to(path))
            self._change(lambda paths: [path for path in paths if Path(path) != named])
            return RemovedModel(model_id, "", f"{named.name} is no longer looked into; its files are where they were.")
        target = free_name(self._settings.removed / entry.path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(entry.path, target)
        return RemovedModel(
            model_id,
            str(target),
            f"{entry.path.name} lies in `removed` in the home now. Delete it there to free "
            f"{format_size(entry.found.size_bytes)}.",
        )

    def set_precision(self, model_id: str, precision: str = "") -> Model:
        """Choose the precision of one model, as a value of the setting ``precision``; "" applies the setting.

        It applies to jobs that start from now on. Raises InvalidParams and NotFound.
        """
        model = self._catalog.get(model_id)
        if precision and precision not in PRECISIONS:
            raise InvalidParams("precision", message("one_of", known=list(PRECISIONS), got=echo(precision)))
        self._catalog.choices.set_precision(model.id, precision)
        self._fits.delete(model.id)  # measured with other weights
        return self._catalog.get(model.id)

    # -- downloads -------------------------------------------------------------------------------------------------

    def download(
        self, repo: str, file: str = "", into: str = "models", revision: str = "main", digest: str = ""
    ) -> Download:
        """Queue a download: a diffusers model, or with ``file`` one weight file of a repository.

        ``repo`` may also be the URL of a repository or of a file in it, the URL of a weight file anywhere (``file``
        names it if the URL does not), or a version on Civitai: its URL or ``civitai:ID`` (``file`` chooses among its
        files). ``into``: models, loras, vae, upscalers, embeddings, controlnet, text_encoders, ip_adapters or
        clip_vision. ``digest``: SHA-256 that the file of a URL must have. A repeated call returns the same download.
        """
        texts = {"repo": repo, "file": file, "into": into, "revision": revision, "digest": digest}
        for field, text in texts.items():
            check_prompt(field, text, required=field == "repo")
        if is_link(repo.strip()) and not HUB_ADDRESS.fullmatch(repo.strip()):
            return self._download_link(repo.strip(), file.strip(), into, check_digest(digest.strip()))
        if digest:
            raise InvalidParams("digest", message("link_digest_hub"))
        repo, revision, file = parse_hub_location(repo.strip(), revision.strip(), file.strip().strip("/"))
        if not REPO.fullmatch(repo) or ".." in repo:
            raise InvalidParams("repo", message("hub_repo", got=echo(repo)))
        check_folder(into)
        if into != "models" and not file:
            raise InvalidParams("file", message("hub_name_file", folder=into))
        if file:
            check_file(file)
        name = self._name(repo, file, into)
        download, _ = self._downloads.add(repo, revision, file, into, name, actor.current().name)
        return download

    def _download_link(self, url: str, file: str, into: str, digest: str) -> Download:
        """Queue the download of a URL or of a version on Civitai."""
        check_folder(into)
        if source := civitai_source(url):
            name = provisional_name(source)
        elif url.startswith("civitai:"):
            raise InvalidParams("repo", message("civitai_source", got=echo(url)))
        else:
            check_url(url, AllowedTargets.parse(self._settings.download_allow_private, "download_allow_private"))
            source, name = url, PurePosixPath(file).name or name_in(url)
            if not file and not is_weights(name):
                raise InvalidParams("file", message("link_name"))
            file = name
            if (self._settings.home / into / name).exists():
                raise Conflict(message("there_remove", path=f"{into}/{name}"))
        if file:
            check_file(file)
        return self._downloads.add(source, "", file, into, name, actor.current().name, digest)[0]

    def downloads(self) -> list[Download]:
        """Active downloads, then ended ones, newest first."""
        return self._downloads.list_all()

    def one_download(self, download_id: str) -> Download:
        return self._downloads.get(download_id)

    def cancel_download(self, download_id: str) -> Download:
        """Cancel a download and delete its partial files."""
        return self._downloads.cancel(download_id)

    def _name(self, repo: str, file: str, into: str) -> str:
        """The name of a download in the target folder. Raises Conflict if it exists."""
        owner, _, short = repo.partition("/")
        folder = self._settings.home / into
        names = [PurePosixPath(file).name] if file else [short, f"{owner}--{short}"]
        for model in self._catalog.all() if not file else []:
            if model.hub_id.lower() == repo.lower():
                raise Conflict(message("there_as", name=repo, other=model.id))
        for name in names:
            if not (folder / name).exists():
                return name
        raise Conflict(message("there_remove", path=f"{into}/{names[0]}"))

    def _described(self, there: Path) -> list[Model]:
        """The models at a path, as they would be listed."""
        return [from_entry(entry) for entry in self._catalog.index.preview(there)]

    def _change(self, change: Callable[[list[str]], list[str]]) -> None:
        path = self._settings.home / "models.json"
        with FileLock(self._settings.locks / "models.lock", mode=disk.FILE):
            paths = change([str(each) for each in self._catalog.index.added()])
            disk.replace_file(path, json.dumps({"paths": paths}, indent=2) + "\n")


def parse_hub_location(repo: str, revision: str, file: str) -> tuple[str, str, str]:
    """(repository, revision, file); ``repo`` may be the hub's URL of a repository or file."""
    address = HUB_ADDRESS.fullmatch(repo)
    if address is None:
        return repo.removeprefix("https://huggingface.co/").strip("/"), revision or "main", file
    there = unquote(address["revision"] or "")
    named = unquote(address["file"] or "").strip("/")
    return address["repo"], revision if revision not in ("", "main") else there or "main", file or named


def check_folder(into: str) -> None:
    if into not in FOLDERS:
        raise InvalidParams("into", message("one_of", known=list(FOLDERS), got=echo(into)))


def check_digest(digest: str) -> str:
    """Normalise a SHA-256 to lower-case hex digits; "" is allowed. Raises InvalidParams."""
    digits = digest.lower().removeprefix("sha256:")
    if digits and not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise InvalidParams("digest", message("link_digest", got=echo(digest)))
    return digits


def check_url(url: str, allowed: AllowedTargets) -> None:
    """Check a URL without resolving its host, whose addresses are checked on connection. Raises InvalidParams."""
    parts = parse_url(url, "repo")
    if parts.scheme != "https" and not (allowed.hosts or allowed.networks):
        raise InvalidParams("repo", message("link_https", got=echo(shown_source(url))))
    with suppress(ValueError):
        ip_address(parts.host)
        check_target(url, allowed, "repo")


def check_file(file: str) -> None:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file or path.name.startswith("."):
        raise InvalidParams("file", message("hub_path"))
    if not is_weights(path.name):
        raise InvalidParams("file", message("hub_suffix", known=", ".join(WEIGHT_SUFFIXES), got=echo(path.name)))
    if len(path.name) > MAX_NAME:
        raise InvalidParams("file", message("name_length", most=MAX_NAME))


def free_name(path: Path) -> Path:
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def format_size(size: int) -> str:
    """Display text: 1.4 GB, 320 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"
