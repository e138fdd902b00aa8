"""The doctor's findings about a machine that joined a studio: connection, clock, models and spool."""

import contextlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from diffusion_local.dispatch.slots import machine_name
from diffusion_local.errors import UserError
from diffusion_local.health.doctor import Finding
from diffusion_local.messages import message
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.operations.operation import API_ROOT
from diffusion_local.remote.dispatch import CLOCK_SECONDS, RemoteDispatch
from diffusion_local.remote.pairing import Credential, client_of, load_credential
from diffusion_local.remote.spool import SPOOL_SUFFIX, Spool
from diffusion_local.settings import Settings


def examine(settings: Settings) -> Iterator[Finding]:
    """Check the studio that this machine joined; nothing if it joined none."""
    credential = load_credential(settings.home)
    if not credential.url:
        return
    try:
        with contextlib.closing(client_of(credential)) as client:
            RemoteDispatch(client, f"{machine_name(credential.machine)}.cpu0").check()  # credential and protocol
            yield Finding("studio", True, message("found_studio", url=credential.url))
            yield connection(credential)
            yield from clock(client)
            yield from models(client, settings)
    except UserError as problem:
        yield Finding("studio", False, problem.message, message("mend_studio"))
    yield from spools(settings)


def connection(credential: Credential) -> Finding:
    if not credential.url.startswith("https://"):
        return Finding("connection", False, message("join_plain", url=credential.url), message("mend_plain"), False)
    pinned = message("found_pinned" if credential.certificate else "found_vouched")
    return Finding("connection", True, pinned)


def clock(client: httpx.Client) -> Iterator[Finding]:
    """Compare this machine's clock with the studio's, which every answer states in whole seconds."""
    with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):  # a proxy may leave the time out
        asked = datetime.now(UTC)
        there = parsedate_to_datetime(client.get("/healthz").headers["Date"])
        here = asked + (datetime.now(UTC) - asked) / 2
        seconds = round(abs((there - here).total_seconds()))
        if seconds < CLOCK_SECONDS:
            yield Finding("clock", True, message("found_clock"))
        else:
            yield Finding("clock", False, message("clock_off", seconds=seconds), message("mend_clock"), False)


def models(client: httpx.Client, settings: Settings) -> Iterator[Finding]:
    """Compare the digests of this machine's models with the studio's: only equal ones are used for its jobs."""
    there: dict[str, str] = {}
    with contextlib.suppress(httpx.HTTPError, ValueError, LookupError, TypeError):
        answer = client.get(f"{API_ROOT}/models").json()
        there = {each["id"]: each["sha256"] for each in answer["models"] if each["ready"] and each["sha256"]}
    if not there:
        return
    catalog = Catalog(settings.starter, ModelDirectories.from_settings(settings))
    here = {model.id: model.sha256 for model in catalog.all() if model.ready}
    same = [name for name, digest in there.items() if here.get(name) == digest]
    unknown = [name for name in there if here.get(name) == ""]
    other = [name for name in there if name in here and name not in same and name not in unknown]
    text = message("found_models_here", same=len(same), all=len(there))
    if unknown:
        text = message("found_models_unread", names=", ".join(unknown))
    if other:
        text = message("found_models_other", names=", ".join(other))
    yield Finding("the studio's models", not other, text, message("mend_models_other"), False)


def spools(settings: Settings) -> Iterator[Finding]:
    """The pictures that wait on this machine's disk, and the room for further ones."""
    for folder in sorted(settings.spool.glob("*")) or [settings.home]:
        spool = Spool(folder, settings.locks / f"{folder.name}.lock", settings.spool_mb * 10**6)
        if problem := spool.problem():
            yield Finding("spool", False, problem, message("mend_spool"))
        elif waiting := len(list(folder.glob(f"*{SPOOL_SUFFIX}"))):
            yield Finding("spool", True, message("found_spool", slot=folder.name, count=waiting))
        else:
            yield Finding("spool", True, message("found_spool_room", free=shutil.disk_usage(folder).free // 10**6))
