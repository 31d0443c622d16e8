"""From the words of a configuration to a finished run: composed, opened, made, replayed, kept."""
