"""Bounds and reference rows: the only place that may read the future (docs/design.md, rules 2 and 7)."""
