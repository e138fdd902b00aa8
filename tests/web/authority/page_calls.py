"""A call of each button, tab and handler of the page."""

from typing import Any

from tests.web.authority.scene import OWNER, PASSWORD

#: What the page's buttons name. A button that names nothing is ``""``.
BUTTONS: dict[str, str] = {
    **dict.fromkeys(
        ("cancel", "cancel_these", "undo_cancel", "undo_cancel_all", "move_top", "move_bottom", "move_up", "move_down"),
        "{job2}",
    ),
    **dict.fromkeys(("priority_up", "priority_down", "what_happened", "recipe_of_job", "again_auto"), "{job}"),
    **dict.fromkeys(("cancel_batch", "pause_batch", "pause_batch_now", "resume_batch"), "{batch}"),
    **dict.fromkeys(("batch_up", "batch_down", "batch_top", "batch_bottom", "batch_panel"), "{batch}"),
    **dict.fromkeys(("batch_forget", "batch_duplicate"), "{done_batch}"),
    **dict.fromkeys(("again", "again_these", "forget"), "{failed}"),
    **dict.fromkeys(
        ("open", "star", "unstar", "trash", "recipe", "to_img2img", "to_inpaint", "to_outpaint"), "{image}"
    ),
    "caption": "{image}",
    **dict.fromkeys(("open_link", "stage_star", "stage_unstar"), "{image}"),
    **dict.fromkeys(("recipe_prompt", "recipe_seed", "recipe_size"), "{image}"),
    **dict.fromkeys(("again_new", "again_picture", "variations", "upscale", "star_these", "trash_these"), "{image}"),
    **dict.fromkeys(("restore", "restore_open", "restore_these", "delete_these"), "{trashed}"),
    **dict.fromkeys(("cancel_waiting", "again_failed", "forget_ended", "pause", "pause_now", "resume"), ""),
    **dict.fromkeys(("stay_awake", "scan", "check_health"), ""),
    "first_picture": "a tree",
    "batch_again": "{failed_batch}",
    "batch_rename": "{batch}\nother",
    "batch_before": "{batch2} {batch}",
    "batch_change": "{batch}\nsteps=5",
    "compare": "{image} {image2}",
    "board_new": "{image}\nnew",
    "pin_new": "{image}\nnew",
    "board_add": "{board} {image2}",
    "pin": "{board} {image2}",
    "board_take": "{board} {image}",
    "board_rename": "{board}\nother",
    "board_delete": "{board}",
    "use_model": "starter",
    "use_lora": "ink",
    "remove_model": "starter",
    "model_precision": "auto starter",
    "download_model": "another/one",
    "retry_download": "{download}",
    "cancel_download": "{download}",
    "machine_invite": "",
    **dict.fromkeys(("machine_pause", "machine_drain", "machine_resume", "machine_remove"), "attic"),
    **dict.fromkeys(("machine_share_wait", "machine_share_ignore"), "attic"),
    "machine_hours": "attic\n22:00-07:00",
    "change_setting": "max_count\n7",
    "reset_setting": "max_count",
    "restart": "",
    "account_add": f"\nname=zoe&password={PASSWORD}&role=user",
    "account_role": "eve\nviewer",
    "account_limits": "eve\nqueued=5",
    "account_password": OWNER + "\npassword=another horse",
    "account_token": OWNER + " {token}",
    "account_out": OWNER,
    "account_remove": "eve",
}
#: Buttons that change an account, which nobody but its owner and an admin sees.
OF_ACCOUNTS = {"account_password", "account_token", "account_out"}
#: Buttons that only change what the page itself shows.
#: Buttons that say in the page that there is no such thing, instead of refusing.
GIVE_LESS = {"open_link"}
PLAIN_BUTTONS = {"close", "keys", "phone", "example", "batches_at"}
#: The page's other handlers, by the first values they are called with; the rest are as the page was laid out.
HANDLERS: dict[str, list[Any]] = {
    "on_model": ["starter", "starter", 128, 128],
    "on_sample": ["starter"],
    "on_tokens": ["a tree", "starter"],
    "on_preset": ['{"steps": 7}'],
    "on_size_typed": ["starter", 128, 128],
    "on_keep": ["{batch}"],
    "on_add": ["another/one", "models"],
    "on_check": ["list", "a tree"],
    "on_press": ["", "list", "a tree"],
    "on_file": ['{"what": "queue", "name": "queue.jsonl", "data": "{file64}"}'],
    "on_load": ["starter", 128, 128],
    "linked": ["{image}"],
    "fill_form": ['{"settings": {"prompt": "a", "source": "{source}", "strength": 0.5}, "others": {}}'],
    "on_generate": ["key of a press", "a tree"],
    "on_preview": ["a {red|blue} tree"],
}
TABS: dict[str, list[str]] = {
    tab: ["{batch} {done_batch} {failed_batch}", "", "open={batch}+{done_batch}+{failed_batch}", "", ""]
    for tab in ("create", "lists", "queue", "gallery", "models", "settings")
}
