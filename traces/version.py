"""The number of this release. It stands here alone: pyproject.toml reads it, and CITATION.cff is held against it."""

__version__ = "0.1.0"

SHOWN = f"moe-offload-workbench {__version__}\n"
"""What ``--version`` prints."""
