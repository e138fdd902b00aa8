"""Where texts are kept that are shown to people: beside each, what composes it in another language."""

from diffusion_local.store.triggers import event_trigger

#: Statements of migration m017. A row of an older version has NULL there, and its text is shown as it is.
MESSAGES = (
    *(f"ALTER TABLE jobs ADD COLUMN {name}_json TEXT" for name in ("error", "phase", "note")),
    *(f"ALTER TABLE queue ADD COLUMN {name}_json TEXT" for name in ("blocked", "resting")),
    "ALTER TABLE downloads ADD COLUMN error_json TEXT",
    "ALTER TABLE job_events ADD COLUMN note_json TEXT",
    "DROP TRIGGER job_events_insert",
    "DROP TRIGGER job_events_update",
    event_trigger("INSERT", "note, note_json"),
    event_trigger("UPDATE OF state", "note, note_json"),
)
