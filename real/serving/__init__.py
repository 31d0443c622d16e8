"""Requests that arrive, on a device: the simulator's arrivals and scheduler, by the clock on the wall."""
