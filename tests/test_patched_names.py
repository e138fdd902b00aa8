"""Names that tests replace by monkeypatching exist in the program: a rename that forgets one is told for all at once.

pytest itself refuses an absent name, but one test at a time, and only in the tests that are run.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from tests.sources import nodes, tree
from tests.support import PACKAGE

ROOT = PACKAGE.parent
TESTS = Path(__file__).parent
#: Imports of a module under one name, and constants set on it, also in the text of a program that is started.
IMPORTED = re.compile(r"import (diffusion_local[\w.]*) as (\w+)|from (diffusion_local[\w.]*) import (\w+)")
ASSIGNED = re.compile(r"\b(\w+)\.([A-Z][A-Z_]+) = ")


def module_file(name: str) -> Path | None:
    """The file of one of the program's modules."""
    path = ROOT.joinpath(*name.split("."))
    found = next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)
    return found if name.split(".")[0] == PACKAGE.name else None


@functools.cache
def imports(path: Path) -> dict[str, str]:
    """Full names of imported names, wherever in the module."""
    names: dict[str, str] = {}
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {each.asname: each.name for each in node.names if each.asname}
            names |= {first: first for each in node.names if not each.asname for first in [each.name.split(".")[0]]}
        elif isinstance(node, ast.ImportFrom):
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return names


@functools.cache
def members(node: ast.Module | ast.ClassDef) -> set[str]:
    """Names that a module or a class binds; attributes that a class's methods set count."""
    found: set[str] = set()
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(each.name)
        elif isinstance(each, ast.Name | ast.Attribute) and isinstance(each.ctx, ast.Store):
            found.add(each.id if isinstance(each, ast.Name) else each.attr)
        elif isinstance(each, ast.alias):
            found.add((each.asname or each.name).split(".")[0])
    return found


def exists(name: str) -> bool:
    """Whether a full name is bound in the program; True where that cannot be told."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return True
    length = next((each for each in range(len(parts), 0, -1) if module_file(".".join(parts[:each]))), 0)
    file, rest = module_file(".".join(parts[:length])), parts[length:]
    if file is None or not rest:
        return file is not None
    if rest[0] not in members(tree(file)):
        return False
    origin = imports(file).get(rest[0])
    classes = [each for each in tree(file).body if isinstance(each, ast.ClassDef) and each.name == rest[0]]
    if len(rest) == 1 or not (origin or classes):
        return True
    if origin:
        return exists(".".join([origin, *rest[1:]]))
    bases = [ast.unparse(base) for base in classes[0].bases]
    inherited = any(exists(".".join([*parts[:length], base, *rest[1:]])) for base in bases if base.isidentifier())
    return rest[1] in members(classes[0]) or inherited or any(not base.isidentifier() for base in bases)


def patched(path: Path) -> Iterator[tuple[int, str]]:
    """(line, full name) of each name that a module replaces or deletes, as far as it can be told."""
    known = imports(path)
    for node in nodes(path):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        may_be_absent = any(each.arg == "raising" for each in node.keywords)
        if node.func.attr not in ("setattr", "delattr") or may_be_absent:
            continue
        target, *others = node.args
        if isinstance(target, ast.Constant) and isinstance(target.value, str):
            yield node.lineno, target.value
        elif others and isinstance(others[0], ast.Constant) and isinstance(target, ast.Name | ast.Attribute):
            first, _, rest = ast.unparse(target).partition(".")
            if first in known:
                yield node.lineno, ".".join(filter(None, [known[first], rest, str(others[0].value)]))


def test_patched_names_exist() -> None:
    files = [path for path in sorted(TESTS.rglob("*.py")) if "attr(" in path.read_text(encoding="utf-8")]
    names = {path: list(patched(path)) for path in files}
    assert sum(len(each) for each in names.values()) > 100
    absent = [
        f"{path.relative_to(TESTS)}:{line}: {name}"
        for path, each in names.items()
        for line, name in each
        if not exists(name)
    ]
    assert absent == []


def imported(text: str) -> dict[str, str]:
    """Full names of what a text imports of the program, by the name it has there."""
    return {each[2] or each[4]: each[1] or f"{each[3]}.{each[4]}" for each in IMPORTED.finditer(text)}


def assigned(text: str) -> Iterator[str]:
    """Full names of constants of the program's modules that a text assigns."""
    modules = imported(text)
    for match in ASSIGNED.finditer(text):
        if module_file(modules.get(match[1], "")):
            yield f"{modules[match[1]]}.{match[2]}"


def test_imported_names_and_assigned_constants_exist() -> None:
    files = [*TESTS.rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path != Path(__file__)}
    names = {path: {*imported(text).values(), *assigned(text)} for path, text in texts.items()}
    assert sum(len(each) for each in names.values()) > 5
    assert [
        f"{path.relative_to(ROOT)}: {name}" for path, each in names.items() for name in each if not exists(name)
    ] == []


def test_the_test_for_patched_names_sees_them(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        "from diffusion_local import studio\n"
        "from diffusion_local.studio import Studio\n"
        "patch.setattr(studio, 'Studio', None)\n"
        "patch.setattr(Studio, 'submit', None)\n"
        "patch.setattr('diffusion_local.notify.signed_urls.time.time', None)\n"
        "patch.setattr(studio, 'absent', None)\n"
        "patch.setattr(Studio, 'absent', None)\n"
        "patch.setattr('diffusion_local.studio.absent', None)\n"
        "patch.setattr(Studio, 'absent', None, raising=False)\n"
    )
    program = "import diffusion_local.supervisor.supervisor as s; s.POLL_SECONDS = 1.0; s.ABSENT = 1.0"
    assert [exists(name) for name in assigned(program)] == [True, False]
    program = "from diffusion_local.dispatch import absent; absent.POLL_SECONDS = 1.0"
    assert [exists(name) for name in imported(program).values()] == [False]
    found = {line: exists(name) for line, name in patched(source)}
    assert found == {3: True, 4: True, 5: True, 6: False, 7: False, 8: False}
