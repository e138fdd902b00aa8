"""Which studio a command speaks to: the one of a home on this machine, or one that runs somewhere else."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from diffusion_local.compose import open_studio
from diffusion_local.remote.studio import RemoteStudio
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio

AnyStudio = Studio | RemoteStudio
Home = Annotated[Path | None, typer.Option(help="Folder that holds everything.", show_default=False)]
Server = Annotated[
    str | None, typer.Option(help="Address of a studio, as http://studio:7860, instead of a home.", show_default=False)
]
Token = Annotated[
    str | None,
    typer.Option(help="Yours for that studio; DIFFUSION_LOCAL_TOKEN keeps it off the screen.", show_default=False),
]
WHERE = {"home": Home, "server": Server, "token": Token}


def on_studio(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its first parameter, the studio, by options of the command line: --home, --server, --token."""
    parameters = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    where = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=kind)
        for name, kind in WHERE.items()
    ]
    shown = [*parameters[:-1], *where, *parameters[-1:]]  # --json stays the last one

    @functools.wraps(command)
    def call(**given: Any) -> Any:
        reached = studio_at(**{name: given.pop(name) for name in WHERE})
        return command(reached, **given)

    call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in shown}
    return call


def studio_at(home: Path | None = None, server: str | None = None, token: str | None = None) -> AnyStudio:
    """A home that is named goes before a server that only the settings name. Raises UserError."""
    settings = Settings.load(home=home, server=server, token=token)
    if settings.server and (server or home is None):
        return RemoteStudio(settings.server, settings.token)
    return open_studio(settings)
