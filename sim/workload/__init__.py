"""What runs: forward passes of a trace's requests, their demand, signals and history."""
