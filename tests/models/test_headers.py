"""Headers of safetensors files: told from pickles by more than two bytes."""

import json
from pathlib import Path

import pytest

from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.headers import read_header


@pytest.mark.parametrize("length", [0x180, 0x4B50])
def test_a_header_may_be_as_long_as_the_first_bytes_of_a_pickle_say(tmp_path: Path, length: int) -> None:
    """128 = 0x80 is a pickle's first byte, 0x4B50 a zip file's."""
    text = json.dumps({"a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}).ljust(length).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 12)
    assert read_header(path).tensors["a"].count == 6


@pytest.mark.parametrize("shape", [[1] * 17, [2**41], [-1]])
def test_a_shape_that_no_tensor_has_is_damage(tmp_path: Path, shape: list[int]) -> None:
    head = json.dumps({"weight": {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    with pytest.raises(ModelUnavailable, match="damaged"):
        read_header(path)
