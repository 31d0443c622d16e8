"""What a trace shows: tables, statistics, pictures."""
