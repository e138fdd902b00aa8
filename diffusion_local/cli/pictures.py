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
    limit: int = 20,
    search: Annotated[str, typer.Option(help="Words of the prompt.")] = "",
    starred: bool = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List pictures, newest first."""
    studio = open_studio(Settings.load(home=home))
    images = studio.gallery(limit, search=search, starred=starred)
    files = [file_of(studio, image.id) for image in images]
    shaped = [shapes.image(image) | {"file": file} for image, file in zip(images, files, strict=True)]
    lines = [
        f"{file or image.id + ' (its file is gone)'}  {image.params.prompt}"
        for image, file in zip(images, files, strict=True)
    ]
    tell(shaped, as_json, lines or ["no pictures yet"])


@app.command()
def models(home: Home = None, as_json: AsJson = False) -> None:
    """List models and whether they can be used."""
    found = open_studio(Settings.load(home=home)).models()
    lines = [f"{model.id:<24} {'ready' if model.ready else 'not ready: ' + model.problem}" for model in found]
    tell([shapes.model(model) for model in found], as_json, lines)
