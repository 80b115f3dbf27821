"""Readers of foreign files under fuzzing: `python -m tests.fuzz`."""
