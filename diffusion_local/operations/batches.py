"""Operations on batches, prompt lists, grids, the queue file, and the queue by batch."""

from diffusion_local.operations.operation import (
    CONTROL,
    NOTHING,
    OWN,
    READ,
    SEEN,
    SUBMIT,
    After,
    File,
    Operation,
    Paged,
    Route,
    get,
    get_when_final,
    op,
    patch,
    post,
    unserved,
)

BATCHES = {
    "page": op(
        READ,
        SEEN,
        get("/batches"),
        endpoint="batches",
        takes="limit before",
        answer=Paged("batches"),
        doc='Batches with their progress, newest first: {"batches", "next"}; give `next` as `before` to read on.',
    ),
    "get": op(
        READ,
        SEEN,
        get_when_final("/batches/{batch_id}"),
        endpoint="batch",
        doc="One batch: counts by state, `done_at` (estimated, null where unknown), `warning` if that is too late.",
    ),
    "late": op(READ, SEEN),
    "warning": op(READ, SEEN),
    "foreseen": op(READ, NOTHING),
    "times": op(READ, NOTHING),
    "images": op(
        READ,
        SEEN,
        get("/batches/{batch_id}/images", "limit before=after"),
        answer=Paged("images"),
        doc="The pictures of a batch in its own order: give `next` as `before` to read on.",
    ),
    "zip": op(
        READ,
        SEEN,
        get("/batches/{batch_id}/zip"),
        answer=File("{batch_id}.zip"),
        doc="The pictures of a batch and its list with the results, as one ZIP file.",
    ),
    "contact_sheet": op(
        READ,
        SEEN,
        get("/batches/{batch_id}/sheet.webp"),
        answer=File("{batch_id}.webp"),
        doc="The contact sheet of a batch: small pictures with prompt and seed; a grid has its axes.",
    ),
    "rename": op(CONTROL, OWN, unserved(patch("/batches/{batch_id}"))),
    "edit": op(
        CONTROL,
        OWN,
        patch("/batches/{batch_id}", "name prompt *", After("batches.get", also=True)),
        endpoint="edit_batch(batch_id *-seed name prompt)",
        options="picture batch",
        meanings={"prompt": "of every waiting picture"},
        doc="""Rename a batch and change its queued jobs: {"changed" jobs, "warnings"}. All or nothing.

        Fields that are missing or null are unchanged. An empty time (`window`, `start_at`, `finish_by`) is removed.
        Choices in a new prompt are drawn according to the setting `expand_prompts`.""",
    ),
    "duplicate": op(
        SUBMIT,
        SEEN,
        post("/batches/{batch_id}/duplicate", status=202),
        endpoint="duplicate_batch",
        options="batch",
        meanings={"name": "of the copy; default: the old name with (copy)"},
        doc="Submit all pictures of a batch again with the same seeds, as a new batch with its own times: "
        '{"batch_id", "job_ids", "warnings"}.',
    ),
}

GRIDS = {
    "check": op(
        SUBMIT,
        NOTHING,
        post("/grids/check"),
        endpoint="check_grid",
        takes="prompt x * y z expand",
        options="picture",
        doc="""Preview of a grid: pictures, column and row headings, models, seconds. Nothing is enqueued.

        An axis is a field with its values: `steps: 10,20,30`, `seed: 1-4`, `prompt: cat,dog` (search and replace).
        Choices are drawn at random, the same in cells of equal prompts, unless `expand` is no.""",
    ),
    "submit": op(
        SUBMIT,
        OWN,
        post("/grids", "prompt x y z * name priority lane idempotency_key expand", status=202),
        endpoint="submit_grid",
        takes="prompt x * y z name priority idempotency_key expand",
        options="picture batch",
        doc="""Enqueue a picture for each combination of the axes: {"batch_id", "job_ids", "warnings"}.

        They are one batch, whose contact sheet is at `sheet_url`.""",
    ),
}

PROMPT_OPERATIONS = {
    "count_tokens": op(READ, NOTHING),
    "unknown_words": op(READ, NOTHING),
    "vocabulary": op(READ, NOTHING),
    "help": op(
        SUBMIT,
        NOTHING,
        post("/prompts/help"),
        endpoint="help_prompt",
        doc="""Rewrite a prompt with the language model at `prompt_helper_url`. Nothing is enqueued.

        `task` is rewrite, translate (into `language`) or vary (into `count` prompts). Submit one of `prompts` with
        `original`, so that the recipe contains both.""",
        meanings={
            "task": "rewrite, translate or vary",
            "language": "target language",
            "count": "number of variants, 1 to 8",
        },
    ),
    "preview": op(
        SUBMIT,
        NOTHING,
        post("/jobs/preview"),
        endpoint="preview",
        takes="prompt * count expand",
        options="picture",
        doc="""Preview of how `{red|blue}` and `__animal__` would be drawn in both prompts. Nothing is enqueued.

        A submit with the returned `seed` draws the same.""",
    ),
}

LISTS = {
    "check": op(
        SUBMIT,
        NOTHING,
        unserved(post("/lists/check"), content="content"),
        endpoint="check_list(text=content format expand expansion_seed count *)",
        options="picture",
        doc="""Preview of a list: pictures, models, seconds, bytes, first and last prompts, bad lines with reasons.

        Nothing is enqueued. `expand` is random, all or no: how `{red|blue}` and `__animal__` expand.""",
    ),
    "submit": op(
        SUBMIT,
        OWN,
        unserved(post("/lists", status=202), content="content"),
        endpoint="submit_list(text=content format skip_bad_lines name priority idempotency_key expand expansion_seed "
        "count *)",
        options="picture batch",
        doc="""Enqueue every picture of a list as one batch: {"batch_id", "count", "job_ids" (the first), "bad_lines"}.

        A bad line refuses the whole list, unless `skip_bad_lines`. The same idempotency key sent twice makes one batch.
        """,
    ),
    "export": op(
        READ,
        SEEN,
        get("/batches/{batch_id}/export", "format", File("{batch_id}.{format}")),
        get("/queue/export", "format", File("queue.{format}")),
        doc="A batch or all waiting jobs as a list (`csv` or `jsonl`) with their results. The list can be submitted "
        "again.",
    ),
}

QUEUE_FILE = {
    "export": op(
        READ,
        SEEN,
        get("/queue/file"),
        answer=File("queue.jsonl"),
        doc="All waiting jobs with their batches, as a file for `/queue/import` of another machine.",
    ),
    "take": op(
        SUBMIT,
        OWN,
        Route("POST", "/queue/import", status=202, content="source"),
        endpoint="import_queue(text=source skip_bad_lines)",
        doc="""Enqueue the batches of a file from `/queue/export`.

        The answer: {"batches" (ids with names), "count", "bad_lines", "bad_count"}.

        Importing a file again enqueues nothing twice.""",
    ),
}

GROUP_OPERATIONS = {
    "live": op(READ, SEEN),
    "ended": op(READ, SEEN),
    "window": op(READ, SEEN),
    "others_waiting": op(READ, NOTHING),
    "models": op(READ, SEEN),
    "owners": op(READ, SEEN),
}

GRAPHS = {
    "get": op(READ, OWN),
    "page": op(READ, OWN),
    "unfinished": op(READ, OWN),
}

OPERATIONS_BY_PART: dict[str, dict[str, Operation]] = {
    "batches": BATCHES,
    "prompts": PROMPT_OPERATIONS,
    "grids": GRIDS,
    "lists": LISTS,
    "queue_file": QUEUE_FILE,
    "groups": GROUP_OPERATIONS,
    "graphs": GRAPHS,
}
