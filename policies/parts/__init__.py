"""What several policies are built from: one idea a module."""
