"""States of a studio for screenshots of the page: each function brings the studio into one."""

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from page_views import reload
from screenshots import until

from diffusion_local.compose import Services

MANY_STEPS = 100  # 45 seconds
PROMPTS = (
    "a lighthouse above a stormy sea",
    "a bowl of oranges on a blue cloth",
    "an old tram in the rain",
    "a fox asleep in the snow",
    "a paper boat",
    "a greenhouse at night, lit from inside, ferns against the glass and a cat on the bench",
)


def pictures(services: Services, pages: Any) -> None:
    studio = services.studio
    made = [studio.submit(prompt, steps=2, count=1 + place % 3) for place, prompt in enumerate(PROMPTS)]
    made.append(studio.submit("a wide valley", steps=2, width=512, height=288))
    studio.wait([job_id for receipt in made for job_id in receipt.job_ids], 120)
    images = studio.gallery()
    for image in images[1:9:3]:
        studio.star(image.id)
    studio.boards.create("Rainy days", [each.id for each in images[:4]])


def busy(services: Services, pages: Any) -> None:
    """Failed ones, a running one, some that wait, and one that is held."""
    studio = services.studio
    failed = [studio.submit("a sailing ship [fail]", steps=3), studio.submit("a cathedral [oom]", steps=3)]
    studio.wait([job_id for receipt in failed for job_id in receipt.job_ids], 60)
    running(services, pages, [receipt.batch_id for receipt in failed])


def running(services: Services, pages: Any, before: Sequence[str] = ()) -> None:
    """Each page takes all of it for its own."""
    studio = services.studio
    receipts = [studio.submit(PROMPTS[1], steps=2, count=1), studio.submit(PROMPTS[2], steps=MANY_STEPS, count=4)]
    receipts += [studio.submit(PROMPTS[5], steps=20, count=2), studio.submit(PROMPTS[4], steps=20)]
    studio.queue.pause_batch(receipts[-1].batch_id)
    until(lambda: any(job.step > 10 for job in studio.snapshot().running), 60)
    newest_first = [*(receipt.batch_id for receipt in reversed(receipts)), *before]
    for page in pages.values():
        page.evaluate("(ids) => localStorage.setItem('diffusion-local-batches', ids.join(' '))", newest_first)
        reload(page)


def paused(services: Services, pages: Any) -> None:
    services.studio.queue.pause()


def going(services: Services, pages: Any) -> None:
    services.studio.queue.resume()


def all_cancelled(services: Services, pages: Any) -> None:
    studio = services.studio
    studio.queue.cancel(waiting=True)
    if running := [job.id for job in studio.snapshot().running]:
        studio.queue.cancel(running)
    until(lambda: not studio.snapshot().running, 30)


def trashed(services: Services, pages: Any) -> None:
    images = services.studio.gallery()
    for image in images[-2:]:
        services.studio.trash(image.id)


def listed(services: Services, pages: Any) -> None:
    studio = services.studio
    studio.queue.pause()
    studio.lists.submit("a red apple\na glass of water\na tall tree\n" * 40, name="Night of the apples")
    studio.lists.submit("a boat\na bridge\n", name="Small list", window="23:00-07:00")


def downloads(services: Services, pages: Any) -> None:
    library = services.studio.library
    library.download("someone/not-there")
    until(lambda: any(each.state == "failed" for each in library.downloads()), 60)
    library.download("someone/a-slow-model")
    until(lambda: any(each.bytes_done for each in library.downloads()), 60)


def worker_silent(services: Services, pages: Any) -> None:
    for worker in services.studio.workers():
        os.kill(worker.pid, signal.SIGSTOP)
    time.sleep(22)


def worker_back(services: Services, pages: Any) -> None:
    for worker in services.studio.workers():
        os.kill(worker.pid, signal.SIGCONT)


def break_a_model(services: Services) -> None:
    """A folder that is no whole model, a checkpoint that is cut short, and a LoRA."""
    import numpy
    from safetensors.numpy import save_file

    settings = services.settings
    (settings.models / "half-a-model").mkdir(parents=True)
    (settings.models / "half-a-model" / "model_index.json").write_text("{")
    settings.loras.mkdir(parents=True, exist_ok=True)
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_down.weight": numpy.zeros((4, 768), "float32")}
    tensors |= {f"{key}.lora_up.weight": numpy.zeros((320, 4), "float32")}
    save_file(tensors, settings.loras / "watercolour.safetensors")
