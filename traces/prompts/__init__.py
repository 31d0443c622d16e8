"""Prompts to be recorded or served: files, records, splits, tokens."""
