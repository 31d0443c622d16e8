"""Predictors that are fitted before a run, on the train requests of a trace, and whose outputs are replayed."""
