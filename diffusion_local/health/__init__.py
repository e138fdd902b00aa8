"""Diagnosis: the doctor's findings, the machine's state, and whether storage is writable."""
