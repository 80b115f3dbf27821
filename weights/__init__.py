"""Trained networks, each with its card."""
