"""What depends on the inside of Gradio: a version that differs there is refused, by name."""

from importlib.metadata import version
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from gradio import processing_utils
from gradio.state_holder import SessionState

from diffusion_local.actor import NOBODY
from diffusion_local.web.gradio_compat import TESTED, patches
from diffusion_local.web.gradio_compat.patches import UnsupportedGradio
from tests.support import REPOSITORY


def prepared() -> gr.Blocks:
    with gr.Blocks() as blocks:
        patches.prepare(blocks, (), 10)
        gr.Textbox()
    return blocks


def test_the_tested_version_is_the_pinned_and_installed_one() -> None:
    assert version("gradio") == TESTED
    assert f"gradio=={TESTED}" in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (gr.Blocks, "process_api"),
        (gr.Blocks, "validate_inputs"),
        (gr.Blocks, "postprocess_data"),
        (processing_utils, "_check_allowed"),
    ],
)
def test_a_function_that_takes_other_parameters_is_refused(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    monkeypatch.setattr(owner, name, lambda something, new: None)
    with pytest.raises(UnsupportedGradio, match=f"{name}.*pip install gradio=={TESTED}"):
        prepared()


def test_a_function_that_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(processing_utils, "_check_allowed")
    with pytest.raises(UnsupportedGradio, match="_check_allowed"):
        prepared()


def test_a_caller_that_goes_past_a_patch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def call_process_api(app: Any, body: Any) -> None:
        """Calls something else."""

    monkeypatch.setattr(patches.route_utils, "call_process_api", call_process_api)
    with pytest.raises(UnsupportedGradio, match="call_process_api"):
        prepared()


def test_another_version_that_fits_is_only_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gr, "__version__", "6.99.0")
    prepared()
    assert "Gradio 6.99.0 is installed; tested with" in caplog.text


def test_an_application_that_is_mounted_otherwise_is_refused() -> None:
    with pytest.raises(UnsupportedGradio, match="mounted"):
        patches.enclose(FastAPI(), prepared(), lambda app: app)


def test_gradios_own_check_of_paths_is_on(tmp_path: Any) -> None:
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError

    LocalContext.blocks.set(prepared())
    with pytest.raises(InvalidPathError):
        processing_utils._check_allowed("/etc/passwd", check_in_upload_folder=True)


@pytest.mark.anyio
async def test_a_handler_that_returns_a_file_is_an_error() -> None:
    blocks = prepared()
    with pytest.raises(RuntimeError, match="returned a file"):
        await blocks.postprocess_data(None, [[{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]], None)


def test_a_request_without_an_account_acts_for_nobody() -> None:
    assert patches.caller(None) is patches.caller([None]) is NOBODY


def test_a_session_keeps_no_copy_of_the_page() -> None:
    with gr.Blocks() as blocks:
        field = gr.Textbox("a long value")
    before = vars(SessionState).get("config_values")
    patches.keep_no_configs()
    try:
        state = SessionState(blocks)
        state._update_value_in_config(field._id, "another")
        state._update_config(field._id)
        state[field._id] = field
        assert dict(state.config_values) == {}
        assert list(state.components) == []
        assert state[field._id] is field
    finally:
        if before is None:
            del SessionState.config_values


@pytest.mark.anyio
async def test_outputs_that_a_handler_skips_are_not_created_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with gr.Blocks() as blocks:
        fields = [gr.Textbox(label=name) for name in "abc"]
        kept = gr.State(1)
        press = gr.Button().click(lambda: None, outputs=[*fields, kept])
    answers: list[list[Any]] = [
        [gr.skip(), "new", gr.update(label="other"), gr.skip()],
        [gr.skip(), gr.skip(), "new", 2],
        [gr.skip(), gr.skip(), gr.skip(), gr.skip()],
    ]
    function = blocks.fns[press["id"] if isinstance(press, dict) else 0]
    usual = [await blocks.postprocess_data(function, each, SessionState(blocks)) for each in answers]
    patches.skip_unchanged(blocks)
    created: list[gr.Textbox] = []
    begin = gr.Textbox.__init__
    monkeypatch.setattr(
        gr.Textbox, "__init__", lambda field, *args, **more: created.append(field) or begin(field, *args, **more)
    )
    state = SessionState(blocks)
    assert [await blocks.postprocess_data(function, each, state) for each in answers] == usual
    assert [each.label for each in created] == ["other"]
    assert state[kept._id] == 2
