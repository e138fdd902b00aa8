"""What it takes to add an option: a field in the table, its words; in a copy of the program, as an engineer would."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PACKAGE, REPOSITORY

OPTION = """    sharpness: Annotated[float, Option(
        meaning="how sharp edges are", a1111=("Sharpness",), low=0, high=4
    )] = 0.0
"""
WORDS = 'sharpness = { en = "Sharpness", zh = "锐度" }\n'
#: Of the contract; the rest of it walks the same table.
WALKED = (
    "test_every_option_is_stored or test_every_option_has_words or test_every_option_is_shown or "
    "test_every_option_is_in_a1111s_text or test_every_option_is_read_back or test_every_option_is_exported or "
    "test_every_option_is_a_flag or (test_every_option_is_taken and (http or gradio or cog or a1111 or openai or "
    "csv or page or create)) or (test_every_option_that_varies and sharpness)"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The program with one more option in its table."""
    place = tmp_path / "copy"
    for name in ("diffusion_local", "tests"):
        shutil.copytree(REPOSITORY / name, place / name)  # with what is compiled
    (place / "assets").symlink_to(REPOSITORY / "assets")
    shutil.copy(REPOSITORY / "pyproject.toml", place)
    insert(place / PACKAGE.name / "options/table.py", r"(?m)^    # fmt: on\n", OPTION)
    return place


def insert(path: Path, before: str, text: str) -> None:
    """Put a text in front of the first match of a pattern."""
    code = path.read_text(encoding="utf-8")
    found = re.search(before, code)
    assert found
    path.write_text(code[: found.start()] + text + code[found.start() :], encoding="utf-8")


def contract(place: Path, walked: str) -> str:
    """What pytest prints about the contract in a copy."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-k",
        walked,
    ]
    done = subprocess.run(
        [*command, "tests/options/test_contract.py"],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.slow  # starts the copy in a process of its own; the contract that it breaks is in the first tier
@pytest.mark.timeout(900)
def test_an_option_is_a_line_of_the_table_and_its_words(copy: Path) -> None:
    insert(copy / PACKAGE.name / "web/ui/phrases/common.toml", r"(?m)^rung = ", WORDS)
    result = contract(copy, WALKED)
    assert re.search(r"^\d+ passed", result, re.MULTILINE), result
    assert "failed" not in result


@pytest.mark.slow  # starts the copy in a process of its own; the contract that it breaks is in the first tier
@pytest.mark.timeout(900)
def test_words_that_are_forgotten_are_told(copy: Path) -> None:
    result = contract(copy, "test_every_option_has_words")
    assert re.search(r"^FAILED .*test_every_option_has_words_in_each_language\[sharpness\]", result, re.MULTILINE), (
        result
    )
    assert "1 failed" in result
