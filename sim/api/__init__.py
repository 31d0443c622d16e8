"""What a notebook and an author of policies call; :mod:`sim` has all of it by name."""
