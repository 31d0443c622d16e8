"""The simulated machine, by place: a GPU's stream, and behind it a link and a predictor; a timeline may listen.

It drives itself and tells the core (sim.core) what happened; it decides nothing. `machine` is the one module that needs
SimPy, so that whoever times a device can do without.
"""
