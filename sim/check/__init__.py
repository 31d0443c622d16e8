"""The contract that every policy keeps, as a command and for the tests."""
