"""The command that carries a studio from a home to servers, or back."""

from dataclasses import replace
from typing import Annotated

import typer
from filelock import Timeout

from diffusion_local.cli.terminal import AsJson, Home, print_result
from diffusion_local.compose import open_blobs
from diffusion_local.db.copying import copy_rows, require_empty, require_idle
from diffusion_local.db.database import Database, find_database, open_database
from diffusion_local.errors import Conflict, InvalidParams, NotFound
from diffusion_local.gallery.blobs import copy_blobs
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.supervisor.supervisor import hold_home

app = typer.Typer()

HOME = "home"  # in place of a URL: the home's own file or folders


@app.command()
def relocate(
    to: Annotated[str, typer.Option(help="Database to move to: postgresql://user@host/name, or home.")] = "",
    gallery: Annotated[str, typer.Option(help="Storage to move the pictures to: s3://bucket/prefix, or home.")] = "",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Copy the database, the pictures or both to a server or back, checked; the old ones stay as they are."""
    settings = Settings.load(home=home)
    target = replace(
        settings,
        database=settings.database if not to else "" if to == HOME else to,
        gallery=settings.gallery if not gallery else "" if gallery == HOME else gallery,
    )
    if (target.database, target.gallery) == (settings.database, settings.gallery):
        raise InvalidParams("to", message("move_nowhere"))
    settings.make_folders()
    with hold_home(settings):
        rows, files = carry(settings, target, progress=not as_json)
    changed = {
        name: getattr(target, name)
        for name in ("database", "gallery")
        if getattr(target, name) != getattr(settings, name)
    }
    lines = [
        f"moved {sum(rows.values())} rows and {files} files; the old ones are untouched",
        "now set in config.toml:",
    ]
    lines += [f'  {name} = "{value}"' for name, value in changed.items()]
    print_result({"rows": rows, "files": files, "settings": changed}, as_json, lines)


def carry(settings: Settings, target: Settings, progress: bool = False) -> tuple[dict[str, int], int]:
    """Copy what the settings differ in: first the files, then the rows that name them. Raises UserError."""
    old = find_database(settings)
    if old is None:
        raise NotFound(message("no_database", folder=settings.home))
    try:
        with old.lock(settings.locks / "leader.lock").acquire(timeout=0):
            return carry_from(old, settings, target, progress)
    except Timeout:
        raise Conflict(message("move_running")) from None
    finally:
        old.close()


def carry_from(old: Database, settings: Settings, target: Settings, progress: bool) -> tuple[dict[str, int], int]:
    require_idle(old)
    rows: dict[str, int] = {}
    files = 0
    new = open_database(target) if target.database != settings.database else None
    if new is not None:
        require_empty(new)
    if target.gallery != settings.gallery:
        blobs = open_blobs(target)
        blobs.probe("gallery/probe", 1)

        def report(count: int) -> None:
            if progress and count % 100 == 0:
                print(f"{count} files", flush=True)

        files = copy_blobs(open_blobs(settings), blobs, target.gallery or str(target.home), report)
    if new is not None:
        rows = copy_rows(old, new)
        new.close()
    return rows, files
