"""Evict what is least likely to be used soon, by an estimate that is fitted on the train requests."""
