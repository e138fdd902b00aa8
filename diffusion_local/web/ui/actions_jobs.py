"""Handlers of the buttons on jobs: cancel, run again, pause, reorder, remove, and history."""

from diffusion_local.domain import PRIORITIES, Receipt, State, shortened
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.messages import message
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view, view_history
from diffusion_local.web.ui.actions_pictures import RANDOM_SEED, other_seed, settings_of, submitted
from diffusion_local.web.ui.effects import Effect, Verb, new_toast
from diffusion_local.web.ui.words import say

MOST_SELECTED = 500  # more rows than the page shows
MOST_UNDO = 50  # job ids in the undo button of a toast


def selected(key: str) -> list[str]:
    """The distinct ids in ``key``, which the Studio has yet to look up.

    Raises NotFound for an empty selection and InvalidParams for more than ``MOST_SELECTED`` ids.
    """
    ids = list(dict.fromkeys(key.split()))
    if not ids:
        raise NotFound(message("selection_empty"))
    if len(ids) > MOST_SELECTED:
        raise InvalidParams("job_ids", message("selection_most", most=MOST_SELECTED, got=len(ids)))
    return ids


def pictures(ids: list[str]) -> str:
    return view.pictures(len(ids))


# -- cancel and again -----------------------------------------------------------------------------------------------


def cancel(studio: Studio, key: str) -> Effect:
    return cancelled(studio.queue.cancel([key]))


def cancel_these(studio: Studio, key: str) -> Effect:
    ids = selected(key)
    return cancelled(studio.queue.cancel(ids))


def cancel_batch(studio: Studio, key: str) -> Effect:
    return cancelled(studio.queue.cancel(batch_id=key))


def cancel_waiting(studio: Studio, key: str) -> Effect:
    return cancelled(studio.queue.cancel(waiting=True))


def cancelled(touched: list[str]) -> Effect:
    """A toast whose undo button puts the cancelled jobs back at their old places."""
    if len(touched) <= MOST_UNDO:
        undo = view.button(say("common.undo"), "undo_cancel", " ".join(touched)) if touched else ""
    else:  # the ids of all would make the button too long
        some = [touched[0], *touched[1 - MOST_UNDO :]]  # the running ones, which end later, come last
        undo = view.button(say("common.undo"), "undo_cancel_all", " ".join(some))
    return Effect(toast=new_toast(say("page.cancelled_pictures", pictures=pictures(touched)), undo))


def undo_cancel(studio: Studio, key: str) -> Effect:
    return put_back(studio.queue.undo_cancel(selected(key)))


def undo_cancel_all(studio: Studio, key: str) -> Effect:
    """Undo a cancellation of many jobs; ``key`` names some of them."""
    return put_back(studio.queue.undo_cancel(selected(key), together=True))


def put_back(receipts: list[Receipt]) -> Effect:
    ids = [job_id for receipt in receipts for job_id in receipt.job_ids]
    if not ids:
        return Effect(toast=new_toast(say("page.none_to_put_back")))
    batches = " ".join(receipt.batch_id for receipt in receipts)
    return Effect(toast=new_toast(say("page.put_back", pictures=pictures(ids))), receipt=batches)


def again_auto(studio: Studio, key: str) -> Effect:
    """Retry in the automatic memory mode a job that ran out of memory in a fixed one."""
    params = studio.job(key).params
    receipt = studio.submit(params.prompt, expand=RANDOM_SEED, **{**settings_of(params), "rung": ""})
    toast = new_toast(say("page.queued_again", what=shortened(params.prompt, 40)))
    return Effect(toast=toast, receipt=receipt.batch_id)


def first_picture(studio: Studio, key: str) -> Effect:
    """Submit an example prompt (``key``) with the first model's defaults."""
    return Effect(receipt=studio.submit(key).batch_id)


def again(studio: Studio, key: str) -> Effect:
    """Submit the recipe again. A finished job gets another seed, because the same seed would give the same picture."""
    job = studio.job(key)
    prompt = shortened(job.params.prompt, 40)
    if job.state is State.DONE:
        return submitted(studio, job.params, prompt, **other_seed(job.params))
    receipt = studio.queue.again([key])
    return Effect(toast=new_toast(say("page.queued_again", what=prompt)), receipt=receipt.batch_id, panel="")


def again_these(studio: Studio, key: str) -> Effect:
    receipt = studio.queue.again(selected(key))
    return Effect(toast=new_toast(say("page.queued_again", what=pictures(receipt.job_ids))), receipt=receipt.batch_id)


def again_failed(studio: Studio, key: str) -> Effect:
    receipt = studio.queue.again(state=State.FAILED)
    return Effect(toast=new_toast(say("page.queued_again", what=pictures(receipt.job_ids))), receipt=receipt.batch_id)


# -- pause and resume -----------------------------------------------------------------------------------------------


def pause(studio: Studio, key: str) -> Effect:
    studio.queue.pause()
    return Effect(toast=new_toast(say("page.paused")))


def pause_now(studio: Studio, key: str) -> Effect:
    studio.queue.pause(give_back=True)
    return Effect(toast=new_toast(say("page.paused_now")))


def resume(studio: Studio, key: str) -> Effect:
    studio.queue.resume()
    return Effect(toast=new_toast(say("page.going_on")))


def stay_awake(studio: Studio, key: str) -> Effect:
    studio.queue.stay_awake()
    return Effect(toast=new_toast(say("page.stays_awake")))


def pause_batch(studio: Studio, key: str) -> Effect:
    return hold_batch(studio, key, give_back=False)


def pause_batch_now(studio: Studio, key: str) -> Effect:
    return hold_batch(studio, key, give_back=True)


def hold_batch(studio: Studio, batch_id: str, give_back: bool) -> Effect:
    known_batch(studio, batch_id)
    studio.queue.pause_batch(batch_id, give_back)
    return Effect(toast=new_toast(say("page.held"), view.button(say("common.resume"), "resume_batch", batch_id)))


def resume_batch(studio: Studio, key: str) -> Effect:
    known_batch(studio, key)
    studio.queue.resume_batch(key)
    return Effect(toast=new_toast(say("page.going_on_with")))


def known_batch(studio: Studio, batch_id: str) -> None:
    if not batch_id or not studio.jobs(batch_id=batch_id, limit=1):
        raise NotFound(message("batch_gone"))


# -- order ----------------------------------------------------------------------------------------------------------


def move_top(studio: Studio, key: str) -> Effect:
    moved = studio.queue.move("top", selected(key))
    return Effect(toast=new_toast(say("page.moved_top", pictures=pictures(moved)) if moved else say("page.none_waits")))


def move_bottom(studio: Studio, key: str) -> Effect:
    moved = studio.queue.move("bottom", selected(key))
    words = say("page.moved_bottom", pictures=pictures(moved)) if moved else say("page.none_waits")
    return Effect(toast=new_toast(words))


def move_up(studio: Studio, key: str) -> Effect:
    studio.queue.move("up", [key])
    return Effect()


def move_down(studio: Studio, key: str) -> Effect:
    studio.queue.move("down", [key])
    return Effect()


def priority_up(studio: Studio, key: str) -> Effect:
    return shift_priority(studio, key, 1)


def priority_down(studio: Studio, key: str) -> Effect:
    return shift_priority(studio, key, -1)


def shift_priority(studio: Studio, key: str, by: int) -> Effect:
    """Add ``by`` to the priority of each job, clamped to ``PRIORITIES``."""
    groups: dict[int, list[str]] = {}
    for job in [studio.job(job_id) for job_id in selected(key)]:
        groups.setdefault(max(PRIORITIES[0], min(PRIORITIES[1], job.priority + by)), []).append(job.id)
    reached = [job_id for priority, ids in groups.items() for job_id in studio.queue.set_priority(priority, ids)]
    if not reached:
        return Effect(toast=new_toast(say("page.none_waits")))
    if len(groups) > 1:
        return Effect(toast=new_toast(say("page.raised" if by > 0 else "page.lowered")))
    now = f"{next(iter(groups)):+d}"
    return Effect(toast=new_toast(say("page.raised_to" if by > 0 else "page.lowered_to", priority=now)))


# -- the past ---------------------------------------------------------------------------------------------------------


def forget(studio: Studio, key: str) -> Effect:
    gone = studio.queue.forget([key])
    return Effect(toast=new_toast(say("page.removed" if gone else "page.not_ended")))


def forget_ended(studio: Studio, key: str) -> Effect:
    gone = studio.queue.forget(ended=True)
    return Effect(toast=new_toast(say("page.cleared", pictures=pictures(gone))))


def what_happened(studio: Studio, key: str) -> Effect:
    job = studio.job(key)
    return Effect(panel=view_history.panel(job, studio.events(key), studio.images_of([job]).get(key)))


VERBS: dict[str, Verb] = {
    "cancel": cancel,
    "cancel_these": cancel_these,
    "cancel_batch": cancel_batch,
    "cancel_waiting": cancel_waiting,
    "undo_cancel": undo_cancel,
    "undo_cancel_all": undo_cancel_all,
    "first_picture": first_picture,
    "again": again,
    "again_auto": again_auto,
    "again_these": again_these,
    "again_failed": again_failed,
    "pause": pause,
    "pause_now": pause_now,
    "resume": resume,
    "stay_awake": stay_awake,
    "pause_batch": pause_batch,
    "pause_batch_now": pause_batch_now,
    "resume_batch": resume_batch,
    "move_top": move_top,
    "move_bottom": move_bottom,
    "move_up": move_up,
    "move_down": move_down,
    "priority_up": priority_up,
    "priority_down": priority_down,
    "forget": forget,
    "forget_ended": forget_ended,
    "what_happened": what_happened,
}
