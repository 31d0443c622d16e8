"""The lowest ground, which every room stands on: the words of commands, and what runs them."""
