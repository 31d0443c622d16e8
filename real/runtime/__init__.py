"""A model whose experts wait in host memory: slots, copies, compute, and the machine that drives the core."""
