"""Metrics: what each one is, exactly, with a worked example beside it."""
