"""What does happen: the simulator's policies and core on a device.

A verb of ``python -m real`` is a file here, or a folder of its name; :mod:`real.runtime` is what runs a model whose
experts wait in host memory, :mod:`real.validation` what is said of a device beside the simulator, for several verbs.
"""
