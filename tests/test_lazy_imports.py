"""Deferred imports load nothing before the first use, and then all; hidden ones fail, and come back."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_local.lazy_imports import (
    defer_import,
    forwarding_module,
    hidden_imports,
    import_with_stand_ins,
    replace_at_import,
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "heavy_example").mkdir()
    (tmp_path / "heavy_example" / "__init__.py").write_text("import heavy_example.part\nanswer = 42\n")
    (tmp_path / "heavy_example" / "part.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield "heavy_example"
    for name in ("heavy_example", "heavy_example.part"):
        sys.modules.pop(name, None)


def test_a_deferred_package_is_loaded_at_its_first_use(package: str) -> None:
    defer_import(package)
    import heavy_example  # type: ignore[import-not-found]

    assert f"{package}.part" not in sys.modules
    assert not hasattr(heavy_example, "__warningregistry__")
    assert f"{package}.part" not in sys.modules
    assert heavy_example.answer == 42
    assert f"{package}.part" in sys.modules


def test_a_submodule_may_come_first(package: str) -> None:
    defer_import(package)
    import heavy_example.part  # type: ignore[import-not-found]

    assert heavy_example.answer == 42


def test_a_package_that_is_loaded_or_missing_is_left_alone(package: str) -> None:
    import heavy_example

    defer_import(package)
    assert sys.modules[package] is heavy_example
    defer_import("no_such_package_at_all")
    assert "no_such_package_at_all" not in sys.modules


def test_a_hidden_package_is_there_again_afterwards(package: str) -> None:
    defer_import(package)
    deferred = sys.modules[package]
    with hidden_imports(package, "no_such_package_at_all"), pytest.raises(ImportError):
        import heavy_example  # noqa: F401
    assert sys.modules[package] is deferred
    assert "no_such_package_at_all" not in sys.modules


def test_a_function_is_replaced_before_the_module_that_imports_it_reads_it(package: str, tmp_path: Path) -> None:
    folder = tmp_path / package
    (folder / "part.py").write_text("def slow(): return 'slow'\ndef other(): return slow()\n")
    (folder / "__init__.py").write_text("from heavy_example.part import other, slow\nresult = slow()\n")
    finders = list(sys.meta_path)
    replace_at_import(f"{package}.part", slow=lambda: "replaced")
    import heavy_example

    assert (heavy_example.result, heavy_example.other()) == ("replaced", "replaced")
    assert sys.meta_path == finders
    replace_at_import(f"{package}.part", slow=None)  # it is imported
    assert sys.meta_path == finders


def test_gradio_writes_no_stubs_at_import() -> None:
    from gradio import blocks_events, component_meta  # tests/conftest.py has imported diffusion_local.web

    assert component_meta.create_or_modify_pyi is blocks_events.create_or_modify_pyi
    assert component_meta.create_or_modify_pyi.__module__ == "diffusion_local.web.gradio_compat.imports"


def test_a_placeholder_does_not_load_a_package_and_goes_when_it_is_loaded(package: str) -> None:
    defer_import(package, "Answer")
    import heavy_example  # type: ignore[import-not-found]

    assert not isinstance(42, heavy_example.Answer)
    assert f"{package}.part" not in sys.modules
    assert heavy_example.answer == 42
    with pytest.raises(AttributeError):
        heavy_example.Answer  # noqa: B018


def test_a_module_is_imported_once_with_stand_ins(package: str, tmp_path: Path) -> None:
    (tmp_path / "user_of_it.py").write_text(
        "try:\n    import heavy_example\nexcept ImportError:\n    heavy_example = None\n"
        "from heavy_tools import double\n"
    )
    (tmp_path / "heavy_tools.py").write_text("def double(value):\n    return 2 * value\n")
    stand_ins = {package: None, "heavy_tools": forwarding_module("heavy_tools", "double")}
    before = list(sys.meta_path)
    import_with_stand_ins("user_of_it", stand_ins)
    try:
        import user_of_it  # type: ignore[import-not-found]

        assert sys.meta_path == before
        assert user_of_it.heavy_example is None
        assert "heavy_tools" not in sys.modules
        assert user_of_it.double(21) == 42
        assert "heavy_tools" in sys.modules
        import heavy_example

        assert heavy_example.answer == 42
    finally:
        for name in ("user_of_it", "heavy_tools"):
            sys.modules.pop(name, None)
