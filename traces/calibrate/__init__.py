"""The calibrator: measures a machine, and a model's shape on it, for the simulator to price by.

Runs where neither pyarrow, Hydra nor pandas is at hand: a GPU machine has torch, transformers and NumPy.
"""
