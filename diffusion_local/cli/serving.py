"""Commands for the installation: serve, worker, mcp, logs, doctor, and relocation of a studio from a home to servers
or back.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from filelock import Timeout

from diffusion_local import __version__, manual
from diffusion_local.cli.terminal import AsJson, Home, Server, Token, connect, print_result
from diffusion_local.compose import open_blobs, open_files, open_services
from diffusion_local.db.copying import copy_rows, require_empty, require_idle
from diffusion_local.db.database import Database, find_database, open_database
from diffusion_local.dispatch.slots import machine_name
from diffusion_local.engine import inventory
from diffusion_local.errors import Conflict, InvalidParams, NotFound, echo
from diffusion_local.gallery.blobs import copy_blobs
from diffusion_local.health.doctor import back_up, examine, rebuild_gallery
from diffusion_local.messages import LANGUAGES, message
from diffusion_local.remote import pairing
from diffusion_local.remote.doctor import examine as examine_joined
from diffusion_local.remote.studio import RemoteStudio
from diffusion_local.settings import Settings
from diffusion_local.supervisor.housekeeping import compact
from diffusion_local.supervisor.supervisor import hold_home
from diffusion_local.system.logs import read as read_logs
from diffusion_local.system.logs import start as start_log
from diffusion_local.system.network import discover, host_of, is_loopback
from diffusion_local.system.permissions import close_all

DISCOVERY_SECONDS = 3.0  # how long mDNS is searched for a studio
FIX_SECONDS = 600.0  # per compaction step of `doctor --fix`

app = typer.Typer()
HOME = "home"  # in place of a URL: the home's own file or folders


@app.command()
def serve(
    home: Home = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default 7860, 0: any free one.")] = None,
    engine: Annotated[str | None, typer.Option(help="diffusers, or fake for test cards.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda, mps or cpu.")] = None,
    lan: Annotated[
        bool, typer.Option("--lan", help="Listen for other machines too (0.0.0.0); sign-in is required.")
    ] = False,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="No sign-in: everyone may do everything.")] = False,
    tls_cert: Annotated[str | None, typer.Option(help="Certificate (PEM), for HTTPS.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="Key of the certificate (PEM).")] = None,
    root_path: Annotated[str | None, typer.Option(help="Path under which a reverse proxy serves the studio.")] = None,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Start only the web process; run workers separately.")
    ] = False,
) -> None:
    """Start the page and one worker per device; Ctrl-C stops them, and nothing is lost."""
    from diffusion_local.supervisor.supervisor import Supervisor

    if lan and host:
        raise InvalidParams("host", message("without_lan"))
    settings = Settings.load(
        home=home,
        host="0.0.0.0" if lan else host,
        port=port,
        engine=engine,
        device=device,
        auth="none" if no_auth else None,
        tls_cert=tls_cert,
        tls_key=tls_key,
        root_path=root_path,
    )
    start_log(settings, "supervisor")
    if Supervisor(settings, not no_worker, say=lambda text: print(text, flush=True)).run():
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # keeps the process id, for a service manager


@app.command()
def worker(
    slot: Annotated[str, typer.Option(help="gpu0, gpu1, mps0 or cpu0.")] = "",
    home: Home = None,
    engine: Annotated[str | None, typer.Option(help="diffusers, or fake for test cards.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda, mps or cpu.")] = None,
    join: Annotated[
        str | None,
        typer.Option(help="Work for the studio at this address; auto: the one joined before, or one found by mDNS."),
    ] = None,
    code: Annotated[str, typer.Option(help="Pairing code created at that studio, to join this machine.")] = "",
    token: Annotated[str | None, typer.Option(help="Token with the scope worker, instead of a code.")] = None,
    machine: Annotated[str, typer.Option(help="This machine's name there; default: its host name.")] = "",
) -> None:
    """Run one worker, without the page; with --join one per device for a studio on another machine."""
    settings = Settings.load(home=home, engine=engine, device=device, token=token)
    if join is not None:
        sys.exit(work_for(settings, "" if join == "auto" else join, code, machine, slot))
    command = [sys.executable, "-m", "diffusion_local.worker", "--slot", slot or inventory.devices(settings)[0]["slot"]]
    command += ["--machine", machine] if machine else []
    if os.name == "nt":
        sys.exit(subprocess.run(command, env=settings.child_environ()).returncode)
    os.execve(sys.executable, command, settings.child_environ())


def work_for(settings: Settings, url: str, code: str, machine: str, slot: str) -> int:
    """Join a studio and work for it until stopped; returns the exit status. Raises UserError."""
    from diffusion_local.supervisor.supervisor import keep_running

    if not url and not pairing.load_credential(settings.home).url:
        url = next(iter(discover(DISCOVERY_SECONDS)), "")
    if code:
        pairing.save_credential(
            settings.home, pairing.pair(url or pairing.load_credential(settings.home).url, code, machine_name(machine))
        )
        settings = replace(settings, token="")
    credential = pairing.credential_for(settings.home, url, settings.token)
    if credential.url.startswith("http://") and not is_loopback(host_of(credential.url)):
        print(message("join_plain", url=credential.url), file=sys.stderr)
    print(f"works for {credential.url}  (Ctrl-C stops it; what it has begun goes back to the queue)", flush=True)
    start_log(settings, "joined")
    slots = [slot] if slot else [each["slot"] for each in inventory.devices(settings)]
    return keep_running(settings, slots, credential.url, machine_name(machine or credential.machine))


@app.command("mcp")
def serve_mcp(home: Home = None, server: Server = None, token: Token = None) -> None:
    """Serve the studio's tools to an agent over standard input and output (Model Context Protocol)."""
    from diffusion_local.web.api.mcp.serving import run_stdio

    studio = connect(home, server, token)
    run_stdio(studio, studio.url if isinstance(studio, RemoteStudio) else "")


@app.command()
def logs(
    job: Annotated[str, typer.Option(help="Only lines about this job.")] = "",
    lines: Annotated[int, typer.Option(help="Number of last lines to show.")] = 50,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show log lines of all processes, oldest first."""
    found = read_logs(Settings.load(home=home), job)[-lines:]
    rows = [f"{line['at']}  {line['process']:<12} {line['level']:<8} {line['event']}" for line in found]
    print_result(found, as_json, rows or ["nothing logged"])


@app.command()
def doctor(
    backup: Annotated[Path | None, typer.Option(help="Copy the database to this file, while it is in use.")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Recreate gallery rows from the pictures' recipes.")
    ] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Restrict the home to its owner, and release unused space of the database.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation and show how to fix problems; exit status 1 if there are any."""
    settings = Settings.load(home=home)
    if backup:
        back_up(settings, backup)
        print_result({"backup": str(backup)}, as_json, [f"copied the database to {backup}"])
        return
    if rebuild:
        written = rebuild_gallery(settings, open_files(settings))
        print_result({"rebuilt": written}, as_json, [f"wrote {written} rows"])
        return
    if fix:
        repair(settings, as_json)
        return
    findings = [*examine(settings, open_files(settings)), *examine_joined(settings)]
    lines = []
    for finding in findings:
        lines.append(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:<18} {finding.text}")
        if not finding.ok:
            lines.append(f"     {'':<18} -> {finding.mend}")
    print_result([finding.to_dict() for finding in findings], as_json, lines)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def repair(settings: Settings, as_json: bool) -> None:
    """Restrict files that others can read, and compact the database. Raises NotFound if there is no home."""
    if not settings.home.is_dir():
        raise NotFound(message("no_folder", folder=settings.home))
    changed = close_all(settings)
    gained = compact(open_services(settings), FIX_SECONDS, force=True)
    answer = {"closed": [str(each) for each in changed]} | dict(
        zip(("app_db", "queue_db", "logs"), gained, strict=True)
    )
    lines = [f"closed to other users: {each}" if not each.problem else f"{each}" for each in changed]
    print_result(answer, as_json, [*lines, f"gave back {sum(gained) / 1e6:.1f} MB"])


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command("help")
def show_help(
    topic: Annotated[str, typer.Argument(help="A topic, such as start, overnight or trouble.")] = "",
    lang: Annotated[str, typer.Option(help="en or zh.")] = "en",
    search: Annotated[str, typer.Option(help="List the sections that contain these words.")] = "",
) -> None:
    """Print a page of the manual, or without a topic the list of pages."""
    if lang not in LANGUAGES:
        raise InvalidParams("lang", message("one_of", known=list(LANGUAGES), got=echo(lang)))
    if search:
        for result in manual.search(search, lang):
            print(f"{result.section.page.topic}: {result.section.title}\n    {result.excerpt}")
    elif topic:
        print(manual.page(topic, lang).text, end="")
    else:
        for page in manual.pages(lang):
            print(f"{page.topic:20} {page.title}")


@app.command()
def relocate(
    to: Annotated[str, typer.Option(help="Database to move to: postgresql://user@host/name, or home.")] = "",
    gallery: Annotated[str, typer.Option(help="Storage to move the pictures to: s3://bucket/prefix, or home.")] = "",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Copy the database, the pictures or both to a server or back, with verification; the old ones are unchanged."""
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
        rows, files = copy_stores(settings, target, progress=not as_json)
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


def copy_stores(settings: Settings, target: Settings, progress: bool = False) -> tuple[dict[str, int], int]:
    """Copy the stores in which the settings differ: first the files, then the rows that name them. Raises UserError."""
    old = find_database(settings)
    if old is None:
        raise NotFound(message("no_database", folder=settings.home))
    try:
        with old.lock(settings.locks / "leader.lock").acquire(timeout=0):
            return copy_from(old, settings, target, progress)
    except Timeout:
        raise Conflict(message("move_running")) from None
    finally:
        old.close()


def copy_from(old: Database, settings: Settings, target: Settings, progress: bool) -> tuple[dict[str, int], int]:
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
