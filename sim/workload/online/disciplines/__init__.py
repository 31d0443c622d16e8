"""In which order requests are served: one file per discipline, which :mod:`sim.workload.online.registry` finds."""
