"""Whole batches: progress, changes, copies, and exports as files."""
