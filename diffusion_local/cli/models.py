"""Commands for models."""

from typing import Annotated

import typer

from diffusion_local import serializers
from diffusion_local.cli.terminal import AnyStudio, AsJson, Home, Server, Token, connect, print_result, with_studio
from diffusion_local.domain import MemoryPlan
from diffusion_local.engine.planning import plan_words
from diffusion_local.errors import InvalidParams
from diffusion_local.hub.downloads import Download
from diffusion_local.messages import message
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import Model
from diffusion_local.models.service import format_size

app = typer.Typer()
commands = typer.Typer(
    invoke_without_command=True, help="List models and whether they are usable; download more, or add existing files."
)
app.add_typer(commands, name="models")


@commands.callback()
def models(
    context: typer.Context, home: Home = None, server: Server = None, token: Token = None, as_json: AsJson = False
) -> None:
    """List models and whether they are usable; download more from the hub, or add existing files."""
    if context.invoked_subcommand is None:
        library = connect(home, server, token).library
        installed, plans = library.models(), library.plans()
        lines = [
            each
            for model in installed
            for each in (format_model(model), *(f"    {plan_words(p)}" for p in plans.get(model.id, ())))
        ]
        print_result([serializers.model(model, plans.get(model.id, ())) for model in installed], as_json, lines)
    elif home or server or token:
        raise InvalidParams("home", message("behind_subcommand"))


@commands.command()
@with_studio
def scan(studio: AnyStudio, as_json: AsJson = False) -> None:
    """Scan all folders: models, LoRAs, VAEs, upscalers and textual inversions, with their problems."""
    library = studio.library
    found, adapters = library.models(), library.adapters()
    shaped = {"models": [serializers.model(model) for model in found]}
    lines = [format_model(model) for model in found]
    for folder, each in adapters.items():
        shaped[folder] = [serializers.adapter(adapter) for adapter in each]
        lines += [f"{folder}/{format_adapter(adapter)}" for adapter in each]
    print_result(shaped, as_json, lines)


@commands.command()
@with_studio
def info(studio: AnyStudio, model_id: str, as_json: AsJson = False) -> None:
    """Show one model: type, location, size, licence and defaults."""
    model = studio.library.model(model_id)
    plans = studio.library.plans(model)[model.id]
    defaults = model.defaults
    path = str(model.path) if model.folder.name else ""  # servers do not disclose paths
    size = f"{defaults.width}x{defaults.height}"
    lines = [
        format_model(model),
        f"  {model.family} ({model.architecture}), {', '.join(model.kinds)}",
        *([f"  precision of the file: {model.precision}"] if model.precision else []),
        *([f"  precision chosen for it: {model.chosen_precision}"] if model.chosen_precision else []),
        *([f"  {path}"] if path else []),
        f"  {format_size(model.size_bytes)} on the disk, {format_size(model.memory_bytes)} in memory in half precision",
        f"  licence: {model.licence}",
        f"  {size}, {defaults.steps} steps, guidance {defaults.guidance:g}, {defaults.sampler}",
        f"  sha256: {model.sha256 or 'not computed yet'}",
        *map(format_plan, plans),
    ]
    print_result(serializers.model(model, plans) | ({"path": path} if path else {}), as_json, lines)


@commands.command()
@with_studio
def add(studio: AnyStudio, path: str, as_json: AsJson = False) -> None:
    """Add a diffusers folder, a checkpoint, or a folder of these, in place (on the server); nothing is copied."""
    found = studio.library.add(path)
    print_result([serializers.model(model) for model in found], as_json, [format_model(model) for model in found])


@commands.command()
@with_studio
def remove(studio: AnyStudio, model_id: str, as_json: AsJson = False) -> None:
    """Remove a model from the catalogue. Its files are kept; prints where they are."""
    removed = studio.library.remove(model_id)
    print_result({"id": removed.id, "moved_to": removed.moved_to, "message": removed.words}, as_json, [removed.words])


@commands.command()
@with_studio
def precision(
    studio: AnyStudio,
    model_id: str,
    value: Annotated[str, typer.Argument(help="A value of the setting `precision`; none: follow the setting.")] = "",
    as_json: AsJson = False,
) -> None:
    """Choose the precision of one model, and print how each device would then hold it."""
    model = studio.library.set_precision(model_id, value)
    plans = studio.library.plans(model)[model.id]
    lines = [f"{model.id}: {model.chosen_precision or 'as the setting precision'}", *map(format_plan, plans)]
    print_result(serializers.model(model, plans), as_json, lines)


@commands.command()
@with_studio
def known(studio: AnyStudio, as_json: AsJson = False) -> None:
    """List well-known models of the hub, with licence and sizes."""
    entries = studio.library.known()
    lines = [
        f"{each.id:<60} {each.disk_gb:>5.1f} GB  {each.licence}{' (gated: needs a token)' if each.gated else ''}"
        for each in entries
    ]
    print_result([{"id": each.id, "title": each.title, "licence": each.licence} for each in entries], as_json, lines)


@commands.command()
@with_studio
def download(
    studio: AnyStudio,
    repo: str,
    file: Annotated[str, typer.Option(help="Only this weights file of the repository or version.")] = "",
    into: Annotated[
        str,
        typer.Option(
            help="models, loras, vae, upscalers, embeddings, controlnet, text_encoders, ip_adapters or clip_vision."
        ),
    ] = "models",
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    digest: Annotated[str, typer.Option(help="Expected SHA-256 of a file from a URL.")] = "",
    as_json: AsJson = False,
) -> None:
    """Queue a download from the hub, a URL or Civitai (civitai:ID); `serve` runs it in the background."""
    started = studio.library.download(repo, file, into, revision, digest)
    print_result(
        started,
        as_json,
        [format_download(started), "`diffusion-local models downloads` shows how far it is."],
    )


@commands.command()
@with_studio
def downloads(studio: AnyStudio, as_json: AsJson = False) -> None:
    """List downloads with their progress."""
    found = studio.library.downloads()
    print_result(found, as_json, [format_download(each) for each in found] or ["none yet"])


@commands.command()
@with_studio
def cancel(studio: AnyStudio, download_id: str, as_json: AsJson = False) -> None:
    """Cancel a download and discard its data."""
    found = studio.library.cancel_download(download_id)
    print_result(found, as_json, [format_download(found)])


def format_plan(plan: MemoryPlan) -> str:
    return f"  {plan_words(plan)}\n    ({plan.why})"


def format_model(model: Model) -> str:
    return f"{model.id:<24} {'ready' if model.ready else 'not ready: ' + model.problem}"


def format_adapter(adapter: Adapter) -> str:
    fits = ", ".join(filter(None, (adapter.architecture, *adapter.alike))) or "any model, as far as it tells"
    note = f" ({adapter.problem})" if adapter.problem else ""
    return f"{adapter.name:<24} {f'for {fits}{note}' if adapter.ready else 'not ready: ' + adapter.problem}"


def format_download(download: Download) -> str:
    share = f" {download.bytes_done / download.bytes_total:.0%}" if download.bytes_total else ""
    of = f" of {format_size(download.bytes_total)}" if download.bytes_total else ""
    file = "" if "://" in download.repo or not download.file else f"/{download.file}"
    digest = f"  sha256:{download.digest}" if download.digest else ""
    what = f"{download.source}{file}{digest}"
    return f"{download.id}  {download.state:<9}{share}{of}  {what}  {download.error_message}".rstrip()
