"""Every test has a home of its own below tmp_path; nothing here touches the person's."""

import asyncio
import gc
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import psutil
import pytest

import diffusion_local.web  # noqa: F401 - changes how gradio is imported, before a test module does so
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.db.database import Database
from diffusion_local.db.postgresql import PostgresDatabase
from diffusion_local.dispatch.slots import full_name
from diffusion_local.models.catalog import Catalog
from diffusion_local.paths import assets
from diffusion_local.queue.jobs import JobStore
from diffusion_local.remote.pulse import Bell, Pulse
from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings
from diffusion_local.studio import Studio
from tests.forking import Forked, fork, main_of
from tests.postgresql import Cluster, emptied, running_cluster
from tests.support import eventually

run_as(LOCAL)  # as the command line and the worker; tests of the web process take it back
os.environ["OMP_NUM_THREADS"] = "1"  # a thread storm on few cores makes torch a hundred times slower

#: The tests of the first tier, as in pyproject.toml.
FIRST_TIER = "not slow and not fuzz and not gpu"

MEMORY_DISK = Path("/dev/shm")
MEMORY_DISK_BYTES = 4 << 30  # room for the folders of one run

run_migrations = Database._migrate

#: Modules whose tests run over SQLite and over PostgreSQL: there in the second tier, and those of QUICK in the first.
BOTH = (
    "tests.db.test_dialect",
    "tests.queue.",
    "tests.gallery.",
    "tests.accounts.",
    "tests.batches.",
    "tests.notify.",
    "tests.reports.",
    "tests.test_studio",
    "tests.dispatch.",
    "tests.lists.",
    "tests.worker.test_runner",
    "tests.worker.test_process",
    "tests.hub.",
    "tests.supervisor.",
    "tests.cost.",
)
QUICK = ("tests.db.test_dialect",)


def pytest_configure() -> None:
    """Collect garbage seldom: an application is made of so many objects that it is collected twice while it is built.

    Keep temporary folders in memory, where fsync costs nothing, if there is room for them.
    """
    gc.set_threshold(50_000, 20, 20)
    if os.access(MEMORY_DISK, os.W_OK) and shutil.disk_usage(MEMORY_DISK).free >= MEMORY_DISK_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY_DISK))


#: What takes longest, mostly in waits for processes and browsers. Left to the end it would run while other
#: processes of pytest have nothing to do any more.
FIRST = (
    "tests/web/browser/test_return.py",
    "tests/supervisor/",
    "tests/test_journey.py",
    "tests/web/authority/",
    "tests/web/browser/",
    "tests/durability/",
    "tests/worker/test_process.py",
    "tests/worker/test_crash_points.py",
    "tests/cost/",
    "tests/web/test_endpoints.py",
    "tests/web/test_process.py",
    "tests/web/attacks/",
    "tests/test_read_only_home.py",
    "tests/test_disk.py",
    "tests/models/test_damage.py",
    "tests/remote/",
    "tests/engine/",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage meanwhile: what is imported and collected stays, and walking through it takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((at for at, path in enumerate(FIRST) if item.nodeid.startswith(path)), len(FIRST))

    items.sort(key=place)  # keeps the order within each


#: Files that one process runs, in the first tier: they share a browser, the server that it visits, and the children's
#: imports; or the syntax trees of all modules.
TOGETHER = (
    ("tests/web/browser/", "tests/web/test_process.py", "tests/cost/test_search.py"),
    (
        "tests/cost/test_parsing.py",
        "tests/options/test_table.py",
        "tests/test_architecture.py",
        "tests/test_errors.py",
        "tests/test_messages.py",
        "tests/test_patched_names.py",
        "tests/web/test_words.py",
        "tests/web/test_words_errors.py",
    ),
)


@pytest.hookimpl(optionalhook=True)
def pytest_group_of(item: pytest.Item) -> str | None:
    """Give one process the tests of all files that are TOGETHER."""
    if item.config.getoption("markexpr") != FIRST_TIER:
        return None
    return next((files[0] for files in TOGETHER if item.nodeid.startswith(files)), None)


def pytest_sessionfinish() -> None:
    """Spare pytest's last collections, of which there are five, the walk through all modules and tests."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def template_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Create each new database as a copy of one that was migrated once in this session.

    Child processes, and tests marked ``real_migrations``, run every migration instead.
    """
    template = tmp_path_factory.mktemp("template") / "app.db"
    Database.open(template).close()

    def copy_or_migrate(database: Database) -> None:
        if database.path.stat().st_size:
            run_migrations(database)
        else:
            shutil.copyfile(template, database.path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "_migrate", copy_or_migrate)
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_starter() -> Iterator[None]:
    """Read the starter's folder once in this session: every catalog does, which takes longer than most tests."""
    folder = assets() / "starter"
    found = Catalog(folder, folder / "no such folder")._starter
    read = Catalog.__dict__["_starter"].func
    shared = cached_property(lambda catalog: found if catalog._starter_folder == folder else read(catalog))
    shared.__set_name__(Catalog, "_starter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Catalog, "_starter", shared)
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_schemas() -> Iterator[None]:
    """Have FastAPI compile each schema, and make each field of an answer, once in this session.

    It compiles 1,600 of 200 different ones for each application, which takes longer than all the rest of a test.
    """
    from fastapi import routing
    from fastapi._compat import v2

    from diffusion_local.web.api import schemas

    known: dict[Any, Any] = {}
    compiled = v2.TypeAdapter

    def adapter(annotated: Any, *, config: Any = None) -> Any:
        kind, *details = get_args(annotated) if get_origin(annotated) is Annotated else (annotated,)
        key = (kind, repr(details), repr(config))
        try:
            if key not in known:  # what it is of stays alive, as texts may have addresses of its parts
                known[key] = compiled(annotated, config=config), annotated
            return known[key][0]
        except TypeError:  # not hashable
            return compiled(annotated, config=config)

    types: dict[Any, Any] = {}

    def once(make: Callable[..., Any]) -> Callable[..., Any]:
        """Makes equal types once, so that their schemas are found above."""

        def type_of(*arguments: Any, **named: Any) -> Any:
            key = make, repr((arguments, named))
            if key not in types:
                types[key] = make(*arguments, **named)
            return types[key]

        return type_of

    make_field = routing.create_model_field
    fields: dict[Any, Any] = {}

    def field(*, name: str, type_: Any, mode: Any) -> Any:
        key = name, type_, mode
        if key not in fields:
            fields[key] = make_field(name=name, type_=type_, mode=mode)
        return fields[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(v2, "TypeAdapter", adapter)
        patch.setattr(routing, "create_model_field", field)
        for name in ("create_model", "TypedDict"):
            patch.setattr(schemas, name, once(getattr(schemas, name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_certificates() -> Iterator[None]:
    """Read the certificates once in this session: every client of httpx does, which takes most of a request."""
    from httpx._transports import default

    make = default.create_ssl_context
    known: dict[Any, Any] = {}

    def context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
        if verify is not True or cert:
            return make(verify, cert, trust_env)
        key = trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        if key not in known:
            known[key] = make(trust_env=trust_env)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default, "create_ssl_context", context)
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_commands() -> Iterator[None]:
    """Build the command line's tree once in this session: each call of ``main`` does, for one of its 70 commands."""
    import typer.main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True)
def real_migrations(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("real_migrations"):
        monkeypatch.setattr(Database, "_migrate", run_migrations)


@pytest.fixture(autouse=True)
def no_running_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Between browser tests Playwright leaves its event loop running in this thread; hide it from all other tests."""
    loop = asyncio._get_running_loop()
    if loop is None or "chromium" in request.fixturenames:
        yield
        return
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)


@pytest.fixture(autouse=True)
def no_exchanges_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the threads of remote workers that a test opened: they would ask its studio until the process ends."""
    opened: list[Bell | Pulse] = []

    def noted(kind: type[Bell] | type[Pulse]) -> None:
        begin = kind.__init__

        def noting(self: Any, *args: Any, **kwargs: Any) -> None:
            begin(self, *args, **kwargs)
            opened.append(self)

        monkeypatch.setattr(kind, "__init__", noting)

    noted(Bell)
    noted(Pulse)
    yield
    for each in opened:
        each.close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DIFFUSION_LOCAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of a server that speaks S3 and SQS, in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3_server(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    return s3_endpoint


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@pytest.fixture(scope="session")
def shared_database(cluster: Cluster) -> str:
    """URL of the database that tests over PostgreSQL share, one after the other."""
    return cluster.create("shared")


@pytest.fixture
def database_url(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The setting ``database``: that of an empty database on a server, or "" for SQLite.

    Tests of the modules in BOTH run over both.
    """
    if getattr(request, "param", "sqlite") == "sqlite":
        return ""
    url = emptied(request.getfixturevalue("shared_database"))
    monkeypatch.setenv(f"{ENVIRONMENT_PREFIX}DATABASE", url)  # for children
    return url


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.module.__name__
    own = any(mark.name in ("real_migrations", "sqlite") for mark in metafunc.definition.iter_markers())
    if "database_url" in metafunc.fixturenames and name.startswith(BOTH) and not own:
        server = pytest.param("postgresql", marks=() if name in QUICK else pytest.mark.slow)
        metafunc.parametrize("database_url", ["sqlite", server], indirect=True)


@pytest.fixture
def settings(home: Path, database_url: str) -> Settings:
    return Settings.load(engine="fake", port=0, fake_step_seconds=0.01, password_memory_kb=8, database=database_url)


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    opened = open_services(settings)
    yield opened
    opened.database.close()


@pytest.fixture
def studio(services: Services) -> Studio:
    return services.studio


@pytest.fixture
def database(tmp_path: Path, database_url: str) -> Iterator[Database]:
    opened = PostgresDatabase.open(database_url) if database_url else Database.open(tmp_path / "app.db")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


StartWorker = Callable[..., Forked]
WORKER = main_of("diffusion_local.worker")


@pytest.fixture
def worker_process(services: Services, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts worker processes with the fake engine; what still lives at the end is killed.

    With ``ready`` (the default) it returns once the worker has said that it is idle or busy.
    """
    children: list[Forked] = []

    def start(slot: str = "cpu0", *, supervised: bool = False, ready: bool = True, **changes: Any) -> Any:
        environ = services.settings.child_environ() | {
            ENVIRONMENT_PREFIX + k.upper(): str(v) for k, v in changes.items()
        }
        arguments = ["--slot", slot, *(["--supervised"] if supervised else [])]
        child = fork("worker", WORKER, *arguments, env=environ, log=tmp_path / f"{slot}-{len(children)}.log")
        children.append(child)
        if ready:
            eventually(lambda: is_ready(services, slot, child), 60)
        return child

    yield start
    for child in children:
        kill_tree(child)


def is_ready(services: Services, slot: str, child: Forked) -> bool:
    assert child.poll() is None, child.log_path.read_text()
    return any(
        worker.slot == full_name(services.settings, slot)
        and worker.pid == child.pid
        and worker.status in ("idle", "busy", "loading")
        for worker in services.workers.list_all()
    )


def kill_tree(child: "subprocess.Popen[Any] | Forked") -> None:
    """Kill a child and all that it started."""
    try:
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for each in family:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    child.wait(10)
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            stream.close()
