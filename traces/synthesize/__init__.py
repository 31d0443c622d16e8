"""Routing that nobody recorded: figures of a real trace, traces drawn from such figures, and signals that are modelled.

Everything written here says so: a trace is ``recording: synthetic``, a signal is named under ``modelled``.
"""
