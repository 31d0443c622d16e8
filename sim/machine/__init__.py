"""The simulated machine: a GPU's stream, and behind it a link and a predictor; a timeline may listen.

It drives itself and tells the core (sim.core) what happened; it decides nothing. Only `machine` needs SimPy: who times
a device can do without.
"""
