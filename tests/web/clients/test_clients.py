"""Every call of a client gives what its user expects, with the client's own defaults."""

from pathlib import Path

import pytest

from tests.web.clients.conftest import HERE, told_by
from tests.web.conftest import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

OF_REPLICATE = {
    "ai replicate": 1,
    "ai replicate version": 1,
    "replicate run": True,
    "replicate poll": True,
    "replicate picture": True,
    "replicate files": [True, True, True],
    "replicate stream": ["output", "done"],
    # models, search, collections, trainings, deployments, hardware, predictions: whether there are any
    "replicate lists": [True, True, False, False, False, True, True],
    "replicate cancel": "canceled",
}
IN_NODE = {
    "openai generate": True,
    "openai gpt-image-1": 1,
    "openai stream": "image_generation.completed",
    "openai edit": 1,
    "openai models": "starter",
    "ai openai": 1,
    "ai compatible": 2,
    **{f"{name} at {base}": value for base in ("/v1", "/replicate/v1") for name, value in OF_REPLICATE.items()},
    "gradio": [1, 2, "done", 512, "end"],
    "comfyui": [True, True],
}
IN_PYTHON = {
    "litellm": 1,
    "litellm hd": 1,
    "litellm async": 2,
    "litellm edit": 1,
    "langchain": [True],
    "langchain hd": [True, True],
    "sd-backend probe": "ComfyUiWebservice",
    "sd-backend quick start": [[512, 512]],
    "sd-backend capabilities": [True, True],
    "sd-backend a1111": [[256, 256]] * 2,
    "sd-backend a1111 img2img": [[256, 256]] * 2,
    "sd-backend a1111 inpaint": [[256, 256]],
    "sd-backend a1111 upscale": [[512, 300]],
    "sd-backend comfyui": [[256, 256]] * 2,
}


def test_clients_in_node(site: Site, node: Path, picture: Path) -> None:
    assert told_by(site, "node", "in_node.mjs", site.url, picture, folder=node) == IN_NODE


def test_clients_in_python(site: Site, python: Path, picture: Path, tmp_path: Path) -> None:
    assert told_by(site, python, HERE / "in_python.py", site.url, picture, folder=tmp_path) == IN_PYTHON
