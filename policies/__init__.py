"""The decisions: the interface, the registry, one file or folder per policy. The rules are those of docs/design.md."""
