"""What does happen: the same policy object on hardware (not built yet)."""
