"""Large transformers on small cards: resident or streamed (``block_streaming``), in 16, 8 and 4 bits, at several memory
caps.

Real architectures (``assets/configs``) with random weights, so time and memory are those of real models. torch's
allocator is capped at the memory that a card of that size has left beside the CUDA context and a desktop; this
simulates a small card's memory, but not its speed or its PCIe link. Text encoders are measured separately, because
embeddings are ready before the first step. The most important measurements come first, and each is recorded as soon as
it is made; those beyond the budget are listed under ``not_run``. Rows of an earlier run are kept unless measured again.

    python scripts/bench_precision.py --budget 560
    python scripts/bench_precision.py --budget 560 --models qwen_image
    python scripts/bench_precision.py --budget 200 --models  # only text encoders

It needs torch, diffusers, transformers, accelerate and safetensors, and ``gguf`` for Q8_0. ``--tiny`` runs everything
without a GPU.
"""

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
import transformers
from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from bench_precision_models import (
    CONFIGS,
    ENCODERS,
    FORMS,
    SUBJECTS,
    TINY_ENCODER,
    WORDS,
    build,
    kept_blocks,
    pipeline_of,
    prompt_of,
    streaming,
)
from bench_record import command
from diffusers.utils import logging as diffusers_logging

STEPS, WIDTH = 4, 1024
RESULT = Path(__file__).parent / "results" / "gpu-precision.json"
GIB = 1024**3
CAPS = (8, 12, 16, 24)
#: GiB of a card's memory used by the CUDA context and a desktop.
BESIDE = 1.0
#: The engine's estimate (engine/memory.py): bytes of a step at 1024x1024 and of decoding a tile, and its overheads.
STEP, DECODE = 1024**2 * 300 * 2, 512**2 * 1290 * 2
MARGIN, WORKSPACE = 1.05, 160 * 1024**2
#: Below this share of the estimated room for blocks, none is kept.
LEAST_SHARE_OF_ROOM = 0.3


class Spent(Exception):
    """The time budget is used up."""


class Bench:
    """The results so far, the device and its limits."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.tiny: bool = options.tiny
        self.out: Path = options.out
        self.device = "cpu" if self.tiny else "cuda"
        self.side, self.steps = (32, 2) if self.tiny else (WIDTH, STEPS)
        self.caps = CAPS[:1] if self.tiny else CAPS
        self.ends_at = time.monotonic() + options.budget
        kept = json.loads(self.out.read_text()) if self.out.is_file() and not self.tiny else {}
        self.rows: dict[str, Any] = kept.get("rows", {})
        self.facts = about(self, kept)
        self.planned: list[str] = []

    def row(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run a measurement and write its result or failure. Raises Spent."""
        if time.monotonic() > self.ends_at:
            raise Spent
        began = time.monotonic()
        try:
            found = work()
        except torch.OutOfMemoryError as error:
            print(str(error).partition("If reserved")[0], flush=True)
            found = {"outcome": "out of memory"}
        except Exception as error:  # the next one may still succeed
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"[:300]}
        self.rows[name] = found | {"took": round(time.monotonic() - began, 1)}
        print(name, self.rows[name], flush=True)
        self.write()
        return self.rows[name]

    def write(self) -> None:
        left = [name for name in self.planned if name not in self.rows]
        text = json.dumps(self.facts | {"rows": self.rows, "not_run": left}, indent=2)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(text + "\n")

    @contextmanager
    def capped(self, cap: float) -> Iterator[None]:
        """Limit torch's allocator to the memory of a card of ``cap`` GiB; 0: no limit."""
        self.collect()
        if self.device == "cuda":
            total = torch.cuda.get_device_properties(0).total_memory
            limit = min(1.0, (cap - BESIDE) * GIB / total) if cap else 1.0
            torch.cuda.set_per_process_memory_fraction(limit)
            torch.cuda.reset_peak_memory_stats()
        try:
            yield
        finally:
            if self.device == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0)

    def collect(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def peaks(self) -> dict[str, float]:
        """Peak GiB of tensors, and peak GiB reserved by the allocator."""
        if self.device != "cuda":
            return {"peak_gib": 0.0, "reserved_gib": 0.0}
        return {
            "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
            "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
        }


# -- models ------------------------------------------------------------------------------------------------------------


# -- measurements ------------------------------------------------------------------------------------------------------


class Drawing:
    """Draws pictures with one model in one format, and measures their time and memory."""

    def __init__(self, bench: Bench, name: str, form: str) -> None:
        self.bench, self.subject = bench, SUBJECTS[name]
        self.pipe = pipeline_of(self.subject, bench.device, bench.tiny)
        FORMS[form](self.pipe.transformer)
        self._compact()
        self.prompt = prompt_of(self.subject, self.pipe, bench.device, bench.tiny)
        self.weights = sum(each.nbytes for each in self.pipe.transformer.parameters())
        self.stream: Any = None

    def _compact(self) -> None:
        """Allocate the weights anew: quantised ones lie in the gaps that those in 16 bits left, and keep them from
        being freed."""
        self.pipe.transformer.to("cpu")
        self.bench.collect()
        self.pipe.transformer.to(self.bench.device)

    def draw(self, steps: int) -> tuple[float, list[float]]:
        """Draw a picture: (seconds, start times of the transformer's calls)."""
        began: list[float] = []

        def note(*_: Any) -> None:
            synchronize()
            began.append(time.perf_counter())

        handle = self.pipe.transformer.register_forward_pre_hook(note)
        synchronize()
        start = time.perf_counter()
        try:
            self.pipe(
                **self.prompt,
                **self.subject.call,
                width=self.bench.side,
                height=self.bench.side,
                num_inference_steps=steps,
                generator=torch.Generator(self.bench.device).manual_seed(1),
            )
            synchronize()
        finally:
            handle.remove()
        return time.perf_counter() - start, began

    def first_output(self) -> torch.Tensor:
        """The transformer's output at the first step."""
        outputs: list[torch.Tensor] = []

        def note(module: Any, given: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            output = output.sample if hasattr(output, "sample") else output
            outputs.append(torch.stack(list(output)) if isinstance(output, (list, tuple)) else output)

        handle = self.pipe.transformer.register_forward_hook(note)
        self.draw(2)  # Qwen-Image's schedule is NaN for a single step
        handle.remove()
        return outputs[0].float().cpu()

    def measure(self) -> dict[str, Any]:
        self.draw(1)
        if self.bench.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds, began = self.draw(self.bench.steps)
        calls = [second - first for first, second in pairwise(began)]
        step = median(calls) * (2 if self.subject.guided else 1)
        rest = seconds - step * self.bench.steps
        return {
            "seconds_a_step": round(step, 4),
            "seconds_beside_steps": round(rest, 3),
            "seconds_a_picture": round(rest + step * self.subject.steps, 2),
            **self.bench.peaks(),
            "transformer_gib": round(self.weights / GIB, 2),
        }

    def prepare(self) -> float:
        """Move every block to pinned main memory; returns the seconds it took."""
        began = time.perf_counter()
        add_hook_to_module(self.pipe.transformer, streaming.Streamed(self.bench.device))
        self.unstream()
        return time.perf_counter() - began

    def streamed(self, cap: float) -> dict[str, Any]:
        """Measure the engine's streaming, with as many blocks kept on the device as its estimate allows.

        Where that runs out of memory, fewer are kept, as the worker does (worker/ladder.py).
        """
        share = 1.0
        while share > LEAST_SHARE_OF_ROOM:
            with suppress(torch.OutOfMemoryError):
                return self._streamed(cap, share)
            share *= 3 / 4
        return self._streamed(cap, 0)

    def _streamed(self, cap: float, share: float) -> dict[str, Any]:
        pipe, bench = self.pipe, self.bench
        self.unstream()
        usable = ((cap - BESIDE) * GIB - WORKSPACE) / MARGIN
        vae = sum(each.nbytes for each in pipe.vae.parameters())

        def choose(sizes: list[int]) -> Any:
            step = STEP + vae + kept_blocks.slots_size(sizes)
            room = usable - (self.weights - sum(sizes)) - max(step, vae + DECODE)
            return () if bench.tiny else kept_blocks.kept_for(sizes, int(room * share))

        self.stream = streaming.Streamed(bench.device, choose)
        add_hook_to_module(pipe.transformer, self.stream)
        add_hook_to_module(pipe.vae, streaming.Visiting(bench.device, self.stream.release))
        bench.collect()
        return self.measure() | {
            "blocks_kept": f"{len(self.stream.kept)} of {self.stream.count}",
            "moved_gib_a_call": round(self.stream.moved_bytes / GIB, 2),
            "pinned_gib": round((sum(self.stream.sizes) if not self.stream.pageable else 0) / GIB, 2),
        }

    def unstream(self) -> None:
        """Move everything to main memory; buffers there are kept for the next cap."""
        remove_hook_from_module(self.pipe.transformer)
        remove_hook_from_module(self.pipe.vae)
        self.bench.collect()

    def close(self) -> None:
        self.unstream()
        synchronize()
        self.pipe, self.prompt, self.stream = None, {}, None
        self.bench.collect()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Story:
    """The measurements of one model in one format."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench, self.name = bench, name
        self.exact: torch.Tensor | None = None

    def tell(self, form: str, streamed: bool) -> None:
        """Measure the whole model at the smallest cap that it fits; if ``streamed``, also streaming at lower caps."""
        bench, made = self.bench, None
        try:
            made = Drawing(bench, self.name, form)
            self._whole(made, form)
            fits = self.smallest(form)
            below = [cap for cap in bench.caps if bench.tiny or not fits or cap < fits]
            if streamed and below:
                took = made.prepare()
                for cap in reversed(below):
                    name = f"{self.name} {form} streamed at {cap}"
                    with bench.capped(cap):
                        row = bench.row(name, lambda cap=cap: made.streamed(cap) | {"cap_gib": cap})
                    row["pinning_seconds"] = round(took, 1)
                if self.exact is not None:
                    row["relative_error"] = apart(made.first_output(), self.exact)
                bench.write()
        except torch.OutOfMemoryError:
            print(self.name, form, "does not fit at all", flush=True)
        finally:
            if made:
                made.close()

    def _whole(self, made: Drawing, form: str) -> None:
        bench = self.bench
        with bench.capped(0):
            row = bench.row(f"{self.name} {form} whole", made.measure)
            output = made.first_output()
        if form == "bf16":
            self.exact = output
        elif self.exact is not None:
            row["relative_error"] = apart(output, self.exact)
        for cap in bench.caps:
            if bench.tiny or row.get("peak_gib", 0) <= cap - BESIDE:
                with bench.capped(cap):
                    found = bench.row(
                        f"{self.name} {form} whole at {cap}", lambda cap=cap: made.measure() | {"cap_gib": cap}
                    )
                if "seconds_a_step" in found:
                    return

    def smallest(self, form: str) -> int:
        """The smallest cap at which the whole model ran; 0 if there is none."""
        ran = [cap for cap in CAPS if "seconds_a_step" in self.bench.rows.get(f"{self.name} {form} whole at {cap}", {})]
        return min(ran, default=0)


def apart(found: torch.Tensor, exact: torch.Tensor) -> float:
    return round(float((found - exact).norm() / exact.norm()), 5)


def encoder(bench: Bench, name: str, form: str) -> dict[str, Any]:
    """Measure time and memory of encoding a prompt of 512 tokens, with the weights on the device."""
    folder, part = ENCODERS[name]
    path = CONFIGS / folder / part / "config.json"
    config = json.loads(path.read_text())
    kind = json.loads((CONFIGS / folder / "model_index.json").read_text())[part][1]
    cls = getattr(transformers, kind)
    if bench.tiny:
        config |= {key: each for key, each in TINY_ENCODER.items() if key in config}
        config.pop("layer_types", None)
        if "rope_scaling" in config or "rope_parameters" in config:
            for key in ("rope_scaling", "rope_parameters"):
                if config.get(key, {}).get("mrope_section"):
                    config[key]["mrope_section"] = [4, 6, 6]
    made = build(bench.device, transformers, kind, cls.config_class.from_dict(config))
    FORMS[form](made)
    bench.collect()
    tokens = torch.randint(5, 400, (1, 16 if bench.tiny else WORDS), device=bench.device)
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(4):
        synchronize()
        began = time.perf_counter()
        made(input_ids=tokens)
        synchronize()
        times.append(time.perf_counter() - began)
    weights = sum(each.nbytes for each in made.parameters())
    return {"seconds": round(median(times[1:]), 4), "weights_gib": round(weights / GIB, 2), **bench.peaks()}


#: Formats, most important first, and whether to measure streaming too.
ORDER = (("bf16", True), ("int8", True), ("nf4", True), ("fp8", False), ("q8_0", False))


def plan(names: list[str], forms: list[str]) -> list[str]:
    """Names of the measurements that a run should contain, apart from those at memory caps."""
    cells = [f"{name} {form} whole" for name in names for form in forms]
    return cells + [f"{name} {form} read" for name in ENCODERS for form in ("bf16", "int8", "nf4")]


def story(bench: Bench, names: list[str], forms: list[str]) -> None:
    bench.planned = plan(names, forms)
    for name in names:
        told = Story(bench, name)
        for form, streamed in ORDER:
            if form in forms:
                told.tell(form, streamed)
    for name in ENCODERS:
        for form in ("bf16", "int8", "nf4"):
            if f"{name} {form} read" in bench.rows:
                continue
            with bench.capped(0):
                bench.row(f"{name} {form} read", lambda name=name, form=form: encoder(bench, name, form))


def about(bench: Bench, kept: dict[str, Any]) -> dict[str, Any]:
    device = torch.cuda.get_device_name(0) if bench.device == "cuda" else "CPU, tiny models"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device,
        "versions": {each.__name__: str(each.__version__) for each in (torch, diffusers, transformers)},
        "commands": [*kept.get("commands", []), command()],
        "method": f"{bench.side} px, batch 1, {WORDS} text tokens, random normal weights, eager; seconds of a step are"
        f" the median of {STEPS}, a picture is that times its steps and what is beside them (the VAE in tiles); text"
        f" encoders apart. The allocator is capped at {BESIDE:g} GiB less than the card; the arithmetic and the link"
        " are those of the device.",
        "caps_gib": list(CAPS),
        "steps": {name: each.steps for name, each in SUBJECTS.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU: to try the script")
    parser.add_argument("--budget", type=float, default=560, help="seconds after which no measurement is begun")
    parser.add_argument("--models", nargs="*", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--forms", nargs="*", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    bench = Bench(options)
    try:
        with torch.no_grad():
            story(bench, options.models, options.forms)
    except Spent:
        print("the budget is spent", flush=True)
    bench.write()
    return int(any("failed" in each for each in bench.rows.values()))


if __name__ == "__main__":
    sys.exit(main())
