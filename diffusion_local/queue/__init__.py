"""The job queue: jobs and batches, their order, schedule and estimates, and the doorbell that wakes workers."""

from diffusion_local.lazy_imports import defer_import, import_with_stand_ins

# Clients of servers that Huey imports in case its queue is in one of them.
defer_import("psycopg")  # 8 MB
import_with_stand_ins("huey.storage", {"redis": None})  # 6 MB; ``huey_backends`` puts it in if it is needed
