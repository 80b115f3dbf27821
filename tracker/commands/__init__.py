"""The commands: `track` and its relatives."""
