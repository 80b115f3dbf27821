"""Refinement of finished tracks."""
