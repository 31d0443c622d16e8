"""Bounds and reference rows: the only place that may read the future (rules 2 and 7)."""
