"""Serving: requests that arrive in time, and a scheduler that says what the next pass computes."""
