"""Prompt lists: thousands of lines that run overnight.

Pipeline: bytes -> ``encoding`` (lines of text) -> ``formats`` (an Entry or BadLine per line) -> ``plan`` (expansion by
``wildcards`` and ``drafts``, validation, totals) -> ``service`` (check, submit, export). Everything is streamed: a list
is never in memory as jobs.
"""
