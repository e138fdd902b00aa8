"""The job queue: jobs and batches, their order, schedule and estimates, and the doorbell that wakes workers."""
