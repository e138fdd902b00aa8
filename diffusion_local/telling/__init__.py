"""Telling others: what happened is noted by the database itself, and delivered as webhooks and command hooks."""
