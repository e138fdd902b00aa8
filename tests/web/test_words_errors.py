"""What the program says when something is wrong: each sentence that may reach the page is known in Chinese."""

import ast
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import diffusion_local
from diffusion_local import errors
from diffusion_local.compose import House
from diffusion_local.domain import RUNGS, Failure
from diffusion_local.settings import Settings
from diffusion_local.web.ui import words
from tests.support import claimed
from tests.web.conftest import made

PACKAGE = Path(diffusion_local.__file__).parent
#: Said in a terminal or to programs, never on the page.
ELSEWHERE = (
    "cli/", "remote/", "supervisor.py", "worker/slots.py", "tls.py", "network.py", "web/api/", "web/guard.py",
    "web/proxies.py", "web/looks.py",
)  # fmt: skip
#: Sentences of other files, by what they begin with.
NOT_SHOWN = ("Others can reach this server", "⟨x⟩ exists already; name a new file")
#: What is left of a sentence that needs no translation: names and values, or what another sentence says.
NAMES = ("", "mustbe", "Python", "configtoml")
#: Sentences of which a value can be absent or more than one; these are the whole ones.
WHOLE = (
    "has 9 combinations; at most 5 pictures can be made (max_queued).",
    "has 9 combinations, 2 pictures of each; at most 5 pictures can be made (max_queued).",
    "has 2 bad lines, so nothing was enqueued; correct them or skip bad lines. Line 1: x",
)
PARTS = ("has ⟨x⟩ combinations⟨x⟩", "has ⟨x⟩, so nothing")
#: Words of the doctor that the page puts together itself (view_settings.title_of).
TITLES = ("device ⟨x⟩", "model ⟨x⟩", "worker ⟨x⟩", "⟨x⟩, process ⟨x⟩, seen ⟨x⟩")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@functools.cache
def kinds() -> set[str]:
    """Names of all classes of errors, and of what tells of a failure."""
    found = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)}
    for path in PACKAGE.rglob("*.py"):
        classes = re.findall(r"^class (\w+)\((\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        found |= {name for name, base in classes if base in found}
    return found | {"Failure", "Finding"}


def said(node: ast.expr) -> str:
    """A literal text, with ⟨x⟩ for each value; nothing for all else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(said(part) or "⟨x⟩" for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return said(left) + said(right)
    return ""


@functools.cache
def trees() -> tuple[tuple[str, ast.Module], ...]:
    places = ((path.relative_to(PACKAGE).as_posix(), path) for path in sorted(PACKAGE.rglob("*.py")))
    return tuple(
        (where, ast.parse(path.read_text(encoding="utf-8")))
        for where, path in places
        if not where.startswith(ELSEWHERE)
    )


@functools.cache
def nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree))


@functools.cache
def calls_in(tree: ast.Module) -> tuple[ast.Call, ...]:
    return tuple(
        node
        for node in nodes(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in kinds()
    )


def texts(node: ast.expr, tree: ast.Module) -> Iterator[str]:
    """What an argument says: itself, what its name was given, or what its function returns, in the same file."""
    if told := said(node):
        yield told
    name = getattr(node, "func", node)
    name = getattr(name, "id", getattr(name, "attr", ""))
    for each in nodes(tree) if name else ():
        if isinstance(node, ast.Call) and isinstance(each, ast.FunctionDef) and each.name == name:
            yield from (said(back.value) for back in ast.walk(each) if isinstance(back, ast.Return) and back.value)
        elif isinstance(node, ast.Name) and isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == name:
            yield said(each.value)


@functools.cache
def sentences() -> tuple[tuple[str, str], ...]:
    return tuple(find_sentences())


def find_sentences() -> Iterator[tuple[str, str]]:
    for where, tree in trees():
        for call in calls_in(tree):
            for told in (
                text for part in [*call.args, *(k.value for k in call.keywords)] for text in texts(part, tree)
            ):
                own = re.sub(r"⟨x⟩|\(got ⟨x⟩(x⟨x⟩)?\)\.?|[^\w]", "", told)
                if " " in told and own not in NAMES and not told.startswith(NOT_SHOWN + PARTS) and told not in TITLES:
                    yield f"{where}:{call.lineno}", told


def test_there_is_something_to_hold() -> None:
    assert len(sentences()) > 200


def test_every_sentence_is_known_in_chinese() -> None:
    with words.speaking("zh"):
        found = [*sentences(), *(("", told) for told in WHOLE)]
        unknown = [f"{where} {told}" for where, told in found if not CHINESE.search(words.retell(told))]
    assert unknown == []


@pytest.mark.parametrize("rung", RUNGS)
def test_what_a_rung_of_memory_means_is_known(rung: str) -> None:
    with words.speaking("zh"):
        assert CHINESE.search(words.retell(RUNGS[rung]))


def test_every_field_that_can_be_wrong_has_a_name() -> None:
    fields = {
        (where, call.args[0].value)
        for where, tree in trees()
        for call in calls_in(tree)
        if getattr(call.func, "id", "") == "InvalidParams" and isinstance(call.args[0], ast.Constant)
    }
    own = {each.name for each in dataclasses.fields(Settings)} | {"config.toml"}  # named as in that file
    assert {each for each in fields if each[1] not in own and not words.known(f"common.{each[1]}")} == set()


@pytest.mark.parametrize("error", sorted(kinds() & set(vars(errors))))
def test_every_kind_of_failure_has_a_name_and_a_sentence(error: str) -> None:
    kind = getattr(errors, error)
    if not issubclass(kind, errors.EngineError):
        return
    assert words.known(f"errors.kind_{kind.kind}")
    with words.speaking("zh"):
        assert CHINESE.search(words.retell(kind().message))


def test_what_fills_a_sentence_is_told_too() -> None:
    with words.speaking("zh"):
        told = words.retell("wildcards/colour.txt: line 3 has a choice whose options all have the weight 0.")
        assert told == "wildcards/colour.txt：第 3 行有一个任选项的所有权重都是 0。"
        assert words.retell(
            "Model 'a' cannot be loaded. a.ckpt is damaged: it is not a safetensors file. Copy or download it again."
        ) == ("无法加载模型 'a'。a.ckpt 已损坏：不是 safetensors 文件。请重新复制或下载。")


def test_the_page_of_a_report_speaks_the_readers_language(client: TestClient, house: House) -> None:
    made(house)
    failed = house.studio.submit("a boat", width=128, height=128).job_ids[0]
    house.jobs.fail(claimed(house.jobs).claim, Failure("out_of_memory", errors.OutOfMemory().message))
    batch = house.studio.job(failed).batch_id
    told = client.get(f"/reports/batch/{batch}.html", headers={"Accept-Language": "zh-CN"}).text
    assert '<html lang="zh-CN">' in told
    assert "<dt>失败</dt>" in told
    assert "1 × 内存不足" in told
    assert "设备内存不足。" in told
    assert re.findall(r">\s*(Done|Failed|Pictures|Time|From|To)\s*<", told) == []
    assert "<dt>Failed</dt>" in client.get(f"/reports/batch/{batch}.html").text
