"""Notifications: an outbox written by database triggers, and deliveries by webhooks and command hooks."""
