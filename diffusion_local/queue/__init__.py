"""The job queue: jobs and batches, their order, schedule and estimates, and the doorbell that wakes workers."""

from diffusion_local.lazy_imports import defer_import

defer_import("psycopg")  # 8 MB, which Huey imports in case its queue is in PostgreSQL
