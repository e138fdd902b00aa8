"""Reads the tensors that a PyTorch file (.pt, .pth, .ckpt, .bin) declares, without unpickling it.

Such a file is a pickle: a small program that builds objects and can call any function. This module only interprets the
instructions (from ``pickletools``), with placeholders for everything but containers, texts, numbers and tensors, so no
code of the file runs. ``calls`` are the functions that it would call other than those that build tensors; a file with
any is refused.
"""

import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import Message, message
from diffusion_local.models.headers import PICKLE, Header, Tensor, checked_name, read_shape, truncated

MAX_PROGRAM, MAX_STEPS, MAX_DEPTH = 16_000_000, 4_000_000, 12
STORAGE_TYPES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "UntypedStorage": "U8",
}  # fmt: skip
#: Functions and classes allowed when only weights are loaded: PyTorch's own, and those in ``engine.tensors``.
HARMLESS_GLOBALS = {
    "collections OrderedDict", "torch Size", "torch device", "torch.nn.parameter Parameter",
    "torch._utils _rebuild_parameter", "torch._tensor _rebuild_from_type_v2", "torch Tensor",
    "torch.serialization _get_layout", "numpy.core.multiarray scalar", "numpy dtype", "_codecs encode",
    "numpy._core.multiarray scalar", "builtins set", "__builtin__ set", "torch _utils", "numpy.dtypes Float64DType",
    "torch float16", "torch float32", "torch bfloat16", "torch float8_e4m3fn", "torch float8_e5m2",
    "collections defaultdict", "builtins dict", "__builtin__ dict",
}  # fmt: skip
#: Classes of settings in checkpoints, which are loaded as empty stand-ins.
SETTINGS_CLASSES = (
    "argparse Namespace", "omegaconf.listconfig ListConfig", "omegaconf.dictconfig DictConfig",
    "omegaconf.base ContainerMetadata", "omegaconf.base Metadata", "omegaconf.nodes AnyNode", "typing Any",
    "pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint",
)  # fmt: skip
HARMLESS_GLOBALS.update(SETTINGS_CLASSES)
#: Kinds of files that store a whole program, by the start of a function that they call.
PROGRAM_CALLS = (
    ("__torch__.", "a TorchScript program"),
    ("ultralytics.", "a network that finds objects (YOLO)"), ("models.yolo.", "a network that finds objects (YOLO)"),
)  # fmt: skip
REBUILDS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_tensor")
#: Keys under which the dictionary of weights is nested in another one.
OUTER = ("state_dict", "params", "params_ema", "model", "module", "net")


@dataclass(slots=True)
class Name:
    """A global that the program looks up, such as ``os system``."""

    name: str


@dataclass(slots=True)
class PickledStorage:
    dtype: str


@dataclass(slots=True)
class Unknown:
    """The result of a call; ``parts``: its arguments, which may contain tensors."""

    parts: Any = None


@dataclass(slots=True)
class Program:
    """The objects that a pickle would build, and the functions it would call."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)


MARK = object()


def read_pickle(path: Path, name: str = "") -> tuple[Header, tuple[str, ...]]:
    """(header, sorted names of functions that the file would call other than those that build tensors).

    Raises ModelUnavailable, naming the file, if it is missing, damaged or truncated.
    """
    name = name or path.name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            text = zipped_program(path) if zipped else file.read(MAX_PROGRAM)
    except FileNotFoundError:
        raise ModelUnavailable(message("model_file_missing", name=name)) from None
    except (zipfile.BadZipFile, EOFError):
        raise ModelUnavailable(truncated(name)) from None
    except OSError as error:
        raise ModelUnavailable(message("file_unreadable", name=name, error=error.strerror)) from None
    except KeyError:  # a zip archive without a pickle
        raise ModelUnavailable(message("file_archive", name=name, kind="ZIP")) from None
    except (ValueError, NotImplementedError, RuntimeError):
        text = b""
    calls: set[str] = set()
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    try:
        # The old format is four pickles in a row: a magic number, a version, facts about the machine, the objects.
        for built, called in programs(text, 1 if zipped else 4):
            calls |= called
            collect(built, "", tensors, metadata, set())
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        if not tensors and not calls:
            raise ModelUnavailable(message("file_pickle_damaged", name=name)) from None
    return Header(tensors, metadata, size, PICKLE, path), tuple(sorted(calls))


def calls_problem(name: str, calls: tuple[str, ...]) -> Message | None:
    """The message about a pickle file that would call functions; None if it calls none."""
    if not calls:
        return None
    kind = next((title for start, title in PROGRAM_CALLS if any(each.startswith(start) for each in calls)), "")
    if kind:
        return message("file_program", name=name, kind=kind, calls=calls[0])
    return message("file_calls", name=name, calls=", ".join(calls[:3]))


def zipped_program(path: Path) -> bytes:
    """The pickle in a zip archive as PyTorch writes it. Raises KeyError if there is none."""
    with zipfile.ZipFile(path) as archive:
        entry = next((each for each in archive.infolist() if each.filename.endswith("data.pkl")), None)
        if entry is None:
            raise KeyError("data.pkl")
        if entry.file_size > MAX_PROGRAM:
            raise ValueError("too long")
        with archive.open(entry) as file:
            return file.read(MAX_PROGRAM)


def programs(text: bytes, most: int) -> Iterator[tuple[Any, set[str]]]:
    """(object, called names) of each of up to ``most`` consecutive pickles."""
    content, steps = BytesIO(text), 0
    for _ in range(most):
        if content.tell() >= len(text):
            return
        program = Program()
        for code, argument, _ in pickletools.genops(content):
            steps += 1
            if steps > MAX_STEPS:
                raise ValueError("too many steps")
            execute(program, code.name, argument)
        yield (program.stack[-1] if program.stack else None), program.calls


def execute(program: Program, code: str, argument: Any) -> None:
    """Execute one instruction."""
    stack, memo = program.stack, program.memo
    match code:
        case "PROTO" | "FRAME" | "STOP" | "NEXT_BUFFER" | "READONLY_BUFFER":
            pass
        case "MARK":
            stack.append(MARK)
        case "EMPTY_DICT":
            stack.append({})
        case "EMPTY_LIST" | "EMPTY_SET":
            stack.append([])
        case "EMPTY_TUPLE":
            stack.append(())
        case "NONE":
            stack.append(None)
        case "NEWTRUE" | "NEWFALSE":
            stack.append(code == "NEWTRUE")
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            count = int(code[-1])
            stack[-count:] = [tuple(stack[-count:])]
        case "TUPLE" | "FROZENSET":
            stack.append(tuple(pop_to_mark(stack)))
        case "LIST":
            stack.append(pop_to_mark(stack))
        case "DICT":
            items = pop_to_mark(stack)
            stack.append(dict(pairs(items)))
        case "GLOBAL":
            resolve_global(program, str(argument))
        case "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            resolve_global(program, f"{module} {name}")
        case "INST":
            pop_to_mark(stack)
            resolve_global(program, str(argument))
        case "OBJ":
            stack.append(Unknown(pop_to_mark(stack)[1:]))
        case "REDUCE" | "NEWOBJ":
            arguments, called = stack.pop(), stack.pop()
            stack.append(call(called, arguments))
        case "NEWOBJ_EX":
            del stack[-3:]
            stack.append(Unknown())
        case "BUILD":
            stack.pop()
        case "BINPERSID":
            stack.append(storage_of(stack.pop()))
        case "PERSID" | "EXT1" | "EXT2" | "EXT4":
            stack.append(Unknown())
        case "BINPUT" | "LONG_BINPUT" | "PUT":
            memo[int(argument)] = stack[-1]
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "BINGET" | "LONG_BINGET" | "GET":
            stack.append(memo[int(argument)])
        case "POP":
            stack.pop()
        case "POP_MARK":
            pop_to_mark(stack)
        case "DUP":
            stack.append(stack[-1])
        case "SETITEM":
            value, key = stack.pop(), stack.pop()
            put(stack[-1], [key, value])
        case "SETITEMS":
            items = pop_to_mark(stack)
            put(stack[-1], items)
        case "APPEND":
            value = stack.pop()
            extend(stack[-1], [value])
        case "APPENDS" | "ADDITEMS":
            items = pop_to_mark(stack)
            extend(stack[-1], items)
        case _:
            stack.append(argument)


def pop_to_mark(stack: list[Any]) -> list[Any]:
    """Pop the items above the last mark, and the mark."""
    for at in range(len(stack) - 1, -1, -1):
        if stack[at] is MARK:
            items = stack[at + 1 :]
            del stack[at:]
            return items
    raise IndexError("no mark")


def pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return ((items[at], items[at + 1]) for at in range(0, len(items) - 1, 2) if isinstance(items[at], str | int))


def put(target: Any, items: list[Any]) -> None:
    if isinstance(target, Unknown):
        target.parts = target.parts if isinstance(target.parts, dict) else {}
        target = target.parts
    if isinstance(target, dict):
        target.update(pairs(items))


def extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)


def resolve_global(program: Program, name: str) -> None:
    module, _, last = name.partition(" ")
    storage = module in ("torch", "torch.storage") and last in STORAGE_TYPES
    if not storage and name not in HARMLESS_GLOBALS and name not in REBUILDS:
        program.calls.add(f"{module}.{last}")
    program.stack.append(Name(name))


def storage_of(identity: Any) -> Any:
    """The storage of a persistent id ("storage", type, key, location, count), whose values are stored elsewhere."""
    if isinstance(identity, tuple) and len(identity) > 1 and isinstance(identity[1], Name):
        return PickledStorage(STORAGE_TYPES.get(identity[1].name.rpartition(" ")[2], "U8"))
    return Unknown()


def call(called: Any, arguments: Any) -> Any:
    name = called.name if isinstance(called, Name) else ""
    if (
        name in REBUILDS
        and isinstance(arguments, tuple)
        and len(arguments) > 2
        and isinstance(arguments[0], PickledStorage)
    ):
        shape = arguments[2]
        return Tensor(arguments[0].dtype, read_shape(list(shape) if isinstance(shape, tuple) else []))
    if name == "torch._utils _rebuild_parameter" and isinstance(arguments, tuple) and arguments:
        return arguments[0]
    if name == "collections OrderedDict":
        return {}
    return Unknown(arguments if isinstance(arguments, tuple) else None)


def collect(
    built: Any,
    prefix: str,
    tensors: dict[str, Any],
    metadata: dict[str, str],
    seen: set[int],
    depth: int = 0,
    leaf: type = Tensor,
) -> None:
    """Collect tensors (of the type ``leaf``) by name; names of nested dictionaries are joined by dots.

    Wrappers such as ``state_dict`` are not part of the names, since no program keeps them; items of lists are named by
    their numbers. An object that occurs more than once is collected once.
    """
    if isinstance(built, Unknown):
        built = built.parts
    if isinstance(built, list | tuple) and depth:
        built = dict(enumerate(built))
    if not isinstance(built, dict) or depth > MAX_DEPTH or id(built) in seen:
        return
    seen.add(id(built))
    for key, value in built.items():
        name = f"{prefix}{key}"
        if isinstance(value, leaf):
            tensors[checked_name(name)] = value
        elif isinstance(value, dict | list | tuple | Unknown):
            outer = depth == 0 and key in OUTER
            collect(value, prefix if outer else f"{name}.", tensors, metadata, seen, depth + 1, leaf)
        elif isinstance(value, str | int | float) and depth == 0:
            metadata[name] = str(value)[:1000]
