"""Every parser reads, or refuses, 200,000 characters of each nasty kind in a moment: none of them takes quadratic time.

The walk runs in a child process that must end before a deadline, as a regular expression holds the interpreter's lock
and no other thread could stop it. What is quadratic takes minutes for a single text.
"""

import ast
import subprocess

import pytest

from tests.cost.parsers import EXEMPT, PARSERS
from tests.cost.texts import texts
from tests.support import PACKAGE, start_python

LENGTH = 200_000
PARTS = 4  # child processes that the parsers are shared out among
DEADLINE = 300.0  # seconds for a part, which takes some ten on an idle machine
WALK = """
import sys
from tests.cost.parsers import PARSERS, REFUSALS
from tests.cost.texts import texts

part, parts, length = map(int, sys.argv[1:])
for parser in PARSERS[part::parts]:
    for name, text in texts(length):
        print(f"{parser.name} ({parser.module}): {name!r}", flush=True)
        try:
            parser.read(text)
        except REFUSALS:
            pass
print("done")
"""


def walked(code: str, *arguments: str) -> None:
    child = start_python(code, *arguments)
    try:
        output, errors = child.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
        pytest.fail(f"not done after {DEADLINE:.0f} s; it was at {output.splitlines()[-1]}")
    last = output.splitlines()[-1] if output else ""
    assert (child.returncode, last) == (0, "done"), errors[-2000:]


@pytest.mark.parametrize("part", range(PARTS))
def test_every_parser_is_done_with_every_nasty_text_in_time(part: int) -> None:
    walked(WALK, str(part), str(PARTS), str(LENGTH))


def test_every_text_has_its_length() -> None:
    found = dict(texts(1000))
    assert len(found) > 60
    assert {len(text) for text in found.values()} == {1000}


def test_every_module_with_regular_expressions_is_walked() -> None:
    used = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Import) and "re" in {each.name for each in node.names} for node in ast.walk(tree)):
            used.add(path.relative_to(PACKAGE).as_posix())
    walked_modules = {parser.module for parser in PARSERS}
    assert used - walked_modules - set(EXEMPT) == set(), "name a parser of these in tests/cost/parsers.py"
    assert set(EXEMPT) - used == set(), "these use no regular expressions any more"
    assert set(EXEMPT) & walked_modules == set()


def test_every_parser_names_a_module() -> None:
    assert [parser.name for parser in PARSERS if not (PACKAGE / parser.module).is_file()] == []
    assert len({parser.name for parser in PARSERS}) == len(PARSERS)
