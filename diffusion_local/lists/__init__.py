"""Prompt lists: thousands of lines that run overnight.

Pipeline: bytes -> ``encoding`` (lines of text) -> ``formats`` (an Entry or BadLine per line) -> ``plan`` (expansion by
``wildcards`` and ``drafts``, validation, totals) -> ``service`` (check, submit, export). Everything is streamed; the
jobs of a list are never in memory at once.
"""
