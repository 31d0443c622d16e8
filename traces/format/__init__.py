"""The trace format: what its files hold, and opening one."""
