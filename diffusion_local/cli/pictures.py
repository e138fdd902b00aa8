"""Commands for pictures."""

import inspect
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from diffusion_local import serializers
from diffusion_local.cli.terminal import (
    AnyStudio,
    AsJson,
    Home,
    Server,
    Token,
    connect,
    picture_path,
    print_result,
    read_file,
    with_studio,
)
from diffusion_local.errors import InvalidParams
from diffusion_local.gallery.images import GalleryFilter
from diffusion_local.gallery.recipes import read_picture
from diffusion_local.messages import message
from diffusion_local.options.signature import with_parameters
from diffusion_local.options.values import SOURCE_ID, ULID

app = typer.Typer()


def filter_flag(field: Field[Any]) -> inspect.Parameter:
    """A field of GalleryFilter as a command-line flag."""
    meaning = field.metadata["meaning"]
    flag = typer.Option(f"--{field.name}", help=f"{meaning[0].upper()}{meaning[1:]}.")
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(field.name, kind, default=field.default, annotation=Annotated[type(field.default), flag])


@app.command()
@with_studio
@with_parameters(map(filter_flag, fields(GalleryFilter)))
def gallery(
    studio: AnyStudio,
    limit: Annotated[int, typer.Option(help="Pictures to list.")] = 20,
    as_json: AsJson = False,
    **filters: Any,
) -> None:
    """List pictures, newest first unless sorted otherwise."""
    images = studio.pictures.page(limit, **filters)
    files = [picture_path(studio, image.id) for image in images]
    shaped = [serializers.image(image) | {"file": file} for image, file in zip(images, files, strict=True)]
    lines = [
        f"{file or image.id + ' (its file is gone)'}  {f'[{image.flag}] ' if image.flag else ''}{image.params.prompt}"
        for image, file in zip(images, files, strict=True)
    ]
    print_result(shaped, as_json, lines or ["no pictures yet"])


@app.command()
@with_studio
def describe(studio: AnyStudio, picture: str, as_json: AsJson = False) -> None:
    """Describe a picture: a file, or the id of a source picture or of one in the gallery, which keeps the caption."""
    source_id = picture
    if ULID.fullmatch(picture):
        image = studio.pictures.caption(picture)
        print_result(image, as_json, [image.caption])
        return
    if not SOURCE_ID.fullmatch(picture):
        source_id = studio.sources.add(read_file(picture, "picture"), "picture").id
    caption = str(studio.sources.describe(source_id))
    print_result({"caption": caption, "source": source_id}, as_json, [caption])


@app.command()
@with_studio
def captions(
    studio: AnyStudio,
    search: Annotated[str, typer.Option(help="Only pictures that match this search.")] = "",
    limit: Annotated[int, typer.Option(help="Maximum number of pictures.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Caption the gallery's pictures that have no caption yet, newest first, so that search finds them by content."""
    before, done = None, dict[str, str]()
    while len(done) < limit and (page := studio.pictures.page(100, before, search=search)):
        for image in page:
            if not image.caption and len(done) < limit:
                done[image.id] = studio.pictures.caption(image.id).caption
                if not as_json:
                    print(f"{image.id}  {done[image.id]}", flush=True)
        before = page[-1].id
    print_result(done, as_json, [f"{len(done)} pictures described"])


@app.command()
@with_studio
def star(
    studio: AnyStudio,
    image_id: str,
    off: Annotated[bool, typer.Option("--off", help="Remove the star.")] = False,
    as_json: AsJson = False,
) -> None:
    """Star a picture."""
    image = studio.star(image_id, not off)
    print_result(image, as_json, [f"{'starred' if image.starred else 'no star'} {image.id}"])


@app.command()
@with_studio
def trash(studio: AnyStudio, image_id: str, as_json: AsJson = False) -> None:
    """Move a picture to the trash; `restore` brings it back."""
    image = studio.trash(image_id)
    print_result(image, as_json, [f"in the trash {image.id}"])


@app.command()
@with_studio
def restore(studio: AnyStudio, image_id: str, as_json: AsJson = False) -> None:
    """Restore a picture from the trash."""
    image = studio.restore(image_id)
    print_result(image, as_json, [f"back in the gallery {image.id}"])


@app.command()
def recipe(
    picture: Annotated[
        str, typer.Argument(help="A file (from this program or one that writes A1111's format), or an id.")
    ],
    home: Home = None,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show how a picture was made, from the recipe in its file."""
    try:
        if ULID.fullmatch(picture) and not Path(picture).exists():
            data = connect(home, server, token).picture_data(picture)
        else:
            data = read_file(picture, "file")
    except OSError as error:
        raise InvalidParams("file", message("file_cannot_be_read", error=error.strerror, file=picture)) from None
    found = read_picture(data)
    lines = [f"{name:>24}  {value}" for name, value in {**found.settings, **found.facts}.items()]
    lines += [f"{'not used here: ' + name:>24}  {value}" for name, value in found.others.items()]
    answer = {"settings": found.settings, "facts": found.facts, "others": found.others, "tool": found.tool}
    print_result(answer, as_json, lines)
