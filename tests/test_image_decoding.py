"""The budget for decoded pictures, and what a picture's header and metadata may cost."""

import contextlib
import io
import struct
import threading
import tracemalloc
from collections.abc import Callable

import pytest
from PIL import Image as PIL
from PIL import PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from diffusion_local import image_decoding
from diffusion_local.errors import InvalidParams, Overloaded
from diffusion_local.gallery import recipes
from diffusion_local.image_decoding import Budget
from diffusion_local.studio import Studio
from tests.support import PACKAGE, eventually

#: Modules that open pictures and decode none of them in the web process, with the reason.
WITHOUT_BUDGET = {
    "dispatch/leased.py": "reads the header only",
    "engine/inputs.py": "the worker's process, a job at a time",
    "engine/vision_models.py": "what our own child process made, a picture of the size that it was given",
    "engine/vision.py": "a child process for one picture that was decoded within the budget before",
    "gallery/recipes.py": "reads the header and the metadata only",
    "gallery/sweep.py": "reads the header and the metadata only",
    "web/api/dialects/a1111/extras.py": "reads the header and the metadata only",
}


class Holder:
    """A thread that holds a share of a budget until it is let go."""

    def __init__(self, budget: Budget, size: int, on_start: Callable[[], None] = lambda: None) -> None:
        self._let_go = threading.Event()
        self.holds = threading.Event()
        self.refused = False
        self._thread = threading.Thread(target=self._run, args=(budget, size, on_start), daemon=True)
        self._thread.start()

    def _run(self, budget: Budget, size: int, on_start: Callable[[], None]) -> None:
        try:
            with budget.reserve(size):
                on_start()
                self.holds.set()
                self._let_go.wait(60)
        except Overloaded:
            self.refused = True

    def end(self) -> None:
        self._let_go.set()
        self._thread.join(60)


def waiting(budget: Budget) -> int:
    return len(budget._line)


def test_no_more_bytes_are_held_than_there_are() -> None:
    budget = Budget(most_bytes=100, most_at_once=10)
    first, second = Holder(budget, 60), Holder(budget, 40)
    assert first.holds.wait(30)
    assert second.holds.wait(30)
    third = Holder(budget, 1)
    eventually(lambda: waiting(budget) == 1)
    assert not third.holds.is_set()
    first.end()
    assert third.holds.wait(30)
    second.end()
    third.end()


def test_no_more_pictures_are_decoded_at_once_than_allowed() -> None:
    budget = Budget(most_bytes=100, most_at_once=2)
    holders = [Holder(budget, 1), Holder(budget, 1)]
    assert all(each.holds.wait(30) for each in holders)
    third = Holder(budget, 1)
    eventually(lambda: waiting(budget) == 1)
    assert not third.holds.is_set()
    for each in (*holders, third):
        each.end()


def test_first_come_first_served() -> None:
    """A small picture does not overtake a large one, which would else never get its turn."""
    budget, order = Budget(most_bytes=100, most_at_once=10), []
    first = Holder(budget, 60)
    assert first.holds.wait(30)
    large = Holder(budget, 100, lambda: order.append("large"))
    eventually(lambda: waiting(budget) == 1)
    small = Holder(budget, 1, lambda: order.append("small"))
    eventually(lambda: waiting(budget) == 2)
    first.end()
    assert large.holds.wait(30)
    large.end()
    small.end()
    assert order == ["large", "small"]


def test_what_is_larger_than_the_budget_is_served_alone() -> None:
    budget = Budget(most_bytes=100, most_at_once=10)
    first = Holder(budget, 1)
    assert first.holds.wait(30)
    huge = Holder(budget, 1000)
    eventually(lambda: waiting(budget) == 1)
    assert not huge.holds.is_set()
    first.end()
    assert huge.holds.wait(30)
    huge.end()


def test_the_line_is_bounded_in_length_and_time() -> None:
    budget = Budget(most_bytes=1, most_waiting=1, patience=0.05)
    first = Holder(budget, 1)
    assert first.holds.wait(30)
    with pytest.raises(Overloaded), budget.reserve(1):
        pass
    assert waiting(budget) == 0
    patient = Budget(most_bytes=1, most_waiting=1)
    second = Holder(patient, 1)
    assert second.holds.wait(30)
    third = Holder(patient, 1)
    eventually(lambda: waiting(patient) == 1)
    with pytest.raises(Overloaded), patient.reserve(1):
        pass
    for each in (first, second, third):
        each.end()
    assert not third.refused


def test_a_thread_does_not_wait_for_itself() -> None:
    budget = Budget(most_bytes=1, patience=0.05)
    with budget.reserve(1), budget.reserve(1), pytest.raises(KeyError):
        raise KeyError
    with budget.reserve(1):  # given back, although it went wrong
        pass


@pytest.mark.parametrize(("form", "copies"), [("PNG", 2), ("WEBP", 4)])
def test_a_share_goes_by_the_size_in_the_header(form: str, copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reserved: list[int] = []
    monkeypatch.setattr(image_decoding, "budget", Budget())
    whole = image_decoding.budget.reserve
    monkeypatch.setattr(image_decoding.budget, "reserve", lambda size: (reserved.append(size), whole(size))[1])
    file = io.BytesIO()
    PIL.new("RGB", (30, 20)).save(file, form)
    with PIL.open(file) as picture, image_decoding.share(picture):
        pass
    assert reserved == [30 * 20 * 4 * copies]


def test_every_module_that_opens_pictures_takes_a_share() -> None:
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    opening = {where for where, text in texts.items() if "PIL.open(" in text}
    sharing = {where for where in opening if "decoding.share(" in texts[where]}
    assert opening - sharing == set(WITHOUT_BUDGET)


# -- metadata -------------------------------------------------------------------------------------------------------


def overlapping(entries: int, size: int) -> bytes:
    """EXIF data whose entries all name the same bytes."""
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries)
    directory = b"".join(struct.pack("<HHII", tag + 1, 2, size, 8) for tag in range(entries))
    return head + directory + b"\0" * (size + 8)


def jpeg(exif: bytes) -> bytes:
    file = io.BytesIO()
    PIL.new("RGB", (8, 8)).save(file, "JPEG")
    whole = file.getvalue()
    after = whole[4 + struct.unpack(">H", whole[4:6])[0] :]  # without JFIF's segment, which would name a resolution
    parts = [exif[place : place + 60_000] for place in range(6, len(exif), 60_000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)
    return whole[:2] + segments + after


def encoded(form: str, exif: bytes) -> bytes:
    if form == "JPEG":
        return jpeg(exif)
    file = io.BytesIO()
    PIL.new("RGB", (8, 8)).save(file, form, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_entries_of_exif_data_that_share_their_bytes_take_no_memory(studio: Studio, form: str) -> None:
    data = encoded(form, overlapping(500, 400_000))  # 200 MB, were each a copy
    tracemalloc.start()
    try:
        for read in (studio.sources.add, recipes.read_picture):
            with contextlib.suppress(InvalidParams):
                read(data)  # type: ignore[operator]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


def test_texts_of_a_png_are_bounded_before_they_are_inflated(studio: Studio) -> None:
    info, file = PngInfo(), io.BytesIO()
    for number in range(50):
        info.add_text(f"text {number}", "a" * 900_000, zip=True)
    PIL.new("L", (1, 1)).save(file, "PNG", pnginfo=info)
    assert len(file.getvalue()) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(InvalidParams):
            recipes.read_picture(file.getvalue())
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    assert PngImagePlugin.MAX_TEXT_MEMORY == 4_000_000
