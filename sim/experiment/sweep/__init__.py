"""Grids of runs, through Hydra's multirun and whatever launcher and sweeper are chosen."""
