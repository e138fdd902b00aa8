"""Addresses of the page: ``/ui/gallery?starred=1``. Everything else at the root belongs to APIs.

``router.js`` follows them in the browser; the server needs them to serve the page there and to write links.
"""

from urllib.parse import urlencode

from diffusion_local import serializers

PREFIX = "/ui"
#: Views of the page, in the order of its navigation.
VIEWS = ("create", "gallery", "queue", "lists", "models", "settings")
#: The viewer over the page: ``/ui/picture/ID``.
PICTURE = "picture"


def address(view: str, **query: str) -> str:
    """Of a view, with its filters; below the path of a reverse proxy."""
    kept = {name: value for name, value in query.items() if value}
    return f"{serializers.root()}{PREFIX}/{view}" + (f"?{urlencode(kept)}" if kept else "")


def picture(image_id: str) -> str:
    return address(f"{PICTURE}/{image_id}")


def serves(path: str) -> bool:
    """Whether the page itself is served there."""
    return path == "/" or path == PREFIX or path.startswith(f"{PREFIX}/")


def known(path: str) -> bool:
    """Whether an address can name something: a view or a picture, as far as its form tells."""
    parts = path.removeprefix(PREFIX).strip("/").split("/")
    return parts in ([""], *([view] for view in VIEWS)) or (len(parts) == 2 and parts[0] == PICTURE and bool(parts[1]))
