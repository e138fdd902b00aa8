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
    File,
    Named,
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
            doc="A picture of the gallery as a source picture.",
        ),
        "preview_control": op(
            SUBMIT,
            SEEN,
            post("/sources/control", status=201),
            doc="What a ControlNet would see of a source picture: `image` is its id, `type` a preprocessor, as canny.",
        ),
        "describe": op(
            SUBMIT,
            SEEN,
            post("/sources/describe"),
            doc="What a source picture shows, in words: `image` is its id. It needs a model in preprocessors/caption.",
            answer=Named("caption"),
        ),
        "seen_by": op(READ, SEEN),
        "file": op(READ, SEEN),
        "size": op(READ, SEEN),
        "page": op(READ, OWN),
        "own": op(READ, OWN),
        "remove": op(SUBMIT, OWN),
        "paints": op(READ, SEEN),
    },
    "pictures": {
        "page": op(
            READ,
            SEEN,
            get("/images"),
            answer=Paged("images"),
            doc="""Pictures, newest first unless sorted: give `next` as `before` to read on.

            `search` looks into the prompts and captions: each word must be there, as a whole or as a beginning;
            "in quotes" as a phrase, -word not at all. `shape` is square, portrait or landscape; `since` and `until` are
            days (UTC);
            `like` is a picture's id, and finds those of the same recipe; `flagged` finds those that are black, of one
            colour, nearly flat or mere noise without being asked for, or incomplete because a last step (details,
            background) failed. `sort` is newest, oldest or largest.""",
        ),
        "caption": op(
            CONTROL,
            OWN,
            post("/images/{image_id}/caption"),
            doc="Has a model say what the picture shows and keeps that as its `caption`, which `search` finds. Needs a "
            "model in preprocessors/caption.",
        ),
        "models": op(READ, SEEN),
        "owners": op(READ, SEEN),
        "repeated": op(READ, SEEN),
        "alike": op(READ, SEEN),
        "zip": op(
            READ,
            SEEN,
            get("/images/zip", "ids=image_ids ..."),
            answer=File("pictures.zip"),
            doc="Pictures as one ZIP file, made while it is sent: those of `ids`, with commas, or what a filter finds.",
        ),
        "star": op(
            CONTROL,
            OWN,
            post("/images/star"),
            answer=Named("images"),
            doc="Give pictures a star, or take it away: all of them or, where one is not there, none.",
        ),
        "trash": op(
            CONTROL,
            OWN,
            post("/images/trash"),
            answer=Named("images"),
            doc="Move pictures into the trash: all of them or, where one is not there, none.",
        ),
        "restore": op(
            CONTROL, OWN, post("/images/restore"), answer=Named("images"), doc="Bring pictures back from the trash."
        ),
        "delete": op(
            CONTROL,
            OWN,
            post("/images/delete"),
            answer=Named("deleted"),
            doc="Delete pictures of the trash for good, files and all.",
        ),
    },
    "boards": {
        "all": op(
            READ,
            SEEN,
            get("/boards"),
            answer=Named("boards"),
            doc="Every board by name; `count` leaves out the trash, `cover` is its newest picture.",
        ),
        "get": op(READ, SEEN, get("/boards/{board_id}"), doc="A board; its pictures are at `/images?board=`."),
        "of_image": op(READ, SEEN),
        "create": op(
            CONTROL, OWN, post("/boards", status=201), doc="A new board, with pictures on it if any are named."
        ),
        "rename": op(CONTROL, OWN, patch("/boards/{board_id}"), doc="Give a board another name."),
        "delete": op(
            CONTROL, OWN, delete("/boards/{board_id}"), doc="Delete a board; its pictures stay in the gallery."
        ),
        "add": op(CONTROL, OWN, post("/boards/{board_id}/images"), doc="Put pictures on a board."),
        "take": op(
            CONTROL,
            OWN,
            post("/boards/{board_id}/images/remove"),
            doc="Take pictures off a board; they stay in the gallery.",
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
            doc='Who was told of what, newest first: {"deliveries", "next"}; `state`: waiting, sending, delivered, '
            "failed.",
        ),
        "delivery": op(ADMIN, ALL),
        "resend": op(
            ADMIN,
            ALL,
            post("/webhooks/deliveries/{delivery_id}/resend", status=202),
            endpoint="resend",
            doc="Send a webhook's message again, with the id it had; the delivery.",
        ),
        "test": op(
            ADMIN,
            ALL,
            post("/webhooks/test", status=202),
            meanings={"url": "where the trial message goes"},
            doc="Send a trial message to an address; the delivery that tells what came of it.",
        ),
        "secret": op(ADMIN, ALL),
    },
}
