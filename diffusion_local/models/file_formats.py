"""Opens the header of a weight file, whose format is detected from its content."""

from dataclasses import dataclass
from pathlib import Path, PurePath

from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.models.gguf import MAGIC, read_gguf
from diffusion_local.models.headers import Header, read_header, truncated
from diffusion_local.models.pickled import read_pickle

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
#: Formats of other programs, recognised by their magic bytes.
FOREIGN_SUFFIXES = (".onnx", ".engine", ".trt", ".plan")
#: Suffixes of weight files, in order of preference; the scan also reads those of other programs.
WEIGHT_SUFFIXES = (*SAFETENSORS, ".gguf", *PICKLES)
KNOWN_SUFFIXES = (*WEIGHT_SUFFIXES, *FOREIGN_SUFFIXES)
POINTER = b"version https://git-lfs"
WEB = (b"<!--", b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")
#: First bytes of other kinds of files that may be stored under the name of a model.
ARCHIVES = ((b"Rar!", "RAR"), (b"7z\xbc\xaf\x27\x1c", "7z"), (b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"\xfd7zXZ", "xz"))  # fmt: skip
FOREIGN_SIGNATURES = ((b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF"), (b"%PDF", "PDF"),
    (b"\x89HDF", "HDF5"), (b"RIFF", "WebP or WAV"), (b"\0\0\0\1Bud1", "macOS folder settings"),
    (b"d8:announce", "torrent"),
    (b"MZ\x90\x00", "Windows program"), (b"\x7fELF", "Linux program"), (b"ID3", "MP3"),
    (b"SQLite format 3", "SQLite database, as Draw Things keeps its models"))  # fmt: skip
#: Files up to this size in bytes are never weights, but texts that were saved under a model's name.
SMALL = 4096


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A header, and the functions that a pickle would call other than those that build tensors.

    Files with such ``calls`` are never loaded.
    """

    header: Header
    calls: tuple[str, ...] = ()


def open_header(path: Path, name: str = "") -> OpenedFile:
    """Open a header. Raises ModelUnavailable, naming the kind of file, if it has no weights or is incomplete.

    ``name``: the file name for messages and for the suffix, if it is not that of ``path``.
    """
    name = name or path.name
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        raise ModelUnavailable(message("model_file_missing", name=name)) from None
    except OSError as error:
        raise ModelUnavailable(message("file_unreadable", name=name, error=error.strerror)) from None
    refuse_foreign(path, name, start)
    if start[:4] == MAGIC:
        return OpenedFile(read_gguf(path, name))
    if is_pickle(path, start):
        header, calls = read_pickle(path, name)
        return OpenedFile(header, calls)
    return OpenedFile(read_header(path, name))


def holds_pickle(path: Path) -> bool:
    """Whether a file is a pickle, whatever its suffix. Raises OSError."""
    with path.open("rb") as file:
        return is_pickle(path, file.read(64))


def is_pickle(path: Path, start: bytes) -> bool:
    """Whether a file that starts with these bytes is a pickle.

    A safetensors file begins with the length of its header, whose bytes may equal a pickle's signature.
    """
    if start[:2] != b"PK" and start[:1] != b"\x80":
        return False
    return int.from_bytes(start[:8], "little") > path.stat().st_size - 8


def refuse_foreign(path: Path, name: str, start: bytes) -> None:
    """Raise ModelUnavailable for files without weights or in a foreign format."""
    length = int.from_bytes(start[:8], "little")
    if (
        start[8:9] == b"{" and 0 < length <= path.stat().st_size - 8
    ):  # safetensors, whose first bytes are a number and may equal any signature
        return
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        raise ModelUnavailable(message("file_empty", name=name))
    if start.startswith(POINTER):
        raise ModelUnavailable(message("file_pointer", name=name))
    if text.startswith(WEB):
        raise ModelUnavailable(message("file_web", name=name))
    if text.startswith((b"{", b"[")):
        raise ModelUnavailable(message("file_json", name=name))
    for magic, kind in ARCHIVES:
        if start.startswith(magic):
            raise ModelUnavailable(message("file_archive", name=name, kind=kind))
    for magic, kind in FOREIGN_SIGNATURES:
        if start.startswith(magic):
            raise ModelUnavailable(message("file_of_other_kind", name=name, kind=kind))
    if start[4:8] == b"ftyp":
        raise ModelUnavailable(message("file_of_other_kind", name=name, kind="MP4"))
    suffix = PurePath(name).suffix.lower()
    if suffix == ".bin" and path.with_suffix(".xml").exists():
        raise ModelUnavailable(message("file_openvino", name=name))
    if suffix in (".engine", ".trt", ".plan") or start[:4] in (b"ftrt", b"ptrt"):
        raise ModelUnavailable(message("file_engine", name=name))
    if suffix == ".onnx":
        raise ModelUnavailable(message("file_onnx", name=name))
    if not any(start):
        raise ModelUnavailable(message("file_zeros", name=name))
    if suffix == ".gguf" and start[:4] != MAGIC:
        raise ModelUnavailable(message("file_gguf_damaged", name=name))
    if len(start) < 8:
        raise ModelUnavailable(truncated(name))
    if path.stat().st_size <= SMALL and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        raise ModelUnavailable(message("file_text", name=name))
    if suffix in PICKLES and not is_pickle(path, start):
        raise ModelUnavailable(message("file_pickle_damaged", name=name))
