"""Commands about pictures and models."""

from typing import Annotated

import typer

from diffusion_local import shapes
from diffusion_local.cli.terminal import AsJson, Home, file_of, tell
from diffusion_local.compose import open_studio
from diffusion_local.settings import Settings

app = typer.Typer()


@app.command()
def gallery(
    limit: Annotated[int, typer.Option(help="Pictures to list.")] = 20,
    search: Annotated[str, typer.Option(help="Words of the prompt.")] = "",
    starred: Annotated[bool, typer.Option("--starred", help="Only starred ones.")] = False,
    trashed: Annotated[bool, typer.Option("--trashed", help="What is in the trash instead.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List pictures, newest first."""
    studio = open_studio(Settings.load(home=home))
    images = studio.gallery(limit, search=search, starred=starred, trashed=trashed)
    files = [file_of(studio, image.id) for image in images]
    shaped = [shapes.image(image) | {"file": file} for image, file in zip(images, files, strict=True)]
    lines = [
        f"{file or image.id + ' (its file is gone)'}  {image.params.prompt}"
        for image, file in zip(images, files, strict=True)
    ]
    tell(shaped, as_json, lines or ["no pictures yet"])


@app.command()
def star(
    image_id: str,
    off: Annotated[bool, typer.Option("--off", help="Take the star away.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Star a picture."""
    image = open_studio(Settings.load(home=home)).star(image_id, not off)
    tell(shapes.image(image), as_json, [f"{'starred' if image.starred else 'no star'} {image.id}"])


@app.command()
def trash(image_id: str, home: Home = None, as_json: AsJson = False) -> None:
    """Take a picture out of the gallery; `restore` brings it back while it is in the trash."""
    image = open_studio(Settings.load(home=home)).trash(image_id)
    tell(shapes.image(image), as_json, [f"in the trash {image.id}"])


@app.command()
def restore(image_id: str, home: Home = None, as_json: AsJson = False) -> None:
    """Bring a picture back from the trash."""
    image = open_studio(Settings.load(home=home)).restore(image_id)
    tell(shapes.image(image), as_json, [f"back in the gallery {image.id}"])


@app.command()
def models(home: Home = None, as_json: AsJson = False) -> None:
    """List models and whether they can be used."""
    found = open_studio(Settings.load(home=home)).models()
    lines = [f"{model.id:<24} {'ready' if model.ready else 'not ready: ' + model.problem}" for model in found]
    tell([shapes.model(model) for model in found], as_json, lines)
