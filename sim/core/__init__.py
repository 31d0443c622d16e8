"""What decides, without clock and I/O: state, loads, events, accounts, log. The rules are those of docs/design.md."""
