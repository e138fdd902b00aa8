"""Operations on source pictures, gallery, boards, reports and webhooks."""

from diffusion_local.operations.operation import (
    ADMIN,
    ALL,
    CONTROL,
    NOTHING,
    OWN,
    READ,
    SEEN,
    SUBMIT,
    AsField,
    File,
    Operation,
    Paged,
    delete,
    get,
    op,
    patch,
    post,
    unserved,
)

OPERATIONS_BY_PART: dict[str, dict[str, Operation]] = {
    "sources": {
        "add": op(SUBMIT, OWN, unserved(post("/sources"), content="data")),
        "from_image": op(
            SUBMIT,
            SEEN,
            post("/images/{image_id}/source", status=201),
            doc="Add a picture of the gallery as a source picture.",
        ),
        "preview_control": op(
            SUBMIT,
            SEEN,
            post("/sources/control", status=201),
            doc="Preprocess a source picture for a ControlNet: `image` is its id, `type` a preprocessor such as canny.",
        ),
        "describe": op(
            SUBMIT,
            SEEN,
            post("/sources/describe"),
            doc="Caption a source picture; `image` is its id. Requires a model in preprocessors/caption.",
            answer=AsField("caption"),
        ),
        "seen_by": op(READ, SEEN),
        "file": op(READ, SEEN),
        "size": op(READ, SEEN),
        "page": op(READ, OWN),
        "own_source": op(READ, OWN),
        "remove": op(SUBMIT, OWN),
        "paints": op(READ, SEEN),
    },
    "pictures": {
        "page": op(
            READ,
            SEEN,
            get("/images"),
            answer=Paged("images"),
            doc="""Pictures, newest first unless `sort` is given; pass `next` as `before` for the next page.

            `search` matches prompts and captions: each word must occur, as a whole word or as its beginning;
            "in quotes" as a phrase, -word not at all. `shape` is square, portrait or landscape; `since` and `until` are
            days (UTC); `like` is a picture's id and finds pictures with the same recipe; `flagged` finds those that are
            black, of one colour, nearly flat or mere noise without being asked for, or incomplete because a last step
            (details, background) failed. `sort` is newest, oldest or largest.""",
        ),
        "caption": op(
            CONTROL,
            OWN,
            post("/images/{image_id}/caption"),
            doc="Caption a picture with a model and store the result as `caption`, which `search` finds. Requires a "
            "model in preprocessors/caption.",
        ),
        "models": op(READ, SEEN),
        "owners": op(READ, SEEN),
        "count_matches": op(READ, SEEN),
        "repeated": op(READ, SEEN),
        "alike": op(READ, SEEN),
        "zip": op(
            READ,
            SEEN,
            get("/images/zip", "ids=image_ids ..."),
            answer=File("pictures.zip"),
            doc="Pictures as one ZIP file, created while it is sent: those of `ids` (separated by commas), or those "
            "that match the filters.",
        ),
        "star": op(
            CONTROL,
            OWN,
            post("/images/star"),
            answer=AsField("images"),
            doc="Star or unstar pictures: all of them, or none if one does not exist.",
        ),
        "trash": op(
            CONTROL,
            OWN,
            post("/images/trash"),
            answer=AsField("images"),
            doc="Move pictures to the trash: all of them, or none if one does not exist.",
        ),
        "restore": op(
            CONTROL, OWN, post("/images/restore"), answer=AsField("images"), doc="Restore pictures from the trash."
        ),
        "delete": op(
            CONTROL,
            OWN,
            post("/images/delete"),
            answer=AsField("deleted"),
            doc="Permanently delete pictures in the trash, with their files.",
        ),
    },
    "boards": {
        "all": op(
            READ,
            SEEN,
            get("/boards"),
            answer=AsField("boards"),
            doc="Every board by name; `count` leaves out the trash, `cover` is its newest picture.",
        ),
        "get": op(READ, SEEN, get("/boards/{board_id}"), doc="A board; its pictures are at `/images?board=`."),
        "of_image": op(READ, SEEN),
        "create": op(CONTROL, OWN, post("/boards", status=201), doc="Create a board, optionally with pictures."),
        "rename": op(CONTROL, OWN, patch("/boards/{board_id}"), doc="Rename a board."),
        "delete": op(
            CONTROL, OWN, delete("/boards/{board_id}"), doc="Delete a board; its pictures stay in the gallery."
        ),
        "add": op(CONTROL, OWN, post("/boards/{board_id}/images"), doc="Add pictures to a board."),
        "take": op(
            CONTROL,
            OWN,
            post("/boards/{board_id}/images/remove"),
            doc="Remove pictures from a board; they stay in the gallery.",
        ),
    },
    "reports": {
        "batch": op(READ, SEEN),
        "night": op(READ, SEEN),
        "written": op(READ, SEEN),
        "text": op(READ, NOTHING),
        "page": op(READ, NOTHING),
        "failed": op(READ, SEEN),
        "keep": op(ADMIN, ALL),
    },
    "webhooks": {
        "check": op(READ, NOTHING),
        "deliveries": op(
            ADMIN,
            ALL,
            get("/webhooks/deliveries"),
            endpoint="deliveries",
            answer=Paged("deliveries"),
            doc='Log of notifications, newest first: {"deliveries", "next"}; `state`: waiting, sending, delivered, '
            "failed.",
        ),
        "delivery": op(ADMIN, ALL),
        "resend": op(
            ADMIN,
            ALL,
            post("/webhooks/deliveries/{delivery_id}/resend", status=202),
            endpoint="resend",
            doc="Resend a webhook's message with its original id; returns the delivery.",
        ),
        "test": op(
            ADMIN,
            ALL,
            post("/webhooks/test", status=202),
            meanings={"url": "receiver of the trial message"},
            doc="Send a trial message to an address; returns the delivery, which has the result.",
        ),
        "secret": op(ADMIN, ALL),
    },
}
