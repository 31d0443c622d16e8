"""Writing a trace, whole or not at all, and going on with one."""
