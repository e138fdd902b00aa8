"""Files that are no models, or not whole ones, say what they are; hostile ones do so soon."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import translate
from diffusion_local.models import integrity
from diffusion_local.models.assembly import Pool
from diffusion_local.models.directories import bundled_configs
from diffusion_local.models.identify import read_file
from tests.models.files import EMBEDDING, LORA, SD1, UPSCALER, Trap, read_adapter, read_checkpoint
from tests.models.headers import tensors_of, write, write_gguf


def raw(header: Any, tail: int = 64) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * tail


def tensor(begin: int, end: int, shape: list[Any], dtype: str = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.safetensors", b"", "a.safetensors is empty"),
        ("a.safetensors", b"\0" * 4096, "begins with zeros"),
        ("a.safetensors", b"<!DOCTYPE html><html>sign in", "is a web page"),
        ("a.gguf", b"  <html>", "is a web page"),
        ("a.safetensors", b'{"error": "not found"}', "is JSON text"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        ("a.ckpt", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("a.safetensors", b"Access to model is restricted. Visit the page to ask.", "is a text"),
        ("a.engine", b"ftrt" + b"\x01" * 80, "TensorRT engine"),
        ("a.plan", b"\x01" * 80, "TensorRT engine"),
        ("a.onnx", b"\x08\x07\x12\x07pytorch" * 9, "ONNX"),
        ("a.gguf", b"GGUX" + b"\x01" * 80, "not a GGUF file"),
        ("a.gguf", b"GGUF\x03\0\0\0" + struct.pack("<QQ", 1 << 60, 1), "not a GGUF file"),
        ("a.gguf", b"GGUF\x03\0\0\0" + struct.pack("<QQ", 10, 1 << 60), "not a GGUF file"),
        ("a.gguf", b"GGUF\x03\0\0\0" + struct.pack("<QQQ", 1, 1, 1 << 62), "not a GGUF file"),
        ("a.gguf", b"GGUF\x03\0\0\0" + struct.pack("<QQ", 3, 2), "cut short"),
        ("a.gguf", b"GGUF\x63\0\0\0" + struct.pack("<QQ", 3, 2), "not a GGUF file"),
        ("a.pth", b"PK\x03\x04" + b"\x01" * 80, "cut short"),
        ("a.pth", b"\x80\x02" + b"\xff" * 80, "not a PyTorch file"),
        ("a.pt", b"\x01\x02\x03\x04" * 20, "not a PyTorch file"),
        ("a.safetensors", raw({"x": tensor(0, 8, [2, 2])}, 4), "cut short"),
        ("a.safetensors", raw({"x": tensor(0, 8, [2, 3])}), "damaged"),
        ("a.safetensors", raw({"x": tensor(0, 8, [4]), "y": tensor(4, 12, [4])}), "damaged"),
        ("a.safetensors", raw({"x": tensor(8, 16, [4])}, 16), "damaged"),
        ("a.safetensors", raw({"x": tensor(0, 8, [4])}, 16), "damaged"),
        ("a.safetensors", raw(b'{"\\ud800": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}', 8), "damaged"),
        ("a.safetensors", raw({"x": tensor(0, 8, [4]), "y": tensor(16, 24, [4])}, 24), "damaged"),
        ("a.safetensors", raw({"__metadata__": {"steps": 4}, "x": tensor(0, 8, [4])}, 8), "damaged"),
        ("a.safetensors", raw({"__metadata__": [], "x": tensor(0, 8, [4])}, 8), "damaged"),
        ("a.safetensors", raw({"x": tensor(0, 8, [4], "F7")}, 8), "damaged"),
        ("a.safetensors", raw({"x": tensor(8, 0, [4])}), "damaged"),
        ("a.safetensors", raw({"x": tensor(-8, 0, [4])}), "damaged"),
        ("a.safetensors", raw({"x": tensor(0, 8, [1] * 17)}), "damaged"),
        ("a.safetensors", raw({"x": tensor(0, 8, [2**41])}), "damaged"),
        ("a.safetensors", raw({"x": tensor(0, 8, [2.5])}), "damaged"),
        ("a.safetensors", raw({"x": tensor(0, 8, [True, 4])}), "damaged"),
        ("a.safetensors", raw({"x": {"dtype": "F16"}}), "damaged"),
        ("a.safetensors", raw(b"[" * 200_000), "damaged"),
        ("a.safetensors", raw(b'{"__metadata__": 3, "x": 4}'), "damaged"),
        ("a.safetensors", (2**63).to_bytes(8, "little") + b"{}" * 40, "damaged"),
    ],
)
def test_what_is_no_model_says_what_it_is(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelUnavailable) as problem:
        read_file(tmp_path / name)
    assert told in problem.value.message
    assert translate("zh", problem.value.message) != problem.value.message


HOSTILE = """
import sys
from pathlib import Path
from tests.models.files import read_checkpoint
for path in sorted(Path(sys.argv[1]).iterdir()):
    read_checkpoint(path, [])
print("done", [name for name in ("torch", "diffusers", "transformers", "numpy") if name in sys.modules])
"""


@pytest.mark.slow
def test_hostile_headers_end_soon_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    many = {f"x{number}": tensor(0, 0, [0]) for number in range(250_000)}
    (tmp_path / "many.safetensors").write_bytes(raw(many))
    (tmp_path / "deep.safetensors").write_bytes(raw(b'{"a":' * 50_000))
    long = {"a" * 500_000 + str(number): tensor(0, 0, [0]) for number in range(20)}
    (tmp_path / "long.safetensors").write_bytes(raw(long))
    dotted = {".".join("a" * 20_000): tensor(0, 8, [4])}
    (tmp_path / "dotted.safetensors").write_bytes(raw(dotted))
    strings = struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 3_999_999) + b"\0" * 8_000_000
    (tmp_path / "array.gguf").write_bytes(b"GGUF\x03\0\0\0" + struct.pack("<QQ", 1, 1) + strings)
    nested = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50_000
    (tmp_path / "nested.gguf").write_bytes(b"GGUF\x03\0\0\0" + struct.pack("<QQ", 1, 1) + nested)
    # a list that holds itself twice, again and again
    doubling = b"\x80\x02]" + b"2q\x000h\x00a" * 60_000 + b"."
    (tmp_path / "doubling.pt").write_bytes(doubling)
    (tmp_path / "endless.pt").write_bytes(b"\x80\x02" + b"}" * 15_000_000)
    text = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(tmp_path)], capture_output=True, text=True, timeout=300, check=True
    )
    assert text.stdout.strip() == "done []"


def saved(path: Path, shapes: dict[str, tuple[int, ...]], wrap: str = "", old: bool = False) -> Path:
    """A PyTorch file of these tensors, which take no room in it beyond one number each."""
    state: Any = {name: torch.zeros(1, dtype=torch.float16).expand(shape or (1,)) for name, shape in shapes.items()}
    torch.save({wrap: state, "epoch": 3} if wrap else state, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(
    ("shapes", "wrap", "kind", "state"),
    [
        (UPSCALER, "params_ema", "upscaler", "ready"),
        (UPSCALER, "", "upscaler", "ready"),
        (LORA, "", "lora", "ready"),
        (EMBEDDING, "", "embedding", "ready"),
        ({"*": (4, 768)}, "string_to_param", "embedding", "ready"),
    ],
)
def test_a_pytorch_file_is_told_without_being_opened(
    shapes: dict[str, tuple[int, ...]], wrap: str, kind: str, state: str, old: bool, tmp_path: Path
) -> None:
    path = saved(tmp_path / "x.pth", shapes, wrap, old)
    probe = read_file(path).probe
    assert (probe.kind, probe.container, probe.precision, probe.calls) == (kind, "pickle", "fp16", ())
    assert read_adapter(path, kind).state == state


def test_a_checkpoint_in_a_pickle_is_ready(tmp_path: Path) -> None:
    found = read_checkpoint(saved(tmp_path / "model.ckpt", SD1, "state_dict"), bundled_configs())
    assert (found.state, found.architecture, found.problem) == ("ready", "sd1", "")


def test_parts_that_cannot_be_loaded_complete_no_model(tmp_path: Path) -> None:
    """A text encoder in a pickle that would run code, and one in a scheme of quantisation that is not read."""
    t5 = {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(1), "shared.weight": torch.zeros(1, 4096)}
    torch.save({"state_dict": t5, "callbacks": Trap(tmp_path / "sprung")}, tmp_path / "t5.pth")
    scaled = tensors_of("models/te/t5xxl_fp16.safetensors")
    name = "encoder.block.0.layer.0.SelfAttention.q.weight_scale_2"
    write(tmp_path / "t5xxl_nvfp4.safetensors", scaled | {name: ("F32", ())})
    pool = Pool()
    for file in ("t5.pth", "t5xxl_nvfp4.safetensors"):
        probe = read_file(tmp_path / file).probe
        assert probe.id == "t5_xxl"
        pool.add_file(tmp_path / file, probe)
    assert pool.best("t5_xxl", "text_encoder") is None


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", ["x.pt", "x.ckpt", "x.safetensors"])
def test_a_pickle_that_would_run_code_is_named_and_not_opened(name: str, old: bool, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    content = {"state_dict": {"a": torch.zeros(2)}, "callbacks": Trap(trap)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not old)
    found = read_checkpoint(tmp_path / name, [])
    assert not trap.exists()
    assert found.state == "unsupported"
    assert "would run code when opened (posix.system)" in found.problem


def test_a_gguf_that_is_cut_short_says_so(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "flux.gguf", tensors_of("models/flux1-schnell.safetensors"), "flux")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)
    assert "cut short" in read_checkpoint(path, []).problem


@pytest.mark.parametrize(
    ("architecture", "words_", "width", "part"),
    [
        ("t5", 32128, 4096, "t5_xxl"), ("t5encoder", 256384, 4096, "umt5_xxl"), ("qwen3", 151936, 2560, "qwen3_4b"),
        ("qwen3", 151936, 4096, "qwen3_8b"), ("qwen2vl", 152064, 3584, "qwen25_vl_7b"), ("gemma2", 256000, 2304,
            "gemma2_2b"),
        ("llama", 128256, 4096, "llama31_8b"), ("llama", 131072, 5120, "mistral_small"),
    ],
)  # fmt: skip
def test_text_encoders_as_gguf(architecture: str, words_: int, width: int, part: str, tmp_path: Path) -> None:
    tensors = {"token_embd.weight": ["F16", [words_, width]], "blk.0.attn_q.weight": ["F16", [width, width]]}
    path = write_gguf(tmp_path / "x.gguf", tensors, architecture, "Q4_0")
    probe = read_file(path).probe
    assert (probe.kind, probe.id, probe.precision) == ("text_encoder", part, "Q4_0")


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "unet/config.json", "model_index.json"])
def test_a_pointer_in_a_folder_of_a_model_is_named(file: str, tmp_path: Path) -> None:
    contents = {
        "model_index.json": json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}).encode(),
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": raw({"x": tensor(0, 8, [4])}),
        file: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    }
    (tmp_path / "unet").mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelUnavailable, match=f"{file} is a Git LFS pointer"):
        integrity.check(tmp_path)
