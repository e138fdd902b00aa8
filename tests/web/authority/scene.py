"""A studio whose accounts see only their own: what one of them has there, who else may come, and what changed."""

import base64
import io
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local import authority
from diffusion_local.accounts import service
from diffusion_local.actor import LOCAL, NOBODY, Actor, Scope, acting, run_as
from diffusion_local.compose import Services
from diffusion_local.domain import Failure, Lane, State
from diffusion_local.operations.operation import DataScope
from diffusion_local.operations.registry import OPERATIONS
from diffusion_local.prompt_helper import PromptHelper
from diffusion_local.queue import recent_estimates
from diffusion_local.queue.jobs import Selection
from diffusion_local.web.authentication import cookie_name
from tests.support import claimed
from tests.web.conftest import client_of, drawn, services_of

PASSWORD = "correct horse"
OWNER = "wilhelmina"  # a name that stands in no text by chance
SECRETS = ("secret", OWNER)
SMALL = {"width": 128, "height": 128, "steps": 4}
#: Beside the home's databases: what is written while nothing is asked for.
LOOSE = ("app.db", "queue.db", "logs", "locks", "tmp")
#: As ComfyUI's dialect keeps one.
GRAPH = '{"id": "", "client_id": "", "graph": {"9": {"class_type": "SaveImage"}}, "outputs": ["9"], "worker": "9"}'
SCOPES = ("submit", "control", "admin")


@dataclass(frozen=True)
class Person:
    """Somebody who calls: an account by its session, or by a token with some scopes."""

    name: str
    actor: Actor
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> bool:
        return self.actor.name == OWNER

    @property
    def sees_it(self) -> bool:
        """Whether it may look at what is the owner's."""
        return self.actor.may_see(OWNER)

    @property
    def changes_it(self) -> bool:
        return self.actor.owns(OWNER)

    def may(self, name: str) -> bool:
        """Whether the table lets it say a sentence about what is its own."""
        sentence = OPERATIONS[name]
        if sentence.scope is not None and sentence.scope not in self.actor.scopes:
            return False
        return sentence.data is not DataScope.ACCOUNT or self.actor.source != "token"


class Pristine:
    """The home as it was: tells whether anything was changed since, and brings it back."""

    def __init__(self, services: Services, copy: Path) -> None:
        self._home, self._copy = services.settings.home, copy
        self._watch = sqlite3.connect(services.settings.database_file, check_same_thread=False)
        self._write = sqlite3.connect(services.settings.database_file, check_same_thread=False)
        self._write.execute("PRAGMA synchronous = OFF")
        self._rows = sqlite3.connect(":memory:", check_same_thread=False)
        self._watch.backup(self._rows)
        self._dump = list(self._rows.iterdump())
        self._listed = self._listing()
        self._untouched = False  # as the last look for changes found it
        for name in self._listed:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._home / name, copy / name)
        self._version = self._now()

    def _now(self) -> int:
        return self._watch.execute("PRAGMA data_version").fetchone()[0]

    def _listing(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file by its path below the home.

        Left out are LOOSE, and the file with which the program itself finds out whether the gallery can be written.
        The walk does this thousands of times, so it is done with ``os`` instead of paths.
        """
        found, home = {}, str(self._home)
        for folder, folders, files in os.walk(home):
            if folder == home:
                folders[:] = [name for name in folders if not name.startswith(LOOSE)]
                files = [name for name in files if not name.startswith(LOOSE)]
            for name in files:
                if not name.startswith(".probe-"):
                    path = os.path.join(folder, name)  # noqa: PTH118
                    stat = os.stat(path)  # noqa: PTH116
                    found[path[len(home) + 1 :]] = (stat.st_size, stat.st_mtime_ns)
        return found

    def changes(self) -> list[str]:
        """What is other than it was: rows, and files by size and time."""
        found = [str(each) for each in set(self._listing().items()) ^ set(self._listed.items())]
        if self._now() != self._version:  # another connection has written
            found += sorted(set(self._watch.iterdump()) ^ set(self._dump))
        self._untouched = not found and self._now() == self._version
        return found

    def restore(self) -> None:
        """Bring back what is other than it was; nothing happens between a look that found no change and this."""
        if self._untouched:
            self._untouched = False
            return
        if self._now() != self._version:
            self._rows.backup(self._write)
            self._version = self._now()
        now = self._listing()
        if now == self._listed:
            return
        for name in now.keys() - self._listed.keys():
            (self._home / name).unlink()
        for name, was in self._listed.items():
            if now.get(name) != was:
                (self._home / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self._copy / name, self._home / name)


@dataclass
class Scene:
    """``names`` are ids of the owner's things, as requests name them; ``said`` the sentences of the last call."""

    services: Services
    client: TestClient
    names: dict[str, str]
    people: list[Person]
    pristine: Pristine
    said: list[str] = field(default_factory=list)
    #: Which sentences each door was heard to say.
    doors: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    @cached_property
    def admin(self) -> Person:
        return next(each for each in self.people if each.name == "root, signed in")

    @cached_property
    def owner(self) -> Person:
        return next(each for each in self.people if each.name == f"{OWNER}, signed in")

    @contextmanager
    def heard(self) -> Iterator[None]:
        self.said.clear()
        self.client.cookies.clear()
        yield

    def filled(self, value: Any) -> Any:
        """A text, or what a list or object holds, with the ids in the place of their names."""
        if isinstance(value, str):
            for name, each in self.names.items():
                value = value.replace(f"{{{name}}}", each)
        elif isinstance(value, dict):
            value = {self.filled(key): self.filled(each) for key, each in value.items()}
        elif isinstance(value, list | tuple):
            value = [self.filled(each) for each in value]
        return value


def names_things(value: Any) -> bool:
    """Whether a request names something of the owner's."""
    if isinstance(value, str):
        return any(f"{{{name}}}" in value for name in THINGS)
    if isinstance(value, dict):
        return any(names_things(each) for pair in value.items() for each in pair)
    return isinstance(value, list | tuple) and any(names_things(each) for each in value)


THINGS = (
    *("job", "job2", "done", "failed", "running", "image", "image2", "trashed", "batch", "batch2", "done_batch"),
    *("failed_batch", "board", "source", "mask", "token", "session", "reason", "file", "file64"),
)


def png(colour: str) -> bytes:
    file = io.BytesIO()
    PIL.new("RGB", (128, 128), colour).save(file, "PNG")
    return file.getvalue()


def furnished(services: Services) -> dict[str, str]:
    """What the owner has, one of each kind; ids by the names of ``THINGS``, and of what is everybody's."""
    studio = services.studio
    source, mask = studio.sources.add(png("red")).id, studio.sources.add(png("white")).id
    done = studio.submit("a secret garden", **SMALL, name="secret plans", seed=424242, count=3, graph=GRAPH)
    images = [drawn(services, claimed(services.jobs)) for _ in range(3)]
    studio.trash(images[2].id)
    board = studio.boards.create("secret board", [images[0].id])
    failed = studio.submit("a secret failure", **SMALL)
    services.jobs.fail(claimed(services.jobs).claim, Failure("engine_error", "a secret fault"))
    running = studio.submit("a secret river", **SMALL)
    claim = claimed(services.jobs).claim
    first, second = (
        studio.submit(
            "a secret hill",
            name=f"secret batch {each}",
            lane=Lane.BATCH,
            source=source,
            mask=mask,
            variation_seed=515151,
            variation_strength=0.5,
            count=2,
            idempotency_key=f"key {each}",
            graph=GRAPH,
            **SMALL,
        )
        for each in range(2)
    )
    report = studio.reports.batch(failed.batch_id)
    services.files.preview(running.job_ids[0]).write(lambda file: file.write(b"RIFF a secret preview"))
    services.workers.register(claim.worker, 1, "cpu")
    services.workers.update(claim.worker, "busy", "starter")
    return {
        "job": first.job_ids[0],
        "job2": first.job_ids[1],
        "done": done.job_ids[0],
        "failed": failed.job_ids[0],
        "running": running.job_ids[0],
        "image": images[0].id,
        "image2": images[1].id,
        "trashed": images[2].id,
        "batch": first.batch_id,
        "batch2": second.batch_id,
        "done_batch": done.batch_id,
        "failed_batch": failed.batch_id,
        "board": board.id,
        "source": source,
        "mask": mask,
        "reason": report.reasons[0].id,
    }


def callers(services: Services) -> Iterator[Person]:
    """Nobody, each account as it is signed in, and tokens with each scope of those that have it."""
    yield Person("nobody", NOBODY)
    found = services.studio.accounts
    for account, scopes in ((OWNER, SCOPES[:2]), ("bob", SCOPES[:2]), ("eve", ()), ("root", SCOPES)):
        secret = found.sign_in(account, PASSWORD, "127.0.0.1", "test")
        known = found.by_session(secret)
        assert known
        yield Person(f"{account}, signed in", known[0], {"Cookie": f"{cookie_name(services.settings)}={secret}"})
        chosen = [[], *([each] for each in scopes)] if account in (OWNER, "root") else [list(scopes)]
        for each in chosen:
            secret = found.add_token(account, "test", each)[1]
            actor = found.by_token(secret)
            assert actor
            name = f"{account}, a token to {' and '.join(['read', *each])}"
            yield Person(name, actor, {"Authorization": f"Bearer {secret}"})


@contextmanager
def scene(folder: pytest.TempPathFactory, patch: pytest.MonkeyPatch, share: str) -> Iterator[Scene]:
    patch.setattr(service, "USE_UPDATE_SECONDS", 10.0**8)  # when a token was used is written once
    patch.setattr(recent_estimates, "RECENT_SECONDS", 0.0)  # every submit estimates its time, whenever the last one did
    run_as(LOCAL)
    answer = {"choices": [{"message": {"content": "a tall tree"}}]}
    patch.setattr(PromptHelper, "_ask", lambda helper, instruction, prompt: json.dumps(answer).encode())
    services = services_of(folder, share=share, writes_per_second=0, prompt_helper_url="http://127.0.0.1:9/v1")
    for name, role in (("root", "admin"), (OWNER, "user"), ("bob", "user"), ("eve", "viewer")):
        services.studio.accounts.add(name, PASSWORD, role)
    mine, people = services.studio.accounts, list(callers(services))
    with acting(next(each.actor for each in people if each.name == f"{OWNER}, signed in")):
        names = furnished(services)
    names["token"], names["session"] = mine.tokens(OWNER)[0].id, mine.sessions(OWNER)[0].id
    names["delivery"] = services.studio.webhooks.test("https://93.184.216.34/").id
    services.deliveries.take(names["delivery"])
    services.deliveries.settle(names["delivery"], False, 500, "", "it broke", None)
    names["download"] = services.studio.library.download("some/model").id
    services.machines.note("attic")
    names["file"] = "".join(services.studio.queue_file.export())
    names["file64"] = base64.b64encode(names["file"].encode()).decode()
    services.queue.ring = ringing(services)  # type: ignore[method-assign]
    messages: list[str] = []
    check = authority.check

    def heard(name: str, account: Any = None) -> None:
        messages.append(name)
        check(name, account)

    patch.setattr(authority, "check", heard)
    with client_of(services) as client:
        client.app.state.watch.stopping = lambda: True  # type: ignore[attr-defined]  # streams end with what there is
        for each in people:
            client.get("/api/v1/queue", headers=each.headers)
        run_as(NOBODY)  # as the web process
        try:
            yield Scene(services, client, names, people, Pristine(services, folder.mktemp("pristine")), messages)
        finally:
            run_as(LOCAL)


def ringing(services: Services) -> Callable[..., None]:
    """In the place of a worker: what somebody submits to be waited for is drawn at once."""

    def ring(times: int = 1) -> None:
        with acting(LOCAL):
            for job in services.view.jobs((State.QUEUED,)):
                if job.params.prompt == "at once":
                    services.control.move_to_top(Selection((job.id,)))
                    drawn(services, claimed(services.jobs))

    return ring


def allowed(person: Person, sentences: set[str]) -> bool:
    return all(person.may(name) for name in sentences)


def scopes_of(sentences: set[str]) -> set[Scope]:
    return {scope for name in sentences if (scope := OPERATIONS[name].scope) is not None}
