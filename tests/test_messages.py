"""Messages: composed per language, sent as id and parameters; and no sentence in the code beside the catalogue."""

import ast
import copy
import functools
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

import diffusion_local
from diffusion_local import errors
from diffusion_local.errors import EngineError, InvalidParams
from diffusion_local.messages import (
    LANGUAGES,
    MAX_NESTED,
    Message,
    catalogue,
    concatenate,
    deserialize,
    map_params,
    message,
    serialize,
    translate,
    verbatim,
)
from tests.sources import nodes

PACKAGE = Path(diffusion_local.__file__).parent
CHINESE = re.compile(r"[\u4e00-\u9fff]")
#: Calls whose arguments are messages, beside the classes of errors.
CARRIERS = {"Failure": (1,), "Finding": (2, 3)}
#: The part of an id that is a value.
ANY = "[a-z_0-9]+"


# -- the code ----------------------------------------------------------------------------------------------------------


@functools.cache
def modules() -> tuple[tuple[str, Path], ...]:
    return tuple((path.relative_to(PACKAGE).as_posix(), path) for path in sorted(PACKAGE.rglob("*.py")))


def name_of(call: ast.Call) -> str:
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


@functools.cache
def calls() -> tuple[tuple[str, ast.Call], ...]:
    return tuple(
        (f"{where}:{node.lineno}", node)
        for where, path in modules()
        for node in nodes(path)
        if isinstance(node, ast.Call)
    )


@functools.cache
def classes() -> frozenset[str]:
    """Names of all classes of errors."""
    found = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)}
    bases = [
        (node.name, {getattr(base, "id", "") for base in node.bases})
        for _, path in modules()
        for node in nodes(path)
        if isinstance(node, ast.ClassDef)
    ]
    while more := {name for name, of in bases if of & found} - found:
        found |= more
    return frozenset(found)


def ids_of(node: ast.expr) -> set[str]:
    """The ids that an expression may be; empty where there is none in the catalogue."""
    match node:
        case ast.Constant(value=str(id)):
            return {id} & set(catalogue())
        case ast.IfExp(body=body, orelse=orelse):
            return ids_of(body) | ids_of(orelse)
        case ast.JoinedStr(values=parts):
            shape = "".join(re.escape(part.value) if isinstance(part, ast.Constant) else ANY for part in parts)  # type: ignore[arg-type]
            return {id for id in catalogue() if re.fullmatch(shape, id)}
    return set()


@functools.cache
def composed() -> tuple[tuple[str, ast.Call, frozenset[str]], ...]:
    """Each call of ``message``: where it is, and the ids that it may name."""
    return tuple(
        (where, call, frozenset(ids_of(call.args[0])))
        for where, call in calls()
        if name_of(call) == "message" and len(call.args) == 1 and not isinstance(call.func, ast.Attribute)
    ) + tuple(
        (where, call, frozenset(ids_of(call.args[0])))
        for where, call in calls()
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "messages.message"
    )


def usual_ids() -> set[str]:
    each = {each for each in vars(errors).values() if isinstance(each, type)}
    return {each.usual for each in each if issubclass(each, errors.DiffusionLocalError)}


def test_there_is_something_to_hold() -> None:
    assert len(composed()) > 450


def slot_names(sentence: str) -> set[str]:
    return {slot for _, slot, _, _ in Formatter().parse(sentence) if slot is not None}


def test_every_message_is_in_the_catalogue_with_exactly_its_parameters() -> None:
    wrong = []
    for where, call, ids in composed():
        value = {keyword.arg for keyword in call.keywords}
        if not ids and not ast.unparse(call.args[0]).endswith("usual"):
            wrong.append(f"{where}: no message {ast.unparse(call.args[0])}")
        for id in ids:
            expected = slot_names(catalogue()[id]["en"])
            if not (value - {None} <= expected if None in value else value == expected):
                wrong.append(f"{where}: {id} takes {sorted(expected)}")
    assert wrong == []


def test_no_message_of_the_catalogue_is_unused() -> None:
    used = {id for _, _, ids in composed() for id in ids} | usual_ids() | {"verbatim"}
    assert set(catalogue()) - used == set()


def sentences(call: ast.Call) -> Iterator[str]:
    places = CARRIERS.get(name_of(call), (1,) if name_of(call) == "InvalidParams" else (0,))
    result = [call.args[place] for place in places if place < len(call.args)]
    result += [each.value for each in call.keywords if each.arg in ("message", "problem", "text", "mend")]
    for each in result:
        if isinstance(each, ast.JoinedStr | ast.BinOp) or (
            isinstance(each, ast.Constant) and isinstance(each.value, str)
        ):
            yield ast.unparse(each)


def test_no_error_is_raised_with_a_sentence_of_its_own() -> None:
    found = [
        f"{where}: {name_of(call)}({result})"
        for where, call in calls()
        if (name_of(call) in classes() and name_of(call) != "Stopped") or name_of(call) in CARRIERS
        for result in sentences(call)
        if name_of(call) in classes() or " " in re.sub(r"\{[^}]*\}", "", result)
    ]
    assert found == []


# -- the catalogue -----------------------------------------------------------------------------------------------------


def formats(sentence: str) -> set[tuple[str, str, str]]:
    return {(slot, spec or "", how or "") for _, slot, spec, how in Formatter().parse(sentence) if slot is not None}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_message_has_each_language_with_the_same_parameters(language: str) -> None:
    wrong = [
        id
        for id, messages in catalogue().items()
        if not messages.get(language)
        or formats(messages[language]) != formats(messages["en"])
        or set(messages) != set(LANGUAGES)
    ]
    assert wrong == []


def test_what_has_words_in_english_has_chinese_ones() -> None:
    names = {"adapter_lora", "adapter_vae", "adapter_control", "adapter_ip_adapter", "wildcard_file", "found_packages"}
    wrong = {
        id
        for id, messages in catalogue().items()
        if re.search(r"[A-Za-z]{2}", re.sub(r"\{[^}]*\}", "", messages["en"])) and not CHINESE.search(messages["zh"])
    }
    assert wrong - names == set()


@pytest.mark.parametrize("kind", sorted(each.__name__ for each in vars(errors).values() if isinstance(each, type)))
def test_every_kind_of_failure_has_a_name_and_a_sentence(kind: str) -> None:
    error = getattr(errors, kind)
    if issubclass(error, EngineError):
        assert f"kind_{error.kind}" in catalogue()
        assert CHINESE.search(translate("zh", error().message))


# -- composing ---------------------------------------------------------------------------------------------------------


def test_a_message_is_its_english_text_and_is_composed_in_each_language() -> None:
    result = message("range", low=1, high=100, got="0")
    assert result == "must be from 1 to 100 (got 0)." == f"{result}" == json.loads(json.dumps(result))
    assert translate("zh", result) == "必须在 1 到 100 之间（输入为 0）。"
    assert translate("zh", "something else") == "something else"


def test_a_message_among_the_parameters_is_composed_in_the_same_language() -> None:
    weight = InvalidParams("prompt", message("choice_weight")).problem
    result = message("wildcard_line", name="colour", line=3, problem=weight)
    assert result == "wildcards/colour.txt: line 3 has a choice in which every option has the weight 0."
    assert translate("zh", result) == "wildcards/colour.txt：第 3 行有一个任选项的所有权重都是 0。"
    hot = message("gpu_hot", gpus=[message("gpu_at", gpu=f"gpu{n}", temperature=90) for n in (0, 1)], limit=80)
    assert hot == "gpu0 is at 90 °C, gpu1 is at 90 °C; it continues below 80 °C (gpu_max_temp)."
    assert translate("zh", hot).startswith("gpu0 为 90 °C, gpu1 为 90 °C；")


def test_braces_of_a_person_are_text() -> None:
    result = message("no_such_job", id="'{x!r:{id}}'")
    assert result == "There is no job '{x!r:{id}}'."
    assert translate("zh", result) == "没有任务 '{x!r:{id}}'。"


def test_parameters_are_json_values() -> None:
    result = message("cannot_be_read", error=OSError("gone"))
    assert result.params == {"error": "gone"}
    of_ours = message("cannot_be_read", error=EngineError(message("fake_fail")))
    assert of_ours.params["error"].id == "fake_fail"
    assert message("one_of", known=("a", "b"), got=1.5).params == {"known": ["a", "b"], "got": 1.5}


def test_an_unknown_id_or_a_missing_parameter_is_a_fault_of_the_program() -> None:
    with pytest.raises(KeyError):
        message("no such id")
    with pytest.raises(KeyError):
        message("range", low=1)


def test_messages_in_a_row_are_one() -> None:
    two = concatenate([message("remedy_disk"), message("remedy_owner")])
    assert two == "Check the disk. Check its owner and permissions."
    assert concatenate([]) == ""


@pytest.mark.parametrize("way", [copy.deepcopy, copy.copy, lambda result: pickle.loads(pickle.dumps(result))])  # noqa: S301
def test_a_message_can_be_copied(way: object) -> None:
    result = message("in_grid", problem=message("text"), cell=2)
    again = way(result)  # type: ignore[operator]
    assert (again, again.id, again.params) == (result, result.id, result.params)


# -- sent and stored ---------------------------------------------------------------------------------------------------


def test_it_is_described_and_restored() -> None:
    text = message("in_grid", problem=message("one_of", known=["a", "b"], got="'c'"), cell=2)
    wire = json.loads(json.dumps(serialize(text)))
    assert wire == {
        "id": "in_grid",
        "params": {
            "problem": {
                "id": "one_of",
                "params": {"known": ["a", "b"], "got": "'c'"},
                "message": "must be one of a, b (got 'c').",
            },
            "cell": 2,
        },
    }
    back = deserialize(str(text), wire)
    assert back == text
    assert translate("zh", back) == translate("zh", text)


def deep(levels: int) -> dict[str, object]:
    return {"id": "verbatim", "params": {"text": deep(levels - 1) if levels else "x"}, "message": "x"}


@pytest.mark.parametrize(
    "wire",
    [
        None,
        "text",
        [],
        {},
        {"id": "no such id", "params": {}},
        {"id": "range", "params": {"low": 1}},
        {"id": "range", "params": [1]},
        {"id": "range", "params": None},
        {"id": "pixels", "params": {"most": "many", "model": "a", "got": "b"}},
        {"id": 7, "params": {}},
        deep(MAX_NESTED + 2),
    ],
)
def test_what_this_program_does_not_know_keeps_its_text(wire: object) -> None:
    back = deserialize("as it was said", wire)
    assert back == "as it was said"
    assert back.id == "verbatim"
    assert translate("zh", back) == "as it was said"


def test_a_text_without_id_is_described_as_verbatim() -> None:
    assert serialize("as it is") == {"id": "verbatim", "params": {"text": "as it is"}}
    assert verbatim(result := message("text")) is result


def test_every_text_of_a_message_can_be_changed() -> None:
    result = message("storage_held", problem=message("storage_fault", file="/home/me/x", reason="r", remedy="y"))
    relative = map_params(result, lambda text: text.replace("/home/me/", ""))
    assert isinstance(relative, Message)
    assert relative == "x cannot be used (r). y The queue continues by itself."
    assert relative.params["problem"].params["file"] == "x"
