"""Sources of downloads: repositories of the hub, URLs of files, and versions of models on Civitai."""

import re
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

SUFFIX = ".safetensors"
MAX_NAME = 100  # characters of a file name
CIVITAI = re.compile(r"civitai:(?:models/(?P<model>[0-9]{1,12})|(?P<version>[0-9]{1,12}))")
CIVITAI_HOSTS = ("civitai.com", "www.civitai.com")
#: Path of a page or a download on Civitai: of a model, whose version may be in the query, or of a version.
CIVITAI_PATH = re.compile(
    r"/models/(?P<model>[0-9]{1,12})(?:/[^/]*)?/?|/(?:api/download/models|model-versions)/(?P<version>[0-9]{1,12})/?"
)


def is_link(source: str) -> bool:
    """Whether a download's source is a URL or a version on Civitai instead of a repository of the hub."""
    return "://" in source or source.startswith("civitai:")


def shown_source(source: str) -> str:
    """A source as it may be shown and logged: without the query, which may hold credentials."""
    return source.partition("?")[0] if "://" in source else source


def civitai_source(text: str) -> str:
    """``civitai:VERSION`` or ``civitai:models/MODEL`` (its newest version) from the same, or from an address on
    Civitai; "" for anything else."""
    if CIVITAI.fullmatch(text):
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    found = CIVITAI_PATH.fullmatch(parts.path)
    if parts.scheme not in ("http", "https") or parts.hostname not in CIVITAI_HOSTS or not found:
        return ""
    version = found["version"] or next(iter(parse_qs(parts.query).get("modelVersionId", ())), "")
    source = f"civitai:{version}" if version else f"civitai:models/{found['model']}"
    return source if CIVITAI.fullmatch(source) else ""


def provisional_name(source: str) -> str:
    """Name of a Civitai download until its API has told the file's name."""
    return source.replace(":", "-").replace("/", "-") + SUFFIX


def name_in(url: str) -> str:
    """The file name at the end of a URL's path."""
    return PurePosixPath(unquote(urlsplit(url).path)).name
