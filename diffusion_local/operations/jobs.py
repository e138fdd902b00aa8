"""Operations on jobs and the queue: methods of the Studio itself."""

from diffusion_local.operations.operation import (
    ADMIN,
    ALL,
    CONTROL,
    NOTHING,
    OPEN,
    OWN,
    READ,
    SEEN,
    SUBMIT,
    After,
    Constant,
    Named,
    Paged,
    delete,
    get,
    get_when_final,
    op,
    patch,
    post,
    put,
    unserved,
)

JOB_OPERATIONS = {
    "submit": op(
        SUBMIT,
        OWN,
        unserved(post("/jobs", "prompt * count name priority lane idempotency_key expand", status=202)),
        endpoint="submit",
        takes="prompt * count name priority idempotency_key expand",
        options="picture batch",
        doc="""Enqueue `count` pictures of a prompt and answer at once: {"batch_id", "job_ids", "warnings"}.

        What is left out takes the model's default; no seed draws one, several pictures get consecutive seeds.
        The same idempotency key sent twice makes one batch.""",
    ),
    "wait": op(READ, SEEN),
    "job": op(
        READ,
        SEEN,
        get_when_final("/jobs/{job_id}"),
        endpoint="job",
        doc="One job: state (queued, running, done, failed, cancelled), step, position in line, eta in seconds, "
        "error, image.",
    ),
    "place": op(READ, SEEN),
    "places": op(READ, SEEN),
    "jobs": op(
        READ,
        SEEN,
        get("/jobs", "state batch_id limit before id=ids since until"),
        endpoint="jobs",
        takes="state batch_id limit before",
        answer=Paged("jobs"),
        meanings={
            "id": "these jobs only",
            "batch_id": "of this batch",
            "state": "queued, running, done, failed or cancelled; several with commas",
            "since": "submitted then or later: ISO 8601",
            "until": "submitted before then: ISO 8601",
        },
        doc='Jobs, newest first (a batch\'s in its own order): {"jobs", "next"}; give `next` as `before` to read on.',
    ),
    "jobs_of_batches": op(READ, SEEN),
    "counts_of_batches": op(READ, SEEN),
    "unfinished": op(READ, SEEN),
    "events": op(
        READ,
        SEEN,
        unserved(get("/jobs/{job_id}/events")),
        endpoint="events",
        answer=Named("events"),
        doc='What happened to a job, oldest first: {"events"}, each with state, at, attempt, worker and note.',
    ),
    "events_after": op(READ, SEEN),
    "batch": op(READ, SEEN),
    "submitted_under": op(READ, OWN),
    "snapshot": op(
        READ,
        SEEN,
        get("/queue"),
        endpoint="queue",
        takes="",
        doc="What runs, waits and ended last; counts, workers, estimate, and whether the queue is paused.",
    ),
    "revision": op(OPEN, NOTHING),
    "moment": op(READ, NOTHING),
    "workers": op(READ, NOTHING),
    "tally": op(READ, NOTHING),
    "image": op(
        READ,
        SEEN,
        get("/images/{image_id}"),
        endpoint="image",
        doc="A picture with its recipe and the addresses of its files.",
    ),
    "images_of": op(READ, SEEN),
    "gallery": op(
        READ,
        SEEN,
        unserved(get("/images")),
        endpoint="gallery",
        answer=Paged("images"),
        doc='Pictures, newest first: {"images", "next"}; give `next` as `before` to read on. `trashed`: of the trash; '
        "`flagged`: those that are black, of one colour, nearly flat or mere noise without being asked for, or "
        "incomplete, as a last step (details, background) failed.",
    ),
    "gallery_count": op(READ, SEEN),
    "picture_file": op(READ, SEEN),
    "picture_data": op(READ, SEEN),
    "thumbnail_file": op(READ, SEEN),
    "preview_file": op(READ, SEEN),
    "star": op(
        CONTROL,
        OWN,
        patch("/images/{image_id}"),
        endpoint="star",
        doc="Give a picture a star, or take it away; the picture.",
    ),
    "trash": op(
        CONTROL,
        OWN,
        delete("/images/{image_id}"),
        endpoint="trash",
        doc="Move a picture into the trash, out of which it can be restored; the picture.",
    ),
    "restore": op(
        CONTROL,
        OWN,
        post("/images/{image_id}/restore"),
        endpoint="restore",
        doc="Bring a picture back from the trash; the picture.",
    ),
    "models": op(
        READ,
        NOTHING,
        unserved(get("/models")),
        endpoint="models",
        answer=Named("models"),
        doc='{"models"} with their defaults and limits, the default one first.',
    ),
    "adapters": op(READ, NOTHING),
}

QUEUE_OPERATIONS = {
    "again": op(
        SUBMIT,
        OWN,
        post("/jobs/again", "job_ids batch_id failed exactly", status=202),
        post("/jobs/{job_id}/again", "", status=202),
        endpoint="again(job_id job_ids batch_id failed exactly)",
        meanings={
            "exactly": "the same pixels, bit for bit, on the same device with the same versions",
            "batch_id": "the failed jobs of this batch",
            "failed": "every failed job; of a batch it is the failed ones anyway",
        },
        doc="""New jobs from the recipes of old ones, same seeds: {"batch_id", "job_ids", "warnings"}.

        Of the named jobs, of the failed jobs of a batch, or with `failed` of every failed job.""",
    ),
    "again_of_reason": op(
        SUBMIT,
        OWN,
        post("/reports/again", status=202),
        endpoint="report_again",
        meanings={
            "reason": "id of a group of failed jobs in the report",
            "batch_id": "the report's batch; else its times",
        },
        doc="""Submit jobs that failed for one `reason` (its id in a report): {"batch_id", "job_ids", "warnings"}.

        Asking twice makes nothing twice.""",
    ),
    "cancel": op(
        CONTROL,
        OWN,
        post("/jobs/cancel"),
        post("/jobs/{job_id}/cancel", "", After("job")),
        post("/batches/{batch_id}/cancel", ""),
        endpoint="cancel(job_id batch_id waiting job_ids)",
        answer=Named("job_ids"),
        meanings={"waiting": "every job that waits; what runs goes on"},
        doc="""Cancel jobs, a batch or all that wait: {"job_ids"} touched. Running ones stop at their next step.

        `waiting` leaves running pictures alone. A single job that has ended already is an error.""",
    ),
    "undo_cancel": op(CONTROL, OWN),
    "pause_batch": op(
        CONTROL,
        OWN,
        post("/batches/{batch_id}/pause", answer=After("batches.get")),
        doc="Start no further picture of a batch until it is resumed; the batch.",
    ),
    "resume_batch": op(
        CONTROL,
        OWN,
        post("/batches/{batch_id}/resume", answer=After("batches.get")),
        doc="Go on with a batch; the batch.",
    ),
    "set_priority": op(
        CONTROL,
        OWN,
        post("/jobs/priority"),
        endpoint="priority(value job_id job_ids batch_id)",
        answer=Named("job_ids"),
        doc='Give waiting jobs another priority (-100 to 100, higher runs first): {"job_ids"} that it reached.',
    ),
    "move": op(
        CONTROL,
        OWN,
        post("/jobs/move"),
        endpoint="move(to job_id job_ids batch_id)",
        answer=Named("job_ids"),
        meanings={"to": "`top` or `bottom` of the lane; or `up` or `down` by a place, for one job"},
        doc='Move waiting jobs to the `top` or `bottom`, or one job `up` or `down` by a place: {"job_ids"} that moved.',
    ),
    "move_batch": op(CONTROL, OWN),
    "forget": op(
        CONTROL,
        OWN,
        post("/jobs/forget"),
        delete("/jobs/{job_id}", ""),
        endpoint="forget(job_ids batch_id ended)",
        answer=Named("job_ids"),
        meanings={"ended": "every job that has ended"},
        doc="""Delete ended jobs (`ended`: all of them) from the list, with their history: {"job_ids"} that are gone.

        Whoever asks for one later gets 410. Their pictures stay in the gallery.""",
    ),
    "stay_awake": op(
        CONTROL,
        ALL,
        post("/queue/stay-awake"),
        answer=Constant({"sleep_at": ""}),
        doc="Let the machine not go to sleep, or off, as `sleep_at` of the queue announces.",
    ),
    "pause": op(
        ADMIN,
        ALL,
        post("/queue/pause"),
        answer=Constant({"paused": True}),
        doc="Start no further picture until the queue is resumed; kept over restarts.",
    ),
    "resume": op(
        ADMIN, ALL, post("/queue/resume"), answer=Constant({"paused": False}), doc="Go on after the queue was paused."
    ),
    "set_window": op(
        ADMIN,
        ALL,
        put("/queue/window"),
        endpoint="queue_window",
        answer=Named("window"),
        doc="Start pictures of the batch lane in this window only, such as `23:00-07:00`; empty is always: "
        '{"window"}. Interactive work runs at any time.',
    ),
}
