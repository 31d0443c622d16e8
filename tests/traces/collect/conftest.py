"""Tiny models of each family, one thread of torch."""

from tests.traces.models.fixtures import _one_thread, any_model, family, model, saved

__all__ = ["_one_thread", "any_model", "family", "model", "saved"]
