"""The import of Gradio is shortened for the tested version only, and the stand-ins fit that version."""

import ast
import importlib.util
from pathlib import Path

import pytest

from diffusion_local.web.gradio_compat import TESTED, imports


def functions(module: str) -> dict[str, list[str]]:
    """The functions in a module's source, which is not executed, with the names of their parameters."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return {node.name: [each.arg for each in node.args.args] for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("installed", "shortened"), [(TESTED, True), ("6.99.0", False)])
def test_another_version_is_imported_as_it_is(monkeypatch: pytest.MonkeyPatch, installed: str, shortened: bool) -> None:
    changed: list[str] = []
    monkeypatch.setattr(imports, "version", lambda name: installed)
    for name in ("defer_import", "import_with_stand_ins", "replace_at_import"):
        monkeypatch.setattr(imports, name, lambda module, *_, **__: changed.append(module))
    assert imports.shorten_import() == shortened
    assert bool(changed) == shortened


def test_the_stand_ins_replace_functions_that_exist() -> None:
    assert "create_or_modify_pyi" in functions("gradio.component_meta")
    assert functions("gradio.component_meta")["create_or_modify_pyi"] == ["component_class", "class_name", "events"]
    assert {"_condense_info", "generate_cli_snippet"} <= set(functions("hf_gradio.cli"))
