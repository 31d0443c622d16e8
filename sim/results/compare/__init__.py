"""Policies over budgets on the same requests: intervals, paired differences, fronts, and what may be concluded."""

from sim.results.compare.comparison import Comparison, compare, compare_runs

__all__ = ["Comparison", "compare", "compare_runs"]
