"""Every parser reads, or refuses, a long text of each nasty kind in a moment: none of them takes quadratic time.

The walk runs in a child process, as a regular expression holds the interpreter's lock and no other thread could stop
it. The system ends the child once a single text has taken more than SECONDS of processor time, however busy the machine
is; a quadratic parser takes longer.
"""

import ast
import signal
import subprocess

import pytest

from tests.cost.parsers import EXEMPT, PARSERS
from tests.cost.texts import texts
from tests.sources import nodes
from tests.support import PACKAGE, start_python

LENGTH, LONG = 10_000, 200_000  # characters; the second tier has the long ones
SECONDS = 0.3  # of processor time for one text of LENGTH, most of which take milliseconds
LONG_SECONDS = 10.0
PARTS = 4  # child processes that the parsers are shared out among in the second tier
DEADLINE, LONG_DEADLINE = 170.0, 800.0  # seconds for a whole walk, however slowly the machine runs it
WALK = """
import signal, sys
from tests.cost.parsers import PARSERS, REFUSALS
from tests.cost.texts import texts

part, parts, length = map(int, sys.argv[1:4])
seconds = float(sys.argv[4])
for parser in PARSERS[part::parts]:
    for name, text in texts(length):
        print(f"{parser.name} ({parser.module}): {name!r}", flush=True)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, seconds)  # nobody handles its signal, so it ends the process
        try:
            parser.read(text)
        except REFUSALS:
            pass
if hasattr(signal, "setitimer"):
    signal.setitimer(signal.ITIMER_PROF, 0)
print("done")
"""


def walked(code: str, *arguments: str, deadline: float = DEADLINE) -> None:
    child = start_python(code, *arguments)
    try:
        output, errors = child.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
        pytest.fail(f"not done after {deadline:.0f} s; it was at {output.splitlines()[-1]}")
    last = output.splitlines()[-1] if output else ""
    assert child.returncode != -getattr(signal, "SIGPROF", 0), f"a text took too long: {last}"
    assert (child.returncode, last) == (0, "done"), errors[-2000:]


@pytest.mark.slow
def test_every_parser_is_done_with_every_nasty_text_in_time() -> None:
    walked(WALK, "0", "1", str(LENGTH), str(SECONDS))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_parser_is_done_with_every_long_text_in_time(part: int) -> None:
    walked(WALK, str(part), str(PARTS), str(LONG), str(LONG_SECONDS), deadline=LONG_DEADLINE)


#: In the place of the parsers: one that matches a pattern.
CARELESS = """
import re, sys, types
from types import SimpleNamespace
found = sys.modules["tests.cost.parsers"] = types.ModuleType("parsers")
found.REFUSALS = ()
found.PARSERS = [SimpleNamespace(name="careless", module="x.py", read=re.compile(r"{pattern}").search)]
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a limit of processor time")
@pytest.mark.parametrize("pattern", [r"(a+)+!", r"\s+$"])
def test_a_parser_of_exponential_or_quadratic_time_is_found(pattern: str) -> None:
    with pytest.raises(AssertionError, match=r"a text took too long: careless \(x.py\)"):
        walked(CARELESS.format(pattern=pattern) + WALK, "0", "1", "50000", "0.5")


def test_every_text_has_its_length() -> None:
    found = dict(texts(1000))
    assert len(found) > 60
    assert {len(text) for text in found.values()} == {1000}


def test_every_module_with_regular_expressions_is_walked() -> None:
    used = set()
    for path in PACKAGE.rglob("*.py"):
        if any(isinstance(node, ast.Import) and "re" in {each.name for each in node.names} for node in nodes(path)):
            used.add(path.relative_to(PACKAGE).as_posix())
    walked_modules = {parser.module for parser in PARSERS}
    assert used - walked_modules - set(EXEMPT) == set(), "name a parser of these in tests/cost/parsers.py"
    assert set(EXEMPT) - used == set(), "these use no regular expressions any more"
    assert set(EXEMPT) & walked_modules == set()


def test_every_parser_names_a_module() -> None:
    assert [parser.name for parser in PARSERS if not (PACKAGE / parser.module).is_file()] == []
    assert len({parser.name for parser in PARSERS}) == len(PARSERS)
