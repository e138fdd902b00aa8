"""README and the manual keep their promises: commands parse, references are fresh, links lead somewhere."""

import re
import shlex
import tomllib
from typing import Any

from typer.main import get_command

from diffusion_local import manual
from diffusion_local.cli import app
from diffusion_local.domain import TRANSITIONS, State
from diffusion_local.settings import specs
from tests.support import PACKAGE, REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCS = REPOSITORY / "assets" / "docs"
PAGES = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
HAND_WRITTEN = "\n".join([README, *(text for path, text in PAGES.items() if path.parent.name != "reference")])
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LONG_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of cells, with its header."""
    found: list[list[list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not before.startswith("|"):
                found.append([])
            if not re.fullmatch(r"[\s|:-]+", line):
                found[-1].append(cells)
        before = line
    return found


def table(text: str, *header: str) -> list[list[str]]:
    [rows] = [each[1:] for each in tables(text) if each[0] == list(header)]
    return rows


def code(text: str) -> list[str]:
    """What is written `like this`."""
    return re.findall(r"`([^`]+)`", text)


def test_files_that_the_pages_for_developers_name_exist() -> None:
    roots = (PACKAGE, REPOSITORY, PACKAGE / "db")
    named = {
        (path.name, each)
        for path, text in PAGES.items()
        if path.parent.name == "inside"
        for each in code(text)
        if re.fullmatch(r"[\w/.]+/[\w/.]*", each) and not re.search(r"NAME|TOPIC", each)
    }
    assert len(named) > 40
    assert {pair for pair in named if not any((root / pair[1]).exists() for root in roots)} == set()


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_reference_is_what_the_code_says() -> None:
    from scripts import reference

    stale = [path.name for path, text in reference.pages() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"run python scripts/reference.py: {stale}"


def test_the_table_of_states_is_the_codes() -> None:
    lifecycle = PAGES[DOCS / "inside" / "lifecycle.md"]
    assert [tuple(row) for row in table(lifecycle, "verb", "from", "to", "who")] == [
        (verb, str(start), str(end), who) for verb, (start, end, who) in TRANSITIONS.items()
    ]
    for state in State:
        assert f"`{state}`" in lifecycle


def every_command() -> list[Any]:
    groups = [command for command in COMMANDS.values() if hasattr(command, "commands")]
    return [*COMMANDS.values(), *(command for group in groups for command in group.commands.values())]


def test_every_option_that_is_named_exists() -> None:
    there = {option for command in every_command() for parameter in command.params for option in parameter.opts}
    of_others = ("pip ", "pytest", "scripts/", "--seed 7 --size")
    of_commands = "\n".join(line for line in HAND_WRITTEN.splitlines() if not any(each in line for each in of_others))
    assert set(LONG_OPTION.findall(of_commands)) <= there | {"--help"}


def test_every_example_of_the_command_line_parses() -> None:
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", HAND_WRITTEN, re.DOTALL))
    examples = re.findall(r"^(?:\.venv/bin/)?diffusion-local (.+)$", shell, re.MULTILINE)
    assert len(examples) > 20
    for example in examples:
        name, *arguments = shlex.split(example, comments=True)
        command = COMMANDS[name]
        if hasattr(command, "commands"):
            name, *arguments = arguments
            command = command.commands[name]
        command.make_context(name, arguments, resilient_parsing=False)


def test_every_setting_that_is_named_exists() -> None:
    """In the guides: `name = value`, and names in the style of settings."""
    there = {field.name for field in specs()}
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*) = ", HAND_WRITTEN))
    assert named
    assert named <= there


def test_the_packages_in_the_house_are_there() -> None:
    for row in table(PAGES[DOCS / "inside" / "house.md"], "package", "holds", "may not"):
        for name in code(row[0]):
            assert (PACKAGE / name).exists(), name


def test_a_translated_page_has_the_sections_and_tables_of_its_original() -> None:
    for path in sorted((DOCS / "zh").rglob("*.md")):
        original, translated = PAGES[DOCS / path.relative_to(DOCS / "zh")], PAGES[path]
        for pattern in (r"^#+ ", r"^\|", r"^```", r"^\d\. "):
            count = [len(re.findall(pattern, text, re.MULTILINE)) for text in (original, translated)]
            assert count[0] == count[1], f"{path.name}: {pattern} {count}"


def test_the_pages_a_person_reads_first_are_in_chinese() -> None:
    assert {path.stem for path in (DOCS / "zh").glob("*.md")} >= {"start", "page", "overnight", "trouble"}


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for path, text in [(REPOSITORY / "README.md", README), *PAGES.items()]:
        for target, fragment in re.findall(
            r"\]\(([^)#\s:]*)(?:#([^)\s]+))?\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        ):
            there = (path.parent / target).resolve() if target else path
            if not there.exists():
                broken.append(f"{path.name}: {target}")
            elif fragment and fragment not in {manual.slug(each) for each in HEADING.findall(PAGES.get(there, text))}:
                broken.append(f"{path.name}: {target}#{fragment}")
    assert broken == []


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
