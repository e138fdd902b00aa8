"""Accounts, their tokens, sessions and quotas."""
