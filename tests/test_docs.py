"""README keeps its promises: every command, setting and module is in it, and its table of states is the code's."""

import importlib.util
import re
import tomllib
from dataclasses import MISSING
from typing import Any

import pytest
from typer.main import get_command

from diffusion_local import shapes
from diffusion_local.cli import app
from diffusion_local.domain import TRANSITIONS, State
from diffusion_local.settings import specs
from tests.support import PACKAGE, REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
LONG_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def tables() -> list[list[list[str]]]:
    """Every table as rows of cells, with its header."""
    found: list[list[list[str]]] = []
    before = ""
    for line in README.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not before.startswith("|"):
                found.append([])
            if not re.fullmatch(r"[\s|:-]+", line):
                found[-1].append(cells)
        before = line
    return found


def table(*header: str) -> list[list[str]]:
    [rows] = [each[1:] for each in tables() if each[0] == list(header)]
    return rows


def code(text: str) -> list[str]:
    """What is written `like this`."""
    return re.findall(r"`([^`]+)`", text)


def test_the_table_of_states_is_the_codes() -> None:
    assert [tuple(row) for row in table("verb", "from", "to", "who")] == [
        (verb, str(start), str(end), who) for verb, (start, end, who) in TRANSITIONS.items()
    ]


def test_every_command_is_named_and_no_other() -> None:
    named = [name for row in table("command", "does") for name in code(row[0])]
    assert sorted(named) == sorted(COMMANDS)


def every_command() -> list[Any]:
    groups = [command for command in COMMANDS.values() if hasattr(command, "commands")]
    return [*COMMANDS.values(), *(command for group in groups for command in group.commands.values())]


def test_every_option_that_is_named_exists() -> None:
    there = {option for command in every_command() for parameter in command.params for option in parameter.opts}
    of_commands = "\n".join(line for line in README.splitlines() if "pip " not in line and "scripts/check" not in line)
    assert set(LONG_OPTION.findall(of_commands)) <= there | {"--help"}


def test_every_example_of_the_command_line_parses() -> None:
    import shlex

    examples = re.findall(r"^(?:\.venv/bin/)?diffusion-local (.+)$", README, re.MULTILINE)
    assert examples
    for example in examples:
        name, *arguments = shlex.split(example, comments=True)
        command = COMMANDS[name]
        if hasattr(command, "commands"):
            name, *arguments = arguments
            command = command.commands[name]
        command.make_context(name, arguments, resilient_parsing=False)


def test_every_setting_is_told_with_its_default_and_meaning() -> None:
    rows = {code(row[0])[0]: row[1:] for row in table("setting", "default", "meaning")}
    assert list(rows) == [field.name for field in specs()]
    for field in specs():
        default, meaning = rows[field.name]
        assert meaning.startswith(field.metadata["doc"])
        if field.default is not MISSING:
            assert "".join(code(default)) == str(field.default or ("" if field.default == () else field.default))
        for choice in field.metadata.get("choices", ()):
            assert choice in meaning


@pytest.mark.parametrize("name", ["settings", "options"])
def test_the_generated_tables_are_fresh(name: str) -> None:
    """``python scripts/readme_tables.py`` writes them anew."""
    spec = importlib.util.spec_from_file_location("readme_tables", REPOSITORY / "scripts/readme_tables.py")
    assert spec
    assert spec.loader
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.replaced(README, name, getattr(tables, f"{name}_table")()) == README


def test_every_module_is_told() -> None:
    told = {code(row[0])[0] for row in table("module", "is")}
    modules = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    top = {path for path in modules if "/" not in path and path != "__init__.py"}
    units = {path.split("/")[0] for path in modules if "/" in path}
    assert top | units <= told
    assert {each for each in told if each.endswith(".py")} <= modules  # and none that is gone
    assert {path for path in modules if "/" in path and not path.endswith("__init__.py")} <= told


def test_every_endpoint_is_told_and_no_other() -> None:
    endpoints = pytest.importorskip("diffusion_local.web.api.endpoints")
    named = {name.removeprefix("/") for row in table("endpoint", "takes", "gives") for name in code(row[0])}
    assert named == {*endpoints.FAST, *endpoints.SLOW, *endpoints.STREAMED}


def test_the_states_and_a_jobs_fields_are_named_as_programs_get_them() -> None:
    for state in State:
        assert re.search(rf"\b{state}\b", README)
    source = (PACKAGE / "shapes.py").read_text(encoding="utf-8")
    [row] = [row for row in table("endpoint", "takes", "gives") if row[0] == "`/job`"]
    for name in code(row[2]):
        assert f'"{name}"' in source, name
    assert shapes.picture_url("x")


def test_relative_links_and_pictures_are_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_test_command_is_marked_for_machines() -> None:
    marked = re.search(r"<!-- test command -->\n```sh\n(.+?)\n```", README, re.DOTALL)
    assert marked
    assert "scripts/check" in marked[1]


def test_constraints_pin_exactly_and_cover_what_is_asked_for() -> None:
    path = REPOSITORY / "constraints.txt"
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, equals, version = line.partition("==")
            assert equals, line
            assert "+" not in version, f"{line}: a local version breaks other machines"
            pins[canonical(name)] = version.strip()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    assert {canonical(re.split(r"[\s<>=!~\[;]", each)[0]) for each in asked} <= set(pins)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
