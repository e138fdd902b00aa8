"""Notifications: an outbox that the database writes, and its delivery as webhooks and command hooks."""
