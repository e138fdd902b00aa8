"""Signing in and out, and each person's own account page: plain forms that need no script."""
