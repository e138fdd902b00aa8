"""Diagnosis: findings of the doctor, the machine's state, and whether storage can be written."""
