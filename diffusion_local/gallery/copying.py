"""Copies all pictures and other files from one storage to another, and checks them. A copy that was cut off goes on."""

from collections.abc import Callable

from diffusion_local.errors import Conflict, StorageProblem
from diffusion_local.gallery.blobs import CHUNK, Area, Blobs, StoredFile
from diffusion_local.messages import message

#: Areas that are copied: previews are those of running pictures.
COPIED = tuple(area for area in Area if area is not Area.PREVIEWS)


def copy_blobs(source: Blobs, target: Blobs, name: str, report: Callable[[int], object]) -> int:
    """Copy every file; returns their number. ``report`` is called with the number so far.

    Raises Conflict if the target has a file that the source has not, and StorageProblem if one differs after it was
    written.
    """
    for area in COPIED:
        for each in target.list(f"{area}/"):
            if source.stat(each.key) is None:
                raise Conflict(message("move_not_empty", place=name))
    copied = 0
    for area in COPIED:
        for each in source.list(f"{area}/"):
            copy_blob(source, target, each.key, each.size)
            copied += 1
            report(copied)
    return copied


def copy_blob(source: Blobs, target: Blobs, key: str, size: int) -> None:
    wanted, there = StoredFile(source, key).sha256(), target.stat(key)
    if there is not None and there.size == size and StoredFile(target, key).sha256() == wanted:
        return  # by an earlier run
    with source.open(key) as file:

        def write(copy: object) -> None:
            while piece := file.read(CHUNK):
                copy.write(piece)  # type: ignore[attr-defined]

        target.write(key, write, durable=True)
    if StoredFile(target, key).sha256() != wanted:
        raise StorageProblem(message("move_differs", what=key))
