"""Timing and robustness measurements."""
