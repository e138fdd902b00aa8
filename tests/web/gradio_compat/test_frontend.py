"""The files that Gradio's page loads, found in its build."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from diffusion_local.web.gradio_compat import frontend
from tests.web.conftest import client_of, services_of

KINDS = ("textbox", "dropdown", "slider", "html", "tabs", "tabitem", "row")


def test_the_page_names_every_script_and_has_one_style_sheet(tmp_path_factory: pytest.TempPathFactory) -> None:
    client: TestClient = client_of(services_of(tmp_path_factory))
    files = frontend.frontend(frontend.kinds(client.get("/config").json()))
    html = client.get("/").text
    assert any(each.startswith("Blocks-") for each in files.scripts)
    for name in files.scripts:
        assert f'rel="modulepreload" crossorigin href="assets/{name}"' in html
        assert client.get(f"/assets/{name}").status_code == 200
    enabled = [each for each in html.split("<link ")[1:] if each.startswith('rel="stylesheet" href=')]
    assert len(enabled) == 1
    address = "/" + enabled[0].split('href="')[1].split('"')[0]
    answer = client.get(address)
    assert "immutable" in answer.headers["cache-control"]
    plain = client.get(address, headers={"accept-encoding": "identity"}).text
    assert plain == answer.text
    for name in files.styles:
        assert client.get(f"/assets/{name}").text in plain
    assert client.get("/theme.css").text in plain
    assert "iframeResizer.contentWindow" not in html


def test_each_kind_adds_its_own_files() -> None:
    few, more = frontend.frontend(KINDS), frontend.frontend((*KINDS, "accordion"))
    assert set(few.scripts) < set(more.scripts)
    assert set(few.styles) < set(more.styles)


def test_another_build_is_left_to_find_its_files_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<script src="./other.js"></script>', encoding="utf-8")
    monkeypatch.setattr(frontend, "BUILD", tmp_path)
    config = {"components": [{"type": "only-here"}], "root": "http://studio", "theme_hash": "1"}
    assert frontend.links(config) == ""
