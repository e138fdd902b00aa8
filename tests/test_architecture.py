"""The house: imports go one way, and each thing that must be in one place only is there only."""

import ast
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forking
from tests.sources import nodes, tree
from tests.support import PACKAGE

#: From the bottom up. A module imports from lower rows and from its own unit; units of one row do not know each other.
#: A package is a unit. Its use cases (``service``) stand higher than its data, and some of its modules lower.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__init__", "lazy_imports", "messages"),
    ("errors",),
    ("actor", "disk", "gallery.comfyui_graphs", "grammar", "image_decoding"),
    ("options", "paths", "variables"),
    ("domain", "families", "operations", "queue.pass_sizes", "settings"),
    (
        "authority",
        "gallery.foreign_recipes",
        "gallery.quality",
        "manual",
        "models",
        "notify.outbound_hosts",
        "queue.estimates",
        "system",
    ),
    ("db", "engine", "gallery.recipes", "prompt_helper", "styles"),
    ("accounts", "engine.planning", "gallery.image_formats", "hub"),
    ("gallery",),
    ("accounts.service", "gallery.service", "queue", "reports"),
    ("models.plans",),
    ("health", "lists", "models.service", "reports.service"),
    ("batches", "health.service", "machines", "lists.grid_service", "lists.service", "notify", "queue.service"),
    ("batches.service", "notify.service", "preferences", "serializers", "stores"),
    ("operations.answers", "studio"),
    ("compose",),
    ("dispatch",),
    ("remote", "web"),
    ("worker",),
    ("supervisor",),
    ("cli",),
    ("__main__",),
)
RANKS = {unit: rank for rank, row in enumerate(LAYERS) for unit in row}

#: Library -> the only places that may import it, as path prefixes below the package.
HOMES = {
    "huey": ("queue/broker.py", "queue/huey_backends.py", "queue/doorbell.py"),
    "redis": ("queue/huey_backends.py",),
    "kombu": ("queue/broker.py",),
    "obstore": ("gallery/object_blobs.py",),
    "psycopg": ("db/", "queue/huey_backends.py"),  # the last one only to name its errors
    "gradio": ("web/",),
    "fastapi": ("web/",),
    "starlette": ("web/",),
    "uvicorn": ("web/",),
    "httpx": ("remote/", "notify/", "hub/", "prompt_helper.py"),
    "pydantic": ("web/api/",),
    "mcp": ("web/api/mcp/",),
    "mcp_types": ("web/api/mcp/",),
    "prometheus_client": ("web/",),
    "segno": ("web/lan.py",),
    "jinja2": ("web/",),
    "markdown_it": ("web/manual.py",),
    "markupsafe": ("web/",),
    "torch": ("engine/",),
    "diffusers": ("engine/",),
    "transformers": ("engine/",),
    "accelerate": ("engine/",),
    "safetensors": ("engine/",),
    "compel": ("engine/",),
    "peft": ("engine/",),
    "spandrel": ("engine/",),
    "gguf": ("engine/",),
    "torchvision": ("engine/",),
    "triton": ("engine/fused/kernels.py",),
    "numpy": ("engine/",),
    "psutil": ("engine/", "health/service.py"),
    "sqlite_utils": ("db/",),
    # the second one only to name its errors, the third reads another program's database
    "sqlite3": ("db/", "queue/huey_backends.py", "models/invoke_titles.py"),
    "pillow_heif": ("image_decoding.py",),
    "sd_parsers": ("gallery/foreign_recipes.py",),
    "pynvml": ("system/gpus.py",),
    "standardwebhooks": ("notify/",),
    "argon2": ("accounts/service.py",),
    "cryptography": ("system/network.py",),
    "ifaddr": ("system/network.py",),
    "zeroconf": ("system/network.py",),
    "platformdirs": ("settings.py",),
    "tomllib": ("messages/", "settings.py", "web/ui/words.py"),
    "tomlkit": ("preferences.py",),
    "yaml": ("models/program_roots.py",),
    "charset_normalizer": ("lists/",),
    "stream_zip": ("gallery/service.py",),
    "typer": ("cli/",),
    "ulid": ("domain.py",),
}
MAX_LINES = 400
MODULES = sorted(PACKAGE.rglob("*.py"))
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+(TABLE|INDEX|TRIGGER)"
    r"|DROP\s+TABLE|PRAGMA\s+\w+|BEGIN\s+IMMEDIATE)\b",
    re.DOTALL,
)


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def unit(path: Path) -> str:
    return unit_of(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def unit_of(name: str) -> str:
    """The longest prefix of a module's dotted name (below the package) that LAYERS lists, or else its first part."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in RANKS), parts[0])


@functools.cache
def imported(path: Path) -> tuple[str, ...]:
    """Full names of everything that a module imports, wherever in it."""
    names: list[str] = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(path)} imports relatively"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(names)


def ours(path: Path) -> set[str]:
    """Units of our own that a module imports."""
    units = set()
    for name in imported(path):
        first, _, rest = name.partition(".")
        if first == "diffusion_local":
            units.add("__init__" if rest.startswith("__") or not rest else unit_of(rest))
    return units


def test_imports_go_one_way() -> None:
    absent = {unit(path) for path in MODULES} - set(RANKS)
    assert absent == set(), "put them into LAYERS"
    wrong = {
        place(path): sorted(above)
        for path in MODULES
        if (above := {other for other in ours(path) - {unit(path)} if RANKS[other] >= RANKS[unit(path)]})
    }
    assert wrong == {}, "each of these modules must not import the units beside it"


def test_no_two_modules_import_each_other() -> None:
    """Within a unit too: the graph of modules at import time has no cycle."""
    names = {".".join(["diffusion_local", *path.relative_to(PACKAGE).with_suffix("").parts]): path for path in MODULES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {
        name: {target for found in top_level(path) if (target := owner(found, names)) and target != name}
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_names_are_imported_from_the_module_that_defines_them() -> None:
    """No re-exports, so that each name has one address."""
    names = {".".join(["diffusion_local", *path.relative_to(PACKAGE).with_suffix("").parts]): path for path in MODULES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    wrong = [
        f"{place(path)} imports {name}"
        for path in MODULES
        for name in imported(path)
        if name not in names
        and (module := name.rpartition(".")[0]) in names
        and name.rpartition(".")[2] in {each.rpartition(".")[2] for each in top_level(names[module])}
        and name.rpartition(".")[2] not in defined(names[module])
    ]
    assert wrong == []


@functools.cache
def defined(path: Path) -> frozenset[str]:
    """Names that a module's own statements bind, other than imports."""
    stored = {node.id for node in nodes(path) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(stored | {node.name for node in tree(path).body if isinstance(node, functions)})


def top_level(path: Path) -> Iterator[str]:
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def owner(name: str, names: dict[str, Path]) -> str | None:
    """The module that an imported name is, or is in."""
    return name if name in names else name.rpartition(".")[0] if name.rpartition(".")[0] in names else None


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_used_in_its_home_only(library: str) -> None:
    used = {place(path) for path in MODULES if any(name.split(".")[0] == library for name in imported(path))}
    assert {each for each in used if not each.startswith(HOMES[library])} == set()


def statements(path: Path) -> list[str]:
    """Literal texts of a module that hold SQL; docstrings may speak of it."""
    docs = {
        id(node.body[0].value)
        for node in nodes(path)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in nodes(path)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docs
        and SQL.search(node.value)
    ]


#: Modules with tables of their own.
STORES = (
    "accounts/", "gallery/", "hub/downloads.py", "notify/deliveries.py", "queue/",
    "reports/store.py",
)  # fmt: skip


def test_sql_is_only_in_the_stores_and_the_database() -> None:
    found = {place(path): statements(path) for path in MODULES}
    homes = (*STORES, "db/")
    assert all(any(place.startswith(home) for place, texts in found.items() if texts) for home in homes)
    assert {place: texts for place, texts in found.items() if texts and not place.startswith(homes)} == {}


#: What only SQLite understands, or understands in its own way: it stands in db/ alone.
ONLY_SQLITE = re.compile(
    r"\b(INDEXED\s+BY|NOT\s+INDEXED|_?rowid_?|WITHOUT\s+ROWID|AUTOINCREMENT|TRIGGER|VIRTUAL|PRAGMA|VACUUM|ANALYZE|ATTACH"
    r"|sqlite_\w+|fts5?|MATCH|GLOB|REGEXP|OR\s+(IGNORE|REPLACE|ABORT|FAIL|ROLLBACK)|REPLACE\s+INTO|COLLATE\s+NOCASE"
    r"|BEGIN\s+(IMMEDIATE|EXCLUSIVE|DEFERRED)|RECURSIVE)\b"
    r"|\b(json\w*|strftime|julianday|datetime|unixepoch|iif|ifnull|instr|group_concat|printf|total|total_changes"
    r"|last_insert_rowid|changes|random|actor_\w+)\("
    r"|[?]\d|->>?|IS\s+(?:NOT\s+)?(?!NULL\b|NOT\b|TRUE\b|FALSE\b|DISTINCT\b)[:?\w'(]"
)
#: What is a part of a statement rather than prose or a name: a fragment with one of these words.
PART_OF_SQL = re.compile(
    r"\b(SELECT|WHERE|FROM|AND|ORDER BY|INSERT|UPDATE|DELETE|SET|JOIN|EXISTS|IN|VALUES|CREATE|IS)\b"
)


def test_what_only_sqlite_understands_is_in_the_database_package() -> None:
    found = {
        place(path): dialect
        for path in MODULES
        if place(path).startswith(STORES)
        and (
            dialect := [
                text
                for text in fragments(path)
                if ONLY_SQLITE.search(text) and (PART_OF_SQL.search(text) or "(" in text)
            ]
        )
    }
    assert found == {}, "say it in portable SQL, or by a helper of db.dialect"


def test_the_database_package_is_where_it_is_said() -> None:
    messages = [text for path in MODULES if place(path).startswith("db/") for text in fragments(path)]
    for token in ("INDEXED BY", "json_each(", "json_extract(", "rowid", "PRAGMA", "MATCH", "julianday(", "instr("):
        assert any(token in text and ONLY_SQLITE.search(text) for text in messages), token


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM jobs INDEXED BY jobs_due",
        "WHERE id IN (SELECT value FROM json_each(:ids))",
        "INSERT OR IGNORE INTO gates (id) VALUES (1)",
        "SELECT max(rowid) FROM jobs",
        "UPDATE queue SET paused = ?1",
        "SET resting = iif(:paused, resting, '')",
        "AND owner = actor_name()",
        "WHERE prompt MATCH :words",
        "SELECT params ->> 'prompt' FROM jobs",
        "WHERE state IS :state",
        "ORDER BY name COLLATE NOCASE",
    ],
)
def test_the_test_for_sqlite_sees_it(sql: str) -> None:
    assert ONLY_SQLITE.search(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "WHERE trashed_at IS NOT NULL",
        "WHERE held IS NULL AND owner = :owner",
        "INSERT INTO gates (id) VALUES (?) ON CONFLICT DO NOTHING",
        "SELECT sum(jobs) FROM job_counts GROUP BY state",
        "CASE WHEN x THEN y END IS NOT DISTINCT FROM z",
    ],
)
def test_portable_sql_is_left_alone(sql: str) -> None:
    assert not ONLY_SQLITE.search(sql)


def fragments(path: Path) -> list[str]:
    """Texts of a module, those in f-strings too; docstrings are left out."""
    docs = {
        id(node.body[0].value)
        for node in nodes(path)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_the_test_for_sql_sees_it() -> None:
    assert SQL.search("SELECT id\n FROM jobs")
    assert SQL.search("UPDATE jobs SET state = 'done'")
    assert not SQL.search("Select a model from the list, then update it.")


#: Modules that draw the page: their HTML is in ``web/ui/templates``, whose values are escaped by Jinja.
DRAWN = ("web/ui/", "web/account/", "web/page_html.py")
TAG = re.compile(r"</?[a-z][a-z0-9]*[\s/>]|<!doctype|&[a-z]+;", re.IGNORECASE)


def test_the_pages_html_is_only_in_templates() -> None:
    found = {place(path): [each for each in fragments(path) if TAG.search(each)] for path in MODULES}
    assert any(found.values())  # reports and the manual have HTML of their own
    assert {name: texts for name, texts in found.items() if texts and name.startswith(DRAWN)} == {}


def trusted(node: ast.AST) -> bool:
    """Whether a call marks a value as HTML, or escapes one by hand."""
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func)
    if name == "Markup":
        return any(not isinstance(each, ast.Constant) for each in node.args)
    return name.rpartition(".")[2] == "escape" and name != "re.escape"


def test_html_is_escaped_by_the_templates_alone() -> None:
    """``Markup.escape`` turns text into Markup where both are possible."""
    found = {
        place(path): calls
        for path in MODULES
        if place(path).startswith(DRAWN) and (calls := [ast.unparse(node) for node in nodes(path) if trusted(node)])
    }
    assert set(found) == {"web/ui/templates.py", "web/ui/view.py"}
    assert found["web/ui/view.py"] == ["Markup.escape(state_words(job, position))"]
    filters = {
        (path.name, each)
        for path in (PACKAGE / "web/ui/templates").glob("*.html")
        for each in re.findall(r"\{\{[^}]*\| *safe", path.read_text(encoding="utf-8"))
    }
    assert {name for name, _ in filters} == {"head.html", "icons.html", "macros.html", "phone.html"}


@pytest.mark.parametrize("text", ["<b>{}</b>", '<a href="', "</li>", "<br>", "a &amp; b", "<!doctype html>"])
def test_the_test_for_html_sees_it(text: str) -> None:
    assert TAG.search(text)
    assert not TAG.search("a < b and 3 <4, or x->y, <3")


#: Folders of a home that belong to a backend of ``ImageFiles``: others name pictures by their keys.
PICTURE_FOLDERS = {"gallery_folder", "sources", "previews", "sheets", "reports", "strays"}


def test_folders_of_pictures_are_known_to_their_backend_only() -> None:
    """And to the doctor, who looks whether other users may read the gallery's."""
    users = {
        place(path)
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, ast.Attribute)
        and node.attr in PICTURE_FOLDERS
        and ast.unparse(node.value).endswith("settings")
    }
    assert users == {"gallery/local_blobs.py", "health/doctor.py"}


#: What a worker may import of ours: it meets the studio by its dispatch only, so that it may run on another machine.
WORKERS_OWN = {
    "actor", "disk", "dispatch", "domain", "engine", "errors", "gallery.image_formats", "gallery.quality",
    "gallery.recipes", "image_decoding", "messages", "models", "options", "queue.estimates", "queue.pass_sizes",
    "remote", "settings", "system", "worker",
}  # fmt: skip


def test_a_worker_asks_the_studio_by_its_dispatch_only() -> None:
    workers = [path for path in MODULES if place(path).startswith("worker/")]
    assert {place(path): sorted(ours(path) - WORKERS_OWN) for path in workers if ours(path) - WORKERS_OWN} == {}
    local = {place(path) for path in workers if any("dispatch.local" in name for name in imported(path))}
    assert local == {"worker/__main__.py"}, "the one place that chooses how a worker is connected"
    settings = {place(path) for path in workers if "settings" in ours(path)}
    assert settings == {"worker/__main__.py"}


def test_the_dispatch_itself_knows_no_store() -> None:
    """What is declared for all workers; ``dispatch.local`` is one way of it."""
    [protocol] = [path for path in MODULES if place(path) == "dispatch/__init__.py"]
    assert ours(protocol) == {"domain", "gallery.image_formats", "options", "queue.estimates"}


def test_the_environment_is_read_in_settings_only() -> None:
    names = ("environ", "environb", "getenv", "putenv", "unsetenv")
    users = {
        place(path)
        for path in MODULES
        if any(isinstance(node, ast.Attribute) and node.attr in names for node in nodes(path))
        or any(name.startswith("os.") and name.split(".")[1] in names for name in imported(path))
    }
    assert users == {"settings.py"}


def test_a_module_can_be_read_in_one_sitting() -> None:
    lines = {place(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_every_module_has_a_docstring() -> None:
    assert [place(path) for path in MODULES if tree(path).body and not ast.get_docstring(tree(path))] == []


@pytest.mark.parametrize("word", ["pickle", "eval", "exec", "shelve", "marshal"])
def test_nothing_runs_what_it_reads(word: str) -> None:
    for path in MODULES:
        calls = {node.func.id for node in nodes(path) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert word not in calls, place(path)
        assert not any(name.split(".")[0] == word for name in imported(path)), place(path)


HEAVY = ("torch", "diffusers", "transformers", "accelerate")
#: Libraries that the web process imports when a request needs them, and the first submodules of deferred ones.
UNUSED_BY_THE_PAGE = (
    *("numpy._core", "pandas.core", "psycopg.sql", "matplotlib", "redis", "mcp", "rich", "typer", "pygments"),
    *("cryptography", "Crypto", "pillow_heif", "markdown_it", "charset_normalizer", "stream_zip"),
)


@pytest.mark.parametrize(
    ("imports", "more", "absent"),
    [
        ("web", "sys", (*HEAVY, *UNUSED_BY_THE_PAGE)),
        ("worker", "diffusion_local.supervisor.supervisor", (*HEAVY, "gradio", "fastapi")),
    ],
)
def test_what_is_heavy_is_not_imported_where_it_is_not_needed(
    imports: str, more: str, absent: tuple[str, ...], tmp_path: Path
) -> None:
    """The servers of forked children import what the web process needs, and what worker and command line do."""
    code = f"import sys, {more}; print(*sorted(sys.modules))"
    child = forking.run(imports, code, env=dict(os.environ), folder=tmp_path)
    assert child.returncode == 0, child.stderr
    loaded = set(child.stdout.split())
    assert set(forking.IMPORTS[imports]) <= loaded
    assert not set(absent) & loaded


def test_the_layers_name_what_there_is() -> None:
    there = {unit(path) for path in MODULES}
    assert set(RANKS) == there
    assert sys.version_info >= (3, 11)
