"""From words to results: configuration, cell, run, sweeps."""
